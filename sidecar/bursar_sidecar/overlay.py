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


class Overlay:
    """Gathers parts; the new book is in force when the last is here."""

    def __init__(self) -> None:
        self.rates = ExchangeRates()
        self.version = 0
        self._whole: PriceBook = snapshot()
        self._in_force = self._whole
        self._looked_up = False
        self._since_ns = self._until_ns = 0
        self._parts: dict[int, allowances_pb2.PriceBook] = {}

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
        """Take one part in. What means nothing is logged and leaves the rest as it was."""
        parts = self._parts
        if not 0 <= part.part < part.part_count <= MAX_PARTS:
            log.error("price_part_refused", part=part.part, part_count=part.part_count)
            return
        if part.part == 0:
            parts.clear()
        parts[part.part] = part
        if len(parts) < part.part_count:
            return
        prices: list[Price] = []
        contracts: list[Contract] = []
        for number in sorted(parts):
            for order, told in enumerate(parts[number].contracts, len(contracts)):
                try:
                    contracts.append(contract_from_proto(told, order))
                except WireError as error:
                    log.error("contract_refused", version=told.version[:80], fault=str(error))
            for message in parts[number].prices:
                try:
                    prices.append(price_from_proto(message))
                except WireError as error:
                    # One price that means nothing must not keep the others from being in force;
                    # its model goes on at the price below it.
                    log.error("price_refused", model=message.model[:80], fault=str(error))
        rates = _rates_of([parts[number] for number in sorted(parts)])
        parts.clear()
        self.version = part.overlay_version
        self.rates = ExchangeRates(rates)
        version = f"custom@{part.overlay_version}"
        self._whole = snapshot().with_overlay(prices, version)
        if contracts:
            self._whole = self._whole.with_contracts(contracts, version)
        self._looked_up = False
        log.info(
            "prices_in_force",
            overlay_version=part.overlay_version,
            count=len(prices),
            contracts=len(contracts),
            exchange_rates=len(rates),
        )


_NEVER: Final = 2**63


def _nanos(moment: datetime) -> int:
    since_1970 = moment - _EPOCH
    seconds = since_1970.days * 86_400 + since_1970.seconds
    return seconds * NANOS_PER_SECOND + since_1970.microseconds * 1_000


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _rates_of(parts: list[allowances_pb2.PriceBook]) -> list[ExchangeRate]:
    """The exchange rates of all parts."""
    rates: list[ExchangeRate] = []
    for part in parts:
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
