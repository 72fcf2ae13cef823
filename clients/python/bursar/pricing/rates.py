"""Which rate applies: resolves a price's components for one service tier and region.

The rules, in the order they are asked:

1. A component of the request's own service tier, else the standard one.
2. With long contexts, the same question for each threshold the request crossed, ascending: the
   highest one that has an answer wins, for the whole request.
3. Where a meter has no rate at all, the meter it is part of, or stands for: cached input and
   cache writes are input, longer writes are cache writes, reasoning is output.
4. A tier without an input rate of its own, for which the price has a factor: the standard rates
   times the factor (the providers' batch discount of one half covers every rate of LLM tokens).
5. While a window of the price is open, its rates go before all of these: an off-peak rate replaces
   the one that would apply, in every tier but batch (a batch job has no time of day) and at every
   context level.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import product
from typing import Final, NamedTuple

from bursar.money import EXACT
from bursar.usage import PART_OF

from .conditions import check_moment, open_window, windows_between
from .model import BATCH_TIER, LLM_TOKEN_METERS, STANDARD_TIER, Component, Meter, Price

# A request that names no tier, and an answer that was served normally.
_STANDARD_NAMES: Final = frozenset({"", "default", "auto", "standard", "standard_only", "scale"})

# Names under which providers sell the tier that price lists call by another.
_TIER_ALIASES: Final = {"fast": "priority", "batches": BATCH_TIER}

# Meters that fall back on another when they have no rate of their own. LiteLLM's map and the
# providers' pages agree that cached LLM tokens without a published cache price are ordinary input;
# a longer life without a rate of its own is the base one.
_FALLBACK: Final = {
    Meter.CACHED_INPUT: Meter.INPUT,
    Meter.CACHE_WRITE_5M: Meter.INPUT,
    Meter.CACHE_WRITE_1H: Meter.CACHE_WRITE_5M,
    Meter.CACHE_WRITE_12H: Meter.CACHE_WRITE_5M,
}

# Those that others fall back on come before them.
_ASKED_IN_ORDER: Final = tuple(
    dict.fromkeys(
        (
            Meter.INPUT,
            Meter.OUTPUT,
            *_FALLBACK,
            *map(Meter, PART_OF),
            Meter.CITATION,
            Meter.REASONING,
        )
    )
)
_MINUTE_S: Final = 60
# A ceiling is asked for the minute that it is and the longest that a call may last.
_MAX_STRETCHES: Final = 64
_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)

# The factor of every region but the global one, for providers that price all of them alike.
ANY_REGION: Final = "*"
_GLOBAL_REGIONS: Final = frozenset({"", "global", "not_available"})


def normal_tier(service_tier: str | None, price: Price) -> str:
    """The price list's name for a service tier as requests and answers spell it."""
    if service_tier is None:
        return STANDARD_TIER
    tier = service_tier.strip().lower()
    if tier in _STANDARD_NAMES:
        return STANDARD_TIER
    if f"tier/{tier}" in price.multipliers:
        return tier
    return _TIER_ALIASES.get(tier, tier)


class Level(NamedTuple):
    """The rates of one context level: money for one LLM token, and for one of each other unit.

    `units` has them by size ("" is any) under the meter.
    """

    llm_tokens: dict[Meter, Decimal]
    units: dict[Meter, dict[str, Decimal]]


class TierRates:
    """The rates of one price in one tier, region and window, per context level."""

    __slots__ = ("levels", "thresholds")

    def __init__(self, thresholds: tuple[int, ...], levels: tuple[Level, ...]):
        self.thresholds = thresholds
        self.levels = levels

    def at(self, input_llm_tokens: int) -> Level:
        """The rates of a request with so much input (a threshold is crossed by more than it)."""
        return self.levels[bisect_left(self.thresholds, input_llm_tokens)]


class Dearest(NamedTuple):
    """The highest rates that a call may be charged; None where the price has none."""

    given: Decimal | None
    produced: Decimal | None
    units: dict[Meter, Decimal]


