"""What the stream of a response says of itself.

OpenAI's Python library 3.54, `types/responses/response_stream_event.py`: what is produced comes in
events named `*.delta`, the whole response with its usage in the last one.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.openai.chat_reading import content_bytes
from bursar_sidecar.dialects.reading import LAST, PASS, MeteredReading

_LAST_EVENTS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "error"}
)
_TEXT: Final = "response.output_text.delta"
_CREATED: Final = "response.created"
_ITEM_DONE: Final = "response.output_item.done"
_NOT_PRODUCED: Final = frozenset({"status", "call_id"})
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    output_index: Any = 0
    sequence_number: Any = 0
    response: msgspec.Raw = msgspec.Raw(b"")
    item: msgspec.Raw = msgspec.Raw(b"")


class _Output(msgspec.Struct):
    output: list[dict[str, Any]] | None = None


_event = msgspec.json.Decoder(_Event)
_output = msgspec.json.Decoder(_Output)
_response = msgspec.json.Decoder(dict[str, Any])


class WholeResponseReading(MeteredReading):
    """A whole response."""

    __slots__ = ()

    def __init__(self, usage_name: str) -> None:
        super().__init__(usage_name, stream=False)

    def whole(self, body: bytes) -> None:
        super().whole(body)
        if self.metered is None or self.metered.usage.output:
            return
        # Whether really nothing was produced, the response itself shows.
        try:
            output = _output.decode(body).output
        except _UNREADABLE:
            self.produced_bytes = len(body)
            return
        for item in output or ():
            shown = {name: part for name, part in item.items() if name not in _NOT_PRODUCED}
            self.produced_bytes += content_bytes(shown)


class ResponsesReading(MeteredReading):
    """A response as it comes."""

    __slots__ = ("_created", "_done", "_sequence")

    def __init__(self, usage_name: str) -> None:
        super().__init__(usage_name, stream=True)
        self._created = b""
        self._done: list[bytes] = []
        self._sequence = 0

    def note(self, payload: bytes) -> int:
        if payload == b"[DONE]":
            return LAST
        try:
            event = _event.decode(payload)
        except _UNREADABLE:
            self.produced_bytes += len(payload)
            self.unreadable = "an event that is not as the dialect says"
            return PASS
        if isinstance(event.sequence_number, int):
            self._sequence = event.sequence_number
        if event.type.endswith(".delta"):
            self._produced(event)
            return PASS
        if event.type in _LAST_EVENTS:
            super().note(payload)
            return LAST
        if event.type == _CREATED:
            super().note(payload)
            self._take_start(bytes(event.response))
        elif event.type == _ITEM_DONE:
            self._done.append(bytes(event.item))
        return PASS

    def unflow(self, payload: bytes) -> None:
        try:
            event = _event.decode(payload)
        except _UNREADABLE:
            return
        if isinstance(event.sequence_number, int):
            self._sequence = min(self._sequence, event.sequence_number - 1)
        if event.type == _ITEM_DONE and bytes(event.item) in self._done:
            self._done.remove(bytes(event.item))

    def produced(self, payload: bytes) -> int:
        return 0  # deltas alone hold what was produced

    def _produced(self, event: _Event) -> None:
        delta = event.delta
        if not isinstance(delta, str):
            self.produced_bytes += len(msgspec.json.encode(delta))
            return
        self.produced_bytes += len(delta) if delta.isascii() else len(delta.encode())
        if self.kept is not None and event.type == _TEXT:
            place = event.output_index if isinstance(event.output_index, int) else 0
            self.kept.keep(place, delta)

    def _take_start(self, response: bytes) -> None:
        self._created = response
        try:
            said = _response.decode(response)
        except _UNREADABLE:
            return
        model, named, tier = said.get("model"), said.get("id"), said.get("service_tier")
        self.model = model if isinstance(model, str) else self.model
        self.request_id = named if isinstance(named, str) else self.request_id
        if isinstance(tier, str) and tier != "auto":
            self.service_tier = tier

    def incomplete_event(self, usage: Usage) -> bytes:
        """The last event of a response that is as long as it could be; its output are the items
        that were done."""
        try:
            said = _response.decode(self._created)
        except _UNREADABLE:
            said = {"id": self.request_id, "object": "response", "model": self.model}
        response = {
            **said,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [msgspec.Raw(item) for item in self._done],
            "usage": {
                "input_tokens": usage.input_llm_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_input},
                "output_tokens": usage.output,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                "total_tokens": usage.total_llm_tokens,
            },
        }
        event = {
            "type": "response.incomplete",
            "sequence_number": self._sequence + 1,
            "response": response,
        }
        return b"event: response.incomplete\ndata: %b\n\n" % msgspec.json.encode(event)
