"""What Gemini's answers say of themselves.

google-genai 3.4, `types.py`: GenerateContentResponse. The counts are read by `bursar.usage`; here
only what has been shown, and which candidates are still being written. A stream has no last event:
it ends, and is settled then. Asked for without `alt=sse` it is one JSON array of the same chunks.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.reading import PASS, MeteredReading

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
_NOT_PRODUCED: Final = frozenset({"thought", "thoughtSignature"})


class _Content(msgspec.Struct):
    parts: list[dict[str, Any]] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finishReason: str | None = None
    index: int = 0


class _Chunk(msgspec.Struct):
    candidates: list[_Candidate] | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_array = msgspec.json.Decoder(list[msgspec.Raw])


class GenerateStreamReading(MeteredReading):
    """Chunks, each an event or an element of an array."""

    __slots__ = ("_input_grows", "open_candidates")

    def __init__(self, *, input_grows: bool = False) -> None:
        """`input_grows`: results of the provider's own tools are added to the input on the way."""
        super().__init__("gemini_generate", stream=True)
        self._input_grows = input_grows
        self.open_candidates: set[int] = set()
        """Candidates that have begun and not ended."""

    def note(self, payload: bytes) -> int:
        super().note(payload)
        try:
            chunk = _chunk.decode(payload)
        except _UNREADABLE:
            self.produced_bytes += len(payload)
            return PASS
        for candidate in chunk.candidates or ():
            if candidate.content is not None:
                for part in candidate.content.parts or ():
                    self.produced_bytes += shown_bytes(part)
            if candidate.finishReason is None:
                self.open_candidates.add(candidate.index)
            else:
                self.open_candidates.discard(candidate.index)
        return PASS

    def input_told(self) -> Usage | None:
        """Every chunk counts the prompt anew."""
        return None if self._input_grows else self.told_so_far()

    def produced(self, payload: bytes) -> int:
        return 0

    def whole(self, body: bytes) -> None:
        """An array of chunks; an error comes as one too."""
        try:
            chunks = [bytes(raw) for raw in _array.decode(body)]
        except _UNREADABLE:
            self.unreadable = "an answer that is not valid JSON"
            return
        for chunk in chunks:
            self.note(chunk)


def shown_bytes(part: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a part shows: text, thoughts, a function's arguments, code, data."""
    size = 0
    for name, value in part.items():
        if value is None or name in _NOT_PRODUCED:
            continue
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif value:
            size += len(msgspec.json.encode(value))
    return size
