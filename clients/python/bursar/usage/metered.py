"""What an answer says of one call besides its content, and how streams are gathered into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple, TypedDict

import msgspec

from .counts import COUNTS, MAX_COUNT, Usage, estimated
from .reader import MAX_ITEMS, Reader, listed, text_of

# Words of providers for the tier that everybody gets who asked for none, and for "you decide".
_STANDARD_WORDS: Final = frozenset(
    {"", "auto", "default", "standard", "on_demand", "unspecified", "not_available", "global"}
)


class Part(msgspec.Struct, frozen=True):
    """One sampling within a call, to be priced by itself: `model` is "" for the call's own."""

    model: str
    usage: Usage


class Metered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a provider reported of one call.

    - `usage`: the counts; estimated, with the reason, where they can't be taken at their word.
    - `parts`: only where a call is billed as several samplings (a compaction, an advisor of another
      model, a picture made on the side). Each is then priced by itself, at its own model's rates
      and its own context tier; `usage` is their sum, and estimated, since no single price fits it.
    - `model`, `request_id`: as the answer names them, "" where it doesn't.
    - `service_tier`, `region`: what served the call, in the provider's word; "" is the standard
      one, or not told.
    - `reported_cost`: what the provider says that it charges for the call, in `currency`, exact.
      `upstream_cost` is what a provider behind it charges besides, to the caller's own account.
    - `tool_calls`: how often the provider's own tools ran, by their names; what has a price is
      also in `usage.extra`.
    - `counted_llm_tokens`: the answer of an endpoint that only counts, which bills nothing.
    - `listed_as`: names under which price lists keep this call besides the model's, dearest first.
    """

    usage: Usage
    parts: tuple[Part, ...] = ()
    model: str = ""
    request_id: str = ""
    service_tier: str = ""
    region: str = ""
    reported_cost: Decimal | None = None
    upstream_cost: Decimal | None = None
    currency: str = ""
    tool_calls: dict[str, int] = {}
    counted_llm_tokens: int | None = None
    listed_as: tuple[str, ...] = ()


class Call(NamedTuple):
    """What is known of a call besides its answer.

    `input_bound` and `output_bound` (LLM tokens) stand in for counts that are missing or nonsense.
    `request` is the decoded body of the request, `headers` the answer's (names in any case): some
    answers don't say what was asked for.
    """

    input_bound: int | None = None
    output_bound: int | None = None
    request: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}


Read = Callable[[Mapping[str, Any], Call], Metered]


def counting(field: str) -> Read:
    """Reads the answer of an endpoint that only counts: a number, and nothing a model was run
    for."""

    def read_count(answer: Mapping[str, Any], call: Call) -> Metered:
        read = Reader()
        counted = read.count(answer, field)
        if counted is None:
            read.fault(f"{field} is missing")
        return Metered(usage=read.usage({}, {}), counted_llm_tokens=counted)

    return read_count


class Gathered:
    """A stream so far, as the plain answer that would say the same."""

    __slots__ = ("answer", "error", "fell", "final", "open_choices")

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {}
        self.open_choices: dict[object, bool] = {}
        """Choices (candidates) seen, and whether each is still being written."""
        self.final = False
        """The counts seen are the last ones."""
        self.error = ""
        """What an error event said; "" while none came."""
        self.fell = ""
        """Which cumulative count went down, and how; "" while none did."""

    def note(self, event: Mapping[str, Any], *names: str) -> None:
        """Keep those fields of an event that say something; later ones win."""
        for name in names:
            value = event.get(name)
            if value is not None:
                self.answer[name] = value

    def first(self, event: Mapping[str, Any], *names: str) -> None:
        """Keep those fields of an event that nothing was said of before."""
        for name in names:
            if event.get(name) is not None:
                self.answer.setdefault(name, event[name])

    def choices(self, event: Mapping[str, Any], name: str, finish: str) -> bool:
        """Note which choices of an event have finished; whether all that were seen have."""
        for choice in listed(event, name):
            place = choice.get("index")
            place = place if isinstance(place, int) else 0
            if choice.get(finish) or len(self.open_choices) >= MAX_ITEMS:
                self.open_choices[place] = False
            else:
                self.open_choices.setdefault(place, True)
        return not any(self.open_choices.values())

    def count(self, name: str, usage: object) -> None:
        """Take a cumulative usage object: what it names replaces what was known, never adds to it.

        A count that went down contradicts the one before: the higher one is kept, and said.
        """
        if usage is None:
            return
        known = self.answer.get(name)
        if isinstance(usage, Mapping) and isinstance(known, dict):
            self._merge(known, usage)
        else:
            self.answer[name] = dict(usage) if isinstance(usage, Mapping) else usage

    def _merge(self, known: dict[str, Any], usage: Mapping[str, Any]) -> None:
        for name, value in usage.items():
            before = known.get(name)
            if value is None:
                continue
            if isinstance(value, Mapping) and isinstance(before, Mapping):
                nested = dict(before)
                self._merge(nested, value)
                known[name] = nested
            elif type(value) is int and type(before) is int and value < before:
                self.fell = self.fell or f"{str(name)[:40]} fell within the stream"
            else:
                known[name] = value


Fold = Callable[[Gathered, Mapping[str, Any], str], None]


class Dialect(msgspec.Struct, frozen=True):
    """How one kind of answer is read.

    - `read`: a whole answer, decoded.
    - `fold`: takes one event of a stream into what was gathered; None where there are no streams.
    - `fields`: the top-level names that `read` and `fold` look at. Others are not even decoded.
    - `types`: what is needed of some of them, where the rest (vectors, pictures) can be a hundred
      megabytes. What has another type is decoded whole.
    - `bodiless`: the answer is no JSON (audio, or all in its headers): `read` gets {} for it.
    """

    name: str
    read: Read
    fields: tuple[str, ...]
    fold: Fold | None = None
    types: tuple[tuple[str, Any], ...] = ()
    bodiless: bool = False


class Stream:
    """Reads the events of one stream; its usage can be asked for at any time.

    Until the last counts have come the usage is an estimate: of what was said so far, and at least
    the call's bounds.
    """

    __slots__ = ("_call", "_decode", "_fold", "_gathered", "_read", "_unreadable")

    def __init__(self, dialect: Dialect, call: Call) -> None:
        if dialect.fold is None:
            raise ValueError(f"dialect {dialect.name} has no streams")
        self._fold, self._read, self._call = dialect.fold, dialect.read, call
        self._decode = decoder(dialect)
        self._gathered = Gathered()
        self._unreadable = ""

    def feed(self, event: Mapping[str, Any] | bytes | str, name: str = "") -> None:
        """Take the next event: its data, decoded or as JSON; `[DONE]` and blanks say nothing.

        `name` is the event's type where it travels beside the data (Bedrock's `:event-type`,
        `event:` of server-sent events). Raises nothing: an event that can't be read is remembered
        and makes the usage an estimate if no later one settles it.
        """
        if isinstance(event, bytes | str):
            text = event.strip()
            if text in (b"", b"[DONE]", "", "[DONE]"):
                return
            decoded = self._decode(text)
            if isinstance(decoded, str):
                self._unreadable = decoded
                return
            event = decoded
        if not isinstance(event, Mapping):
            self._unreadable = f"an event is a {type(event).__name__}, not an object"
            return
        self._fold(self._gathered, event, name)

    @property
    def is_final(self) -> bool:
        """The last counts have come."""
        return self._gathered.final

    def counted(self) -> Usage | None:
        """What was counted up to now, final or not; None where nothing was, or not to be taken at
        its word."""
        gathered = self._gathered
        usage = self._read(gathered.answer, self._call).usage
        return usage if usage.is_exact and not gathered.fell else None

    def usage(self) -> Usage:
        """The counts so far; see `metered`."""
        return self.metered().usage

    def metered(
        self, *, input_bound: int | None = None, output_bound: int | None = None
    ) -> Metered:
        """What the stream has said so far; bounds given here go before those of the start."""
        gathered, call = self._gathered, self._call
        if input_bound is not None or output_bound is not None:
            call = call._replace(input_bound=input_bound, output_bound=output_bound)
        metered = self._read(gathered.answer, call)
        if gathered.final and not gathered.fell:
            return metered
        if gathered.error:
            reason = f"the stream ended in an error ({gathered.error})"
        elif gathered.final:
            reason = gathered.fell
        else:
            reason = self._unreadable or "no final counts have come"
        usage = not_final(metered.usage, reason, call)
        return msgspec.structs.replace(metered, usage=usage)


def not_final(usage: Usage, reason: str, call: Call) -> Usage:
    """`usage` as the estimate that it is, and no less than the bounds."""
    given = max(0, min(call.input_bound or 0, MAX_COUNT) - usage.input_llm_tokens)
    bounded = msgspec.structs.replace(
        usage,
        input=usage.input + given,
        output=max(usage.output, min(call.output_bound or 0, MAX_COUNT)),
    )
    return doubted(bounded, reason)


def missing(reason: str, call: Call) -> Usage:
    """The estimate where an answer holds no counts at all."""
    return estimated(
        reason,
        input_llm_tokens=max(0, min(call.input_bound or 0, MAX_COUNT)),
        output_llm_tokens=max(0, min(call.output_bound or 0, MAX_COUNT)),
    )


def in_parts(parts: list[Part]) -> tuple[Usage, tuple[Part, ...]]:
    """The sum of several samplings, and the samplings. A single one of the call's own is no sum."""
    if len(parts) == 1 and not parts[0].model:
        return parts[0].usage, ()
    read = Reader()
    read.fault(f"billed as {len(parts)} samplings, each by itself")
    counts = dict.fromkeys(COUNTS, 0)
    extra: dict[str, int] = {}
    for part in parts:
        for name in COUNTS:
            counts[name] += getattr(part.usage, name)
        for meter, count in part.usage.extra.items():
            extra[meter] = extra.get(meter, 0) + count
        if part.usage.estimate_reason:
            read.fault(part.usage.estimate_reason)
    return read.usage(counts, extra), tuple(parts)


