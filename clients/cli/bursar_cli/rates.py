"""Rates as people type and read them: `2.50` for a million LLM tokens, `0.01/1` for each."""

import re
from decimal import Decimal
from typing import Final

from bursar.pricing import Component, Meter, PriceError
from bursar.v1 import prices_pb2
from bursar.wire import format_decimal
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


_PERCENT: Final = re.compile(r"(?P<number>[0-9]{1,7}(?:\.[0-9]{1,7})?) ?%")
_FEE: Final = re.compile(r"(?P<amount>[0-9]{1,7}(?:\.[0-9]{1,9})?)(?P<currency>[A-Z]{3})?")


def factor(text: str, option: str, *, most: Decimal | None = None) -> Decimal:
    """ "10%" is 0.1, "12.5%" 0.125. Raises UsageFault."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise UsageFault(option, f"{shown(text)} is no percentage; expected 10% or 12.5%")
    value = Decimal(match["number"]) / 100
    if most is not None and value > most:
        raise UsageFault(option, f"{shown(text)} is more than {percent_text(most)}")
    return value


def fee(text: str, option: str) -> tuple[str, str]:
    """Amount and currency, "" where none is given. Raises UsageFault."""
    match = _FEE.fullmatch(text.strip())
    if match is None:
        raise UsageFault(option, f"{shown(text)} is no fee; expected 0.001 or 0.001EUR")
    return match["amount"], match["currency"] or ""


def percent_text(value: Decimal) -> str:
    """0.125 is "12.5%"."""
    return f"{format_decimal(value * 100) if value >= 0 else '-' + format_decimal(-value * 100)}%"
