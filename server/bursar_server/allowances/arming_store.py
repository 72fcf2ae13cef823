"""The SQL on budgets that are being armed: rows in, rows out."""

from collections.abc import Collection, Sequence
from datetime import datetime

from bursar_server.allowances.arming import ArmingSession
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

QUERIES = Queries.load(__package__, "arming.sql")


async def budgets_begun(connection: Connection, budget_ids: Collection[int]) -> set[int]:
    """Those of the budgets that are not new: they were looked at before, or have a window."""
    rows = await connection.fetch(QUERIES.budgets_begun, list(budget_ids))
    return {row["budget_id"] for row in rows}


async def policy_version(connection: Connection, organization_id: int) -> int:
    """The policy version of an organization."""
    return int(await connection.fetchval(QUERIES.policy_version, organization_id))


async def sessions_that_may_spend(connection: Connection, budget: BudgetRecord) -> list[SessionRow]:
    """The sessions that are not closed and were heard of since there is what the budget is for."""
    rows = await connection.fetch(
        QUERIES.sessions_that_may_spend, budget.organization_id, budget.scope_kind, budget.scope_id
    )
    return [SessionRow(**dict(row)) for row in rows]


async def save_arming(
    connection: Connection,
    budget: BudgetRecord,
    policy_version: int,
    sessions: Sequence[ArmingSession],
    now: datetime,
) -> None:
    """Write down that a budget was new, and which sessions may not know it."""
    await connection.execute(
        QUERIES.save_arming, budget.organization_id, budget.id, policy_version, now
    )
    if sessions:
        await connection.execute(
            QUERIES.save_arming_sessions,
            budget.organization_id,
            budget.id,
            policy_version,
            [row.session_epoch for row in sessions],
            [row.last_n for row in sessions],
        )


async def arming_sessions(connection: Connection) -> list[ArmingSession]:
    """All sessions that may have calls under way which new budgets must count."""
    rows = await connection.fetch(QUERIES.arming_sessions)
    return [ArmingSession(**dict(row)) for row in rows]


async def save_heard(connection: Connection, rows: Sequence[ArmingSession]) -> None:
    """Write down up to where the calls of sessions are older than budgets."""
    await connection.execute(
        QUERIES.save_heard,
        [row.organization_id for row in rows],
        [row.budget_id for row in rows],
        [row.session_epoch for row in rows],
        [row.last_n for row in rows],
    )


async def forget_arming(connection: Connection, session_epochs: Collection[int]) -> None:
    """Sessions have closed."""
    await connection.execute(QUERIES.forget_arming, list(session_epochs))


async def budgets_of_windows(connection: Connection, window_ids: Collection[int]) -> dict[int, int]:
    """The budget of each window."""
    rows = await connection.fetch(QUERIES.budgets_of_windows, list(window_ids))
    return {row["id"]: row["budget_id"] for row in rows}


async def windows_around(
    connection: Connection, budget: BudgetRecord, at: datetime
) -> list[WindowRow]:
    """The first window of a budget, and the last one that had begun by then."""
    rows = await connection.fetch(QUERIES.windows_around, budget.organization_id, budget.id, at)
    return [
        WindowRow(row["id"], budget.organization_id, budget.id, row["start_at"], row["end_at"])
        for row in rows
    ]