class RateTable:
    """All rates of one price, resolved once per tier, region and window, and kept."""

    def __init__(self, price: Price):
        self._price = price
        self._windows: Final = ("", *price.windows)
        self._thresholds: Final = price.thresholds
        self._resolved: dict[tuple[str, str, str], TierRates] = {}
        self._dearest: dict[tuple[object, ...], tuple[Dearest, ...]] = {}
        self._minute: tuple[int | None, str] = (None, "")
        self._stretches: dict[tuple[int, int], tuple[str, ...]] = {}
        self._by_place: dict[tuple[str, str], dict[_Place, Component]] = {}
        self._unit_meters: dict[Meter, set[str]] = {}
        for component in price.components:
            place = (component.during, component.tier)
            key = (component.meter, component.variant, component.above)
            self._by_place.setdefault(place, {})[key] = component
            if component.meter not in LLM_TOKEN_METERS:
                self._unit_meters.setdefault(component.meter, set()).add(component.variant)

    @cached_property
    def tiers(self) -> tuple[str, ...]:
        """Every tier the price distinguishes, the standard one included."""
        factors = {n.removeprefix("tier/") for n in self._price.multipliers if n[:5] == "tier/"}
        own = {tier for _, tier in self._by_place}
        return tuple(sorted({STANDARD_TIER, *own, *factors}))

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Every region with a factor of its own, and "" for elsewhere."""
        named = (n.removeprefix("region/") for n in self._price.multipliers if n[:7] == "region/")
        return ("", *sorted(named))

    def window(self, at: datetime | None) -> str:
        """The window that is open at `at`; "" is none, and the answer where no time is given."""
        if at is None or not self._price.windows:
            return ""
        check_moment("at", at)
        # Windows open and close on whole minutes; most calls come within one.
        minute = int(at.timestamp() // _MINUTE_S)
        known = self._minute
        if known[0] != minute:
            known = self._minute = (minute, open_window(self._price.windows, at))
        return known[1]

    def windows_of(self, since: datetime | None, until: datetime | None) -> tuple[str, ...]:
        """Every window, "" included, that may be open from `since` to `until`; None is no bound."""
        if since is None or until is None or not self._price.windows:
            return self._windows
        check_moment("at", since)
        check_moment("until", until)
        if until < since:
            raise ValueError(f"until is {until}; expected no time before at, {since}")
        minutes = (int(since.timestamp() // _MINUTE_S), int(until.timestamp() // _MINUTE_S))
        known = self._stretches.get(minutes)
        if known is None:
            if len(self._stretches) >= _MAX_STRETCHES:
                self._stretches.clear()
            found = windows_between(self._price.windows, since, until)
            known = self._stretches[minutes] = tuple(sorted(found))
        return known

    def of(self, tier: str, region: str, window: str = "") -> TierRates:
        """The rates of a tier and region; one the price does not know is the standard one.

        Names come from outside, so only those the price knows are kept.
        """
        if tier not in self.tiers:
            tier = STANDARD_TIER
        if region not in self.regions:
            is_global = region in _GLOBAL_REGIONS or ANY_REGION not in self.regions
            region = "" if is_global else ANY_REGION
        known = self._resolved.get((tier, region, window))
        if known is None:
            known = self._resolve(tier, region, window)
            self._resolved[(tier, region, window)] = known
        return known

    def dearest(
        self,
        input_llm_tokens: int,
        tiers: tuple[str, ...],
        region: str | None,
        windows: tuple[str, ...],
        given: frozenset[Meter],
        produced: frozenset[Meter],
    ) -> Dearest:
        """The highest rates of a request with at most so much input.

        Over all of `tiers` and `windows`, in `region` or, None, in any; `given` and `produced` say
        which meters of LLM tokens count.
        """
        if region is not None and region not in self.regions:
            region = ANY_REGION if ANY_REGION in self.regions else ""
        tiers = tuple(tier if tier in self.tiers else STANDARD_TIER for tier in tiers)
        key = (tiers, region, windows, given)
        known = self._dearest.get(key)
        if known is None:
            regions = self.regions if region is None else (region,)
            places = tuple(product(dict.fromkeys(tiers), regions, windows))
            known = self._dearest[key] = self._highest(places, given, produced)
        return known[bisect_left(self._thresholds, input_llm_tokens)]

    def _highest(
        self,
        places: Sequence[tuple[str, str, str]],
        given: frozenset[Meter],
        produced: frozenset[Meter],
    ) -> tuple[Dearest, ...]:
        """Per context level, the highest rates of that level and all below it."""
        found: list[Dearest] = []
        inputs: list[Decimal] = []
        outputs: list[Decimal] = []
        units: dict[Meter, Decimal] = {}
        for threshold in (-1, *self._thresholds):
            for place in places:
                level = self.of(*place).at(threshold + 1)
                inputs += (rate for meter, rate in level.llm_tokens.items() if meter in given)
                outputs += (rate for meter, rate in level.llm_tokens.items() if meter in produced)
                for meter, variants in level.units.items():
                    units[meter] = max(units.get(meter, _ZERO), *variants.values())
            inputs, outputs = inputs and [max(inputs)], outputs and [max(outputs)]
            found.append(
                Dearest(inputs[0] if inputs else None, outputs[0] if outputs else None, dict(units))
            )
        return tuple(found)

    def _resolve(self, tier: str, region: str, window: str) -> TierRates:
        own = self._by_place.get(("", tier), {})
        standard = self._by_place.get(("", STANDARD_TIER), {})
        factor = self._price.multipliers.get(f"region/{region}", _ONE)
        discount = self._price.multipliers.get(f"tier/{tier}", _ONE) if tier else _ONE
        layers = [_Layer(own, factor), _Layer(standard, EXACT.multiply(factor, discount))]
        # A batch list that names an input rate but no cache rates gives no cache discount: LLM
        # tokens read from a cache are then ordinary batch input, never the standard cache rate.
        has_input = (Meter.INPUT, "", 0) in own
        narrow = layers[:1] if tier == BATCH_TIER and has_input else layers
        timed: list[_Layer] = []
        if window and tier != BATCH_TIER:
            places = dict.fromkeys(((window, tier), (window, STANDARD_TIER)))
            timed = [_Layer(self._by_place.get(place, {}), factor) for place in places]
        # A tier with an output rate of its own, but no reasoning rate, bills reasoning as its
        # output.
        own_output = tier == BATCH_TIER or (tier and (Meter.OUTPUT, "", 0) in own)
        asked = _Asked(timed, layers, narrow, layers[:1] if own_output else layers)
        every = (*timed, *layers)
        thresholds = tuple(sorted({key[2] for layer in every for key in layer.rates if key[2]}))
        return TierRates(
            thresholds,
            tuple(
                Level(
                    _llm_token_rates(asked, thresholds[:crossed]),
                    self._unit_rates((*timed, *layers), thresholds[:crossed]),
                )
                for crossed in range(len(thresholds) + 1)
            ),
        )

    def _unit_rates(
        self, layers: Sequence[_Layer], crossed: tuple[int, ...]
    ) -> dict[Meter, dict[str, Decimal]]:
        """Factors are for LLM tokens: a page or a search costs what the list says of it."""
        plain = [_Layer(layer.rates, _ONE) for layer in layers]
        units: dict[Meter, dict[str, Decimal]] = {}
        for meter, variants in self._unit_meters.items():
            found = {variant: _find(plain, (meter, variant), crossed) for variant in variants}
            rates = {variant: rate for variant, rate in found.items() if rate is not None}
            if rates:
                units[meter] = rates
        return units


_Place = tuple[Meter, str, int]
"""Meter, variant and threshold that a component is for."""


class _Layer(NamedTuple):
    """The components of one tier and window, and the factor that their rates are taken at."""

    rates: dict[_Place, Component]
    factor: Decimal


class _Asked(NamedTuple):
    """Who is asked for a rate, in order: `timed` before the others, for every meter.

    Then `narrow` for meters that fall back on input, `reasoning` for reasoning, `all` for the rest.
    """

    timed: Sequence[_Layer]
    all: Sequence[_Layer]
    narrow: Sequence[_Layer]
    reasoning: Sequence[_Layer]


def _llm_token_rates(asked: _Asked, crossed: tuple[int, ...]) -> dict[Meter, Decimal]:
    """All rates of LLM tokens of a request that crossed the thresholds `crossed`."""
    level: dict[Meter, Decimal] = {}
    for meter in _ASKED_IN_ORDER:
        layers = asked.all
        if meter in _FALLBACK:
            layers = asked.narrow
        elif meter is Meter.REASONING:
            layers = asked.reasoning
        rate = _find(asked.timed, (meter, ""), crossed)
        if rate is None:
            rate = _find(layers, (meter, ""), crossed)
        if rate is None and meter in _FALLBACK:
            rate = level.get(_FALLBACK[meter])
        if rate is not None:
            level[meter] = rate
    return level


def _find(
    layers: Sequence[_Layer], what: tuple[Meter, str], crossed: tuple[int, ...]
) -> Decimal | None:
    rate: Decimal | None = None
    for threshold in (0, *crossed):
        for layer in layers:
            component = layer.rates.get((*what, threshold))
            if component is not None:
                rate = EXACT.multiply(_unit_rate(component), layer.factor)
                break
    return rate


def _unit_rate(component: Component) -> Decimal:
    return EXACT.divide(component.rate, Decimal(component.per))


def rate_table(price: Price) -> RateTable:
    """The price's rates, resolved at most once: a Price never changes."""
    table: RateTable | None = price.__dict__.get("rate_table")
    if table is None:
        table = price.__dict__["rate_table"] = RateTable(price)
    return table
