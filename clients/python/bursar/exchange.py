"""Exchange rates: what one currency is worth in another, and since when. Pure and exact.

A rate says how much of `quote` one of `base` is, from an instant on. Of a pair of currencies the
newest rate at or before an instant holds, in whichever direction it was given. A pair without one
is converted through a third currency that has a rate with both. A conversion is a quotient of
whole numbers: nothing is rounded but the amount, once, at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final

import msgspec

from bursar.money import CURRENCIES, EXACT, NANOS_PER_UNIT

# The dearest unit is some hundred million of the cheapest; what lies far beyond is a typing error.
MOST_RATE: Final = Decimal(10**12)
# Twice the decimals of the finest published rates.
MOST_RATE_DECIMALS: Final = 15
MOST_RATE_TEXT: Final = 28
# A quotient of two products of two rates.
MOST_CONVERSION_TEXT: Final = 4 * MOST_RATE_TEXT + 1

# Which third currency is taken where several have a rate with both: those that central banks and
# markets quote against, then by name.
_FIRST_LINKS: Final = ("EUR", "USD")
_ONE: Final = Decimal(1)
_DIGITS: Final = frozenset("0123456789")


class ExchangeError(ValueError):
    """A rate that can't be: the message names the field, the value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        shown = str(value)
        shown = shown if len(shown) <= MOST_RATE_TEXT else shown[:MOST_RATE_TEXT] + "..."
        super().__init__(f"{field} {shown!r} is not accepted, expected {expected}")
        self.field = field
        self.value = shown
        self.expected = expected


class ExchangeRate(msgspec.Struct, frozen=True):
    """One of `base` is `rate` of `quote`, from `effective_at` on.

    A `rate` of None ends the rates of the pair: from then on it has none. Raises ExchangeError.
    """

    base: str
    quote: str
    rate: Decimal | None
    effective_at: datetime

    def __post_init__(self) -> None:
        for name in ("base", "quote"):
            if getattr(self, name) not in CURRENCIES:
                raise ExchangeError(name, getattr(self, name), "an ISO 4217 code such as EUR")
        if self.base == self.quote:
            raise ExchangeError("quote", self.quote, f"another currency than {self.base}")
        if self.rate is not None:
            _check_rate(self.rate)
        if self.effective_at.tzinfo is None:
            raise ExchangeError("effective_at", self.effective_at, "a time with its offset to UTC")

    @property
    def pair(self) -> tuple[str, str]:
        """Both currencies, whichever way round: in the order of the alphabet."""
        return pair_of(self.base, self.quote)


def pair_of(one: str, other: str) -> tuple[str, str]:
    """Two currencies as the name of their pair."""
    return (one, other) if one < other else (other, one)


def _check_rate(rate: Decimal) -> None:
    expected = (
        f"a decimal number above 0, below {MOST_RATE}, with at most {MOST_RATE_DECIMALS} decimals"
    )
    if not rate.is_finite() or not 0 < rate < MOST_RATE:
        raise ExchangeError("rate", rate, expected)
    if -int(rate.as_tuple().exponent) > MOST_RATE_DECIMALS:
        raise ExchangeError("rate", rate, expected)


def parse_rate(text: str) -> Decimal:
    """The rate a text says: digits and at most one point, above zero. Raises ExchangeError."""
    whole, point, fraction = text.partition(".")
    if (
        len(text) > MOST_RATE_TEXT
        or not whole
        or (point and not fraction)
        or not _DIGITS.issuperset(whole + fraction)
    ):
        raise ExchangeError("rate", text, 'decimal text such as "0.92"')
    rate = Decimal(text)
    _check_rate(rate)
    return rate


