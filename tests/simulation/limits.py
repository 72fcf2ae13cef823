"""Which limit windows must have: worked out from the budget, its raises and the time alone."""

from datetime import datetime, timedelta

from bursar_server.budgets.rules import phase_at
from tests.simulation.coverage import saw
from tests.simulation.database import Broken, Tables

EDGE = timedelta(milliseconds=100)
"""How far clocks may be apart about when a raise begins or ends: the skew of control planes."""


def check_limits(tables: Tables, now: datetime, *, applied: bool) -> None:
    """Raises Broken. With `applied` off, a change that the owner has still to apply is let be."""
    for window in tables.windows.values():
        row, budget = window.row, tables.budgets[window.row.budget_id]
        if row.start_at > now or (row.end_at is not None and row.end_at <= now):
            continue
        edges = [at for r in budget.raises for at in (r.start_at, r.over_at)]
        if any(now - EDGE <= at <= now + EDGE for at in edges):
            continue
        due = window.version != budget.version or any(
            phase_at(raised, now) != raised.phase for raised in budget.raises
        )
        if due and not applied:
            continue
        if window.limit != budget.limit_at(now):
            raise Broken(
                f"2: window {row.id} has the limit {window.limit}, in force is"
                f" {budget.limit_at(now)}"
            )
        saw("a raised limit was in force", window.limit > budget.limit_nanos)
