"""What streamed messages say of themselves.

Anthropic's Python library 2.12: `types/raw_message_stream_event.py` and what it names. The counts
are read by `bursar.usage`; here only where the stream stands, and how much has been shown.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.reading import BLANKS, LAST, PASS, MeteredReading, Usual, cut_at

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
_NOT_PRODUCED: Final = frozenset({"type", "signature", "id", "name", "tool_use_id"})
_TELLING: Final = frozenset({"message_start", "message_delta", "error"})
"""Events that tell of usage, or why there will be none."""


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: dict[str, Any] | None = None
    content_block: dict[str, Any] | None = None


_event = msgspec.json.Decoder(_Event)


class _Message(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


_message = msgspec.json.Decoder(_Message)


class MessageReading(MeteredReading):
    """A whole message."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("anthropic_messages", stream=False)

    def whole(self, body: bytes) -> None:
        super().whole(body)
        if self.metered is None or self.metered.usage.output:
            return
        # Whether really nothing was produced, the message itself shows.
        try:
            message = _message.decode(body)
        except _UNREADABLE:
            self.produced_bytes = len(body)
            return
        self.produced_bytes = sum(map(shown_bytes, message.content or ()))


class MessageStreamReading(MeteredReading):
    """A stream of events, up to `message_stop`."""

    __slots__ = ("_input_grows", "_is_rewound", "begun", "open_block", "stopped")

    def __init__(self, *, input_grows: bool = False) -> None:
        """`input_grows`: results of the provider's own tools are added to the input on the way."""
        super().__init__("anthropic_messages", stream=True)
        self.begun = False
        """`message_start` has come."""
        self.open_block: int | None = None
        """The block of content that is being written."""
        self.stopped = False
        """The reason to stop has been told."""
        self._is_rewound = False
        self._input_grows = input_grows

    def note(self, payload: bytes) -> int:
        try:
            event = _event.decode(payload)
        except _UNREADABLE:
            return self.note_odd(payload)
        kind = event.type
        if kind == "content_block_delta":
            self.produced_bytes += shown_bytes(event.delta)
            if self.usual is None and event.delta is not None:
                self.usual = _usual(payload, event.delta)
            return PASS
        self.usual = None
        if kind == "content_block_start":
            self.open_block = event.index
            self.produced_bytes += shown_bytes(event.content_block)
        elif kind == "content_block_stop":
            self.open_block = None
        elif kind in _TELLING:
            super().note(payload)
            self.begun = self.begun or kind == "message_start"
            stopping = event.delta or {}
            self.stopped = self.stopped or stopping.get("stop_reason") is not None
        elif kind == "message_stop":
            super().note(payload)
            return LAST
        elif kind != "ping":
            self.produced_bytes += len(payload)
        return PASS

    def note_odd(self, payload: bytes) -> int:
        self.usual = None
        return super().note_odd(payload)

    def produced(self, payload: bytes) -> int:
        return 0

    def input_told(self) -> Usage | None:
        """`message_start` counts it all, what was read from and written to the cache included."""
        return None if self._input_grows or not self.begun else self.told_so_far()

    def unflow(self, payload: bytes) -> None:
        try:
            event = _event.decode(payload)
        except _UNREADABLE:
            return
        if event.type == "message_start":
            self.begun = False
        elif event.type == "message_delta":
            self.stopped = False
        elif event.type.startswith("content_block_") and not self._is_rewound:
            # The first of them says which block the app sees open; later ones nothing more.
            self._is_rewound = True
            self.open_block = None if event.type == "content_block_start" else event.index


def _usual(payload: bytes, delta: dict[str, Any]) -> Usual | None:
    """An event of text, cut at it: the next one differs in that, and in the blanks at its end."""
    text = delta.get("text")
    if len(delta) != 2 or delta.get("type") != "text_delta" or not isinstance(text, str):
        return None
    cut = cut_at(payload, b"text", text) if text.isascii() else None
    if cut is None:
        return None
    before, after = cut
    if after.startswith(b'"}') and after[2:].strip(b" ") == b"}":
        return Usual(before, b'"}', b"}", BLANKS, is_kept=False)
    return Usual(before, after, is_kept=False)


def shown_bytes(content: dict[str, Any] | None) -> int:
    """UTF-8 bytes of what a delta or a block shows: text, thinking, a tool's input, results."""
    size = 0
    for name, value in (content or {}).items():
        if value is None or name in _NOT_PRODUCED:
            continue
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif value:
            size += len(msgspec.json.encode(value))
    return size
