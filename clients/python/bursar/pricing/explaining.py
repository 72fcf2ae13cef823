"""Which rule chose the rate of a charge's line: for people, found from the line and the price."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final

from bursar.money import EXACT
from bursar.usage import PART_OF, Usage

from .charging import Line
from .model import STANDARD_TIER, Component, Meter, Price
from .rates import normal_tier, rate_table

_STANDS_FOR: Final = {
    Meter.CACHED_INPUT: Meter.INPUT,
    Meter.CACHE_WRITE_5M: Meter.INPUT,
    Meter.CACHE_WRITE_1H: Meter.CACHE_WRITE_5M,
    Meter.REASONING: Meter.OUTPUT,
}
_ONE: Final = Decimal(1)


def rule_of(
    price: Price,
    line: Line,
    usage: Usage,
    *,
    service_tier: str | None = None,
    region: str | None = None,
    at: datetime | None = None,
) -> str:
    """The component and the factors that make the line's rate, in words; "" if none does.

    The arguments are those that `charge` was given.
    """
    table = rate_table(price)
    tier = normal_tier(service_tier, price)
    tier = tier if tier in table.tiers else STANDARD_TIER
    window = table.window(at)
    name, _, variant = str(line.meter).partition(".")
    meter = Meter(name)
    for asked in _chain(meter):
        found = [
            each
            for each in price.components
            if each.meter == asked
            and (each.above == 0 or each.above < usage.input_llm_tokens)
            and each.tier in (tier, STANDARD_TIER)
            and each.during in (window, "")
        ]
        # As they are asked: an open window, the own tier, the highest threshold, the own variant.
        found.sort(
            key=lambda each: (
                each.during != "",
                each.tier != STANDARD_TIER,
                each.above,
                each.variant == variant,
            ),
            reverse=True,
        )
        for component in found:
            for factor, words in _factors(price, tier, region or ""):
                rate = EXACT.divide(component.rate, Decimal(component.per))
                if EXACT.multiply(rate, factor) == line.rate:
                    return _words(component, meter, words)
    return "free quota" if line.rate == 0 else ""


def _chain(meter: Meter) -> Iterator[Meter]:
    yield meter
    if meter in PART_OF:
        yield Meter(PART_OF[meter])
    while meter in _STANDS_FOR:
        meter = _STANDS_FOR[meter]
        yield meter


def _factors(price: Price, tier: str, region: str) -> Iterator[tuple[Decimal, tuple[str, ...]]]:
    """The products of factors that a rate may have been taken at."""
    names = []
    place = f"region/{region}" if f"region/{region}" in price.multipliers else "region/*"
    for name in (place, f"tier/{tier}"):
        if name in price.multipliers:
            names.append(name)
    choices: list[tuple[str, ...]] = [(), *((name,) for name in names)]
    if len(names) > 1:
        choices.append(tuple(names))
    for chosen in choices:
        factor = _ONE
        for name in chosen:
            factor = EXACT.multiply(factor, price.multipliers[name])
        yield factor, tuple(f"x{price.multipliers[name]:f} {name}" for name in chosen)


def _words(component: Component, meter: Meter, factors: tuple[str, ...]) -> str:
    said = [component.meter.value + (f".{component.variant}" if component.variant else "")]
    if component.meter != meter:
        said[0] = f"as {said[0]}"
    if component.above:
        said.append(f"above {component.above} input")
    if component.tier:
        said.append(f"tier {component.tier}")
    if component.during:
        said.append(f"during {component.during}")
    return ", ".join((*said, *factors))
