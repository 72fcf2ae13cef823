"""The tail of a window: when little is left, calls are lent one by one."""

from datetime import UTC, datetime

import pytest

from bursar_server.allowances import rules
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.rules import Need, NeedLine
from bursar_server.allowances.step import Input, Output, Slice, step
from bursar_server.allowances.tail import Traffic, in_tail

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 1_000


def window_of(settled: int, outstanding: int = 0, *, hard: bool = True) -> rules.WindowBalance:
    return rules.WindowBalance(10, 1, hard, LIMIT, LIMIT, settled=settled, outstanding=outstanding)


@pytest.mark.parametrize(
    ("settled", "sessions", "call", "reserved", "was", "expected"),
    [
        (599, 2, 100, 0, False, False),  # 401 left, 2 x 2 x 100 are needed
        (601, 2, 100, 0, False, True),
        (500, 2, 100, 101, False, True),  # calls in flight have their part already
        (201, 2, 100, 0, True, True),  # 799 left: not enough to leave the tail
        (200, 2, 100, 0, True, False),
        (999, 1, 100, 0, False, False),  # one session may have it all
        (999, 2, 0, 0, False, False),  # nobody calls
        (1_500, 2, 1, 0, False, True),  # overrun
    ],
)
def test_a_window_is_in_its_tail_when_less_than_some_calls_are_left_for_each(
    settled: int, sessions: int, call: int, reserved: int, was: bool, expected: bool
) -> None:
    traffic = Traffic(sessions, call, reserved)
    assert in_tail(window_of(settled), traffic, call=0, was=was) is expected


def test_a_soft_window_has_no_tail() -> None:
    assert not in_tail(window_of(999, hard=False), Traffic(2, 100, 0), call=0, was=False)


def test_before_anybody_reported_the_call_that_asks_is_the_measure() -> None:
    traffic = Traffic(2, 0, 0)
    assert in_tail(window_of(900), traffic, call=50, was=False)
    assert not in_tail(window_of(900), traffic, call=20, was=False)


def stepped(settled: int, *, tail: frozenset[int] = frozenset()) -> tuple[Output, int]:
    """A session that has nothing asks for 50 and would like 200 besides; another has 100 free.
    What was decided, and what was granted."""
    window = window_of(settled, 100)
    books = rules.Books({10: window}, {(8, 10): rules.Totals(granted=100)})
    rows = {n: SessionRow(1, n, "open", 1, 0, 0, None, None) for n in (7, 8)}
    given = Input(
        [],
        [],
        [Need(7, 1, (NeedLine(10, 50, 50, 200),), deadline_ms=100)],
        {},
        lambda ids: dict.fromkeys(ids, Traffic(2, 50, 0)),
        lambda ids: [rules.Holder(8, 10, 100, 0)] if 10 in list(ids) else [],
        NOW,
        0,
        tail=tail,
    )
    output = step(Slice(rows, {10: WindowRow(10, 1, 1, NOW, None)}, books), given)
    assert [need.session_epoch for need in output.decisions.granted] == [7]
    return output, books.of(7, 10).granted


def test_far_from_the_end_a_call_is_lent_a_stock_besides() -> None:
    output, granted = stepped(0)
    assert (output.tail, output.recalls, granted) == (set(), [], 250)


def test_entering_the_tail_lends_the_call_alone_and_brings_home_what_is_free() -> None:
    output, granted = stepped(810)
    assert (output.tail, granted) == ({10}, 50)
    assert [holder.session_epoch for holder in output.recalls] == [8]


def test_in_the_tail_nobody_is_asked_again_without_need() -> None:
    output, granted = stepped(810, tail=frozenset({10}))
    assert (output.tail, output.recalls, granted) == ({10}, [], 50)
