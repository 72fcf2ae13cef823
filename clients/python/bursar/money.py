"""Money as whole nanos of one ISO 4217 currency.

A nano is a billionth of the currency's unit: 1 USD = 1,000,000,000 nanos. Amounts that are stored,
sent or compared are integers of nanos; `decimal.Decimal` appears only while a price is applied,
and is rounded once, half to even, by `round_to_nanos`. Floats are never money.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from types import MappingProxyType
from typing import Final

NANOS_PER_UNIT: Final = 1_000_000_000
NANO_DIGITS: Final = 9

# What a signed 64-bit column and a protobuf int64 can hold: about 9.2 billion units.
MAX_NANOS: Final = 2**63 - 1

# Longest amount text that is read: sign, ten digits, point, nine digits, currency and some blanks.
MAX_AMOUNT_TEXT: Final = 40

# Wide enough that no product of a count (<= 10**12), a rate and a multiplier is ever rounded
# before the one rounding to nanos.
EXACT: Final = Context(prec=120)


class MoneyError(ValueError):
    """An amount or a currency that can't be understood; the message names the fault."""


# ISO 4217 list one (currencies in use), code -> digits of the minor unit. Codes without a minor
# unit in the list ("N.A.": metals, bond units, test code) are left out: nobody is billed in them.
_MINOR_DIGITS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN "
        "BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP "
        "GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT "
        "LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN "
        "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE "
        "SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES "
        "WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

CURRENCIES: Final[Mapping[str, int]] = MappingProxyType(
    {code: digits for digits, codes in _MINOR_DIGITS.items() for code in codes.split()}
)

_AMOUNT: Final = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?[ ]?(?P<currency>[A-Za-z]*)",
    re.ASCII,
)


def check_currency(code: str) -> str:
    """The upper-case ISO 4217 code; raises MoneyError when there is no such currency."""
    upper = code.upper()
    if upper not in CURRENCIES:
        raise MoneyError(f"currency {code[:20]!r} is not an ISO 4217 code such as USD or EUR")
    return upper


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount: `nanos` billionths of a unit of `currency`."""

    nanos: int
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.nanos, int) or isinstance(self.nanos, bool):
            raise MoneyError(f"nanos must be an integer, not {type(self.nanos).__name__}")
        if abs(self.nanos) > MAX_NANOS:
            raise MoneyError(f"amount of {self.nanos} nanos is beyond {MAX_NANOS}")
        if self.currency not in CURRENCIES:
            raise MoneyError(
                f"currency {self.currency[:20]!r} is not an ISO 4217 code such as USD or EUR"
            )

    def __str__(self) -> str:
        return f"{format_nanos(self.nanos)} {self.currency}"


def parse_amount(text: str, default_currency: str, *, signed: bool = False) -> Money:
    """Read an amount a person typed: "12.50", "12.50EUR" or "12.50 EUR".

    At most nine decimals (a nano), no exponent, no thousands separator, no sign unless `signed`.
    Raises MoneyError naming the fault.
    """
    if not isinstance(text, str):
        raise MoneyError(f"amount must be text such as 12.50, not {type(text).__name__}")
    trimmed = text.strip()
    shown = trimmed if len(trimmed) <= MAX_AMOUNT_TEXT else trimmed[:MAX_AMOUNT_TEXT] + "..."
    if not trimmed:
        raise MoneyError("amount is empty; expected something like 12.50 or 12.50EUR")
    match = _AMOUNT.fullmatch(trimmed) if len(trimmed) <= MAX_AMOUNT_TEXT else None
    if match is None:
        raise MoneyError(f"amount {shown!r} is not of the form 12.50 or 12.50EUR")
    sign, fraction = match["sign"], match["fraction"] or ""
    if sign and not signed:
        raise MoneyError(f"amount {shown!r} must not carry a sign")
    if len(fraction) > NANO_DIGITS:
        raise MoneyError(f"amount {shown!r} has more than {NANO_DIGITS} decimals")
    currency = check_currency(match["currency"] or default_currency)
    nanos = int(match["whole"]) * NANOS_PER_UNIT + int(fraction.ljust(NANO_DIGITS, "0"))
    if nanos > MAX_NANOS:
        raise MoneyError(f"amount {shown!r} is more than {format_nanos(MAX_NANOS)}")
    return Money(-nanos if sign == "-" else nanos, currency)


def format_nanos(nanos: int) -> str:
    """The exact decimal text of an amount, with at least two decimals: "0.00", "0.000015"."""
    whole, rest = divmod(abs(nanos), NANOS_PER_UNIT)
    fraction = f"{rest:0{NANO_DIGITS}d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{fraction}"


def round_to_nanos(amount: Decimal) -> int:
    """`amount` (units of a currency) as whole nanos, half to even. Raises MoneyError if not finite.

    This is the only rounding a charge goes through.
    """
    return _to_nanos(amount, ROUND_HALF_EVEN)


def ceil_to_nanos(amount: Decimal) -> int:
    """`amount` as whole nanos, rounded up: for bounds, which must never be too small."""
    return _to_nanos(amount, ROUND_CEILING)


def _to_nanos(amount: Decimal, rounding: str) -> int:
    if not amount.is_finite():
        raise MoneyError(f"amount {amount} is not a finite number")
    return int(amount.scaleb(NANO_DIGITS, EXACT).to_integral_value(rounding))
