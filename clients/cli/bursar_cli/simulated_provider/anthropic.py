"""Anthropic's endpoints: messages (whole and streamed) and counting, written as the wire has it.

Anthropic's Python library 2.12: `types/message.py`, `types/raw_message_stream_event.py`,
`types/usage.py`, `types/shared/error_object.py`; documentation on platform.claude.com: "Streaming
messages" (the order of events), "Errors" (types by status).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from bursar_cli.simulated_provider.anthropic_requests import (
    MessageRequest,
    count_request,
    message_request,
)
from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.dialect import (
    Asked,
    Dialect,
    Endpoint,
    Named,
    StreamEvent,
    StreamPart,
)
from bursar_cli.simulated_provider.openai import bearer
from bursar_cli.simulated_provider.openai_texts import EVENTS, JSON
from bursar_cli.simulated_provider.plans import AnswerPlan, plan_answer, words
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import NOTHING_BILLED, BilledUsage

MOST_SHOWN_THOUGHTS: Final = 12  # words of a summary, however long the thinking was
_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_SEARCH_ID: Final = "srvtoolu_simulated"
_TOOL_ID: Final = "toolu_simulated"
_SIGNATURE: Final = "c2ltdWxhdGVk"


class _Block(NamedTuple):
    """A block of content: how it opens, its deltas with the LLM tokens in each, how it ends up."""

    opened: dict[str, Any]
    deltas: list[tuple[dict[str, Any], int]]
    whole: dict[str, Any]
    is_last: bool = False


class MessageAnswer(msgspec.Struct, frozen=True):
    """A message."""

    request: MessageRequest
    plan: AnswerPlan
    behaviour: Behaviour

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    @property
    def stream(self) -> bool:
        """Whether it is sent as a stream of events."""
        return self.request.stream

    @property
    def content_type(self) -> bytes:
        """Of the body, or of the stream."""
        return EVENTS if self.request.stream else JSON

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return not self.behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        blocks = [{**block.opened, **block.whole} for block in self._blocks()]
        message = self._message(named, blocks, self._stop_reason(), self.plan.output_per_choice)
        return msgspec.json.encode(message)

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """`message_start`, each block with its deltas, `message_delta`, `message_stop`."""
        produced = 0
        message = self._message(named, [], None, min(1, self.plan.output_per_choice))
        start = _event("message_start", {"message": message})
        yield StreamEvent(start, produced, StreamPart.OPENING)
        yield StreamEvent(_event("ping", {}), produced, StreamPart.OPENING)
        # Thinking is produced, and billed, before its summary is seen.
        produced = self.plan.reasoning_per_choice
        told = iter(self.behaviour.usage_on_the_way)
        for index, block in enumerate(self._blocks()):
            start = _event("content_block_start", {"index": index, "content_block": block.opened})
            yield StreamEvent(start, produced, StreamPart.OPENING)
            for delta, count in block.deltas:
                produced += count
                data = _event("content_block_delta", {"index": index, "delta": delta})
                part = StreamPart.OUTPUT if count else StreamPart.OPENING
                yield StreamEvent(data + self._told(count, told), produced, part)
            part = StreamPart.CLOSING if block.is_last else StreamPart.OPENING
            yield StreamEvent(_event("content_block_stop", {"index": index}), produced, part)
        ended: dict[str, Any] = {
            "delta": {"stop_reason": self._stop_reason(), "stop_sequence": None},
        }
        usage = self._usage(self.plan.output_per_choice)
        if usage is not None:
            ended["usage"] = usage
        yield StreamEvent(_event("message_delta", ended), produced, StreamPart.CLOSING)
        yield StreamEvent(_event("message_stop", {}), produced, StreamPart.CLOSING)

    def error_event(self, error: ProviderError) -> bytes:
        """`event: error`."""
        return b"event: error\ndata: %s\n\n" % _error_body(error, "")

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return self.plan.billed(output, after_cancel)

    @staticmethod
    def _told(count: int, told: Iterator[dict[str, Any]]) -> bytes:
        """The next counts told on the way, after a delta of so many LLM tokens."""
        usage = next(told, None) if count else None
        if usage is None:
            return b""
        delta = {"stop_reason": None, "stop_sequence": None}
        return _event("message_delta", {"delta": delta, "usage": usage})

    def _stop_reason(self) -> str:
        if self.plan.finish_reason == "length":
            return "max_tokens"
        return "tool_use" if self.request.forced_tool else "end_turn"

    def _blocks(self) -> Iterator[_Block]:
        plan = self.plan
        if self.request.thinks and plan.reasoning_per_choice:
            summary = words(plan.first_word, min(plan.reasoning_per_choice, MOST_SHOWN_THOUGHTS))
            signed = {"type": "signature_delta", "signature": _SIGNATURE}
            yield _Block(
                {"type": "thinking", "thinking": "", "signature": ""},
                [({"type": "thinking_delta", "thinking": summary}, 0), (signed, 0)],
                {"thinking": summary, "signature": _SIGNATURE},
            )
        for number in range(plan.searches):
            name = f"{_SEARCH_ID}{number}"
            used = {"type": "server_tool_use", "id": name, "name": "web_search", "input": {}}
            query = {"query": words(plan.first_word + number, 3).strip()}
            asked = msgspec.json.encode(query).decode()
            delta = {"type": "input_json_delta", "partial_json": asked}
            yield _Block(used, [(delta, 0)], {"input": query})
            result = {"type": "web_search_tool_result", "tool_use_id": name, "content": []}
            yield _Block(result, [], {})
        chunk = self.behaviour.chunk_llm_tokens
        sizes = [min(chunk, plan.visible - start) for start in range(0, plan.visible, chunk)]
        pieces = [plan.text(start=chunk * at, count=size) for at, size in enumerate(sizes)]
        text = "".join(pieces)
        if not self.request.forced_tool:
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
            with_sizes = list(zip(deltas, sizes, strict=True))
            yield _Block({"type": "text", "text": ""}, with_sizes, {"text": text}, is_last=True)
            return
        used = {"type": "tool_use", "id": _TOOL_ID, "name": self.request.forced_tool, "input": {}}
        # An app reads the pieces together: they have to be one JSON object.
        pieces = ['{"text":"', *pieces, '"}']
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        with_sizes = list(zip(deltas, [0, *sizes, 0], strict=True))
        yield _Block(used, with_sizes, {"input": {"text": text}}, is_last=True)

    def _message(
        self, named: Named, blocks: list[dict[str, Any]], stopped: str | None, output: int
    ) -> dict[str, Any]:
        message: dict[str, Any] = {
            "id": named.response_id,
            "type": "message",
            "role": "assistant",
            "model": self.behaviour.answered_model or self.request.model,
            "content": blocks,
            "stop_reason": stopped,
            "stop_sequence": None,
        }
        usage = self._usage(output)
        return message if usage is None else {**message, "usage": usage}

    def _usage(self, output: int) -> dict[str, Any] | None:
        """The wire's `usage`, what was read from and written to the cache beside the input."""
        if self.behaviour.missing_usage:
            return None
        if self.behaviour.reported_usage is not None:
            return self.behaviour.reported_usage
        plan = self.plan
        written = plan.cache_write_5m + plan.cache_write_1h
        thinking = min(plan.reasoning_per_choice, output)
        return {
            "input_tokens": plan.input - plan.cached_input - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": plan.cached_input,
            "cache_creation": {
                "ephemeral_5m_input_tokens": plan.cache_write_5m,
                "ephemeral_1h_input_tokens": plan.cache_write_1h,
            },
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": thinking},
            "server_tool_use": {"web_search_requests": plan.searches} if plan.searches else None,
            "service_tier": "standard",
        }


