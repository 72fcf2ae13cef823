"""Gemini's endpoints: content (whole and streamed), embeddings, counting, as the wire has them.

Google's Python library google-genai 3.4: `types.py` (GenerateContentResponse and its parts),
`errors.py`, `_api_client.py`; documentation on ai.google.dev: "Generate content", "Embeddings".
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bursar_cli.simulated_provider.answers import unit_vector
from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.dialect import (
    Asked,
    Dialect,
    Endpoint,
    Named,
    StreamEvent,
    StreamPart,
)
from bursar_cli.simulated_provider.gemini_requests import (
    EmbedRequest,
    GenerateRequest,
    count_request,
    embed_request,
    generate_request,
)
from bursar_cli.simulated_provider.openai import bearer
from bursar_cli.simulated_provider.plans import AnswerPlan, plan_answer, words
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import NOTHING_BILLED, BilledUsage

JSON: Final = b"application/json; charset=UTF-8"
EVENTS: Final = b"text/event-stream"
MOST_SHOWN_THOUGHTS: Final = 12  # words of a summary, however long the thinking was
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class GenerateAnswer(msgspec.Struct, frozen=True):
    """Generated content."""

    request: GenerateRequest
    plan: AnswerPlan
    behaviour: Behaviour
    stream: bool
    as_events: bool
    """A stream of server-sent events; otherwise of the elements of one JSON array."""

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    @property
    def content_type(self) -> bytes:
        """Of the body, or of the stream."""
        return EVENTS if self.stream and self.as_events else JSON

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return not self.behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        plan = self.plan
        candidates = []
        for index in range(plan.choices):
            parts = [*self._thoughts(), self._part(plan.text(index))]
            candidates.append(self._candidate(index, parts, finished=True))
        whole = plan.output_per_choice * plan.choices
        return msgspec.json.encode(self._response(named, candidates, whole))

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """Chunks, each with the counts so far; the last of each candidate has its reason."""
        plan = self.plan
        # Thoughts are produced, and billed, before their summary is seen.
        produced = plan.reasoning_per_choice * plan.choices
        first = True
        shown = self._thoughts()
        if shown:
            candidates = [self._candidate(index, shown) for index in range(plan.choices)]
            data = self._chunk(self._response(named, candidates, produced), first=True)
            first = False
            yield StreamEvent(data, produced, StreamPart.OPENING)
        # A function's arguments come whole.
        step = plan.visible if self.request.forced_tool else self.behaviour.chunk_llm_tokens
        told = iter(self.behaviour.usage_on_the_way)
        starts = range(0, plan.visible, max(1, step)) or range(1)
        for start in starts:
            count = min(max(1, step), plan.visible - start)
            for index in range(plan.choices):
                produced += count
                parts = [self._part(plan.text(index, start, count))]
                is_last = start == starts[-1]
                candidate = self._candidate(index, parts, finished=is_last)
                response = self._response(named, [candidate], produced)
                usage = next(told, None)
                if usage is not None:
                    response["usageMetadata"] = usage
                data = self._chunk(response, first=first)
                first = False
                yield StreamEvent(data, produced, StreamPart.OUTPUT)
        yield StreamEvent(b"" if self.as_events else b"\n]\n", produced, StreamPart.CLOSING)

    def error_event(self, error: ProviderError) -> bytes:
        """A chunk that is an error."""
        body = _error_body(error, "")
        return b"data: %s\r\n\r\n" % body if self.as_events else b"\n,\r\n%s\n]\n" % body

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return self.plan.billed(output, after_cancel)

    def _chunk(self, response: dict[str, Any], *, first: bool) -> bytes:
        data = msgspec.json.encode(response)
        if self.as_events:
            return b"data: %s\r\n\r\n" % data
        return (b"[" if first else b"\n,\r\n") + data

    def _thoughts(self) -> list[dict[str, Any]]:
        plan = self.plan
        if not self.request.shows_thoughts or not plan.reasoning_per_choice:
            return []
        summary = words(plan.first_word, min(plan.reasoning_per_choice, MOST_SHOWN_THOUGHTS))
        return [{"text": summary, "thought": True}]

    def _part(self, text: str) -> dict[str, Any]:
        if self.request.forced_tool:
            return {"functionCall": {"name": self.request.forced_tool, "args": {"text": text}}}
        return {"text": text}

    def _candidate(
        self, index: int, parts: list[dict[str, Any]], *, finished: bool = False
    ) -> dict[str, Any]:
        candidate: dict[str, Any] = {
            "content": {"parts": parts, "role": "model"},
            "index": index,
        }
        if finished:
            reason = self.plan.finish_reason
            candidate["finishReason"] = "MAX_TOKENS" if reason == "length" else "STOP"
            if self.plan.searches:
                asked = [f"query {number}" for number in range(self.plan.searches)]
                candidate["groundingMetadata"] = {"webSearchQueries": asked}
        return candidate

    def _response(
        self, named: Named, candidates: list[dict[str, Any]], produced: int
    ) -> dict[str, Any]:
        response: dict[str, Any] = {
            "candidates": candidates,
            "modelVersion": self.behaviour.answered_model or self.request.model,
            "responseId": named.response_id,
        }
        usage = self._usage(produced)
        return response if usage is None else {**response, "usageMetadata": usage}

    def _usage(self, produced: int) -> dict[str, Any] | None:
        """The wire's counts; thoughts stand beside the candidates."""
        if self.behaviour.missing_usage:
            return None
        if self.behaviour.reported_usage is not None:
            return self.behaviour.reported_usage
        plan = self.plan
        thoughts = min(plan.reasoning_per_choice * plan.choices, produced)
        usage: dict[str, Any] = {
            "promptTokenCount": plan.input,
            "candidatesTokenCount": produced - thoughts,
            "totalTokenCount": plan.input + produced,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": plan.input}],
        }
        if plan.cached_input:
            usage["cachedContentTokenCount"] = plan.cached_input
            usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": plan.cached_input}]
        if thoughts:
            usage["thoughtsTokenCount"] = thoughts
        return usage


