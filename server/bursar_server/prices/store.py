"""The rows of prices: the only SQL on `price_lists` and `prices`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from bursar.pricing import Price, price_from_json, price_to_json
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID

q = Queries.load(__package__)

# A model's price changes a few times a year; a longer history has another cause.
MOST_VERSIONS: Final = 1000


class PriceRecord(msgspec.Struct, frozen=True):
    """A price with the time it was in force; `expires_at` is None while it is."""

    price: Price
    layer: str
    effective_at: datetime
    expires_at: datetime | None


class PriceListRecord(msgspec.Struct, frozen=True):
    """The newest version of one layer."""

    layer: str
    version: str
    source: str
    created_at: datetime
    organization_slug: str
    price_count: int


async def lock_publishing(connection: Connection) -> None:
    """Wait until nobody else registers a snapshot; held until the transaction ends."""
    await connection.execute(q.lock_publishing)


async def snapshot_in_force(connection: Connection, version: str) -> bool:
    """Whether the built-in prices of this version are those in force."""
    return bool(await connection.fetchval(q.snapshot_in_force, PLATFORM_ORGANIZATION_ID, version))


async def replace_built_in(
    connection: Connection, version: str, source: str, prices: Iterable[Price]
) -> int:
    """End the built-in prices in force and put these in their place; returns how many."""
    list_id = await connection.fetchval(
        q.insert_price_list, PLATFORM_ORGANIZATION_ID, "builtin", version, source
    )
    at = await connection.fetchval(q.time_of_change)
    await connection.execute(q.end_built_in_prices, PLATFORM_ORGANIZATION_ID, at)
    rows = [
        (
            PLATFORM_ORGANIZATION_ID,
            list_id,
            "builtin",
            price.provider,
            price.model,
            _column(price),
            at,
        )
        for price in prices
    ]
    columns = ["organization_id", "price_list_id", "layer", "provider", "model", "price"]
    await connection.copy_records_to_table(
        "prices", records=rows, columns=[*columns, "effective_at"]
    )
    return len(rows)


async def overlay(connection: Connection, organization_id: int) -> tuple[int, list[str]]:
    """The custom prices in force for an organization, as JSON: the platform's first, then its own,
    a later one winning; and their version, which grows with each change of either."""
    version = await connection.fetchval(
        q.overlay_version, organization_id, PLATFORM_ORGANIZATION_ID
    )
    rows = await connection.fetch(q.overlay, organization_id, PLATFORM_ORGANIZATION_ID)
    return int(version or 0), [row["price"] for row in rows]


async def raise_overlay_version(connection: Connection, organization_id: int) -> int:
    """The next version of an organization's own prices. First in a transaction."""
    return int(await connection.fetchval(q.raise_overlay_version, organization_id))


async def end_price(
    connection: Connection, organization_id: int, provider: str, model: str
) -> int | None:
    """End the custom price in force; returns its id, None if there is none."""
    at = await connection.fetchval(q.time_of_change)
    found: int | None = await connection.fetchval(q.end_price, organization_id, provider, model, at)
    return found


async def insert_list(
    connection: Connection, organization_id: int, version: str, source: str
) -> int:
    """Note a new version of an organization's custom list."""
    return int(
        await connection.fetchval(q.insert_price_list, organization_id, "custom", version, source)
    )


async def set_price(
    connection: Connection, organization_id: int, list_id: int, price: Price
) -> int:
    """End the custom price in force, if there is one, and put this in its place; returns its id."""
    at = await connection.fetchval(q.time_of_change)
    where = (organization_id, price.provider, price.model)
    await connection.execute(q.end_price, *where, at)
    return int(
        await connection.fetchval(
            q.insert_price,
            organization_id,
            list_id,
            price.provider,
            price.model,
            _column(price),
            at,
        )
    )


async def price_by_id(
    connection: Connection, organization_id: int, price_id: int
) -> PriceRecord | None:
    """One price, in force or not."""
    row = await connection.fetchrow(q.price_by_id, organization_id, price_id)
    return None if row is None else _record(row)


async def price_page(
    connection: Connection,
    organization_id: int,
    *,
    after: tuple[str, str],
    provider: str,
    model_pattern: str,
    custom_only: bool,
    size: int,
) -> list[PriceRecord]:
    """At most `size` prices in force by provider and model, behind `after`.

    `model_pattern` is one of SQL's LIKE, "" for every model; so is a `provider` of "".
    """
    rows = await connection.fetch(
        q.price_page,
        organization_id,
        PLATFORM_ORGANIZATION_ID,
        *after,
        provider,
        model_pattern,
        custom_only,
        size,
    )
    return [_record(row) for row in rows]


async def price_history(
    connection: Connection, organization_id: int, provider: str, model: str
) -> list[PriceRecord]:
    """Every price a model had for an organization, the newest first."""
    rows = await connection.fetch(
        q.price_history, organization_id, PLATFORM_ORGANIZATION_ID, provider, model, MOST_VERSIONS
    )
    return [_record(row) for row in rows]


async def price_lists(connection: Connection, organization_id: int) -> list[PriceListRecord]:
    """The layers an organization's prices come from, the weakest first."""
    rows = await connection.fetch(q.price_lists, organization_id, PLATFORM_ORGANIZATION_ID)
    return msgspec.convert([dict(row) for row in rows], list[PriceListRecord])


def _column(price: Price) -> msgspec.Raw:
    return msgspec.Raw(price_to_json(price))


def _record(row: asyncpg.Record) -> PriceRecord:
    return PriceRecord(
        price=price_from_json(row["price"]),
        layer=row["layer"],
        effective_at=row["effective_at"],
        expires_at=row["expires_at"],
    )
