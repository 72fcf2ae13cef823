"""Where windows are looked for that charges name and the database forgot."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from bursar_server.allowances.forgotten import MOST_LOOKED_AT, MOST_WRONG, windows_around
from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SHORT = WindowSpec(kind="every", unit="second", count=5)
LIFETIME = WindowSpec(kind="lifetime")


def budget(id: int, window: WindowSpec) -> BudgetRecord:
    return BudgetRecord(
        id, f"b-{id}", 1, "", "organization", 1, "", (), (), 100, "USD", window, "hard", False, 1,
        NOON - timedelta(days=2), NOON,
    )  # fmt: skip


def looked_for(windows: Collection[WindowSpec], *moments: datetime) -> list[tuple[int, datetime]]:
    """(budget, start) in the order in which they are tried."""
    budgets = [budget(id, window) for id, window in enumerate(windows, 1)]
    return [(found.id, span.start_at) for found, span in windows_around(budgets, moments)]


def test_the_windows_of_the_moments_come_first_then_ever_further_ones_each_once() -> None:
    later = NOON + timedelta(seconds=12)
    starts = [start for _, start in looked_for([SHORT], later, NOON + timedelta(seconds=1), NOON)]
    seconds = [round((start - NOON).total_seconds()) for start in starts]
    assert seconds[:8] == [0, 10, -5, 5, 15, -10, 20, -15]
    assert len(set(seconds)) == len(seconds)


def test_a_clock_that_is_wrong_by_longer_than_a_window_lasts_is_allowed_for() -> None:
    # Simulation, seed 2001286: 27 seconds after a day, in windows of five.
    tried = looked_for([LIFETIME, SHORT, SHORT], NOON)
    assert {(1, NOON - timedelta(days=2)), (3, NOON - timedelta(seconds=30))} <= set(tried)
    assert {(2, NOON + timedelta(hours=1)), (2, NOON - timedelta(hours=1))} <= set(tried)


def test_windows_of_all_times_are_not_tried() -> None:
    day = looked_for([WindowSpec(kind="calendar", unit="day")], NOON)
    assert [(start - NOON).days for _, start in day] == [-1, -2, 0]
    minutes = [start for _, start in looked_for([SHORT] * 100, NOON)]
    assert MOST_LOOKED_AT <= len(minutes) <= MOST_LOOKED_AT + 400
    hours = sorted(start for _, start in looked_for([WindowSpec("every", "hour", 1)], NOON))
    assert hours[0] >= NOON - MOST_WRONG - timedelta(hours=1)
    assert hours[-1] <= NOON + MOST_WRONG
    assert {later - earlier for earlier, later in pairwise(hours)} == {timedelta(hours=1)}


def test_a_window_that_began_with_a_call_is_found_nowhere() -> None:
    assert looked_for([WindowSpec(kind="from_first_call", unit="hour", count=1)], NOON) == []
