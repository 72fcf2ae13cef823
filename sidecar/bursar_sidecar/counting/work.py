"""Counting, and when the process may end. No I/O, no clock."""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from bursar.llm_tokens import CL100K, O200K, LlmTokenError, encoding
from bursar_sidecar.counting.frames import CountAnswer, CountRequest, Text

IDLE_S: Final = 60.0
"""Without a request for so long the process ends. Streams are cut in bursts (a provider fails, an
app is deployed), which one life of it should cover; 80 MB should not stay for longer."""
UNCALLED_S: Final = 10.0
"""Nobody connected since the start: whoever started it is gone."""

Encode = Callable[[str], list[int]]


def answer(request: CountRequest, encode_of: Callable[[str], Encode] | None = None) -> CountAnswer:
    """The count that a request asks for, or why there is none."""
    if request.encoding not in (O200K, CL100K):
        return CountAnswer(request.number, fault=f"encoding {request.encoding[:40]!r} is unknown")
    try:
        encode = (encode_of or _encode_of)(request.encoding)
    except (LlmTokenError, OSError, MemoryError) as error:
        return CountAnswer(request.number, fault=f"the ranks cannot be loaded: {error}")
    try:
        asked = sum(len(encode(text)) for text in strings_of(request.messages))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return CountAnswer(request.number, fault=f"the messages are no JSON: {error}")
    return CountAnswer(request.number, sum(produced(text, encode) for text in request.texts), asked)


def strings_of(messages: bytes) -> Iterator[str]:
    """Every string in the JSON of messages, whatever it is for; names of fields are not."""
    left = [msgspec.json.decode(messages)] if messages else []
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def produced(text: Text, encode: Encode) -> int:
    """The LLM tokens behind a produced text: the larger of what the whole of it and what its pieces
    make, each piece at least one.

    A provider bills what was sampled, and each piece of a stream holds whole LLM tokens: where a
    piece is one LLM token, the sum over the pieces is exact, however it was sampled.
    """
    pieces = 0
    start = 0
    for end in text.ends:
        if end > start:
            pieces += max(1, len(encode(_decoded(text.data[start:end]))))
        start = end
    rest = text.data[start:]
    return max(pieces + len(encode(_decoded(rest))), len(encode(_decoded(text.data))))


def _encode_of(name: str) -> Encode:
    return encoding(name).encode_ordinary


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class Idleness:
    """Says when the process may end, by a clock that the caller reads."""

    def __init__(self, now: float, idle_s: float = IDLE_S, uncalled_s: float = UNCALLED_S) -> None:
        self._until = now + uncalled_s
        self._idle_s = idle_s
        self._clients = 0
        self._over = False

    def came(self, now: float) -> None:
        """A sidecar connected."""
        self._clients += 1
        self._until = now + self._idle_s

    def worked(self, now: float) -> None:
        """A count was asked for."""
        self._until = now + self._idle_s

    def left(self) -> None:
        """A sidecar is gone; when it was the last, so is the reason to stay."""
        self._clients -= 1
        self._over = self._clients <= 0

    def remaining(self, now: float) -> float:
        """Seconds until it ends unless something happens; 0 or less: end now."""
        return 0.0 if self._over else self._until - now
