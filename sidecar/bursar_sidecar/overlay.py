"""The prices in force: the built-in snapshot, and the overlay the control plane sends in parts.

The exchange rates that they need come with them. What is scheduled is in the overlay long before
it holds: at its time it is in force by itself.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from bursar.exchange import ExchangeRate, ExchangeRates
from bursar.pricing import Contract, Price, PriceBook, snapshot
from bursar.v1 import allowances_pb2
from bursar.wire import (
    WireError,
    contract_from_proto,
    exchange_rate_from_proto,
    price_from_proto,
)
from bursar_sidecar.clock import NANOS_PER_SECOND

log = structlog.get_logger("bursar.overlay")

# Parts kept while the rest is awaited: 256 MB of prices is a fault.
MAX_PARTS: Final = 1_024


class _Gathered:
    """What came of a book so far."""

    def __init__(self, version: int, part_count: int) -> None:
        self.version = version
        self.part_count = part_count
        self.parts = 0
        self.prices: list[Price] = []
        self.contracts: list[Contract] = []
        self.rates: list[ExchangeRate] = []

    def is_next(self, part: allowances_pb2.PriceBook) -> bool:
        """Whether it is the part of this book that follows."""
        same = (part.overlay_version, part.part_count) == (self.version, self.part_count)
        return same and part.part == self.parts

    def read(self, part: allowances_pb2.PriceBook) -> None:
        """Take in what a part holds. One price that means nothing must not keep the others from
        being in force; its model goes on at the price below it."""
        for order, told in enumerate(part.contracts, len(self.contracts)):
            try:
                self.contracts.append(contract_from_proto(told, order))
            except WireError as error:
                log.error("contract_refused", version=told.version[:80], fault=str(error))
        for message in part.prices:
            try:
                self.prices.append(price_from_proto(message))
            except WireError as error:
                log.error("price_refused", model=message.model[:80], fault=str(error))
        self.rates += _rates_of(part)
        self.parts += 1


class Overlay:
    """Gathers parts; the new book is in force when the last is here, whole or not at all."""

    def __init__(self) -> None:
        self.rates = ExchangeRates()
        self.version = 0
        self._whole: PriceBook = snapshot()
        self._in_force = self._whole
        self._looked_up = False
        self._since_ns = self._until_ns = 0
        self._gathered = _Gathered(0, 0)

    def book(self, wall_ns: int) -> PriceBook:
        """The prices in force at an instant; the same object until they change."""
        if not self._looked_up or not self._since_ns <= wall_ns < self._until_ns:
            self._look_up(wall_ns)
        return self._in_force

    def _look_up(self, wall_ns: int) -> None:
        book = self._whole.at(_EPOCH + timedelta(microseconds=wall_ns // 1_000))
        self._in_force = book
        self._since_ns = 0 if book.since is None else _nanos(book.since)
        self._until_ns = _NEVER if book.until is None else _nanos(book.until)
        self._looked_up = True

    def hear(self, part: allowances_pb2.PriceBook) -> None:
        """Take one part in. What means nothing is logged and leaves the rest as it was.

        Parts come in order; the first begins anew, whatever was gathered of a book whose stream was
        cut. Each is read when it comes: a whole list at once would hold up the calls under way.
        """
        if not 0 <= part.part < part.part_count <= MAX_PARTS:
            log.error("price_part_refused", part=part.part, part_count=part.part_count)
            return
        if part.part == 0:
            self._gathered = _Gathered(part.overlay_version, part.part_count)
        gathered = self._gathered
        if not gathered.is_next(part):
            log.error("price_part_refused", part=part.part, expected=gathered.parts)
            return
        gathered.read(part)
        if gathered.parts == part.part_count:
            self._gathered = _Gathered(0, 0)
            self._put_in_force(gathered)

    def _put_in_force(self, told: _Gathered) -> None:
        self.version = told.version
        self.rates = ExchangeRates(told.rates)
        version = f"custom@{told.version}"
        self._whole = snapshot().with_overlay(told.prices, version)
        if told.contracts:
            self._whole = self._whole.with_contracts(told.contracts, version)
        self._looked_up = False
        log.info(
            "prices_in_force",
            overlay_version=told.version,
            count=len(told.prices),
            contracts=len(told.contracts),
            exchange_rates=len(told.rates),
        )


_NEVER: Final = 2**63


def _nanos(moment: datetime) -> int:
    since_1970 = moment - _EPOCH
    seconds = since_1970.days * 86_400 + since_1970.seconds
    return seconds * NANOS_PER_SECOND + since_1970.microseconds * 1_000


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _rates_of(part: allowances_pb2.PriceBook) -> list[ExchangeRate]:
    """The exchange rates of a part."""
    rates: list[ExchangeRate] = []
    for message in part.exchange_rates:
        try:
            rates.append(exchange_rate_from_proto(message))
        except WireError as error:
            # As with a price. What only it converts is refused.
            log.error(
                "exchange_rate_refused",
                base=message.base_currency[:8],
                quote=message.quote_currency[:8],
                fault=str(error),
            )
    return rates
