"""The prices in force: the built-in snapshot, and the overlay the control plane sends in parts."""

from typing import Final

import structlog

from bursar.pricing import Price, PriceBook, snapshot
from bursar.v1 import allowances_pb2
from bursar.wire import WireError, price_from_proto

log = structlog.get_logger("bursar.overlay")

# Parts kept while the rest is awaited: 256 MB of prices is a fault.
MAX_PARTS: Final = 1_024


class Overlay:
    """Gathers parts; the new book is in force when the last is here."""

    def __init__(self) -> None:
        self.book: PriceBook = snapshot()
        self.version = 0
        self._parts: dict[int, allowances_pb2.PriceBook] = {}

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
        for number in sorted(parts):
            for message in parts[number].prices:
                try:
                    prices.append(price_from_proto(message))
                except WireError as error:
                    # One price that means nothing must not keep the others from being in force;
                    # its model goes on at the price below it.
                    log.error("price_refused", model=message.model[:80], fault=str(error))
        parts.clear()
        self.version = part.overlay_version
        self.book = snapshot().with_overlay(prices, f"custom@{part.overlay_version}")
        log.info("prices_in_force", overlay_version=part.overlay_version, count=len(prices))
