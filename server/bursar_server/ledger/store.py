"""Reading the ledger: pages of entries; and decisions about sessions, on record."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.ledger.rules import EntryPlace

q = Queries.load(__package__)


class EntryRecord(msgspec.Struct, frozen=True):
    """One row of the ledger. Amounts in nanos of `currency`."""

    session_epoch: int
    n: int
    k: int
    kind: str
    debit_account: str
    credit_account: str
    amount_nanos: int
    currency: str
    reserved_nanos: int
    overrun_nanos: int
    draw_set_id: int
    key_id: int | None
    team_id: int | None
    project_id: int | None
    user_id: int | None
    customer: str
    app: str
    run: str
    tags: list[str]
    provider: str
    model: str
    requested_model: str
    price_version: str
    input_llm_tokens: int
    cached_input_llm_tokens: int
    cache_write_5m_llm_tokens: int
    cache_write_1h_llm_tokens: int
    output_llm_tokens: int
    reasoning_llm_tokens: int
    further_usage: dict[str, int] | None
    estimate_reason: str
    provider_request_id: str
    http_status: int
    stream: bool
    admitted_at: datetime
    finished_at: datetime
    posted_at: datetime
    service_tier: str
    region: str
    priced_as: str
    rerating_id: int | None
    price_currency: str
    exchange_rate: str

    @property
    def place(self) -> EntryPlace:
        """Where it stands in the list."""
        return EntryPlace(self.posted_at, self.session_epoch, self.n, self.k)


class EntryFilter(msgspec.Struct, frozen=True):
    """Which entries are wanted; None: whatever it is."""

    since: datetime | None = None
    until: datetime | None = None
    key_id: int | None = None
    charge: tuple[int, int] | None = None
    """Session epoch and n."""
    rerating_id: int | None = None


async def entry_page(
    connection: Connection,
    organization_id: int,
    wanted: EntryFilter,
    *,
    after: EntryPlace | None,
    size: int,
) -> list[EntryRecord]:
    """At most `size` entries behind `after`, the newest posted first."""
    session_epoch, n = wanted.charge or (None, None)
    rows = await connection.fetch(
        q.entry_page,
        organization_id,
        *(after or (None, None, None, None)),
        wanted.since,
        wanted.until,
        wanted.key_id,
        session_epoch,
        n,
        size,
        wanted.rerating_id,
    )
    return msgspec.convert([dict(row) for row in rows], list[EntryRecord])


async def key_id(connection: Connection, organization_id: int, slug: str) -> int | None:
    """The id of a key by its name."""
    found: int | None = await connection.fetchval(q.key_id, organization_id, slug)
    return found


async def spender_names(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> Mapping[int, str]:
    """ "teams/search" and the like by id; the ids of one sequence never mean two things."""
    rows = await connection.fetch(q.spender_names, organization_id, list(ids))
    return {row["id"]: row["name"] for row in rows}


async def budgets_of_draw_sets(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> Mapping[int, list[str]]:
    """The names of the budgets in each draw set."""
    rows = await connection.fetch(q.budgets_of_draw_sets, organization_id, list(ids))
    return {row["id"]: row["budgets"] for row in rows}


class SessionRecord(msgspec.Struct, frozen=True):
    """A session that is to be decided about."""

    state: str
    last_seen_at: datetime
    held_nanos: int
    """Over all windows, outstanding and in doubt: nothing but whether there is any."""


class ResolutionRecord(msgspec.Struct, frozen=True):
    """A decision about a session."""

    session_epoch: int
    decision: str
    applied_at: datetime | None
    refusal: str
    held: dict[str, int] | None


class WindowRecord(msgspec.Struct, frozen=True):
    """A window and the name of its budget."""

    id: int
    budget: str
    start_at: datetime


async def session(
    connection: Connection, organization_id: int, session_epoch: int
) -> SessionRecord | None:
    """The session, if it is one of the organization."""
    row = await connection.fetchrow(q.session_to_resolve, organization_id, session_epoch)
    return None if row is None else SessionRecord(**dict(row))


async def insert_resolution(
    connection: Connection,
    organization_id: int,
    session_epoch: int,
    decision: str,
    reason: str,
    actor: str,
    now: datetime,
) -> int:
    """Put a decision on record; returns its id."""
    return int(
        await connection.fetchval(
            q.insert_resolution, organization_id, session_epoch, decision, reason, actor, now
        )
    )


async def resolution(
    connection: Connection, organization_id: int, resolution_id: int
) -> ResolutionRecord:
    """A decision on record."""
    row = await connection.fetchrow(q.resolution, organization_id, resolution_id)
    if row is None:
        raise RuntimeError(f"resolution {resolution_id} is gone from the record")
    return ResolutionRecord(**dict(row))


async def windows_by_id(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> list[WindowRecord]:
    """Windows, by budget and time."""
    rows = await connection.fetch(q.windows_by_id, organization_id, list(ids))
    return [WindowRecord(**dict(row)) for row in rows]
