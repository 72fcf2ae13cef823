"""What a call costs, and the most it can cost. Pure; exact in decimals; rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Final, NamedTuple

import msgspec

from bursar.money import EXACT, ceil_to_nanos, round_to_nanos
from bursar.usage import MAX_COUNT, PART_OF, Usage

from .conditions import PriceError
from .model import (
    BATCH_TIER,
    INPUT_METERS,
    OUTPUT_METERS,
    OUTPUT_UNITS,
    STANDARD_TIER,
    Meter,
    Price,
)
from .rates import RateTable, normal_tier, rate_table

_ZERO: Final = Decimal(0)

# A request whose tier is left to the provider may be served by what its account is set to:
# OpenAI projects can default to priority. Batch is never chosen by the provider.
_TIERS_OF_AUTO: Final = (STANDARD_TIER, "priority")

# What every call pays once, where the price has it.
_ONCE: Final[Mapping[str, int]] = {Meter.REQUEST: 1, Meter.CALL_FEE: 1}

_METER_BY_NAME: Final = {meter.value: meter for meter in Meter}

_TEXT_INPUT: Final = (
    Meter.INPUT,
    Meter.CACHED_INPUT,
    Meter.CACHE_WRITE_5M,
    Meter.CACHE_WRITE_1H,
    Meter.CACHE_WRITE_12H,
)
_TEXT_OUTPUT: Final = (Meter.OUTPUT, Meter.REASONING)


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
    `free_used` says how many units of the price's free quotas, by meter, the account used in the
    period before this call; what is not named there counts as used up, as only the account knows.
    Raises ValueError for a time without a zone.
    """
    table = rate_table(price)
    tiers = table.of(normal_tier(service_tier, price), region or "", table.window(at))
    rates = tiers.at(usage.input_llm_tokens)
    lines: list[Line] = []
    unpriced: list[str] = []
    left = {
        "input": usage.input,
        "cached_input": usage.cached_input,
        "cache_write_5m": usage.cache_write_5m,
        "cache_write_1h": usage.cache_write_1h,
        "output": usage.output,
    }
    if usage.reasoning and Meter.REASONING in rates:
        left["output"] -= usage.reasoning
        lines.append(_line(Meter.REASONING, usage.reasoning, rates[Meter.REASONING]))
    free = _free_left(price, free_used) if free_used and price.free_quotas else None
    for name, count in usage.extra.items():
        if count:
            _charge_extra(name, count, left, rates, table, lines, unpriced, free)
    fees = table.units.get(Meter.REQUEST)
    if fees and not any(name.partition(".")[0] == Meter.REQUEST for name in usage.extra):
        lines.append(_line(Meter.REQUEST, 1, max(fees.values())))
    if contract_fee := table.units.get(Meter.CALL_FEE):
        lines.append(_line(Meter.CALL_FEE, 1, max(contract_fee.values())))
    for name, count in left.items():
        if not count:
            continue
        rate = rates.get(Meter(name))
        if rate is None:
            unpriced.append(name)
        else:
            lines.append(_line(Meter(name), count, rate))
    return _total(price, lines, unpriced)


def _line(meter: str, quantity: int, rate: Decimal) -> Line:
    return Line(meter, quantity, rate, EXACT.multiply(rate, quantity))


def _charge_extra(
    name: str,
    count: int,
    left: dict[str, int],
    rates: dict[Meter, Decimal],
    table: RateTable,
    lines: list[Line],
    unpriced: list[str],
    free: dict[str, int] | None,
) -> None:
    whole = PART_OF.get(name)
    if whole is not None:
        # Without a rate of its own a part stays in its whole, and is billed with it.
        rate = rates.get(Meter(name))
        if rate is not None:
            part = min(count, left[whole])
            left[whole] -= part
            lines.append(_line(name, part, rate))
        return
    rate = _unit_rate(name, rates, table)
    if rate is not None:
        if free is not None:
            count -= _take_free(name, count, free, lines)
        if count:
            lines.append(_line(name, count, rate))
    elif not _is_included(name, table):
        unpriced.append(name)


def _free_left(price: Price, used: Mapping[str, int]) -> dict[str, int]:
    """What is left of each free quota that `used` speaks of."""
    _check_bounds({f"free_used of {name}": count for name, count in used.items()})
    return {
        quota.meter: quota.left(used[quota.meter])
        for quota in price.free_quotas
        if quota.meter in used
    }


def _take_free(name: str, count: int, free: dict[str, int], lines: list[Line]) -> int:
    """How many of `count` a free quota pays for; they get a line of their own, at nothing."""
    meter = name.partition(".")[0]
    taken = min(count, free.get(meter, 0))
    if taken:
        free[meter] -= taken
        lines.append(_line(name, taken, _ZERO))
    return taken


