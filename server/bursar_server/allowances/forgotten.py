"""Windows that charges name and the database forgot: where to look for them. Pure.

An id says which window of which budget it is, but only to who tries that window. A charge tells
when its call was admitted, by its sidecar's wall clock. That clock may be wrong, and by more than a
short window lasts, so who does not find the window then looks ever further before and after it.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Final

from bursar_server.budgets.rules import BudgetWindowSpan, window_at
from bursar_server.budgets.store import BudgetRecord

MOST_WRONG: Final = timedelta(days=1)
"""By how much a clock may be wrong: one that is set to another time zone is within it."""
MOST_LOOKED_AT: Final = 10_000
"""Windows that are tried besides those of the moments themselves and their neighbours: a tenth of a
second. With a hundred budgets of a minute each that finds a clock that is fifty minutes off."""
TICK: Final = timedelta(microseconds=1)


def windows_around(
    budgets: Collection[BudgetRecord], moments: Collection[datetime]
) -> Iterator[tuple[BudgetRecord, BudgetWindowSpan]]:
    """The windows of these budgets at the moments (one or more), then those next to them, before
    and after, then the next ones: the nearest first, each once. None of budgets whose windows begin
    with a call: where one began is known nowhere else."""
    edges: list[_Edges] = []
    for budget in budgets:
        if budget.window.kind != "from_first_call":
            found = _Edges(budget, moments)
            edges.append(found)
            for span in found.last:
                yield budget, span
    round, looked_at = 0, 0
    while edges and (round == 0 or looked_at < MOST_LOOKED_AT):
        round += 1
        for found in edges:
            found.go_on()
            looked_at += len(found.last)
            for span in found.last:
                yield found.budget, span
        edges = [found for found in edges if found.last]


class _Edges:
    """How far was looked in the windows of one budget."""

    def __init__(self, budget: BudgetRecord, moments: Collection[datetime]) -> None:
        self.budget = budget
        self.last: list[BudgetWindowSpan] = []
        """Those that were reached last."""
        self._seen: set[datetime] = set()
        self._since, self._until = min(moments) - MOST_WRONG, max(moments) + MOST_WRONG
        for moment in sorted(moments):
            if not self.last or _is_over(self.last[-1], moment):
                self._reach(moment)

    def go_on(self) -> None:
        """One window further, before and after each."""
        reached, self.last = self.last, []
        for span in reached:
            if span.start_at > self._since:
                self._reach(span.start_at - TICK)
            if span.end_at is not None and span.end_at < self._until:
                self._reach(span.end_at)

    def _reach(self, moment: datetime) -> None:
        span = window_at(self.budget.window, moment, created_at=self.budget.created_at)
        if span.start_at not in self._seen:
            self._seen.add(span.start_at)
            self.last.append(span)


def _is_over(span: BudgetWindowSpan, moment: datetime) -> bool:
    return span.end_at is not None and span.end_at <= moment
