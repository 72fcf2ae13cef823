"""A verification of a hundred thousand entries asks and fetches what its ranges need, no more."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.ledger.rules import BALANCE_CHECKS, ENTRY_CHECKS
from bursar_server.ledger.verifying import RANGE_SIZE, Outcome, Progress, Verifier
from tests.fakes import large_ledger

CALLS = 100_000
SCANS_OF_THE_GENERATOR = 3
"""Of all entries, for its balances; a verification adds none."""


class Counted:
    """What went to the database and came back."""

    def __init__(self) -> None:
        self.statements = 0
        self.rows = 0
        self.longest_answer = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts the statements and rows of every connection, from now on."""
    counts = Counted()

    def counting(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*given: Any, **more: Any) -> Any:
            answer = await ask(*given, **more)
            rows = answer if isinstance(answer, list) else [answer]
            counts.statements += 1
            counts.rows += len(rows)
            counts.longest_answer = max(counts.longest_answer, sum(map(_characters, rows)))
            return answer

        return asked

    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        monkeypatch.setattr(asyncpg.Connection, name, counting(getattr(asyncpg.Connection, name)))
    return counts


def _characters(row: Any) -> int:
    return len(repr(tuple(row) if isinstance(row, asyncpg.Record) else row))


@pytest.fixture
async def entry_count(pool: Pool) -> int:
    """So many entries, in a ledger that is whole."""
    return await large_ledger.fill(pool, CALLS)


async def test_a_large_ledger_is_verified_range_by_range(
    pool: Pool, entry_count: int, counted: Counted
) -> None:
    steps = [step async for step in Verifier(pool, SystemClock()).verify(None)]
    outcome = steps[-1]
    assert isinstance(outcome, Outcome)
    assert [each.differences for each in outcome.found if each.differences] == []
    assert outcome.entry_count == entry_count > CALLS
    looked_at = {each.check.name: each.checked_count for each in outcome.found}
    assert looked_at["accounts_are_named"] == entry_count
    assert looked_at["charges_are_whole"] == CALLS

    ranges = -(-entry_count // RANGE_SIZE) + 1
    # Entries by themselves: a transaction, its settings, where the range ends, each check. Sums:
    # where a range ends, two statements. Then each check of balances, and a few to begin with.
    allowed = ranges * (6 + len(ENTRY_CHECKS)) + ranges * 3 + len(BALANCE_CHECKS) + 20
    assert counted.statements <= allowed
    assert counted.rows <= allowed, "more than one row a statement"
    assert counted.longest_answer < 1_000, "characters of one answer"
    progress = [step for step in steps if isinstance(step, Progress)]
    assert len(progress) <= 2 * ranges + len(BALANCE_CHECKS) + 1

    # The statistics of a backend are written when it is idle for a while, or asked to.
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
    row = await pool.fetchrow(
        "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'entries'"
    )
    assert row is not None
    assert row["seq_scan"] <= SCANS_OF_THE_GENERATOR
    # One reading for each check, two to find where ranges end, two for the sums, two of the
    # generator.
    assert 0 < row["idx_tup_fetch"] <= (len(ENTRY_CHECKS) + 6) * entry_count


async def test_however_many_differences_there_are_only_the_first_are_fetched(
    pool: Pool, entry_count: int, counted: Counted
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE entries SET currency = 'EUR', draw_set_id = 1")
        await connection.execute("UPDATE budget_windows SET settled_nanos = 0 WHERE NOT hard")
    counted.rows = counted.longest_answer = 0
    outcome = [step async for step in Verifier(pool, SystemClock()).verify(None)][-1]
    assert isinstance(outcome, Outcome)
    wrong = {each.check.name: each for each in outcome.found if each.difference_count}
    assert wrong["accounts_are_named"].difference_count == entry_count
    assert wrong["draw_sets_exist"].difference_count == entry_count
    assert all(len(each.differences) <= 100 for each in outcome.found)
    assert len(wrong["accounts_are_named"].differences) == 100
    # A range's faults at most: their texts are short.
    assert counted.longest_answer < RANGE_SIZE * 100
