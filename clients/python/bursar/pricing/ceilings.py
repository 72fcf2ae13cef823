"""The most a call can cost, before it is made. Pure; rounded up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from bursar.money import EXACT, ceil_to_nanos

from .charging import UnpricedError, check_counts, is_included, meter_named, once_a_request
from .model import BATCH_TIER, INPUT_METERS, OUTPUT_METERS, STANDARD_TIER, Meter, Price
from .pictures import in_one_unit
from .rates import Dearest, normal_tier, rate_table

# A request whose tier is left to the provider may be served by what its account is set to:
# OpenAI projects can default to priority. Batch is never chosen by the provider.
_TIERS_OF_AUTO: Final = (STANDARD_TIER, "priority")

# What every call pays once, where the price has it.
_ONCE: Final[Mapping[str, int]] = {Meter.REQUEST: 1, Meter.CALL_FEE: 1}

_ZERO: Final = Decimal(0)

_TEXT_INPUT: Final = frozenset(
    {
        Meter.INPUT,
        Meter.CACHED_INPUT,
        Meter.EXPLICIT_CACHED_INPUT,
        Meter.CACHE_WRITE_5M,
        Meter.CACHE_WRITE_1H,
        Meter.CACHE_WRITE_12H,
    }
)
_TEXT_OUTPUT: Final = frozenset({Meter.OUTPUT, Meter.REASONING})


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
    are no counts and times that are none.
    """
    bounds = {"input_llm_tokens": input_llm_tokens, "output_llm_tokens": output_llm_tokens}
    check_counts({**bounds, "choices": choices, **(extra or {})})
    table = rate_table(price)
    dearest = table.dearest(
        input_llm_tokens,
        _tiers_asked(price, service_tier),
        region,
        table.windows_of(at, until),
        _TEXT_INPUT if text_only else INPUT_METERS,
        _TEXT_OUTPUT if text_only else OUTPUT_METERS,
    )
    is_given = input_llm_tokens or not dearest.units
    if (dearest.given is None and is_given) or (dearest.produced is None and output_llm_tokens):
        raise UnpricedError(f"model {price.model} of {price.provider} has no rate to price it by")
    amount = EXACT.multiply(dearest.given or _ZERO, input_llm_tokens)
    if dearest.produced is not None:
        produced = EXACT.multiply(dearest.produced, output_llm_tokens * choices)
        amount = EXACT.add(amount, produced)
    bounded = {**_ONCE, **in_one_unit(price, extra, dearest.units)} if extra else _ONCE
    for name, count in bounded.items():
        meter = meter_named(name)
        rate = None if meter is None else dearest.units.get(meter)
        if rate is not None:
            if name in _ONCE:
                count = max(count, 1)
            elif once_a_request(price, name):
                count = min(count, 1)
            amount = EXACT.add(amount, EXACT.multiply(rate, count))
        elif count and not is_included(name, dearest.units):
            raise UnpricedError(f"model {price.model} of {price.provider} has no rate for {name}")
    return ceil_to_nanos(amount)


def dearest_of(price: Price, service_tier: str | None, *, text_only: bool) -> list[Dearest]:
    """The highest rates of a call, in any region and at any time, by the level of its context: that
    of no input first, then that above each of the price's thresholds."""
    table = rate_table(price)
    return [
        table.dearest(
            threshold + 1,
            _tiers_asked(price, service_tier),
            None,
            table.windows_of(None, None),
            _TEXT_INPUT if text_only else INPUT_METERS,
            _TEXT_OUTPUT if text_only else OUTPUT_METERS,
        )
        for threshold in (-1, *price.thresholds)
    ]


def fees_of(dearest: Dearest) -> Decimal:
    """What every call pays once."""
    fees = _ZERO
    for name in _ONCE:
        meter = meter_named(name)
        rate = None if meter is None else dearest.units.get(meter)
        if rate is not None:
            fees = EXACT.add(fees, rate)
    return fees


def _tiers_asked(price: Price, service_tier: str | None) -> tuple[str, ...]:
    if service_tier is None or service_tier.strip().lower() == "auto":
        return _TIERS_OF_AUTO
    tier = normal_tier(service_tier, price)
    return (tier,) if tier == BATCH_TIER else (STANDARD_TIER, tier)
