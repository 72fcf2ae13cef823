"""What an answer has said about itself so far: its usage, its model, what it produced.

A dialect's own reading notes whole answers and the events of streams. What the provider counted
wins; where nothing was counted, what was seen bounds the estimate (see `bursar_sidecar.meter`).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from bursar import usage as readers
from bursar.usage import Metered, Usage, usage_from_openai

_anything = msgspec.json.Decoder()

PASS: Final = 0
"""The event flows on."""
WITHHOLD: Final = 1
"""The event tells usage that the app did not ask for, and nothing else: it stays here."""
LAST: Final = 2
"""The dialect's last event: the stream is settled, and its cost told, before it flows on."""


PLAIN_TEXT: Final = re.compile(rb"[ !#-\[\]-~]*")
"""Text that stands in JSON as it is, a byte for each character."""
BLANKS: Final = re.compile(rb" *")


class Usual(NamedTuple):
    """An event that holds a piece of text, cut at that text: one that differs in the text alone
    says nothing else than this one did."""

    before: bytes
    """All of it up to its text."""
    after: bytes
    """From the end of the text to `padding`, or to the end of the event."""
    behind: bytes | None = None
    """From the end of a padding, whose length some providers vary, to the end of the event; None
    where there is none."""
    padding: re.Pattern[bytes] = PLAIN_TEXT
    """All that the padding may be."""
    is_kept: bool = True
    """The reading keeps its text, where texts are kept."""


def cut_at(payload: bytes, name: bytes, text: str) -> tuple[bytes, bytes] | None:
    """What stands before and after a text in an event that has it in the field `name`; None where
    it can't be told for certain where that is."""
    # Without a backslash each quote begins or ends a string: what is found is the field.
    if b"\\" in payload or payload.count(b'"%b"' % name) != 1:
        return None
    before, found, after = payload.partition(b'"%b":"%b"' % (name, text.encode()))
    return (b'%b"%b":"' % (before, name), b'"' + after) if found else None


class Keeper(Protocol):
    """Keeps produced text, where it may have to be counted."""

    size: int
    """Bytes kept."""

    def keep(self, choice: int, text: str) -> None:
        """One piece of a choice's text."""
        ...


class Reading:
    """What an answer has said about itself so far."""

    __slots__ = (
        "kept",
        "model",
        "produced_bytes",
        "region",
        "request_id",
        "service_tier",
        "unreadable",
        "usage",
        "usage_is_final",
        "usual",
    )

    def __init__(self) -> None:
        self.model = ""
        self.request_id = ""
        self.service_tier = ""
        self.region = ""
        """Where the call was served, for prices that differ by region; "" where it is not told."""
        self.usage: object = None
        """The provider's own usage; None until some came."""
        self.usage_is_final = False
        """No more output follows that usage."""
        self.produced_bytes = 0
        """UTF-8 bytes of produced content seen."""
        self.kept: Keeper | None = None
        """Where produced text goes; None where it is not kept."""
        self.unreadable = ""
        """Why (a part of) the answer could not be read; "" when it could."""
        self.usual: Usual | None = None
        """The last event of text: one with another text need not be read again, but counted and
        kept; None where nothing is known."""

    def note(self, payload: bytes) -> int:
        """Read the data of one event: PASS, WITHHOLD or LAST."""
        raise NotImplementedError

    def whole(self, body: bytes) -> None:
        """Read a whole answer."""
        self.note(body)
        self.usage_is_final = self.usage is not None

    def is_complete(self, choices: int) -> bool:
        """Whether so many choices were produced to their end: nothing more is billed."""
        return self.usage_is_final

    def unflow(self, payload: bytes) -> None:
        """An event that was noted does not flow: the app never learns what it began or ended."""

    def is_counted(self, *, cut: bool) -> bool:
        """Whether the usage that came is that of the whole answer; `cut`: it did not come to its
        end."""
        return self.usage_is_final or not cut

    def output_told(self) -> int:
        """The least LLM tokens of output of an answer that was not counted to its end: as many as
        the provider counted on the way."""
        return 0

    def input_told(self) -> Usage | None:
        """The input as the provider has counted it, where it tells that before the output ends;
        None where it has not, or where more of it may come."""
        return None

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        """The usage that came, in LLM tokens; the bounds stand in for counts that make no sense."""
        return usage_from_openai(self.usage, input_bound=input_bound, output_bound=output_bound)


class MeteredReading(Reading):
    """A reading by one of the readers of `bursar.usage`, for dialects that need no faster one.

    `produced_bytes` are all the bytes of the events until usage came: never below the truth. A
    dialect that can tell what of an event was produced overrides `produced`.
    """

    __slots__ = ("_body", "_request", "_stream", "_usage_name", "metered")

    def __init__(
        self, usage_name: str, *, stream: bool, request: Mapping[str, Any] | None = None
    ) -> None:
        """`usage_name` is one of `bursar.usage.DIALECTS`, `request` what it needs of the request
        (see `read_usage`)."""
        super().__init__()
        # The readers of all providers are loaded when one is first asked for, not at the start.
        self._usage_name = usage_name
        self._request = request
        self._body = b""
        self._stream = readers.read_stream(usage_name, request=request) if stream else None
        self.metered: Metered | None = None
        """All that the answer said, once it was read to its end."""

    def note(self, payload: bytes) -> int:
        stream = self._stream
        if stream is None:
            raise TypeError("a reading of a whole answer is fed no events")
        stream.feed(payload)
        self.usage_is_final = stream.is_final
        if self.usage_is_final:
            self.usage = self._take(stream.metered())
        else:
            self.produced_bytes += self.produced(payload)
        return PASS

    def note_odd(self, payload: bytes) -> int:
        """An event in another shape than the dialect's: all of it counts as produced, and what is
        no JSON at all may be anything."""
        self.produced_bytes += len(payload)
        try:
            _anything.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            self.unreadable = "an event that is not valid JSON"
        return MeteredReading.note(self, payload)

    def told_so_far(self) -> Usage | None:
        """What the provider has counted of a stream up to now; None while it has counted nothing,
        or nothing that makes sense."""
        return None if self._stream is None else self._stream.counted()

    def output_told(self) -> int:
        told = self.told_so_far()
        return 0 if told is None else told.output

    def produced(self, payload: bytes) -> int:
        """How many bytes of an event the model produced, at most."""
        return len(payload)

    def whole(self, body: bytes) -> None:
        self._body = body
        self.usage = self._take(readers.read_usage(self._usage_name, body, request=self._request))
        self.usage_is_final = True

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        if self.metered is not None and self.metered.usage.is_exact:
            return self.metered.usage
        if self._stream is not None:
            metered = self._stream.metered(input_bound=input_bound, output_bound=output_bound)
        else:
            metered = readers.read_usage(
                self._usage_name,
                self._body,
                request=self._request,
                input_bound=input_bound,
                output_bound=output_bound,
            )
        return self._take(metered).usage

    def _take(self, metered: Metered) -> Metered:
        self.metered = metered
        self.model = metered.model or self.model
        self.request_id = self.request_id or metered.request_id
        self.service_tier = metered.service_tier or self.service_tier
        self.region = metered.region or self.region
        return metered
