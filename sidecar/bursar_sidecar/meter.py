"""The meter: reads along with an answer and says what was used.

Plain answers are read whole; streams event by event, wherever the chunks break. Bytes flow through
unchanged, except that a usage chunk the app did not ask for is withheld. What the provider counted
wins; without it the usage is `Estimated` from bounds: an LLM token is at least one byte of what
was produced, so the estimate is never below the truth as far as the output was visible.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bursar.money import format_nanos
from bursar.usage import Usage, estimated, usage_from_openai
from bursar_sidecar.desk import Receipt
from bursar_sidecar.produced import Produced, visible_bound

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""The largest server-sent event read whole; a larger one flows through unread, and the call is
charged at its reservation."""

_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_BOM: Final = b"\xef\xbb\xbf"
_NOT_PRODUCED: Final = frozenset({"role", "index", "id", "type"})


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    finish_reason: str | None = None
    index: Any = 0


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None


class _LooseAnswer(msgspec.Struct):
    id: Any = None
    model: Any = None
    service_tier: Any = None
    choices: Any = None
    usage: Any = None


class _Embedding(msgspec.Struct):
    model: Any = None
    usage: Any = None


_answer = msgspec.json.Decoder(_Answer)
_loose_answer = msgspec.json.Decoder(_LooseAnswer)
_embedding = msgspec.json.Decoder(_Embedding)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class Reading:
    """What an answer has said about itself so far."""

    __slots__ = (
        "kept",
        "model",
        "produced_bytes",
        "request_id",
        "service_tier",
        "unreadable",
        "usage",
        "usage_is_final",
    )

    def __init__(self) -> None:
        self.model = ""
        self.request_id = ""
        self.service_tier = ""
        self.usage: object = None
        """The provider's own usage object; None until one came."""
        self.usage_is_final = False
        """No more output follows that usage."""
        self.produced_bytes = 0
        """UTF-8 bytes of produced content seen."""
        self.kept: Produced | None = None
        """The produced text, where it may have to be counted."""
        self.unreadable = ""
        """Why (a part of) the answer could not be read; "" when it could."""

    def note(self, payload: bytes) -> bool:
        """Read one JSON object of an answer; True when it carries usage and nothing else."""
        try:
            answer = _answer.decode(payload)
        except _UNREADABLE:
            self._note_odd(payload)
            return False
        if answer.id and not self.request_id:
            self.request_id = answer.id
        if answer.model:
            self.model = answer.model
        if answer.service_tier:
            self.service_tier = answer.service_tier
        finished = False
        for choice in answer.choices or ():
            self.produced_bytes += content_bytes(choice.delta) + content_bytes(choice.message)
            if self.kept is not None and choice.delta is not None:
                text = choice.delta.get("content")
                if isinstance(text, str) and text:
                    self.kept.keep(choice.index if isinstance(choice.index, int) else 0, text)
            finished = finished or choice.finish_reason is not None
        if answer.usage is None:
            return False
        self.usage = answer.usage
        self.usage_is_final = finished or not answer.choices
        return not answer.choices

    def _note_odd(self, payload: bytes) -> None:
        # Some field has another type than the dialect says: all of it counts as produced, and of
        # the rest we take what can be read.
        self.produced_bytes += len(payload)
        try:
            answer = _loose_answer.decode(payload)
        except _UNREADABLE:
            self.unreadable = "an answer that is not valid JSON"
            return
        if isinstance(answer.id, str) and not self.request_id:
            self.request_id = answer.id
        if isinstance(answer.model, str):
            self.model = answer.model
        if isinstance(answer.service_tier, str):
            self.service_tier = answer.service_tier
        if answer.usage is not None:
            self.usage = answer.usage
            self.usage_is_final = not answer.choices


def content_bytes(produced: dict[str, Any] | None) -> int:
    """UTF-8 bytes of what a delta or message holds: text, refusal, reasoning, tool calls, audio."""
    if not produced:
        return 0
    size = 0
    for name, value in produced.items():
        if value is None or name in _NOT_PRODUCED:
            continue
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif value:
            size += len(msgspec.json.encode(value))
    return size


def read_plain(body: bytes, *, embeddings: bool = False) -> Reading:
    """Read a whole JSON answer."""
    reading = Reading()
    if embeddings:
        # Vectors are skipped, not decoded: they can be a hundred megabytes.
        try:
            answer = _embedding.decode(body)
        except _UNREADABLE:
            reading.unreadable = "an answer that is not valid JSON"
            return reading
        reading.model = answer.model if isinstance(answer.model, str) else ""
        reading.usage = answer.usage
    else:
        reading.note(body)
    reading.usage_is_final = reading.usage is not None
    return reading


