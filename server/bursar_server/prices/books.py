"""The price book of an organization, as it is known now: what its calls are priced by, at any time.

The same book, by the same rules, that its sidecars hold; they are told what holds and what will,
re-rating also needs what did.
"""

from collections.abc import Iterable
from datetime import datetime

from bursar.pricing import Price, PriceBook, price_from_json, snapshot
from bursar_server.database.pool import Connection
from bursar_server.prices import contract_store, store


async def book_from_now_on(
    connection: Connection, organization_id: int, below: Iterable[Price] = ()
) -> PriceBook:
    """Of what holds and will. `below` are prices between the built-in ones and the custom ones."""
    version, texts = await store.overlay(connection, organization_id)
    custom = (price_from_json(text) for text in texts)
    book = snapshot().with_overlay([*below, *custom], str(version))
    records = await contract_store.contracts(connection, organization_id)
    return _under(book, records, version)


async def book_through_time(
    connection: Connection, organization_id: int, since: datetime, until: datetime
) -> PriceBook:
    """Of what held at some time of a period."""
    version, _ = await store.overlay(connection, organization_id)
    prices = await store.prices_through_time(connection, organization_id, since, until)
    book = snapshot().with_overlay(prices, str(version))
    records = await contract_store.contracts(connection, organization_id, since=since)
    return _under(book, records, version)


def _under(
    book: PriceBook, records: list[contract_store.ContractRecord], version: int
) -> PriceBook:
    if not records:
        return book
    return book.with_contracts([record.contract for record in records], f"contracts {version}")
