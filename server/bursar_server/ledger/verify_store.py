"""The SQL of a verification: ranges of entries, sums of a snapshot, balances against them."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.ledger.rules import Check

verify_q = Queries.load(
    __package__, "verify.sql", "verify_entries.sql", "verify_shadow.sql", "verify_limits.sql"
)

# A range is read in well under a second; the largest statement compares the balances of all
# sessions and windows, and names the entries behind a difference.
STATEMENT_TIMEOUT_S: Final = 600.0
LEAST_NUMBER: Final = -(2**63)
"""Before every session, and before every number in one: what was lost counts down from -1."""

# Verification must not take the machine from those who work: no worker processes beside the
# connection's own, and no compiling, which costs more than it saves in statements this short. A
# sequential scan of the ledger for the sake of one range is never right, whatever the planner's
# statistics say (there are none on a ledger that was filled a minute ago).
RANGE_SETTINGS: Final = """
    SET LOCAL jit = off;
    SET LOCAL max_parallel_workers_per_gather = 0;
    SET LOCAL plan_cache_mode = force_custom_plan;
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off
"""
BALANCE_SETTINGS: Final = "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on"


class Range(NamedTuple):
    """Whole calls of an organization, behind one place up to another (session epoch, n)."""

    organization_id: int
    after_epoch: int
    after_n: int
    last_epoch: int
    last_n: int


class EntryFault(NamedTuple):
    """What is wrong with one entry."""

    session_epoch: int
    n: int
    k: int
    fault: str


class Difference(msgspec.Struct, frozen=True):
    """A balance that is not what it should be; where the figures are known, what leads to the
    entries behind it."""

    difference: str
    organization_id: int | None = None
    session_epoch: int | None = None
    budget_window_id: int | None = None
    off_nanos: int | None = None
    """Entries less balance."""


class BalanceResult(NamedTuple):
    """What a check of balances found; `told` are the first of its differences."""

    checked_count: int
    difference_count: int
    told: list[Difference]


class EntryBehind(NamedTuple):
    """An entry that a balance is made of; `explains`: it alone is as large as the difference."""

    session_epoch: int
    n: int
    k: int
    amount_nanos: int
    explains: bool


async def entry_count(connection: Connection, organization_id: int | None) -> int:
    """About how many entries there are, as the sessions count them."""
    return int(await connection.fetchval(verify_q.entry_count, organization_id))


async def next_organization(connection: Connection, after: int) -> int | None:
    """The next organization that has entries."""
    found: int | None = await connection.fetchval(verify_q.next_organization, after)
    return found


async def next_range(
    connection: Connection, organization_id: int, after: tuple[int, int], size: int
) -> tuple[Range, bool]:
    """About `size` entries behind `after`, and whether they are the last."""
    row = await connection.fetchrow(
        verify_q.end_of_range,
        organization_id,
        *after,
        size - 1,
        timeout=STATEMENT_TIMEOUT_S,
    )
    end = (2**63 - 1, 2**63 - 1) if row is None else (row["session_epoch"], row["n"])
    return Range(organization_id, *after, *end), row is None


async def check_range(
    connection: Connection, check: Check, place: Range, most: int
) -> tuple[int, int, list[EntryFault]]:
    """How many were looked at, how many are faulty, and `most` of those at most."""
    row = await connection.fetchrow(
        getattr(verify_q, f"check_{check.name}"), *place, timeout=STATEMENT_TIMEOUT_S
    )
    if row is None:
        raise RuntimeError(f"the check {check.name} answered nothing")
    faults = row["faults"] or []
    return row["checked_count"], len(faults), [EntryFault(*fault) for fault in faults[:most]]


async def make_sums(connection: Connection) -> None:
    """Begin the sums of the transaction's snapshot."""
    await connection.execute(verify_q.make_sums)


async def sum_range(connection: Connection, place: Range) -> None:
    """Add a range of entries to the sums."""
    for query in (verify_q.sum_range, verify_q.sum_differences_of_range):
        await connection.execute(query, *place, timeout=STATEMENT_TIMEOUT_S)


async def know_sums(connection: Connection) -> None:
    """All sums are there: let Postgres look how they are spread."""
    await connection.execute(verify_q.know_sums, timeout=STATEMENT_TIMEOUT_S)


async def check_balances(
    connection: Connection, check: Check, organization_id: int | None, most: int
) -> BalanceResult:
    """Run one check of balances over an organization, or over all."""
    row = await connection.fetchrow(
        getattr(verify_q, f"check_{check.name}"),
        organization_id,
        most,
        timeout=STATEMENT_TIMEOUT_S,
    )
    if row is None:
        raise RuntimeError(f"the check {check.name} answered nothing")
    told = msgspec.convert(row["told"] or [], list[Difference])
    return BalanceResult(row["checked_count"], row["difference_count"], told)


async def sessions_behind(
    connection: Connection, organization_id: int, window_id: int, most: int
) -> Mapping[int, int]:
    """The sessions whose allowance in a window is not what their entries say, and by how much."""
    rows = await connection.fetch(
        verify_q.sessions_behind, organization_id, window_id, most, timeout=STATEMENT_TIMEOUT_S
    )
    return {row["session_epoch"]: int(row["difference_nanos"]) for row in rows}


async def missing_numbers(
    connection: Connection, organization_id: int, session_epoch: int, most: int
) -> list[tuple[int, int]]:
    """The first gaps in the numbers of a session, each from its first to its last number."""
    rows = await connection.fetch(
        verify_q.missing_numbers,
        organization_id,
        session_epoch,
        most,
        timeout=STATEMENT_TIMEOUT_S,
    )
    return [(row["first_n"], row["last_n"]) for row in rows]


async def entries_behind(
    connection: Connection,
    organization_id: int,
    session_epoch: int | None,
    window_id: int | None,
    off_nanos: int,
    most: int,
) -> list[EntryBehind]:
    """Entries of a session (or of all) in a window, those that explain a difference first."""
    rows: list[Any] = await connection.fetch(
        verify_q.entries_behind,
        organization_id,
        session_epoch,
        window_id,
        off_nanos,
        most,
        timeout=STATEMENT_TIMEOUT_S,
    )
    return [EntryBehind(*row) for row in rows]


async def organization_name(connection: Connection, organization_id: int) -> str:
    """Its slug, or its id where there is none of that id."""
    slug: str | None = await connection.fetchval(verify_q.organization_name, organization_id)
    return str(organization_id) if slug is None else slug
