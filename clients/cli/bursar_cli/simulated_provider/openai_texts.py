"""OpenAI's further endpoints of text: completions, responses, moderations."""

import zlib
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from bursar_cli.simulated_provider import answers
from bursar_cli.simulated_provider.dialect import Asked, Named, StreamEvent, StreamPart
from bursar_cli.simulated_provider.plans import AnswerPlan, plan_answer
from bursar_cli.simulated_provider.requests import (
    BYTES_PER_LLM_TOKEN,
    FRAMING_LLM_TOKENS_PER_MESSAGE,
    MAX_CHOICES,
    Limit,
    ProviderError,
    decode_body,
)
from bursar_cli.simulated_provider.served_calls import NOTHING_BILLED, BilledUsage

JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream; charset=utf-8"
Model = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _CompletionsBody(msgspec.Struct, frozen=True):
    prompt: str | list[Any] = ""
    model: str = ""
    max_tokens: Limit | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _ResponsesBody(msgspec.Struct, frozen=True):
    model: Model
    input: Any = None
    instructions: Any = None
    tools: Any = None
    max_output_tokens: Limit | None = None
    background: bool | None = None
    stream: bool | None = None
    service_tier: str | None = None
    previous_response_id: str | None = None


class _ModerationsBody(msgspec.Struct, frozen=True):
    input: str | list[Any]
    model: str = "omni-moderation-latest"


_completions = msgspec.json.Decoder(_CompletionsBody)
_responses = msgspec.json.Decoder(_ResponsesBody)
_moderations = msgspec.json.Decoder(_ModerationsBody)


class Unstreamed:
    """What an answer that is never streamed has in common with others."""

    stream = False

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """None."""
        return iter(())

    def error_event(self, error: ProviderError) -> bytes:
        """None."""
        return b""


class CompletionsAnswer:
    """A text completion: every prompt `n` times; of `best_of` all are billed."""

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        body = decode_body(_completions, asked.body)
        self.model = asked.path_model or body.model
        self.stream = bool(body.stream)
        self.content_type = EVENTS if self.stream else JSON
        options = body.stream_options
        self._includes_usage = options is not None and bool(options.include_usage)
        self._behaviour = asked.behaviour
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if prompts and all(type(item) is int for item in prompts):
            prompts = [prompts]
        self._shown = (body.n or 1) * len(prompts)
        self.plan = _planned(
            asked,
            sum(_size(prompt) for prompt in prompts),
            limit=body.max_tokens or 16,
            choices=max(body.n or 1, body.best_of or 1) * len(prompts),
        )

    @property
    def tells_usage(self) -> bool:
        """A stream tells it only where the app asked for it."""
        return (self._includes_usage or not self.stream) and not self._behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        usage = answers.usage_json(self.plan.billed(), self._behaviour)
        choices = [
            {
                "index": index,
                "text": self.plan.text(index),
                "logprobs": None,
                "finish_reason": self.plan.finish_reason,
            }
            for index in range(self._shown)
        ]
        answer = {**self._head(named), "choices": choices}
        return msgspec.json.encode(
            answer if usage is None else {**answer, "usage": msgspec.Raw(usage)}
        )

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """The chunks."""
        head = self._head(named)
        produced = 0
        step = self._behaviour.chunk_llm_tokens
        for start in range(0, self.plan.visible, step):
            count = min(step, self.plan.visible - start)
            for index in range(self.plan.choices):
                produced += count
                last = start + count == self.plan.visible
                choice = {
                    "index": index,
                    "text": self.plan.text(index, start, count),
                    "logprobs": None,
                    "finish_reason": self.plan.finish_reason if last else None,
                }
                yield StreamEvent(_data({**head, "choices": [choice]}), produced, StreamPart.OUTPUT)
        usage = answers.usage_json(self.plan.billed(), self._behaviour)
        if self._includes_usage and usage is not None:
            told = {**head, "choices": [], "usage": msgspec.Raw(usage)}
            yield StreamEvent(_data(told), produced, StreamPart.CLOSING)
        yield StreamEvent(answers.DONE, produced, StreamPart.CLOSING)

    def error_event(self, error: ProviderError) -> bytes:
        """A chunk that is an error; `[DONE]` does not follow."""
        return b"data: %s\n\n" % error.body()

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return self.plan.billed(output, after_cancel)

    def _head(self, named: Named) -> dict[str, Any]:
        return {
            "id": named.response_id,
            "object": "text_completion",
            "created": named.created_s,
            "model": self._behaviour.answered_model or self.model,
        }