def doubted(usage: Usage, reason: str) -> Usage:
    """`usage` as an estimate, for `reason` and what was wrong with it before."""
    said = f"; {usage.estimate_reason}" if usage.estimate_reason else ""
    return msgspec.structs.replace(usage, certainty="estimated", estimate_reason=reason + said)


def adding(usage: Usage, extra: Mapping[str, int], read: Reader | None = None) -> Usage:
    """`usage` with more of some further meters, and with the faults that `read` has noted."""
    read = read or Reader()
    if usage.estimate_reason:
        read.fault(usage.estimate_reason)
    further = dict(usage.extra)
    for name, count in extra.items():
        further[name] = further.get(name, 0) + count
    return read.usage({name: getattr(usage, name) for name in COUNTS}, further)


def tier_of(source: Mapping[str, Any], *names: str) -> str:
    """The service tier or region named, lower case; "" for the standard one."""
    word = text_of(source, *names).strip().lower()
    return "" if word in _STANDARD_WORDS else word


def named_calls(read: Reader, counted: Mapping[str, Any], suffix: str) -> dict[str, int]:
    """Calls of a provider's tools, by the names it gives them (less `suffix`), without zeros."""
    calls: dict[str, int] = {}
    for name in counted:
        count = read.part(counted, name)
        if not count:
            continue
        if len(calls) >= MAX_TOOLS or len(name) > MAX_TOOL_NAME:
            read.fault("more tools ran, or under longer names, than can be kept")
        else:
            calls[name.removesuffix(suffix)] = count
    return calls