def _is_included(name: str, table: RateTable) -> bool:
    """Whether a meter without a rate is paid with the rest, by the rules of those who count it.

    Every call is a request, only some prices have a fee for it. Perplexity counts citations on all
    its models and bills them where the list has a rate; its fee per request covers the searches.
    """
    base = name.partition(".")[0]
    if base == Meter.SEARCH:
        return Meter.REQUEST in table.units
    return base in (Meter.REQUEST, Meter.CITATION, Meter.CALL_FEE)


def _unit_rate(name: str, rates: dict[Meter, Decimal], table: RateTable) -> Decimal | None:
    """The rate of a meter such as "search" or, with a variant, "search.high".

    An unknown or missing variant costs what the dearest one costs.
    """
    base, _, variant = name.partition(".")
    meter = _METER_BY_NAME.get(base)
    if meter is None:
        return None
    if meter in rates:
        return rates[meter]
    variants = table.units.get(meter)
    if not variants:
        return None
    found = variants.get(variant)
    if found is None:
        found = variants.get("")
    return max(variants.values()) if found is None else found


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


def ceiling(
    price: Price,
    *,
    input_llm_tokens: int,
    output_llm_tokens: int,
    choices: int = 1,
    service_tier: str | None = None,
    region: str | None = None,
    text_only: bool = False,
    extra: Mapping[str, int] | None = None,
    at: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """The most a call can cost, in nanos of the price's currency, rounded up.

    `input_llm_tokens` bounds the input (see `input_llm_token_bound`), `output_llm_tokens` what
    each of `choices` answers may produce, reasoning included. Input is taken at the dearest of
    input, cache write and long-context rates; output at the dearest of output and reasoning.
    `service_tier` is the one the request names: None leaves it to the provider, whose account may
    be set to priority. An answer may always be served at the standard tier instead. Without a
    `region` the dearest is taken. `text_only` says that the request neither carries nor asks for
    audio, images or video. `extra` bounds meters that are no LLM tokens, such as {"search": 5};
    the price's fee per request is always in, a free quota counts as used up. The call is priced at
    some moment from `at` to `until`; without both, at any, so no off-peak rate lowers the ceiling.
    For every usage within the bounds and every such moment, `charge(...) <= ceiling(...)`.

    Raises UnpricedError when the price has no rate for what is bounded, ValueError on bounds that
    are no counts.
    """
    _check_bounds(
        {
            "input_llm_tokens": input_llm_tokens,
            "output_llm_tokens": output_llm_tokens,
            "choices": choices,
            **(extra or {}),
        }
    )
    table = rate_table(price)
    windows = table.windows_of(at, until)
    input_rate, output_rate = _dearest(
        price, table, input_llm_tokens, service_tier, region, text_only, windows
    )
    if input_rate is None or (output_rate is None and output_llm_tokens):
        raise UnpricedError(f"model {price.model} of {price.provider} has no rate to price it by")
    amount = EXACT.multiply(input_rate, input_llm_tokens)
    if output_rate is not None:
        produced = EXACT.multiply(output_rate, output_llm_tokens * choices)
        amount = EXACT.add(amount, produced)
    for name, count in {**(extra or {}), **_ONCE}.items():
        variants = table.units.get(Meter(name)) if name in _METER_BY_NAME else None
        if variants:
            amount = EXACT.add(amount, EXACT.multiply(max(variants.values()), count))
        elif count and not _is_included(name, table):
            raise UnpricedError(f"model {price.model} of {price.provider} has no rate for {name}")
    return ceil_to_nanos(amount)


def _check_bounds(bounds: Mapping[str, int]) -> None:
    for name, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise ValueError(f"{name} is {value!r}; expected a whole number 0..{MAX_COUNT}")


def _dearest(
    price: Price,
    table: RateTable,
    input_llm_tokens: int,
    service_tier: str | None,
    region: str | None,
    text_only: bool,
    windows: Iterable[str],
) -> tuple[Decimal | None, Decimal | None]:
    if service_tier is None or service_tier.strip().lower() == "auto":
        tiers: tuple[str, ...] = _TIERS_OF_AUTO
    else:
        tier = normal_tier(service_tier, price)
        tiers = (tier,) if tier == BATCH_TIER else (STANDARD_TIER, tier)
    regions = table.regions if region is None else (region,)
    inputs = _TEXT_INPUT if text_only else INPUT_METERS
    outputs = _TEXT_OUTPUT if text_only else OUTPUT_METERS
    dearest_in: Decimal | None = None
    dearest_out: Decimal | None = None
    for tier, place, window in product(dict.fromkeys(tiers), regions, windows):
        for rates in table.of(tier, place, window).up_to(input_llm_tokens):
            for meter, rate in rates.items():
                if meter in inputs and (dearest_in is None or rate > dearest_in):
                    dearest_in = rate
                elif meter in outputs and (dearest_out is None or rate > dearest_out):
                    dearest_out = rate
    return dearest_in, dearest_out
