"""When a session is lent from the next window: shortly before it begins, each at its own moment."""

from datetime import UTC, datetime, timedelta

from bursar_server.allowances.ahead import is_due

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR_LATER = START + timedelta(hours=1)


def moment(epoch: int, end_at: datetime = HOUR_LATER, ahead_ms: int = 10_000) -> int:
    """Milliseconds before the end from which on a session is due."""
    due = [
        left
        for left in range(ahead_ms + 1, 0, -1)
        if is_due(epoch, START, end_at, end_at - timedelta(milliseconds=left), ahead_ms)
    ]
    assert due == list(range(due[0], 0, -1)), "once due, due until the end"
    return due[0]


def test_every_session_has_a_moment_of_its_own_that_leaves_time_for_the_answer() -> None:
    moments = [moment(epoch) for epoch in range(1, 101)]
    assert 2_500 <= min(moments) <= max(moments) <= 10_000
    assert len(set(moments)) > 50
    # Evenly: a quarter of the spread holds about a quarter of the sessions.
    assert 15 <= sum(m > 8_125 for m in moments) <= 35


def test_of_a_short_window_it_is_a_part() -> None:
    end_at = START + timedelta(seconds=4)
    assert all(moment(epoch, end_at) <= 1_000 for epoch in range(1, 30))


def test_after_the_end_nobody_is_due() -> None:
    assert not is_due(1, START, HOUR_LATER, HOUR_LATER, 10_000)
