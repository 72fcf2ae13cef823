"""The meter: reads along with an answer and says what was used.

Plain answers are read whole; streams event by event, wherever the chunks break, each by its
dialect's own reading. Bytes flow through unchanged, except that an event which tells of usage alone
is withheld from an app that did not ask for it. What the provider counted wins; without it the
usage is `Estimated` from bounds: an LLM token is at least one byte of what was produced, so the
estimate is never below the truth as far as the output was visible.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from bursar.money import format_nanos
from bursar.usage import Usage, estimated
from bursar_sidecar.desk import Receipt
from bursar_sidecar.dialects.reading import LAST, PASS, PLAIN_TEXT, Reading, Usual
from bursar_sidecar.produced import visible_bound

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""The largest server-sent event read whole; a larger one flows through unread, and the call is
charged at its reservation."""

_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_MAX_SIZE_LINE: Final = 10
"""Of a chunk: eight digits and the end of the line."""
_HEAD: Final = re.compile(rb"(?:event: ?[a-z_.]+\n)?data: ?")
"""What comes before the data of an event of one line of data."""
_plain_text = PLAIN_TEXT.match
_BOM: Final = b"\xef\xbb\xbf"


class StreamMeter:
    """Reads a stream of server-sent events as it flows through, by a dialect's reading."""

    __slots__ = ("_cut_at", "_tail", "_usual", "ended", "held", "reading")

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._tail = b""
        self.ended = False
        """The dialect's last event has come; it and all after it is in `held`."""
        self.held = b""
        self._usual: Usual | None = None
        self._cut_at: Usual | None = None
        """`_usual` as the chunk that brings such an event ends and begins."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns what may flow on: whole events, unchanged and in order."""
        if self.ended:
            self.held += data
            return b""
        # Nearly always a piece is one event of one line, of which nothing has to be looked for.
        if data[:5] == b"data:" and data[-2:] == b"\n\n" and not self._tail and b"\r" not in data:
            if data.find(b"\n") == len(data) - 2:
                payload = data[5:-2].strip()
                verdict = self.reading.note(payload) if payload else PASS
                if verdict == PASS:
                    if self.reading.usual is not self._usual:
                        self._know(self.reading.usual, data)
                    return data
                if verdict == LAST:
                    self.ended = True
                    self.held = data
                return b""
            return self._events(data)
        known = max(0, len(self._tail) - 3)
        if self._tail:
            data = self._tail + data
        whole = _last_boundary(data, known)
        self._tail = data[whole:]
        if len(self._tail) > MAX_EVENT_BYTES:
            self.reading.unreadable = "an event too large to read"
            self.reading.produced_bytes += len(self._tail)
            passed, self._tail = self._tail, b""
            return (self._events(data[:whole]) if whole else b"") + passed
        if not whole:
            return b""
        out = self._events(data[:whole])
        if self.reading.usual is not self._usual and not self._tail:
            self._know(self.reading.usual, data)
        return out

    def _know(self, usual: Usual | None, event: bytes) -> None:
        """How the events that the reading knows begin and end, as they come in chunks; `event` is
        what its last one came in."""
        self._usual = self._cut_at = None
        if usual is None:
            return
        head, found, rest = event.partition(usual.before)
        if not found or not _HEAD.fullmatch(head) or rest.find(b"\n\n") != len(rest) - 2:
            return  # more than it, or less: the next one may be by itself
        self._usual = usual
        if usual.behind is None:
            cut = usual._replace(after=usual.after + b"\n\n\r\n")
        else:
            cut = usual._replace(behind=usual.behind + b"\n\n\r\n")
        self._cut_at = cut._replace(before=head + usual.before)

    def passes(self, chunk: bytes) -> bool:
        """Whether a whole chunk, its framing included, holds one event that says nothing but a
        piece of text: it is counted and kept then, and flows as it came. False leaves it to
        `feed`, which says the same of all that is answered here with True."""
        usual, reading = self._cut_at, self.reading
        if usual is None or reading.usual is not self._usual or self._tail or self.ended:
            return False
        begin = chunk.find(b"\r\n", 0, _MAX_SIZE_LINE) + 2
        if not chunk.startswith(usual.before, begin):
            return False
        start = begin + len(usual.before)
        end = _plain_text(chunk, start).end()  # type: ignore[union-attr]  # at least nothing
        if not chunk.startswith(usual.after, end):
            return False
        stop = end + len(usual.after)
        if usual.behind is not None:
            stop = usual.padding.match(chunk, stop).end()  # type: ignore[union-attr]  # the same
            if not chunk.startswith(usual.behind, stop):
                return False
            stop += len(usual.behind)
        if stop != len(chunk) or chunk[:begin] != b"%x\r\n" % (stop - begin - 2):
            return False
        reading.produced_bytes += end - start
        if reading.kept is not None and end > start and usual.is_kept:
            reading.kept.keep(0, chunk[start:end].decode("ascii"))
        return True

    def flush(self) -> bytes:
        """The stream has ended: the rest, should it have lacked its last blank line."""
        rest, self._tail = self._tail, b""
        return self._events(rest) if rest else b""

    def _events(self, data: bytes) -> bytes:
        note = self.reading.note
        kept: list[bytes] = []
        start = kept_to = 0
        for end in _boundaries(data):
            payload = _payload(data[start:end])
            verdict = note(payload) if payload else PASS
            if verdict != PASS:
                kept.append(data[kept_to:start])
                if verdict == LAST:
                    self.ended = True
                    self.held = data[start:]
                    return b"".join(kept)
                kept_to = end
            start = end
        if not kept_to:
            return data
        kept.append(data[kept_to:])
        return b"".join(kept)


def payloads(events: bytes) -> Iterator[bytes]:
    """The data of each of some whole events, comments left out."""
    start = 0
    for end in _boundaries(events):
        if payload := _payload(events[start:end]):
            yield payload
        start = end


def fitting(events: bytes, reading: Reading, most_bytes: int) -> bytes:
    """The first of some whole events, as many as can be read and hold no more than so many
    produced bytes, by a reading of their own."""
    start = 0
    for end in _boundaries(events):
        payload = _payload(events[start:end])
        if payload:
            reading.note(payload)
            if reading.unreadable or reading.produced_bytes > most_bytes:
                break
        start = end
    return events[:start]


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
    return reading.usage is None or not reading.is_counted(cut=cut)


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
        usage = reading.counted(input_bound, output_bound or None)
        if usage.output or not output_bound or not reading.produced_bytes:
            return usage
        # Counts that say nothing was produced, of an answer that shows something, are none.
        return msgspec.structs.replace(
            usage,
            output=min(output_bound, reading.produced_bytes),
            certainty="estimated",
            estimate_reason=usage.estimate_reason or "no output was counted, and some was shown",
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
        output = max(min(output_bound, visible), reading.output_told())
    told = None if reading.unreadable else reading.input_told()
    if told is None:
        return estimated(reason, input_llm_tokens=input_bound, output_llm_tokens=output)
    return msgspec.structs.replace(
        told, output=output, reasoning=0, certainty="estimated", estimate_reason=reason
    )


def cost_comment(receipt: Receipt, cut: str = "") -> bytes:
    """The SSE comment that tells the cost; parsers skip it. `cut`: why the stream ends early."""
    remaining = receipt.budget_remaining_nanos
    told = {
        "cost": format_nanos(receipt.cost_nanos),
        "currency": receipt.currency,
        "charge_id": receipt.charge_id,
        "budget_remaining": None if remaining is None else format_nanos(remaining),
    }
    if cut:
        told["cut"] = cut
    return b": bursar " + msgspec.json.encode(told) + b"\n\n"
