"""What a call costs. Pure; exact in decimals; rounded once."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from bursar.money import EXACT, round_to_nanos
from bursar.usage import MAX_COUNT, PART_OF, Usage

from .conditions import PriceError
from .model import OUTPUT_METERS, OUTPUT_UNITS, Meter, Price
from .pictures import in_one_unit
from .rates import Level, normal_tier, rate_table

_ZERO: Final = Decimal(0)

_METER_BY_NAME: Final = {meter.value: meter for meter in Meter}

# Searches that some prices bill once for a request, however many it made.
_SEARCHES: Final = frozenset({Meter.SEARCH, Meter.MAPS_QUERY})


class UnpricedError(PriceError):
    """The price has no rate for something every call of this kind uses."""


class Line(NamedTuple):
    """One line of a charge: `quantity` of `meter` at `rate` a unit makes `amount`."""

    meter: str
    quantity: int
    rate: Decimal
    amount: Decimal


class Charge(msgspec.Struct, frozen=True):
    """A usage priced. `cost` is exact, `cost_nanos` rounded half to even, in `currency`.

    `unpriced` names meters that were used but have no rate: their part of the cost is unknown,
    not zero, and whoever posts the charge must say so.
    """

    cost: Decimal
    cost_nanos: int
    input_cost: Decimal
    output_cost: Decimal
    currency: str
    price_version: str
    breakdown: list[Line]
    unpriced: tuple[str, ...] = ()


def charge(
    price: Price,
    usage: Usage,
    *,
    service_tier: str | None = None,
    region: str | None = None,
    at: datetime | None = None,
    free_used: Mapping[str, int] | None = None,
) -> Charge:
    """Price `usage`: exact, then rounded once to nanos.

    `service_tier` is the one the provider says it served (None: the standard one), `region` names
    the region or residency the call was served from, where the price distinguishes any. A usage is
    that of one request, and pays the price's fee per request once unless it counts the meter
    "request" itself.

    `at` is the time that the provider prices the call by (aware); None charges no off-peak rate.
    `free_used` says how many units of the price's free quotas of a day or month, by meter, the
    account used in the period before this call; what is not named there counts as used up, as only
    the account knows.
    Raises ValueError for a time without a zone.
    """
    table = rate_table(price)
    tiers = table.of(normal_tier(service_tier, price), region or "", table.window(at))
    level = tiers.at(usage.input_llm_tokens)
    rates = level.llm_tokens
    left = {
        "input": usage.input,
        "cached_input": usage.cached_input,
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "output": usage.output,
    }
    bill = _Bill(price, level, left, free_used)
    if usage.reasoning and Meter.REASONING in rates:
        left["output"] -= usage.reasoning
        bill.lines.append(_line(Meter.REASONING, usage.reasoning, rates[Meter.REASONING]))
    if usage.extra:
        bill.add_extra(usage.extra)
    if level.units:
        bill.add_fees(usage.extra)
    for name, count in left.items():
        if not count:
            continue
        rate = rates.get(Meter(name))
        if rate is None:
            bill.unpriced.append(name)
        else:
            bill.lines.append(_line(Meter(name), count, rate))
    return _total(price, bill.lines, bill.unpriced)


def _line(meter: str, quantity: int, rate: Decimal) -> Line:
    return Line(meter, quantity, rate, EXACT.multiply(rate, quantity))


class _Bill:
    """The lines of one charge, while they are written.

    `left` are LLM tokens that no line is for yet, by the field of the usage.
    """

    __slots__ = ("_free", "_level", "_price", "_searched", "left", "lines", "unpriced")

    def __init__(
        self,
        price: Price,
        level: Level,
        left: dict[str, int],
        free_used: Mapping[str, int] | None,
    ):
        self._price = price
        self._level = level
        self._free = _free_left(price, free_used or {}) if price.free_quotas else {}
        self._searched: set[Meter] = set()
        self.left = left
        self.lines: list[Line] = []
        self.unpriced: list[str] = []

    def add_extra(self, counts: Mapping[str, int]) -> None:
        """Further meters: parts of a field at their own rate, units beside the LLM tokens."""
        for name, count in in_one_unit(self._price, counts, self._level.units).items():
            if count and name in PART_OF:
                self._add_part(name, count)
            elif count:
                self._add_unit(name, count)

    def add_fees(self, counts: Mapping[str, int]) -> None:
        """What every call pays once, unless it counts the requests itself."""
        fees = self._level.units.get(Meter.REQUEST)
        if fees and not any(meter_named(name) is Meter.REQUEST for name in counts):
            self.lines.append(_line(Meter.REQUEST, 1, max(fees.values())))
        if fees := self._level.units.get(Meter.CALL_FEE):
            self.lines.append(_line(Meter.CALL_FEE, 1, max(fees.values())))

    def _add_part(self, name: str, count: int) -> None:
        # Without a rate of its own a part stays in its whole, and is billed with it.
        rate = self._level.llm_tokens.get(Meter(name))
        if rate is not None:
            whole = PART_OF[name]
            part = min(count, self.left[whole])
            self.left[whole] -= part
            self.lines.append(_line(name, part, rate))

    def _add_unit(self, name: str, count: int) -> None:
        base, _, variant = name.partition(".")
        meter = _METER_BY_NAME.get(base)
        rate = None if meter is None else self._unit_rate(meter, variant)
        if meter is None or rate is None:
            if not is_included(name, self._level.units):
                self.unpriced.append(name)
            return
        if meter in _SEARCHES and self._price.search_per == "request":
            count = 0 if meter in self._searched else 1
            self._searched.add(meter)
        if self._free:
            count -= self._take_free(name, meter, count)
        if count:
            self.lines.append(_line(name, count, rate))

    def _unit_rate(self, meter: Meter, variant: str) -> Decimal | None:
        """The rate of a meter such as "search" or, with a variant, "search.high".

        An unknown or missing variant costs what the dearest one costs.
        """
        variants = self._level.units.get(meter)
        if variants is None:
            return self._level.llm_tokens.get(meter)
        found = variants.get(variant)
        if found is None:
            found = variants.get("")
        return max(variants.values()) if found is None else found

    def _take_free(self, name: str, meter: Meter, count: int) -> int:
        """How many of `count` a free quota pays for; they get a line of their own, at nothing."""
        taken = min(count, self._free.get(meter, 0))
        if taken:
            self._free[meter] -= taken
            self.lines.append(_line(name, taken, _ZERO))
        return taken


def _free_left(price: Price, used: Mapping[str, int]) -> dict[str, int]:
    """What is left of each free quota: all of a request's, of the account's what `used` leaves."""
    check_counts({f"free_used of {name}": count for name, count in used.items()})
    left: dict[str, int] = {}
    for quota in price.free_quotas:
        is_known = quota.period == "request" or quota.meter in used
        if is_known:
            spent = 0 if quota.period == "request" else used[quota.meter]
            left[quota.meter] = left.get(quota.meter, 0) + quota.left(spent)
    return left


def meter_named(name: str) -> Meter | None:
    """The meter of a count such as "search" or "search.high"; None if there is none."""
    return _METER_BY_NAME.get(name.partition(".")[0])


def once_a_request(price: Price, name: str) -> bool:
    """Whether however many of `name` are paid as one."""
    return price.search_per == "request" and meter_named(name) in _SEARCHES


def is_included(name: str, units: Container[Meter]) -> bool:
    """Whether a meter without a rate is paid with the rest, by the rules of those who count it.

    Every call is a request, only some prices have a fee for it. Perplexity counts citations on all
    its models and bills them where the list has a rate; its fee per request covers the searches.
    """
    base = name.partition(".")[0]
    if base == Meter.SEARCH:
        return Meter.REQUEST in units
    return base in (Meter.REQUEST, Meter.CITATION, Meter.CALL_FEE)


def check_counts(counts: Mapping[str, int]) -> None:
    """Raise ValueError naming the first that is no count."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise ValueError(f"{name} is {value!r}; expected a whole number 0..{MAX_COUNT}")


def _total(price: Price, lines: list[Line], unpriced: list[str]) -> Charge:
    given = produced = _ZERO
    for line in lines:
        meter = line.meter.partition(".")[0]
        if meter in OUTPUT_METERS or meter in OUTPUT_UNITS:
            produced = EXACT.add(produced, line.amount)
        else:
            given = EXACT.add(given, line.amount)
    cost = EXACT.add(given, produced)
    return Charge(
        cost=cost,
        cost_nanos=round_to_nanos(cost),
        input_cost=given,
        output_cost=produced,
        currency=price.currency,
        price_version=price.price_version,
        breakdown=lines,
        unpriced=tuple(unpriced),
    )
