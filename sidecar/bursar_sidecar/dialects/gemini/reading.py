"""What Gemini's answers say of themselves.

google-genai 3.4, `types.py`: GenerateContentResponse. The counts are read by `bursar.usage`; here
only what has been shown, and which candidates are still being written. A stream has no last event:
it ends, and is settled then. Asked for without `alt=sse` it is one JSON array of the same chunks.

Every chunk counts all that came before it, so that only chunks which tell something else are read
in full when they come, and the latest when the counts are asked for.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.reading import PASS, MeteredReading

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
_NOT_PRODUCED: Final = frozenset({"thought", "thoughtSignature"})
_TEXT_PART: Final = frozenset({"text", "thought", "thoughtSignature", "functionCall"})
"""Parts that tell nothing of tools which the provider ran."""
_NONE: Final = msgspec.Raw()


class _Content(msgspec.Struct):
    parts: list[dict[str, Any]] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int = 0
    grounding_metadata: msgspec.Raw = _NONE
    url_context_metadata: msgspec.Raw = _NONE


class _Counts(msgspec.Struct, rename="camel"):
    prompt: int = msgspec.field(default=0, name="promptTokenCount")
    total: int = msgspec.field(default=0, name="totalTokenCount")


class _Chunk(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Counts | None = None
    prompt_feedback: msgspec.Raw = _NONE
    error: msgspec.Raw = _NONE


_chunk = msgspec.json.Decoder(_Chunk)
_array = msgspec.json.Decoder(list[msgspec.Raw])


class GenerateReading(MeteredReading):
    """A whole answer."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("gemini_generate", stream=False)

    def whole(self, body: bytes) -> None:
        super().whole(body)
        if self.metered is None or self.metered.usage.output:
            return
        # The counts may leave out what is nothing; whether it is, the answer itself shows.
        try:
            answer = _chunk.decode(body)
        except _UNREADABLE:
            self.produced_bytes = len(body)
            return
        for candidate in answer.candidates or ():
            if candidate.content is not None:
                self.produced_bytes += sum(map(shown_bytes, candidate.content.parts or ()))


class GenerateStreamReading(MeteredReading):
    """Chunks, each an event or an element of an array."""

    __slots__ = ("_begun", "_input_grows", "_latest", "_prompt", "_total", "open_candidates")

    def __init__(self, *, input_grows: bool = False) -> None:
        """`input_grows`: results of the provider's own tools are added to the input on the way."""
        super().__init__("gemini_generate", stream=True)
        self._input_grows = input_grows
        self._begun = False
        self._latest = b""
        """The last chunk, while it is not read in full."""
        self._prompt = self._total = 0
        """LLM tokens, as it counts them."""
        self.open_candidates: set[int] = set()
        """Candidates that have begun and not ended."""

    def note(self, payload: bytes) -> int:
        try:
            chunk = _chunk.decode(payload)
        except _UNREADABLE:
            self._read_latest()
            return self.note_odd(payload)
        telling = not self._begun or bool(bytes(chunk.prompt_feedback) or bytes(chunk.error))
        for candidate in chunk.candidates or ():
            telling = self._add(candidate) or telling
        counts = chunk.usage_metadata
        if counts is not None:
            # Counts that fall contradict the ones before, which then have to be known.
            if counts.total < self._total or counts.prompt < self._prompt:
                self._read_latest()
            self._prompt, self._total = counts.prompt, counts.total
        # Once all candidates have ended, what still comes are the last counts.
        if telling or not self.open_candidates:
            self._begun = True
            self._read_latest()
            return super().note(payload)
        if counts is not None:
            self._latest = payload
        return PASS

    def _add(self, candidate: _Candidate) -> bool:
        """Note what a candidate shows; whether it tells anything besides."""
        telling = bool(bytes(candidate.grounding_metadata) or bytes(candidate.url_context_metadata))
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                self.produced_bytes += shown_bytes(part)
                telling = telling or not part.keys() <= _TEXT_PART
        if candidate.finish_reason is None:
            self.open_candidates.add(candidate.index)
            return telling or len(self.open_candidates) > 1
        self.open_candidates.discard(candidate.index)
        return True

    def _read_latest(self) -> None:
        latest, self._latest = self._latest, b""
        if latest:
            super().note(latest)

    def unflow(self, payload: bytes) -> None:
        try:
            chunk = _chunk.decode(payload)
        except _UNREADABLE:
            return
        for candidate in chunk.candidates or ():
            if candidate.finish_reason is not None:
                self.open_candidates.add(candidate.index)

    def input_told(self) -> Usage | None:
        """Every chunk counts the prompt anew."""
        self._read_latest()
        return None if self._input_grows else self.told_so_far()

    def output_told(self) -> int:
        self._read_latest()
        return super().output_told()

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        self._read_latest()
        return super().counted(input_bound, output_bound)

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
