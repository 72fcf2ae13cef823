"""Which rate applies: resolves a price's components for one service tier and region.

The rules, in the order they are asked:

1. A component of the request's own service tier, else the standard one.
2. With long contexts, the same question for each threshold the request crossed, ascending: the
   highest one that has an answer wins, for the whole request.
3. Where a meter has no rate at all, the meter it is part of, or stands for: cached input and
   cache writes are input, one-hour writes are cache writes, reasoning is output.
4. A tier without an input rate of its own, for which the price has a factor: the standard rates
   times the factor (the providers' batch discount of one half covers every rate of the request).
5. While a window of the price is open, its rates go before all of these: an off-peak rate replaces
   the one that would apply, in every tier but batch (a batch job has no time of day) and at every
   context level.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Final, NamedTuple

from bursar.money import EXACT
from bursar.usage import PART_OF

from .conditions import open_window, windows_between
from .model import BATCH_TIER, LLM_TOKEN_METERS, STANDARD_TIER, Component, Meter, Price

# A request that names no tier, and an answer that was served normally.
_STANDARD_NAMES: Final = frozenset({"", "default", "auto", "standard", "standard_only", "scale"})

# Names under which providers sell the tier that price lists call by another.
_TIER_ALIASES: Final = {"fast": "priority", "batches": BATCH_TIER}

# Meters that fall back on another when they have no rate of their own. LiteLLM's map and the
# providers' pages agree that cached LLM tokens without a published cache price are ordinary input.
_FALLBACK: Final = {
    Meter.CACHED_INPUT: Meter.INPUT,
    Meter.CACHE_WRITE_5M: Meter.INPUT,
    Meter.CACHE_WRITE_1H: Meter.CACHE_WRITE_5M,
}

_BASE: Final = (
    Meter.INPUT,
    Meter.OUTPUT,
    Meter.CACHED_INPUT,
    Meter.CACHE_WRITE_5M,
    Meter.CACHE_WRITE_1H,
)
_DETAILS: Final = (*map(Meter, PART_OF), Meter.CITATION)
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


class TierRates:
    """The rates of one price in one tier and region: per context level, money for one unit."""

    __slots__ = ("levels", "thresholds")

    def __init__(self, thresholds: tuple[int, ...], levels: tuple[dict[Meter, Decimal], ...]):
        self.thresholds = thresholds
        self.levels = levels

    def at(self, input_llm_tokens: int) -> dict[Meter, Decimal]:
        """The rates of a request with so much input (a threshold is crossed by more than it)."""
        return self.levels[bisect_left(self.thresholds, input_llm_tokens)]

    def up_to(self, input_llm_tokens: int) -> tuple[dict[Meter, Decimal], ...]:
        """The rates of every level a request with at most so much input can be on."""
        return self.levels[: bisect_left(self.thresholds, input_llm_tokens) + 1]


class RateTable:
    """All rates of one price, resolved once per tier and region and kept."""

    def __init__(self, price: Price):
        self._price = price
        self.windows: Final = ("", *price.windows)
        self._resolved: dict[tuple[str, str, str], TierRates] = {}
        self._by_tier: dict[str, dict[tuple[Meter, int], Component]] = {}
        self._by_window: dict[tuple[str, str], dict[tuple[Meter, int], Component]] = {}
        for component in price.components:
            if component.meter in LLM_TOKEN_METERS and not component.variant:
                key = (component.meter, component.above)
                if component.during:
                    place = (component.during, component.tier)
                    self._by_window.setdefault(place, {})[key] = component
                else:
                    self._by_tier.setdefault(component.tier, {})[key] = component

    @cached_property
    def tiers(self) -> tuple[str, ...]:
        """Every tier the price distinguishes, the standard one included."""
        factors = {n.removeprefix("tier/") for n in self._price.multipliers if n[:5] == "tier/"}
        timed = {tier for _, tier in self._by_window}
        return tuple(sorted({STANDARD_TIER, *self._by_tier, *timed, *factors}))

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Every region with a factor of its own, and "" for elsewhere."""
        named = (n.removeprefix("region/") for n in self._price.multipliers if n[:7] == "region/")
        return ("", *sorted(named))

    @cached_property
    def units(self) -> dict[Meter, dict[str, Decimal]]:
        """Rates of what is not LLM tokens: meter -> variant -> money for one."""
        units: dict[Meter, dict[str, Decimal]] = {}
        for component in self._price.components:
            plain = not component.tier and not component.during
            if component.meter not in LLM_TOKEN_METERS and plain:
                units.setdefault(component.meter, {})[component.variant] = _unit_rate(component)
        return units

    def window(self, at: datetime | None) -> str:
        """The window that is open at `at`; "" is none, and the answer where no time is given."""
        if at is None or not self._price.windows:
            return ""
        return open_window(self._price.windows, at)

    def windows_of(self, since: datetime | None, until: datetime | None) -> Iterable[str]:
        """Every window, "" included, that may be open from `since` to `until`; None is no bound."""
        if since is None or until is None or not self._price.windows:
            return self.windows
        return windows_between(self._price.windows, since, until)

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

    def _resolve(self, tier: str, region: str, window: str) -> TierRates:
        own = self._by_tier.get(tier, {})
        standard = self._by_tier.get(STANDARD_TIER, {})
        factor = self._factor(region)
        discount = self._price.multipliers.get(f"tier/{tier}", _ONE) if tier else _ONE
        whole_by_factor = discount != _ONE and (Meter.INPUT, 0) not in own
        if whole_by_factor:
            own = {}
        layers = [_Layer(own, factor), _Layer(standard, EXACT.multiply(factor, discount))]
        # A batch list that names an input rate but no cache rates gives no cache discount: LLM
        # tokens read from a cache are then ordinary batch input, never the standard cache rate.
        narrow = layers[:1] if tier == BATCH_TIER and not whole_by_factor else layers
        timed: list[_Layer] = []
        if window and tier != BATCH_TIER:
            places = dict.fromkeys(((window, tier), (window, STANDARD_TIER)))
            timed = [_Layer(self._by_window.get(place, {}), factor) for place in places]
        every = (*timed, *layers)
        thresholds = tuple(sorted({above for layer in every for _, above in layer.rates if above}))
        own_output = self._has_own_output(tier)
        levels = tuple(
            _level(timed, layers, narrow, thresholds[:crossed], own_output=own_output)
            for crossed in range(len(thresholds) + 1)
        )
        return TierRates(thresholds, levels)

    def _factor(self, region: str) -> Decimal:
        return self._price.multipliers.get(f"region/{region}", _ONE)

    def _has_own_output(self, tier: str) -> bool:
        """Whether the tier sets an output rate of its own, by a component or by its factor."""
        if tier == STANDARD_TIER:
            return False
        own = self._by_tier.get(tier, {})
        return (Meter.OUTPUT, 0) in own or tier == BATCH_TIER