def format_rate(rate: Decimal) -> str:
    """Exact decimal text, without exponent and without useless zeros: "0.92"."""
    text = f"{rate:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Conversion:
    """How amounts of `base` become amounts of `quote`: times `multiplier`, over `divisor`.

    Exact: the inverse of a rate, or one through a third currency, has no last decimal, so it is
    kept as a quotient.
    """

    base: str
    quote: str
    multiplier: Decimal = _ONE
    divisor: Decimal = _ONE
    text: str = field(init=False)
    """What an entry keeps: "0.92", or a quotient of two decimals: "1/1.0842"."""
    _up: int = field(init=False, repr=False, compare=False)
    _down: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once here instead of once a call.
        up, down = self.multiplier.as_integer_ratio()
        above, below = self.divisor.as_integer_ratio()
        text = format_rate(self.multiplier)
        if self.divisor != _ONE:
            text += f"/{format_rate(self.divisor)}"
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "_up", up * below)
        object.__setattr__(self, "_down", down * above)

    @property
    def factor(self) -> Fraction:
        """What an amount of `base` is multiplied by."""
        return Fraction(self._up, self._down)

    def nanos(self, amount: Decimal) -> int:
        """An exact amount in units of `base` as whole nanos of `quote`, rounded once, half even."""
        counted, per = amount.as_integer_ratio()
        down = per * self._down
        whole, rest = divmod(counted * self._up * NANOS_PER_UNIT, down)
        over_half = 2 * rest - down
        return whole + 1 if over_half > 0 or (over_half == 0 and whole % 2) else whole

    def ceil_nanos(self, nanos: int) -> int:
        """A bound in nanos of `base` as a bound in nanos of `quote`: rounded up."""
        return -(-nanos * self._up // self._down)


def parse_conversion(base: str, quote: str, text: str) -> Conversion:
    """The conversion that an entry kept as `Conversion.text`. Raises ExchangeError."""
    multiplier, slash, divisor = text.partition("/")
    if len(text) > MOST_CONVERSION_TEXT:
        raise ExchangeError("exchange_rate", text, f"at most {MOST_CONVERSION_TEXT} characters")
    for code in (base, quote):
        if code not in CURRENCIES:
            raise ExchangeError("currency", code, "an ISO 4217 code such as EUR")
    parts = (multiplier, divisor) if slash else (multiplier,)
    for part in parts:
        whole, point, fraction = part.partition(".")
        plain = whole and (fraction or not point) and _DIGITS.issuperset(whole + fraction)
        if not plain or not Decimal(part):
            raise ExchangeError("exchange_rate", text, '"0.92", or a quotient such as "1/1.0842"')
    return Conversion(base, quote, *(Decimal(part) for part in parts))


class ExchangeRates:
    """All rates known; immutable, but for what it remembers of answers."""

    def __init__(self, rates: Iterable[ExchangeRate] = ()) -> None:
        """Of two rates of one pair from the same instant on the later given one holds."""
        timelines: dict[tuple[str, str], dict[datetime, ExchangeRate]] = {}
        for rate in rates:
            timelines.setdefault(rate.pair, {})[rate.effective_at] = rate
        self._timelines: dict[tuple[str, str], list[ExchangeRate]] = {
            pair: [by_time[at] for at in sorted(by_time)] for pair, by_time in timelines.items()
        }
        self._instants = sorted({at for by_time in timelines.values() for at in by_time})
        self._answers: dict[tuple[str, str], tuple[int, Conversion | None]] = {}

    def __iter__(self) -> Iterator[ExchangeRate]:
        """Those that hold at some time, pair by pair, each pair's oldest first."""
        for pair in sorted(self._timelines):
            yield from self._timelines[pair]

    def __len__(self) -> int:
        return sum(len(timeline) for timeline in self._timelines.values())

    def conversion(self, base: str, quote: str, at: datetime) -> Conversion | None:
        """How amounts of `base` become amounts of `quote` at an instant; None: no rate is known.

        An answer is kept until the next instant at which any rate begins.
        """
        since = bisect_right(self._instants, at)
        known = self._answers.get((base, quote))
        if known is not None and known[0] == since:
            return known[1]
        found = self._find(base, quote, at)
        # At most as many as there are pairs of currencies.
        self._answers[base, quote] = (since, found)
        return found

    def in_force(self, one: str, other: str, at: datetime) -> ExchangeRate | None:
        """The rate given for a pair, in whichever direction, that holds at an instant."""
        timeline = self._timelines.get(pair_of(one, other), [])
        place = bisect_right(timeline, at, key=lambda rate: rate.effective_at)
        if not place or timeline[place - 1].rate is None:
            return None
        return timeline[place - 1]

    def of(self, one: str, other: str) -> list[ExchangeRate]:
        """The rates of a pair, the oldest first."""
        return list(self._timelines.get(pair_of(one, other), ()))

    def pairs(self) -> list[tuple[str, str]]:
        """Every pair that has, had or will have a rate."""
        return sorted(self._timelines)

    def _find(self, base: str, quote: str, at: datetime) -> Conversion | None:
        if base == quote:
            return Conversion(base, quote)
        given = self.in_force(base, quote, at)
        if given is not None:
            return _conversion(base, quote, (given,))
        for link in self._links(base, quote):
            legs = self.in_force(base, link, at), self.in_force(link, quote, at)
            if legs[0] is not None and legs[1] is not None:
                return _conversion(base, quote, (legs[0], legs[1]))
        return None

    def _links(self, base: str, quote: str) -> list[str]:
        reached = [
            {*pair} - {code} for code in (base, quote) for pair in self._timelines if code in pair
        ]
        names = {name for names in reached for name in names} - {base, quote}
        first = [name for name in _FIRST_LINKS if name in names]
        return [*first, *sorted(names.difference(first))]


def _conversion(base: str, quote: str, legs: tuple[ExchangeRate, ...]) -> Conversion:
    multiplier = divisor = _ONE
    at = base
    for leg in legs:
        assert leg.rate is not None  # `in_force` answers with none that ended
        if leg.base == at:
            multiplier, at = EXACT.multiply(multiplier, leg.rate), leg.quote
        else:
            divisor, at = EXACT.multiply(divisor, leg.rate), leg.base
    return Conversion(base, quote, multiplier, divisor)


def overlaid(below: Iterable[ExchangeRate], above: Iterable[ExchangeRate]) -> list[ExchangeRate]:
    """One list of two: of each pair what is given `above` holds, and where that has none, `below`.

    `below` are the platform's rates, `above` an organization's own; each in the order in which
    they were recorded.
    """
    lower, upper = ExchangeRates(below), ExchangeRates(above)
    merged: list[ExchangeRate] = []
    for one, other in sorted({*lower.pairs(), *upper.pairs()}):
        begin = {rate.effective_at for each in (lower, upper) for rate in each.of(one, other)}
        before: ExchangeRate | None = None
        for at in sorted(begin):
            held = upper.in_force(one, other, at) or lower.in_force(one, other, at)
            if held is not before:
                merged.append(
                    ExchangeRate(one, other, None, at)
                    if held is None
                    else msgspec.structs.replace(held, effective_at=at)
                )
            before = held
    return merged


def needed(
    rates: Iterable[ExchangeRate], price_currencies: Iterable[str], own: str
) -> list[ExchangeRate]:
    """Those of the rates by which amounts of `price_currencies` become amounts of `own`."""
    given = list(rates)
    partners: dict[str, set[str]] = {}
    for rate in given:
        partners.setdefault(rate.base, set()).add(rate.quote)
        partners.setdefault(rate.quote, set()).add(rate.base)
    wanted = set()
    for code in {*price_currencies} - {own}:
        wanted.add(pair_of(code, own))
        for link in partners.get(code, set()) & partners.get(own, set()):
            wanted |= {pair_of(code, link), pair_of(link, own)}
    return [rate for rate in given if rate.pair in wanted]


def since(rates: Iterable[ExchangeRate], instant: datetime) -> list[ExchangeRate]:
    """Without those that were superseded at `instant`: what must be known to convert from then."""
    known = ExchangeRates(rates)
    kept = []
    for one, other in known.pairs():
        timeline = known.of(one, other)
        place = bisect_right(timeline, instant, key=lambda rate: rate.effective_at)
        kept += timeline[max(0, place - 1) :]
    return kept
