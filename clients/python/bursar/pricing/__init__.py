"""Prices: one engine that quotes, reserves and bills.

Owns what a price is (components: meter, rate, conditions), which rate applies to a usage, the
charge and its upper bound, and the built-in price list. Refuses: reading or storing anything but
the data that ships with the package, knowing who spends, and rounding more than once.
"""

from .answered import price_of_answer
from .book import PriceBook, snapshot
from .booking import booked_ceiling, booked_nanos
from .ceilings import ceiling
from .charging import Charge, Line, UnpricedError, charge
from .compile_litellm import compile_entry, compile_map
from .conditions import FreeQuota, PriceError, Span, Window
from .contracts import Contract, Terms, contracted, terms_for
from .explaining import rule_of
from .model import (
    Component,
    Meter,
    Price,
    llm_token_price,
    price_from_json,
    price_to_json,
    prices_from_json,
    prices_to_json,
)

__all__ = [
    "Charge",
    "Component",
    "Contract",
    "FreeQuota",
    "Line",
    "Meter",
    "Price",
    "PriceBook",
    "PriceError",
    "Span",
    "Terms",
    "UnpricedError",
    "Window",
    "booked_ceiling",
    "booked_nanos",
    "ceiling",
    "charge",
    "compile_entry",
    "compile_map",
    "contracted",
    "llm_token_price",
    "price_from_json",
    "price_of_answer",
    "price_to_json",
    "prices_from_json",
    "prices_to_json",
    "rule_of",
    "snapshot",
    "terms_for",
]
