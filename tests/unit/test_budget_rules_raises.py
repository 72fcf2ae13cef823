"""Which limit is in force at an instant, with temporary raises; and what time has done to them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_server.budgets.rules import (
    MAX_LIMIT_NANOS,
    RaisePhase,
    TemporaryRaise,
    boundaries_passed,
    effective_limit,
    phase_at,
)

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def hours(count: float) -> datetime:
    return NOON + timedelta(hours=count)


def raised(
    amount: int,
    start: float,
    end: float,
    cancelled: float | None = None,
    phase: RaisePhase = "over",
) -> TemporaryRaise:
    cancelled_at = None if cancelled is None else hours(cancelled)
    return TemporaryRaise(1, amount, hours(start), hours(end), cancelled_at, phase)


def test_a_raise_counts_from_its_start_until_just_before_its_end() -> None:
    instant = timedelta.resolution
    raises = [raised(5, 1, 3)]
    limits = [
        effective_limit(10, raises, at)
        for at in (hours(1) - instant, hours(1), hours(3) - instant, hours(3))
    ]
    assert limits == [10, 15, 15, 10]


def test_raises_that_overlap_add_up() -> None:
    raises = [raised(5, 0, 4), raised(7, 2, 6), raised(1, 3, 3.5)]
    assert [effective_limit(10, raises, hours(h)) for h in (1, 2, 3, 5, 6)] == [15, 22, 23, 17, 10]


def test_a_cancelled_raise_ends_early_or_never_begins() -> None:
    early, never = raised(5, 0, 4, cancelled=1), raised(5, 2, 4, cancelled=1)
    assert [effective_limit(0, [early], hours(h)) for h in (0, 1, 3)] == [5, 0, 0]
    assert [effective_limit(0, [never], hours(h)) for h in (0, 2, 3)] == [0, 0, 0]
    assert phase_at(never, hours(0)) == "scheduled"
    assert phase_at(never, hours(2)) == "over"


def test_no_raise_lifts_a_limit_above_the_highest() -> None:
    many = [raised(MAX_LIMIT_NANOS, 0, 1)] * 3
    assert effective_limit(MAX_LIMIT_NANOS - 1, many, NOON) == MAX_LIMIT_NANOS


SPANS = st.lists(
    st.tuples(
        st.integers(1, 9), st.integers(0, 8), st.integers(1, 8), st.none() | st.integers(0, 9)
    ),
    max_size=6,
)


@given(spans=SPANS, at=st.integers(0, 20))
def test_the_limit_changes_only_at_boundaries(
    spans: list[tuple[int, int, int, int | None]], at: int
) -> None:
    """Between one start or end and the next it is the same, and what each adds is added once."""
    raises = [raised(amount, s, s + length, c) for amount, s, length, c in spans]
    edges = {each.start_at for each in raises} | {each.over_at for each in raises}
    now, later = hours(at), hours(at + 1)
    if not any(now < edge <= later for edge in edges):
        assert effective_limit(100, raises, now) == effective_limit(100, raises, later)
    counts = [r for r in raises if r.start_at <= now < r.over_at]
    assert effective_limit(100, raises, now) == 100 + sum(r.amount_nanos for r in counts)


@pytest.mark.parametrize(
    ("each", "at", "passed"),
    [
        (raised(5, 1, 3, phase="scheduled"), 0.5, []),
        (raised(5, 1, 3, phase="scheduled"), 1, [("began", 1)]),
        (raised(5, 1, 3, phase="scheduled"), 9, [("began", 1), ("ended", 3)]),
        (raised(5, 1, 3, phase="running"), 2, []),
        (raised(5, 1, 3, phase="running"), 3, [("ended", 3)]),
        (raised(5, 1, 3, phase="over"), 9, []),
        (raised(5, 1, 3, cancelled=2, phase="running"), 2, []),
        (raised(5, 1, 3, cancelled=2, phase="scheduled"), 9, [("began", 1)]),
        (raised(5, 1, 3, cancelled=0.5, phase="scheduled"), 9, []),
    ],
)
def test_what_time_has_done_since_it_was_last_applied(
    each: TemporaryRaise, at: float, passed: list[tuple[str, float]]
) -> None:
    assert boundaries_passed(each, hours(at)) == [(kind, hours(since)) for kind, since in passed]
