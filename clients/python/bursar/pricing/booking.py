"""What a call costs in the currency that an organization keeps its books in. Pure and exact.

A price is in one currency, and the fee that a contract asks for each call may be in another. Both
are converted, added, and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from bursar.exchange import Conversion
from bursar.money import NANOS_PER_UNIT, ceil_to_nanos, round_to_nanos

from .model import Price

Convert = Callable[[str], Conversion | None]
"""How amounts of a currency become the books'; None: they are in it. What it raises, passes."""


def booked_nanos(price: Price, cost: Decimal, convert: Convert) -> int:
    """The exact `cost` of a call (`Charge.cost`, in the price's currency) and the price's foreign
    fee, in nanos of the books' currency, rounded once, half to even."""
    conversion, fee = convert(price.currency), price.foreign_fee
    if fee is None:
        return round_to_nanos(cost) if conversion is None else conversion.nanos(cost)
    whole = _units(cost, conversion) + _units(fee.amount, convert(fee.currency))
    return round(whole * NANOS_PER_UNIT)


def booked_ceiling(price: Price, nanos: int, convert: Convert) -> int:
    """The most a call can cost (`ceiling`, nanos of the price's currency) and the price's foreign
    fee, in nanos of the books' currency, rounded up: never below `booked_nanos` of such a call."""
    conversion, fee = convert(price.currency), price.foreign_fee
    most = nanos if conversion is None else conversion.ceil_nanos(nanos)
    if fee is not None:
        # A fee has no part of a nano, so the sum of two bounds is one of the sum.
        other = convert(fee.currency)
        fee_nanos = ceil_to_nanos(fee.amount)
        most += fee_nanos if other is None else other.ceil_nanos(fee_nanos)
    return most


def _units(amount: Decimal, conversion: Conversion | None) -> Fraction:
    exact = Fraction(amount)
    return exact if conversion is None else exact * conversion.factor
