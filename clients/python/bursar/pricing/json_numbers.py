"""Numbers of a JSON text as exact decimals, of a size that arithmetic can bear.

JSON bounds no exponent: the few characters of 1e999999999 are a whole number of a billion digits,
which takes minutes and gigabytes to write out, and an exponent further on is no decimal at all.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from .conditions import PriceError

# A float reaches from 1e-324 to 1e308; no price, quantity or limit is anywhere near.
MAX_EXPONENT: Final = 400


def exact_number(text: str) -> Decimal:
    """The decimal that a JSON number says. Raises PriceError where its exponent is absurd."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise _absurd(text) from None
    if abs(number.adjusted()) > MAX_EXPONENT:
        raise _absurd(text)
    return number


def _absurd(text: str) -> PriceError:
    return PriceError(
        f"number {text[:40]} is not accepted; expected at most {MAX_EXPONENT} digits "
        "before or after the point"
    )