class _Layer(NamedTuple):
    """One tier's components, and the factor that its rates are taken at."""

    rates: dict[tuple[Meter, int], Component]
    factor: Decimal


def _level(
    timed: Sequence[_Layer],
    layers: Sequence[_Layer],
    narrow: Sequence[_Layer],
    crossed: tuple[int, ...],
    *,
    own_output: bool,
) -> dict[Meter, Decimal]:
    """All rates of a request that crossed the thresholds `crossed`.

    `timed` are asked before all, then `layers` in order; meters that fall back on input ask only
    `narrow`.
    """
    level: dict[Meter, Decimal] = {}
    for meter in _BASE:
        falls_back = meter in _FALLBACK
        rate = _find(timed, meter, crossed)
        if rate is None:
            rate = _find(narrow if falls_back else layers, meter, crossed)
        if rate is None and falls_back:
            rate = level.get(_FALLBACK[meter])
        if rate is not None:
            level[meter] = rate
    for meter in _DETAILS:
        rate = _find(timed, meter, crossed)
        if rate is None:
            rate = _find(layers, meter, crossed)
        if rate is not None:
            level[meter] = rate
    # A tier with an output rate of its own, but no reasoning rate, bills reasoning as its output.
    reasoning = _find(timed, Meter.REASONING, crossed)
    if reasoning is None:
        reasoning = _find(layers[:1] if own_output else layers, Meter.REASONING, crossed)
    if reasoning is not None:
        level[Meter.REASONING] = reasoning
    return level


def _find(layers: Sequence[_Layer], meter: Meter, crossed: tuple[int, ...]) -> Decimal | None:
    rate: Decimal | None = None
    for threshold in (0, *crossed):
        for layer in layers:
            component = layer.rates.get((meter, threshold))
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
