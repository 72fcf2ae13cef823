"""Budgets made in mid-history, and what each must count: all that settles after it was made.

Known from what the calls drew on as they were admitted and from when their entries were committed,
never from the rows that arming keeps.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Protocol

from bursar_server.ledger.entries import Kind
from tests.simulation.coverage import saw
from tests.simulation.database import Broken, Entry, Tables, Window


class Admitted(Protocol):
    """A call as it was admitted."""

    @property
    def parts(self) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
        """(session epoch, n, budget windows) it drew on."""


class Newcomers:
    """The budgets made in mid-history."""

    def __init__(self) -> None:
        self._keys: dict[int, set[int]] = {}
        """By budget: whose calls it counts."""
        self._excused: set[int] = set()

    def made(self, budget_id: int, key_ids: set[int]) -> None:
        """A budget is there that was not."""
        self._keys[budget_id] = key_ids
        saw("a budget was made over keys in use")

    def excuse(self, budget_id: int) -> None:
        """It was disabled, and counts nothing meanwhile."""
        self._excused.add(budget_id)

    def committed(
        self,
        before: Tables,
        after: Tables,
        entries: Collection[Entry],
        admitted: Mapping[tuple[int, int], Admitted],
        unproven: Collection[int],
    ) -> None:
        """Entries became durable."""
        for budget_id, key_ids in self._keys.items():
            if budget_id in self._excused or budget_id not in after.armings:
                continue
            windows = [w for w in after.windows.values() if w.row.budget_id == budget_id]
            if budget_id not in before.armings:
                self._opened(before, budget_id, windows)
            made_at = after.budgets[budget_id].created_at
            for entry in entries:
                if entry.k or entry.kind is Kind.LOST or entry.epoch in unproven:
                    continue
                if (
                    entry.organization_id == after.budgets[budget_id].organization_id
                    and entry.key_id in key_ids
                ):
                    self._counted(entry, admitted[entry.epoch, entry.n], windows, made_at)

    def _opened(self, before: Tables, budget_id: int, windows: Collection[Window]) -> None:
        """What settled before it was looked at stands in its opening line, once."""
        for window in windows:
            spent = self.opening(before, budget_id, window.row.start_at)
            if spent != window.opening:
                raise Broken(f"8: {spent} had settled, budget {budget_id} opens with {window}")
            if spent:
                saw("a new budget began with what was spent before")

    def opening(self, tables: Tables, budget_id: int, since: datetime) -> int:
        """What a budget would open with now, in a first window that begins at `since`."""
        budget = tables.budgets[budget_id]
        return sum(
            entry.amount
            for entry in tables.entries.values()
            if entry.organization_id == budget.organization_id
            and entry.key_id in self._keys.get(budget_id, ())
            and (
                entry.admitted_at >= since
                or (since >= budget.created_at and entry.posted_at >= budget.created_at)
            )
        )

    @staticmethod
    def _counted(
        entry: Entry,
        admitted: Admitted,
        windows: Collection[Window],
        made_at: datetime,
    ) -> None:
        own = {window.row.id for window in windows}
        for epoch, n, window_ids in admitted.parts:
            if (epoch, n) == (entry.epoch, entry.n) and own.intersection(window_ids):
                return
        first = min((window.row.start_at for window in windows), default=None)
        if first is not None and first < made_at and entry.admitted_at < first:
            return  # it belongs to a window from before the budget
        if not own.intersection(entry.armed):
            raise Broken(
                f"8: charge {entry.epoch}-{entry.n} settled after a budget was made that it falls "
                f"under, and is not counted in any of its windows {sorted(own)}"
            )
        saw("a call was counted in a budget it did not know")
