"""The imported prices that differ from the built-in ones: what has to be told to anybody.

Both programs ship the snapshot, so of an imported list only that travels which says something else.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from bursar.pricing import Price, price_from_json, snapshot
from bursar.pricing.lists import plain
from bursar.v1 import prices_pb2
from bursar.wire import price_to_proto
from bursar_server.database.pool import Connection
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.prices import import_store

_Version = tuple[int, int, datetime]
"""Organization, id of the list, when it was put in force."""

MOST_LISTS_KEPT: Final = 32
"""A list of which every price differs takes some 10 MB."""


class _Told(NamedTuple):
    """What lies between the built-in prices and the custom ones, and as it travels."""

    prices: tuple[Price, ...]
    messages: tuple[prices_pb2.Price, ...]


class ImportedPrices:
    """Reads each version of a list once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[_Version, ...], _Told] = OrderedDict()

    async def of(self, connection: Connection, organization_id: int) -> tuple[Price, ...]:
        """What an organization's book has above the snapshot and below custom prices: the
        platform's imported list, then its own, a later one winning. Those that begin or end at a
        time say so. The connection is in a transaction."""
        return (await self._read(connection, organization_id)).prices

    async def messages(
        self, connection: Connection, organization_id: int
    ) -> tuple[prices_pb2.Price, ...]:
        """The same as sidecars are told them; not to be changed."""
        return (await self._read(connection, organization_id)).messages

    async def _read(self, connection: Connection, organization_id: int) -> _Told:
        versions: list[_Version] = []
        for owner in dict.fromkeys((PLATFORM_ORGANIZATION_ID, organization_id)):
            record = await import_store.imported_list(connection, owner)
            if record is not None:
                # One that came back after another has its id again, and another time.
                versions.append((owner, record.id, record.created_at))
        if not versions:
            return _Told((), ())
        key = tuple(versions)
        known = self._kept.get(key)
        if known is None:
            lists = [await import_store.imported_prices(connection, owner) for owner, *_ in key]
            known = await asyncio.to_thread(_differing, lists)
            self._kept[key] = known
            while len(self._kept) > MOST_LISTS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return known


def _differing(lists: Iterable[Iterable[tuple[int, str]]]) -> _Told:
    """Of lists, a later one winning, the prices that the snapshot alone would not give."""
    book = snapshot()
    found: dict[tuple[str, str], list[Price]] = {}
    for rows in lists:
        own: dict[tuple[str, str], list[Price]] = {}
        for _, text in rows:
            price = price_from_json(text)
            own.setdefault((price.provider, price.model), []).append(price)
        found |= own
    differing = []
    for (provider, model), prices in found.items():
        built_in = book.lookup(model, provider)
        same = built_in is not None and [plain(built_in)] == [plain(price) for price in prices]
        if not same:
            differing += prices
    return _Told(tuple(differing), tuple(price_to_proto(price) for price in differing))