class CountAnswer(msgspec.Struct, frozen=True):
    """How many LLM tokens a message would have; free."""

    request: MessageRequest
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
        return b'{"input_tokens":%d}' % count

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """None."""
        return iter(())

    def error_event(self, error: ProviderError) -> bytes:
        """None."""
        return b""

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """Nothing."""
        return NOTHING_BILLED


def _event(name: str, content: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": name, **content})
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def _messages(asked: Asked) -> MessageAnswer:
    request = message_request(asked.body)
    plan = plan_answer(
        asked.behaviour,
        prompt_digest=request.prompt_digest,
        input_llm_tokens=request.input_llm_tokens,
        output_limit=request.output_limit,
        writes_cache=request.writes_cache,
        most_searches=request.most_searches,
    )
    return MessageAnswer(request, plan, asked.behaviour)


def _count(asked: Asked) -> CountAnswer:
    return CountAnswer(count_request(asked.body), asked.behaviour)


def _check_key(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> None:
    if not headers.get(b"x-api-key", b"").strip() and not bearer(headers):
        raise ProviderError(401, "x-api-key header is required")


def _check_headers(headers: Mapping[bytes, bytes]) -> None:
    if not headers.get(b"anthropic-version", b"").strip():
        raise ProviderError(400, "anthropic-version: header is required")


def _error_body(error: ProviderError, response_id: str) -> bytes:
    kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else _KINDS[400])
    told: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": error.message}}
    if response_id:
        told["request_id"] = response_id
    return msgspec.json.encode(told)


def list_models(models: tuple[str, ...]) -> bytes:
    """`GET /v1/models`, all on one page."""
    data = [
        {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}
        for name in models
    ]
    ends = {"first_id": models[0] if models else None, "last_id": models[-1] if models else None}
    return msgspec.json.encode({"data": data, "has_more": False, **ends})


ANTHROPIC: Final = Dialect(
    error_body=_error_body,
    check_key=_check_key,
    check_headers=_check_headers,
    request_id_header=b"request-id",
)

ENDPOINTS: Final = {
    b"/v1/messages": Endpoint(ANTHROPIC, "messages", "msg", _messages),
    b"/v1/messages/count_tokens": Endpoint(ANTHROPIC, "messages.count_tokens", "req", _count),
}
