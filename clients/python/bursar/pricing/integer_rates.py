"""Usual calls priced in whole numbers: the same nanos as `charge` and `ceiling`, many times faster.

A rate is an exact decimal, so that some power of ten makes it and all its like whole: a cost is
then a sum of products of integers, divided and rounded once. What is not usual (fees by the call,
further meters, times of day, a meter without a rate) is left to the exact path: the answer is None.
A property test compares both over every price that ships.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, NamedTuple

from bursar.money import NANO_DIGITS
from bursar.usage import MAX_COUNT, Usage

from .ceilings import dearest_of, fees_of
from .model import Meter, Price
from .rates import normal_tier, rate_table

MAX_KEPT: Final = 64
"""Tiers and regions kept of a price: providers name few, but they are names from outside."""


class _Level(NamedTuple):
    """Nanos for one LLM token of each field of a usage, times `scale`; None: no rate."""

    scale: int
    input: int | None
    cached_input: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    output: int | None
    reasoning: int | None


class _Most(NamedTuple):
    """Nanos for one LLM token given and produced, at most, and for the call, times `scale`."""

    scale: int
    given: int
    produced: int
    fee: int


class _Known:
    """What was worked out of one price."""

    __slots__ = ("ceilings", "charges")

    def __init__(self) -> None:
        self.charges: dict[
            tuple[str | None, str | None], tuple[tuple[int, ...], tuple[_Level | None, ...]]
        ] = {}
        self.ceilings: dict[
            tuple[str | None, bool], tuple[tuple[int, ...], tuple[_Most | None, ...]]
        ] = {}


def charged_nanos(
    price: Price, usage: Usage, service_tier: str | None, region: str | None
) -> int | None:
    """`charge(...).cost_nanos` of a usual call that leaves nothing unpriced; None: ask `charge`."""
    if usage.extra:
        return None
    known = _known(price)
    found = known.charges.get((service_tier, region))
    if found is None:
        found = _charges(price, service_tier, region)
        if len(known.charges) >= MAX_KEPT:
            known.charges.clear()
        known.charges[service_tier, region] = found
    thresholds, levels = found
    given = usage.input
    level = levels[bisect_left(thresholds, usage.input_llm_tokens) if thresholds else 0]
    if level is None:
        return None
    scale, input_rate, cached, written_5m, written_1h, output, reasoning = level
    produced = usage.output
    total = 0
    if given:
        if input_rate is None:
            return None
        total = given * input_rate
    if usage.cached_input:
        if cached is None:
            return None
        total += usage.cached_input * cached
    if usage.cache_write_5m:
        if written_5m is None:
            return None
        total += usage.cache_write_5m * written_5m
    if usage.cache_write_1h:
        if written_1h is None:
            return None
        total += usage.cache_write_1h * written_1h
    if usage.reasoning and reasoning is not None:
        produced -= usage.reasoning
        total += usage.reasoning * reasoning
    if produced:
        if output is None:
            return None
        total += produced * output
    whole, rest = divmod(total, scale)
    twice = 2 * rest
    return whole + 1 if twice > scale or (twice == scale and whole & 1) else whole


def ceiling_nanos(
    price: Price,
    *,
    input_llm_tokens: int,
    output_llm_tokens: int,
    service_tier: str | None,
    text_only: bool,
) -> int | None:
    """`ceiling(...)` of a usual call, `output_llm_tokens` over all its choices; None: ask
    `ceiling`."""
    if not 0 <= input_llm_tokens <= MAX_COUNT or not 0 <= output_llm_tokens <= MAX_COUNT:
        return None
    known = _known(price)
    found = known.ceilings.get((service_tier, text_only))
    if found is None:
        found = _ceilings(price, service_tier, text_only)
        if len(known.ceilings) >= MAX_KEPT:
            known.ceilings.clear()
        known.ceilings[service_tier, text_only] = found
    thresholds, levels = found
    most = levels[bisect_left(thresholds, input_llm_tokens) if thresholds else 0]
    if most is None:
        return None
    total = input_llm_tokens * most.given + output_llm_tokens * most.produced + most.fee
    return -(-total // most.scale)


def _known(price: Price) -> _Known:
    known: _Known | None = price.__dict__.get("integer_rates")
    if known is None:
        known = price.__dict__["integer_rates"] = _Known()
    return known


def _charges(
    price: Price, service_tier: str | None, region: str | None
) -> tuple[tuple[int, ...], tuple[_Level | None, ...]]:
    if price.windows:
        return (), (None,)
    tiers = rate_table(price).of(normal_tier(service_tier, price), region or "", "")
    levels: list[_Level | None] = []
    for level in tiers.levels:
        if Meter.REQUEST in level.units or Meter.CALL_FEE in level.units:
            levels.append(None)  # each call pays a fee beside
            continue
        scale, rates = _whole(level.llm_tokens.get(meter) for meter in _CHARGED)
        levels.append(None if scale is None else _Level(scale, *rates))
    return tiers.thresholds, tuple(levels)


def _ceilings(
    price: Price, service_tier: str | None, text_only: bool
) -> tuple[tuple[int, ...], tuple[_Most | None, ...]]:
    levels: list[_Most | None] = []
    for dearest in dearest_of(price, service_tier, text_only=text_only):
        if dearest.given is None or dearest.produced is None:
            levels.append(None)
            continue
        scale, rates = _whole((dearest.given, dearest.produced, fees_of(dearest)))
        if scale is None:
            levels.append(None)
        else:
            given, produced, fee = (rate or 0 for rate in rates)
            levels.append(_Most(scale, given, produced, fee))
    return price.thresholds, tuple(levels)


_CHARGED: Final = (
    Meter.INPUT,
    Meter.CACHED_INPUT,
    Meter.CACHE_WRITE_5M,
    Meter.CACHE_WRITE_1H,
    Meter.OUTPUT,
    Meter.REASONING,
)


def _whole(rates: Iterable[Decimal | None]) -> tuple[int | None, list[int | None]]:
    """The least power of ten that makes all rates whole nanos, and the rates times it; None where
    there is none for a negative or infinite one."""
    given = list(rates)
    digits = 0
    for rate in given:
        if rate is not None:
            if not rate.is_finite() or rate < 0:
                return None, []
            exponent = rate.as_tuple().exponent
            digits = max(digits, -int(exponent) - NANO_DIGITS)
    whole: list[int | None] = []
    for rate in given:
        if rate is None:
            whole.append(None)
        else:
            _, figures, exponent = rate.as_tuple()
            number = int("".join(map(str, figures)))
            whole.append(number * 10 ** (int(exponent) + NANO_DIGITS + digits))
    return 10**digits, whole
