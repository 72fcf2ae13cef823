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
from bursar_server.prices import rules

q = Queries.load(__package__)

# A model's price changes a few times a year; a longer history has another cause.
MOST_VERSIONS: Final = 1000


class PriceRecord(msgspec.Struct, frozen=True):
    """A price with the time that it is for; `expires_at` is None where that has no end."""

    price: Price
    """Without its time."""
    layer: str
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime
    """When it was recorded."""
    superseded_at: datetime | None
    """When it was no longer believed; None: it is."""
    source: str
    organization_slug: str

    @property
    def period(self) -> dict[str, datetime | None]:
        """Its time, as fields of a price."""
        return {"effective_at": self.effective_at, "expires_at": self.expires_at}


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
    """The custom prices that hold or will for an organization, as JSON with their times: the
    platform's first, then its own, a later one winning; and their version, which grows with each
    change of either."""
    version = await connection.fetchval(
        q.overlay_version, organization_id, PLATFORM_ORGANIZATION_ID
    )
    rows = await connection.fetch(q.overlay, organization_id, PLATFORM_ORGANIZATION_ID)
    return int(version or 0), [row["price"] for row in rows]


async def raise_overlay_version(connection: Connection, organization_id: int) -> int:
    """The next version of an organization's own prices. First in a transaction."""
    return int(await connection.fetchval(q.raise_overlay_version, organization_id))


async def insert_list(
    connection: Connection, organization_id: int, version: str, source: str
) -> int:
    """Note a new version of an organization's custom list."""
    return int(
        await connection.fetchval(q.insert_price_list, organization_id, "custom", version, source)
    )


async def prices_through_time(
    connection: Connection, organization_id: int, since: datetime, until: datetime
) -> list[Price]:
    """Every price over the snapshot that held for an organization at some time of a period, as is
    known now, with its time: a later one winning where both hold."""
    rows = await connection.fetch(
        q.prices_through_time, organization_id, PLATFORM_ORGANIZATION_ID, since, until
    )
    return [price_from_json(row["price"]) for row in rows]


async def time_of_change(connection: Connection) -> datetime:
    """Now, by the clock that all processes share."""
    at: datetime = await connection.fetchval(q.time_of_change)
    return at


async def next_beginning(
    connection: Connection, organization_id: int, provider: str, model: str, after: datetime
) -> datetime | None:
    """When the next custom price of a model begins; None if none does."""
    found: datetime | None = await connection.fetchval(
        q.next_beginning, organization_id, provider, model, after
    )
    return found


async def supersede(
    connection: Connection,
    organization_id: int,
    provider: str,
    model: str,
    *,
    since: datetime,
    until: datetime | None,
    now: datetime,
) -> list[int]:
    """Take back what is believed of a model's custom price in a stretch of time; what is left of
    the prices before and behind it is recorded anew. Returns the ids of those that were there."""
    where = (organization_id, provider, model)
    rows = await connection.fetch(q.supersede_prices, *where, since, until, now)
    for row in rows:
        for left in rules.remnants(row["effective_at"], row["expires_at"], since, until):
            await connection.execute(
                q.insert_price,
                organization_id,
                row["price_list_id"],
                provider,
                model,
                msgspec.Raw(row["price"].encode()),
                *left,
                now,
            )
    return [row["id"] for row in rows]


async def insert_price(
    connection: Connection,
    organization_id: int,
    list_id: int,
    price: Price,
    *,
    since: datetime,
    until: datetime | None,
    now: datetime,
) -> int:
    """Record a custom price for a stretch of time that is free; returns its id."""
    return int(
        await connection.fetchval(
            q.insert_price,
            organization_id,
            list_id,
            price.provider,
            price.model,
            _column(price),
            since,
            until,
            now,
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
    at: datetime | None = None,
) -> list[PriceRecord]:
    """At most `size` prices in force at `at` (None: now) by provider and model, behind `after`.

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
        at,
    )
    return [_record(row) for row in rows]


async def price_history(
    connection: Connection,
    organization_id: int,
    provider: str,
    model: str,
    *,
    superseded: bool = False,
) -> list[PriceRecord]:
    """Every price a model had or will have for an organization, the newest first; with
    `superseded` also what was once believed."""
    rows = await connection.fetch(
        q.price_history,
        organization_id,
        PLATFORM_ORGANIZATION_ID,
        provider,
        model,
        MOST_VERSIONS,
        superseded,
    )
    return [_record(row) for row in rows]


async def price_lists(connection: Connection, organization_id: int) -> list[PriceListRecord]:
    """The layers an organization's prices come from, the weakest first."""
    rows = await connection.fetch(q.price_lists, organization_id, PLATFORM_ORGANIZATION_ID)
    return msgspec.convert([dict(row) for row in rows], list[PriceListRecord])


def _column(price: Price) -> msgspec.Raw:
    # Its time has columns of its own.
    timeless = msgspec.structs.replace(price, effective_at=None, expires_at=None)
    return msgspec.Raw(price_to_json(timeless))


def _record(row: asyncpg.Record) -> PriceRecord:
    price = price_from_json(row["price"])
    return PriceRecord(
        price=msgspec.structs.replace(price, effective_at=None, expires_at=None),
        layer=row["layer"],
        effective_at=row["effective_at"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        superseded_at=row["superseded_at"],
        source=row["source"],
        organization_slug=row["organization_slug"],
    )
