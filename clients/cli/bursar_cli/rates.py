"""Rates as people type and read them: `2.50` for a million LLM tokens, `0.01/1` for each."""

import re
from decimal import Decimal
from typing import Final

from bursar.pricing import Component, Meter, PriceError
from bursar.v1 import prices_pb2
from bursar_cli.typed import UsageFault, shown

MILLION: Final = 1_000_000

_METER: Final = re.compile(
    r"(?P<meter>[a-z0-9_]+)(?:>(?P<above>[0-9]{1,13}))?(?:@(?P<tier>[a-z0-9_-]{1,32}))?", re.ASCII
)
_RATE: Final = re.compile(r"(?P<rate>[0-9]{1,10}(?:\.[0-9]{1,40})?)(?:/(?P<per>[0-9]{1,13}))?")


def component(meter: str, text: str, option: str) -> prices_pb2.PriceComponent:
    """One rate of a price. Raises UsageFault.

    The meter is `input`, `input>200000` or `output@batch`; the rate `2.50` or `1/1000`.
    """
    named = _METER.fullmatch(meter.strip())
    if named is None or named["meter"] not in set(Meter):
        known = ", ".join(each.value for each in list(Meter)[:8])
        raise UsageFault(option, f"{shown(meter)} is no meter; expected {known} ...")
    typed = _RATE.fullmatch(text.strip())
    if typed is None:
        raise UsageFault(option, f"{shown(text)} is no rate; expected 2.50, or 0.01/1 for each")
    try:
        checked = Component(
            meter=Meter(named["meter"]),
            rate=Decimal(typed["rate"]),
            per=int(typed["per"] or MILLION),
            above=int(named["above"] or 0),
            tier=named["tier"] or "",
        )
    except PriceError as error:
        raise UsageFault(option, str(error)) from None
    made = prices_pb2.PriceComponent(meter=checked.meter.value, rate=typed["rate"], per=checked.per)
    if checked.above:
        made.condition.input_above_llm_tokens = checked.above
    if checked.tier:
        made.condition.service_tier = checked.tier
    return made


def rate_text(each: prices_pb2.PriceComponent) -> str:
    """Gives "2.50" for a million, "0.01/1" for anything else."""
    whole, point, fraction = each.rate.partition(".")
    rate = f"{whole}.{fraction.ljust(2, '0')}" if point else f"{whole}.00"
    return rate if each.per == MILLION else f"{rate}/{each.per}"


def meter_text(each: prices_pb2.PriceComponent) -> str:
    """The meter with its conditions, as they are typed."""
    condition = each.condition
    text = each.meter
    if condition.HasField("input_above_llm_tokens"):
        text += f">{condition.input_above_llm_tokens}"
    if condition.service_tier:
        text += f"@{condition.service_tier}"
    return f"{text} ({condition.variant})" if condition.variant else text