MAX_TOOLS: Final = 32
"""Tools of a provider that are told apart in one call; none has more."""
MAX_TOOL_NAME: Final = 48


def error_of(event: Mapping[str, Any]) -> str:
    """What an error says of itself, in a word or two; "" when there is none."""
    error = event.get("error")
    if not error:
        return ""
    if isinstance(error, Mapping):
        return text_of(error, "type", "code", "status", "message") or "no reason given"
    return text_of(event, "error") or "no reason given"


Decode = Callable[[bytes | str], dict[str, Any] | str]
"""From JSON text to its top-level fields, or to why it has none."""


def decoder(dialect: Dialect) -> Decode:
    """Decodes the fields that a dialect reads; fractions become decimals, so that an amount of
    money is what was written."""
    known = _DECODERS.get(dialect.name)
    if known is None:
        known = _DECODERS[dialect.name] = _decoder(dialect)
    return known


def _decoder(dialect: Dialect) -> Decode:
    types = dict(dialect.types)
    plain = _fields(dialect.fields, {})
    slim = _fields(dialect.fields, types) if types else plain

    def decode(text: bytes | str) -> dict[str, Any] | str:
        try:
            try:
                found = slim.decode(text)
            except msgspec.ValidationError:
                found = plain.decode(text)
        except msgspec.ValidationError:
            return "the answer is no JSON object"
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
            return "the answer is not valid JSON"
        return found

    return decode


def _fields(
    names: tuple[str, ...], types: Mapping[str, Any]
) -> msgspec.json.Decoder[dict[str, Any]]:
    # A dict of those that are there; others are passed over, not decoded.
    typed: Any = TypedDict("Fields", {name: types.get(name, Any) for name in names}, total=False)  # type: ignore[misc]  # its keys are known at run time only
    return msgspec.json.Decoder(typed, float_hook=_decimal)


_DECODERS: Final[dict[str, Decode]] = {}


def _decimal(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent that no number has; infinity is refused wherever a count is read.
        return float("inf")
