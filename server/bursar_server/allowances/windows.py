"""Which windows of which budgets the writer works with: read, begun, and kept in memory.

Only the writer of a shard begins windows and applies limits to them, so what it keeps here is what
is committed; `forget` after a transaction that failed.
"""

from collections.abc import Collection, Iterable
from datetime import datetime

from bursar_server.allowances import rules, store
from bursar_server.allowances.records import WindowRow
from bursar_server.budgets.rules import window_at
from bursar_server.budgets.store import BudgetRecord, budgets_by_ids
from bursar_server.database.pool import Connection
from bursar_server.ledger import posting

MOST_CACHED = 100_000
"""Rows kept of each kind; beyond it the cache starts anew, which costs a query, never a fault."""


class Windows:
    """The budgets and current windows of a shard."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[int, int], BudgetRecord] = {}
        self._current: dict[int, WindowRow] = {}

    def forget(self) -> None:
        """Drop what is kept: a transaction failed, so what it made may not exist."""
        self._budgets.clear()
        self._current.clear()

    def trim(self) -> None:
        """Bound what is kept."""
        if max(len(self._budgets), len(self._current)) > MOST_CACHED:
            self.forget()

    def changed(self, budgets: Iterable[tuple[int, int]]) -> None:
        """These (organization, budget) changed: read them again."""
        for key in budgets:
            self._budgets.pop(key, None)

    async def limits(
        self,
        connection: Connection,
        changed: Collection[tuple[int, int]],
        books: rules.Books,
        windows: dict[int, WindowRow],
    ) -> dict[int, tuple[int, int]]:
        """By window of `changed` budgets: (limit, version of the budget)."""
        limits: dict[int, tuple[int, int]] = {}
        for organization_id, budget_id in changed:
            await self._load(connection, organization_id, [budget_id])
            budget = self._budgets.get((organization_id, budget_id))
            if budget is not None:
                for window in books.windows.values():
                    mine = windows[window.id].organization_id == organization_id
                    if mine and window.budget_id == budget_id:
                        limits[window.id] = (budget.limit_nanos, budget.version)
        return limits

    async def current(
        self, connection: Connection, organization_id: int, budget_ids: set[int], now: datetime
    ) -> dict[int, WindowRow]:
        """The window each budget is in now, begun where it was not; none for a budget that is
        gone or disabled."""
        await self._load(connection, organization_id, budget_ids)
        found: dict[int, WindowRow] = {}
        missing: list[BudgetRecord] = []
        for budget_id in sorted(budget_ids):
            budget = self._budgets.get((organization_id, budget_id))
            if budget is None or budget.disabled:
                continue
            current = self._current.get(budget_id)
            if current is None or (current.end_at is not None and current.end_at <= now):
                missing.append(budget)
            else:
                found[budget_id] = current
        if missing:
            last = await store.last_windows(connection, organization_id, [b.id for b in missing])
            for budget in missing:
                row = last.get(budget.id)
                if row is None or (row.end_at is not None and row.end_at <= now):
                    span = window_at(
                        budget.window,
                        now,
                        created_at=budget.created_at,
                        last_end=row.end_at if row else None,
                    )
                    opening = (0, 0)
                    if row is None and span.start_at < budget.created_at:
                        opening = await self._opening(connection, budget, span.start_at)
                    row = await store.make_window(
                        connection, budget, (span.start_at, span.end_at), opening, now
                    )
                found[budget.id] = self._current[budget.id] = row
        return found

    @staticmethod
    async def _opening(
        connection: Connection, budget: BudgetRecord, since: datetime
    ) -> tuple[int, int]:
        """What the budget's first window has seen already: (nanos, entries).

        Nothing for the platform: calls were not posted in its ledger before it had a budget.
        """
        if budget.scope_kind == "platform":
            return 0, 0
        amount_nanos, count = await posting.spent_before(
            connection,
            budget.organization_id,
            since,
            (budget.scope_kind, budget.scope_id),
            budget.models,
            budget.providers,
        )
        return max(0, amount_nanos), count

    async def _load(
        self, connection: Connection, organization_id: int, budget_ids: Iterable[int]
    ) -> None:
        unknown = [b for b in budget_ids if (organization_id, b) not in self._budgets]
        if unknown:
            for record in await budgets_by_ids(connection, organization_id, unknown):
                self._budgets[organization_id, record.id] = record