class StreamMeter(Reading):
    """Reads a stream of server-sent events as it flows through."""

    __slots__ = ("_tail", "_withhold", "ended", "held")

    def __init__(self, *, withhold_usage: bool, keep_text: bool = False) -> None:
        super().__init__()
        if keep_text:
            self.kept = Produced()
        self._tail = b""
        self._withhold = withhold_usage
        self.ended = False
        """`[DONE]` has come; it and all after it is in `held`."""
        self.held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns what may flow on: whole events, unchanged and in order."""
        if self.ended:
            self.held += data
            return b""
        known = max(0, len(self._tail) - 3)
        if self._tail:
            data = self._tail + data
        whole = _last_boundary(data, known)
        self._tail = data[whole:]
        if len(self._tail) > MAX_EVENT_BYTES:
            self.unreadable = "an event too large to read"
            self.produced_bytes += len(self._tail)
            passed, self._tail = self._tail, b""
            return (self._events(data[:whole]) if whole else b"") + passed
        return self._events(data[:whole]) if whole else b""

    def flush(self) -> bytes:
        """The stream has ended: the rest, should it have lacked its last blank line."""
        rest, self._tail = self._tail, b""
        return self._events(rest) if rest else b""

    def _events(self, data: bytes) -> bytes:
        kept: list[bytes] = []
        start = kept_to = 0
        for end in _boundaries(data):
            payload = _payload(data[start:end])
            if payload == b"[DONE]":
                self.ended = True
                self.held = data[start:]
                kept.append(data[kept_to:start])
                return b"".join(kept)
            if payload and self.note(payload) and self._withhold:
                kept.append(data[kept_to:start])
                kept_to = end
            start = end
        if not kept_to:
            return data
        kept.append(data[kept_to:])
        return b"".join(kept)


def _last_boundary(data: bytes, known: int) -> int:
    """Where the last whole event of `data` ends; `known` bytes hold no boundary."""
    if b"\r" not in data:
        found = data.rfind(b"\n\n", known)
        return found + 2 if found >= 0 else 0
    last = 0
    for match in _BLANK_LINE.finditer(data, known):
        last = match.end()
    return last


def _boundaries(data: bytes) -> Iterator[int]:
    if b"\r" not in data:
        at = data.find(b"\n\n")
        last = 0
        while at >= 0:
            last = at + 2
            yield last
            at = data.find(b"\n\n", last)
    else:
        last = 0
        for match in _BLANK_LINE.finditer(data):
            last = match.end()
            yield last
    if last < len(data):
        yield len(data)


def _payload(event: bytes) -> bytes:
    """The data of one event: its `data` lines, joined; b"" for a comment."""
    event = event.strip()
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return event[5:].strip()
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.removeprefix(_BOM).splitlines()
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines).strip()


def lacks_usage(reading: Reading, *, cut: bool) -> bool:
    """Whether the provider's own usage of the whole answer is not known."""
    return reading.usage is None or (cut and not reading.usage_is_final)


def count(
    reading: Reading,
    *,
    input_bound: int,
    output_bound: int,
    cut: str = "",
    hidden_output: bool = False,
    counted: int | None = None,
    streamed_for_s: float | None = None,
) -> Usage:
    """The usage of an answer, exact where the provider counted, else estimated from bounds.

    `cut` says why the answer did not come to its end ("" when it did); `hidden_output` that the
    model may produce what is billed but not shown, so that bytes seen bound nothing. Bounds are in
    LLM tokens; `output_bound` covers all choices and is 0 where nothing is produced. `counted` are
    the LLM tokens of the kept text, where they were counted; `streamed_for_s`: see `visible_bound`.
    """
    if not lacks_usage(reading, cut=bool(cut)):
        return usage_from_openai(
            reading.usage,
            input_bound=input_bound,
            output_bound=output_bound or None,
        )
    reason = cut or reading.unreadable or "usage is missing"
    if hidden_output or reading.unreadable:
        output = output_bound
    else:
        visible = visible_bound(
            reading.produced_bytes,
            cut=bool(cut),
            kept_bytes=0 if reading.kept is None else reading.kept.size,
            counted=counted,
            streamed_for_s=streamed_for_s,
        )
        output = min(output_bound, visible)
    return estimated(reason, input_llm_tokens=input_bound, output_llm_tokens=output)


def cost_comment(receipt: Receipt) -> bytes:
    """The SSE comment that tells the cost; parsers skip it."""
    remaining = receipt.budget_remaining_nanos
    told = {
        "cost": format_nanos(receipt.cost_nanos),
        "currency": receipt.currency,
        "charge_id": receipt.charge_id,
        "budget_remaining": None if remaining is None else format_nanos(remaining),
    }
    return b": bursar " + msgspec.json.encode(told) + b"\n\n"
