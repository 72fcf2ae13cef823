"""Contracts: what an organization pays other than the list price. Pure.

A contract names globs over providers and models and up to three terms: a discount and a margin,
factors on every rate, and a fee for each call. Each term of a price comes from the contract that
wins for it, in this order: an exact model before a glob, the longer literal part of the model
before the shorter, the same of the provider, an organization's own before the platform's, the one
set last before the earlier ones. A term that a contract does not have is left to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from bursar.money import CURRENCIES, EXACT

from .conditions import MAX_NAME_LENGTH, PriceError
from .model import Component, ForeignFee, Meter, Price

# A margin of 1,000,000 % is a typing mistake; a factor has no more digits than a rate can take.
MAX_FACTOR: Final = Decimal(10_000)
MAX_FACTOR_DECIMALS: Final = 9
MAX_CALL_FEE: Final = Decimal(1_000_000)
# Contracts are looked through for every price once; nobody negotiates more.
MAX_CONTRACTS: Final = 1_000
MAX_STARS: Final = 8
_GLOB: Final = re.compile(r"[!-Z\\^-~]+", re.ASCII)  # printable, without brackets
_ONE: Final = Decimal(1)


class Contract(msgspec.Struct, frozen=True, omit_defaults=True):
    """Terms for the prices that its globs match.

    - `provider`, `model`: globs with `*` and `?` over the names of the price list.
    - `discount`: factor on every rate, 0 to 1: 0.9 is ten per cent off. None: no such term.
    - `margin`: factor on every rate, after the discount: 1.15 is fifteen per cent on top.
    - `call_fee`: units of `currency` for each call. Over a price in another currency it is the
      price's foreign fee, unless another contract has a fee in the price's own.
    - `own`: the organization's own; else the platform's, which holds for everybody.
    - `order`: the one set later has the higher number, among those of the same owner.
    - `version`: what a charge names, "contract@17".
    - `effective_at`, `expires_at`: when it holds, None is open; the end is outside it.
    """

    provider: str = "*"
    model: str = "*"
    discount: Decimal | None = None
    margin: Decimal | None = None
    call_fee: Decimal | None = None
    currency: str = ""
    own: bool = True
    order: int = 0
    version: str = ""
    effective_at: datetime | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("provider", "model"):
            glob = getattr(self, name)
            if not 1 <= len(glob) <= MAX_NAME_LENGTH or not _GLOB.fullmatch(glob):
                raise PriceError(f"{name} is {glob[:40]!r}; expected a glob such as gpt-4o*")
            if glob.count("*") > MAX_STARS:
                raise PriceError(f"{name} is {glob[:40]!r}; expected at most {MAX_STARS} stars")
        if self.discount is None and self.margin is None and self.call_fee is None:
            raise PriceError("discount is missing; expected a discount, a margin or a call_fee")
        _check("discount", self.discount, _ONE)
        _check("margin", self.margin, MAX_FACTOR)
        _check("call_fee", self.call_fee, MAX_CALL_FEE)
        if self.call_fee is not None and self.currency not in CURRENCIES:
            raise PriceError(f"currency is {self.currency[:20]!r}; expected an ISO 4217 code")
        for name in ("effective_at", "expires_at"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise PriceError(f"{name} is {moment}; expected a time with a zone")
        if self.effective_at and self.expires_at and self.effective_at >= self.expires_at:
            raise PriceError(f"expires_at is {self.expires_at}; expected after effective_at")

    def is_in_force(self, at: datetime) -> bool:
        """Whether it holds at `at` (aware)."""
        begun = self.effective_at is None or self.effective_at <= at
        return begun and (self.expires_at is None or at < self.expires_at)

    def matches(self, price: Price) -> bool:
        """Whether its globs match the price's names."""
        return fnmatchcase(price.provider, self.provider) and fnmatchcase(price.model, self.model)

    @property
    def rank(self) -> tuple[bool, int, bool, int, bool, int]:
        """Who wins among those that match a price: the highest."""
        return (
            _is_exact(self.model),
            _literal(self.model),
            _is_exact(self.provider),
            _literal(self.provider),
            self.own,
            self.order,
        )


class Terms(msgspec.Struct, frozen=True):
    """The contract that each term of a price comes from."""

    discount: Contract | None = None
    margin: Contract | None = None
    call_fee: Contract | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Their versions, each once."""
        chosen = (self.discount, self.margin, self.call_fee)
        return tuple(dict.fromkeys(each.version for each in chosen if each is not None))


def terms_for(price: Price, contracts: Iterable[Contract]) -> Terms:
    """Which contracts, all of them in force, hold for a price. Pure."""
    matching = [each for each in contracts if each.matches(price)]
    matching.sort(key=lambda each: each.rank, reverse=True)
    return Terms(
        discount=next((each for each in matching if each.discount is not None), None),
        margin=next((each for each in matching if each.margin is not None), None),
        call_fee=next(
            iter(
                sorted(
                    (each for each in matching if each.call_fee is not None),
                    key=lambda each: each.currency != price.currency,
                )
            ),
            None,
        ),
    )


def contracted(price: Price, contracts: Iterable[Contract]) -> Price:
    """The price as the contracts, all of them in force, make it; they join its version. Pure.

    An unpriced price stays so: a fee does not make a model priced.
    """
    if not price.is_priced:
        return price
    terms = terms_for(price, contracts)
    if not terms.versions:
        return price
    factor = _ONE
    if terms.discount is not None and terms.discount.discount is not None:
        factor = EXACT.multiply(factor, terms.discount.discount)
    if terms.margin is not None and terms.margin.margin is not None:
        factor = EXACT.multiply(factor, terms.margin.margin)
    components = [_scaled(each, factor) for each in price.components]
    foreign_fee = None
    if terms.call_fee is not None and terms.call_fee.call_fee:
        fee = terms.call_fee.call_fee
        if terms.call_fee.currency == price.currency:
            components.append(Component(Meter.CALL_FEE, fee, per=1))
        else:
            foreign_fee = ForeignFee(fee, terms.call_fee.currency)
    return msgspec.structs.replace(
        price,
        components=tuple(components),
        foreign_fee=foreign_fee,
        price_version="+".join((price.price_version, *terms.versions)),
    )


def _scaled(component: Component, factor: Decimal) -> Component:
    if factor == _ONE:
        return component
    return msgspec.structs.replace(component, rate=EXACT.multiply(component.rate, factor))


def _check(name: str, value: Decimal | None, most: Decimal) -> None:
    if value is None:
        return
    if not value.is_finite() or not 0 <= value <= most:
        raise PriceError(f"{name} is {value}; expected 0..{most}")
    if -int(value.as_tuple().exponent) > MAX_FACTOR_DECIMALS:
        raise PriceError(f"{name} is {value}; expected at most {MAX_FACTOR_DECIMALS} decimals")


def _is_exact(glob: str) -> bool:
    return not set(glob) & set("*?")


def _literal(glob: str) -> int:
    """How many characters of a glob stand for themselves."""
    return sum(character not in "*?" for character in glob)