class ResponsesAnswer:
    """A response with one message."""

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        body = decode_body(_responses, asked.body)
        self.model = body.model
        self.stream = bool(body.stream)
        self.content_type = EVENTS if self.stream else JSON
        self._behaviour = asked.behaviour
        self._background = bool(body.background)
        self._tier = "default" if body.service_tier in (None, "auto") else body.service_tier
        given = [part for part in (body.input, body.instructions, body.tools) if part]
        self.plan = _planned(
            asked, sum(_size(part) for part in given), limit=body.max_output_tokens
        )

    @property
    def tells_usage(self) -> bool:
        """The last event has it, asked for or not."""
        return not self._behaviour.missing_usage and not self._background

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        return msgspec.json.encode(self._whole(named))

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """The events, the whole response in the last one."""
        number = 0

        def event(kind: str, produced: int, part: StreamPart, /, **fields: Any) -> StreamEvent:
            nonlocal number
            data = {"type": kind, "sequence_number": number, **fields}
            number += 1
            text = b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data))
            return StreamEvent(text, produced, part)

        hidden = self.plan.reasoning_per_choice
        begun = self._response(named, "in_progress", [], None)
        yield event("response.created", hidden, StreamPart.OPENING, response=begun)
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        item = {**self._message(""), "status": "in_progress", "content": []}
        yield event(
            "response.output_item.added", hidden, StreamPart.OPENING, output_index=0, item=item
        )
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("response.content_part.added", hidden, StreamPart.OPENING, part=part, **place)
        step = self._behaviour.chunk_llm_tokens
        for start in range(0, self.plan.visible, step):
            count = min(step, self.plan.visible - start)
            text = self.plan.text(0, start, count)
            hidden += count
            yield event(
                "response.output_text.delta",
                hidden,
                StreamPart.OUTPUT,
                delta=text,
                logprobs=[],
                **place,
            )
        done = self._message(self.plan.text())
        yield event(
            "response.output_text.done",
            hidden,
            StreamPart.CLOSING,
            text=self.plan.text(),
            logprobs=[],
            **place,
        )
        yield event(
            "response.output_item.done", hidden, StreamPart.CLOSING, output_index=0, item=done
        )
        whole = self._whole(named)
        yield event(f"response.{whole['status']}", hidden, StreamPart.CLOSING, response=whole)

    def error_event(self, error: ProviderError) -> bytes:
        """The event that ends a response which fails."""
        said = {"type": "error", "code": error.kind, "message": error.message, "param": None}
        return b"event: error\ndata: %s\n\n" % msgspec.json.encode(said)

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return self.plan.billed(output, after_cancel)

    def _whole(self, named: Named) -> dict[str, Any]:
        if self._background:
            return self._response(named, "queued", [], None)
        status = "incomplete" if self.plan.finish_reason == "length" else "completed"
        output = [self._message(self.plan.text())]
        return self._response(named, status, output, self._usage())

    def _response(self, named: Named, status: str, output: list[Any], usage: Any) -> dict[str, Any]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": named.response_id,
            "object": "response",
            "created_at": named.created_s,
            "status": status,
            "error": None,
            "incomplete_details": reason,
            "instructions": None,
            "metadata": {},
            "model": self._behaviour.answered_model or self.model,
            "output": output,
            "parallel_tool_calls": True,
            "service_tier": self._tier,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage,
        }

    def _usage(self) -> Any:
        if self._behaviour.missing_usage:
            return None
        if self._behaviour.reported_usage is not None:
            return self._behaviour.reported_usage
        billed = self.plan.billed()
        return {
            "input_tokens": billed.input,
            "input_tokens_details": {"cached_tokens": billed.cached_input},
            "output_tokens": billed.output,
            "output_tokens_details": {"reasoning_tokens": billed.reasoning},
            "total_tokens": billed.input + billed.output,
        }

    def _message(self, text: str) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }


class ModerationsAnswer(Unstreamed):
    """A moderation that flags nothing, and is free."""

    content_type = JSON
    tells_usage = False

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        body = decode_body(_moderations, asked.body)
        self.model = body.model
        self._inputs = 1 if isinstance(body.input, str) else len(body.input)

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        kinds = ("harassment", "hate", "self-harm", "sexual", "violence")
        result = {
            "flagged": False,
            "categories": dict.fromkeys(kinds, False),
            "category_scores": dict.fromkeys(kinds, 0.0),
            "category_applied_input_types": {kind: ["text"] for kind in kinds},
        }
        results = [result] * self._inputs
        return msgspec.json.encode(
            {"id": named.response_id, "model": self.model, "results": results}
        )

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """Nothing."""
        return NOTHING_BILLED


def _planned(asked: Asked, size: int, *, limit: int | None, choices: int = 1) -> AnswerPlan:
    return plan_answer(
        asked.behaviour,
        prompt_digest=zlib.crc32(asked.body),
        input_llm_tokens=-(-size // BYTES_PER_LLM_TOKEN) + FRAMING_LLM_TOKENS_PER_MESSAGE,
        output_limit=limit,
        choices=choices,
    )


def _size(given: Any) -> int:
    """Bytes of text; LLM tokens given as numbers count as much text as one stands for."""
    if isinstance(given, str):
        return len(given.encode())
    if isinstance(given, list) and all(type(item) is int for item in given):
        return len(given) * BYTES_PER_LLM_TOKEN
    return len(msgspec.json.encode(given))


def _data(event: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(event)
