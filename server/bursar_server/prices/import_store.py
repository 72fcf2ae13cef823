"""The rows of imported price lists, and of the sync that fetches them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import structs

from bursar.pricing import Price, price_to_json
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

q = Queries.load(__package__, "imports.sql")


class ListRecord(msgspec.Struct, frozen=True):
    """One version of an organization's imported list."""

    id: int
    version: str
    source: str
    created_at: datetime


class SyncRecord(msgspec.Struct, frozen=True):
    """What the sync did last."""

    url_hash: str
    attempted_at: datetime
    outcome: str
    detail: str
    succeeded_at: datetime | None
    failures: int
    next_at: datetime
    claim: UUID


async def lock_prices(connection: Connection, organization_id: int) -> None:
    """Wait for other changes of the organization's prices; held until the transaction ends."""
    await connection.execute(q.lock_prices, organization_id)


async def imported_list(connection: Connection, organization_id: int) -> ListRecord | None:
    """The version in force; None where nothing was ever imported."""
    row = await connection.fetchrow(q.imported_list, organization_id)
    return None if row is None else msgspec.convert(dict(row), ListRecord)


async def imported_prices(connection: Connection, organization_id: int) -> list[tuple[int, str]]:
    """(id, price as JSON) of the imported prices that hold or will; the latter say from when on."""
    rows = await connection.fetch(q.imported_prices, organization_id)
    return [(row["id"], row["price"]) for row in rows]


async def replace_imported(
    connection: Connection,
    organization_id: int,
    version: str,
    source: str,
    *,
    ended: Sequence[int],
    begun: Iterable[Price],
    at: datetime,
) -> int:
    """Note a version of the list, end the prices that it changed, and put these in their place;
    returns its id."""
    list_id = int(
        await connection.fetchval(q.insert_imported_list, organization_id, version, source)
    )
    await connection.execute(q.end_imported_prices, organization_id, list(ended), at)
    rows = [
        (
            organization_id,
            list_id,
            "imported",
            price.provider,
            price.model,
            msgspec.Raw(price_to_json(structs.replace(price, effective_at=None, expires_at=None))),
            price.effective_at or at,
            price.expires_at,
        )
        for price in begun
    ]
    columns = ["organization_id", "price_list_id", "layer", "provider", "model", "price"]
    await connection.copy_records_to_table(
        "prices", records=rows, columns=[*columns, "effective_at", "expires_at"]
    )
    return list_id


async def sync_state(connection: Connection, organization_id: int) -> SyncRecord | None:
    """What the sync did last; None: it never did anything."""
    row = await connection.fetchrow(q.sync_state, organization_id)
    return None if row is None else msgspec.convert(dict(row), SyncRecord)


async def claim_sync(
    connection: Connection,
    organization_id: int,
    url_hash: str,
    *,
    now: datetime,
    until: datetime,
    claim: UUID,
) -> tuple[str, str, int] | None:
    """Take the next look, if it is time; None: it is not. Nobody else looks before `until`.

    Returns the etag and the version of what was last taken over, and the failures since.
    """
    row = await connection.fetchrow(q.claim_sync, organization_id, url_hash, now, until, claim)
    return None if row is None else (row["etag"], row["version"], row["failures"])


async def finish_sync(
    connection: Connection,
    organization_id: int,
    claim: UUID,
    *,
    etag: str,
    version: str,
    outcome: str,
    detail: str,
    failures: int,
    next_at: datetime,
    succeeded_at: datetime | None,
) -> bool:
    """Say what came of a look; False: another one was begun meanwhile."""
    found = await connection.fetchval(
        q.finish_sync,
        organization_id,
        claim,
        etag,
        outcome,
        detail,
        failures,
        next_at,
        succeeded_at,
        version,
    )
    return found is not None


async def insert_event(
    connection: Connection, organization_id: int, kind: str, summary: str, at: datetime
) -> None:
    """Tell people, in the transaction that made it true."""
    await connection.execute(q.insert_event, organization_id, kind, summary, at)
