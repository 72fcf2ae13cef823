"""Reading events."""

from datetime import datetime

import msgspec

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

q = Queries.load(__package__)


class EventRecord(msgspec.Struct, frozen=True):
    """One event; `budget` is a name or empty."""

    id: int
    kind: str
    budget: str
    summary: str
    amount_nanos: int
    currency: str
    created_at: datetime


async def event_page(
    connection: Connection, organization_id: int, *, before: int | None, size: int
) -> list[EventRecord]:
    """At most `size` events older than the id `before`, the newest first."""
    rows = await connection.fetch(q.event_page, organization_id, before, size)
    return msgspec.convert([dict(row) for row in rows], list[EventRecord])
