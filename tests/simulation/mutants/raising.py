"""Mutants of temporary raises."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from bursar_server.allowances import windows
from bursar_server.budgets.store import BudgetRecord
from tests.simulation.database import Tables
from tests.simulation.mutants.registry import Replacement, mutant
from tests.simulation.stores import Raises


@mutant
def a_raise_never_ends() -> list[Replacement]:
    def limit_at(self: BudgetRecord, at: datetime) -> int:
        begun = [r for r in self.raises if r.start_at <= at]
        return self.limit_nanos + sum(r.amount_nanos for r in begun)

    original = windows.Windows.limits

    async def limits(self: windows.Windows, *given: Any) -> dict[int, tuple[int, int]]:
        kept = BudgetRecord.__dict__["limit_at"]
        BudgetRecord.limit_at = limit_at  # type: ignore[method-assign]
        try:
            return await original(self, *given)
        finally:
            BudgetRecord.limit_at = kept  # type: ignore[method-assign]

    return [(windows.Windows, "limits", limits)]


@mutant
def time_wakes_nobody() -> list[Replacement]:
    async def next_boundary(_self: Raises, _tables: Tables) -> datetime | None:
        return None

    return [(Raises, "next_boundary", next_boundary)]


@mutant
def only_a_new_version_changes_a_limit() -> list[Replacement]:
    async def limits(
        self: windows.Windows, _connection: Any, changed: Collection[tuple[int, int]],
        books: Any, rows: Any, now: datetime,
    ) -> dict[int, tuple[int, int]]:  # fmt: skip
        found = await original(self, _connection, changed, books, rows, now)
        return {
            window_id: (limit, version)
            for window_id, (limit, version) in found.items()
            if books.windows[window_id].budget_version != version
        }

    original = windows.Windows.limits
    return [(windows.Windows, "limits", limits)]