class EmbedAnswer(msgspec.Struct, frozen=True):
    """Embeddings; never streamed."""

    request: EmbedRequest
    behaviour: Behaviour
    stream: bool = False
    content_type: bytes = JSON

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return not self.behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        vectors = [
            {"values": unit_vector(text, self.request.dimensions).tolist()}
            for text in self.request.texts
        ]
        answer: dict[str, Any] = (
            {"embeddings": vectors} if self.request.is_batch else {"embedding": vectors[0]}
        )
        if not self.behaviour.missing_usage:
            true_usage = {"promptTokenCount": self.billed(None).input}
            answer["usageMetadata"] = self.behaviour.reported_usage or true_usage
        return msgspec.json.encode(answer)

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """None."""
        return iter(())

    def error_event(self, error: ProviderError) -> bytes:
        """None."""
        return b""

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill: input alone."""
        given = self.behaviour.input_llm_tokens
        return BilledUsage(input=self.request.input_llm_tokens if given is None else given)


class CountAnswer(msgspec.Struct, frozen=True):
    """How many LLM tokens contents have; free."""

    request: GenerateRequest
    behaviour: Behaviour
    stream: bool = False
    content_type: bytes = JSON
    tells_usage: bool = True

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        given = self.behaviour.input_llm_tokens
        count = self.request.input_llm_tokens if given is None else given
        details = [{"modality": "TEXT", "tokenCount": count}]
        return msgspec.json.encode({"totalTokens": count, "promptTokensDetails": details})

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """None."""
        return iter(())

    def error_event(self, error: ProviderError) -> bytes:
        """None."""
        return b""

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """Nothing."""
        return NOTHING_BILLED


def _generate(asked: Asked, *, stream: bool = False) -> GenerateAnswer:
    request = generate_request(asked.path_model, asked.body)
    plan = plan_answer(
        asked.behaviour,
        prompt_digest=request.prompt_digest,
        input_llm_tokens=request.input_llm_tokens,
        output_limit=request.output_limit,
        choices=request.choices,
        most_searches=request.most_searches,
    )
    as_events = asked.query.get("alt") == "sse"
    return GenerateAnswer(request, plan, asked.behaviour, stream, as_events)


def _stream(asked: Asked) -> GenerateAnswer:
    return _generate(asked, stream=True)


def _count(asked: Asked) -> CountAnswer:
    return CountAnswer(count_request(asked.path_model, asked.body), asked.behaviour)


def _embed(asked: Asked) -> EmbedAnswer:
    request = embed_request(asked.path_model, asked.body, is_batch=False)
    return EmbedAnswer(request, asked.behaviour)


def _batch_embed(asked: Asked) -> EmbedAnswer:
    request = embed_request(asked.path_model, asked.body, is_batch=True)
    return EmbedAnswer(request, asked.behaviour)


def _check_key(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> None:
    if headers.get(b"x-goog-api-key", b"").strip() or query.get("key") or bearer(headers):
        return
    text = "Method doesn't allow unregistered callers. Please use API Key to call this API."
    raise ProviderError(403, text)


def _error_body(error: ProviderError, response_id: str) -> bytes:
    status = _STATUSES.get(error.status, "UNKNOWN")
    told = {"code": error.status, "message": error.message, "status": status}
    return msgspec.json.encode({"error": told})


def list_models(models: tuple[str, ...]) -> bytes:
    """`GET /v1beta/models`, all on one page."""
    listed = [
        {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for name in models
    ]
    return msgspec.json.encode({"models": listed})


GEMINI: Final = Dialect(
    error_body=_error_body, check_key=_check_key, request_id_header=b"x-simulate-response-id"
)

METHODS: Final = {
    b"generateContent": Endpoint(GEMINI, "generateContent", "gen", _generate),
    b"streamGenerateContent": Endpoint(GEMINI, "streamGenerateContent", "gen", _stream),
    b"embedContent": Endpoint(GEMINI, "embedContent", "gen", _embed),
    b"batchEmbedContents": Endpoint(GEMINI, "batchEmbedContents", "gen", _batch_embed),
    b"countTokens": Endpoint(GEMINI, "countTokens", "gen", _count),
}
