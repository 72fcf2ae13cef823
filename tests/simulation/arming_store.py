"""What `bursar_server.allowances.arming_store` does, over the tables in memory."""

from collections.abc import Collection, Sequence
from datetime import datetime

from bursar_server.allowances.arming import ArmingSession
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.budgets.store import BudgetRecord
from tests.simulation.database import Tables


class ArmingStore:
    """`bursar_server.allowances.arming_store`, over Tables."""

    async def budgets_begun(self, tables: Tables, budget_ids: Collection[int]) -> set[int]:
        with_window = {window.row.budget_id for window in tables.windows.values()}
        return {id for id in budget_ids if id in tables.armings or id in with_window}

    async def policy_version(self, tables: Tables, organization_id: int) -> int:
        return tables.policy_version(organization_id)

    async def sessions_that_may_spend(
        self, tables: Tables, budget: BudgetRecord
    ) -> list[SessionRow]:
        return [
            session.row()
            for session in tables.sessions.values()
            if session.organization_id == budget.organization_id and session.state != "closed"
        ]

    async def save_arming(
        self,
        tables: Tables,
        budget: BudgetRecord,
        policy_version: int,
        sessions: Sequence[ArmingSession],
        _now: datetime,
    ) -> None:
        tables.armings[budget.id] = policy_version
        await self.save_heard(tables, sessions)

    async def arming_sessions(self, tables: Tables) -> list[ArmingSession]:
        return list(tables.arming_sessions.values())

    async def save_heard(self, tables: Tables, rows: Sequence[ArmingSession]) -> None:
        for row in rows:
            tables.arming_sessions[row.budget_id, row.session_epoch] = row

    async def forget_arming(self, tables: Tables, session_epochs: Collection[int]) -> None:
        for key in [key for key in tables.arming_sessions if key[1] in session_epochs]:
            del tables.arming_sessions[key]

    async def budgets_of_windows(
        self, tables: Tables, window_ids: Collection[int]
    ) -> dict[int, int]:
        known = [id for id in window_ids if id in tables.windows]
        return {id: tables.windows[id].row.budget_id for id in known}

    async def windows_around(
        self, tables: Tables, budget: BudgetRecord, at: datetime
    ) -> list[WindowRow]:
        rows = [w.row for w in tables.windows.values() if w.row.budget_id == budget.id]
        rows.sort(key=lambda row: row.start_at)
        return [*rows[:1], *[row for row in rows if row.start_at <= at][-1:]]


ARMING_STORE = ArmingStore()
