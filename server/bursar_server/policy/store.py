"""The SQL on how far changes of policy have come: rows in, rows out."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from bursar_server.changes import ChangeKind
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.policy.rules import LAPSE_MARGIN, Holder, effective_version

QUERIES = Queries.load(__package__)


class ChangeRecord(msgspec.Struct, frozen=True):
    """A change on record."""

    policy_version: int
    created_at: datetime
    effective_at: datetime | None


class ArmingRecord(msgspec.Struct, frozen=True):
    """How a new budget comes into force."""

    policy_version: int
    began_at: datetime
    armed_at: datetime | None


async def latest_change(
    connection: Connection, organization_id: int, subject: tuple[ChangeKind, int] | None
) -> ChangeRecord | None:
    """The latest change of a thing, or of anything in the organization; None: none on record."""
    kind, id = subject or (None, None)
    row = await connection.fetchrow(QUERIES.latest_change, organization_id, kind, id)
    return None if row is None else ChangeRecord(**dict(row))


async def holders(connection: Connection, organization_ids: Collection[int]) -> list[Holder]:
    """The sessions of the organizations that are not closed."""
    rows = await connection.fetch(QUERIES.holders, list(organization_ids))
    return [Holder(**dict(row)) for row in rows]


async def arming(
    connection: Connection, organization_id: int, budget_id: int
) -> ArmingRecord | None:
    """How a budget came into force; None: it was not looked at yet."""
    row = await connection.fetchrow(QUERIES.arming, organization_id, budget_id)
    return None if row is None else ArmingRecord(**dict(row))


async def arming_holders(
    connection: Connection, organization_id: int, budget_id: int
) -> list[Holder]:
    """The sessions that may not know a new budget."""
    rows = await connection.fetch(QUERIES.arming_holders, organization_id, budget_id)
    return [Holder(**dict(row)) for row in rows]


async def is_unmarked(connection: Connection) -> bool:
    """Whether there is a change, or a budget, of which it is not written down that all know it."""
    return bool(await connection.fetchval(QUERIES.is_unmarked))


async def mark_armed(connection: Connection, now: datetime, valid_for: timedelta) -> None:
    """Write down which budgets everybody who may spend knows now, where that was not known yet."""
    await connection.execute(QUERIES.mark_armed, now, now - valid_for - LAPSE_MARGIN)


async def mark_effective(
    connection: Connection, organization_id: int, version: int, now: datetime
) -> None:
    """Write down that changes up to `version` are effective everywhere."""
    await connection.execute(QUERIES.mark_effective, organization_id, version, now)


async def effective_at(
    connection: Connection, organization_id: int, version: int
) -> datetime | None:
    """Since when a change is effective everywhere, as it is on record; None: it is not."""
    found: datetime | None = await connection.fetchval(
        QUERIES.effective_at, organization_id, version
    )
    return found


async def mark_all_effective(connection: Connection, now: datetime, valid_for: timedelta) -> None:
    """Write down which changes are effective everywhere now, where that was not known yet."""
    # The changes first: a session that is not among the holders read after them is told of them.
    pending = {
        row["organization_id"]: row["policy_version"]
        for row in await connection.fetch(QUERIES.pending_changes)
    }
    if not pending:
        return
    by_organization: defaultdict[int, list[Holder]] = defaultdict(list)
    for holder in await holders(connection, pending):
        by_organization[holder.organization_id].append(holder)
    for organization_id, latest in pending.items():
        version = effective_version(by_organization[organization_id], latest, now, valid_for)
        await mark_effective(connection, organization_id, version, now)
