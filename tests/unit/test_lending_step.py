"""One step of lending, where sessions end."""

from datetime import UTC, datetime, timedelta

from bursar_server.allowances import rules
from bursar_server.allowances.frames import Close, Frame
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.step import Input, Slice, step

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def closed_by(row: SessionRow, last_n: int) -> rules.WindowBalance:
    """The window after a frame of session 8 said that session 7 had so many reservations."""
    window = rules.WindowBalance(
        id=10, budget_id=1, hard=True, limit=100, ceiling=100, settled=15, outstanding=65
    )
    totals = rules.Totals(granted=80, settled=15)
    books = rules.Books({10: window}, {(7, 10): totals})
    frame = Frame(8, 1, (), (), frozenset(), (), (), None, (Close(7, last_n),), b"")
    given = Input([(8, frame)], [], [], {}, lambda _: {}, lambda _: [], NOW, 0, lending=False)
    step(Slice({7: row}, {}, books), given)
    return window


def test_a_session_whose_numbers_are_all_settled_is_closed_and_freed() -> None:
    row = SessionRow(1, 7, "fenced", 4, 1, 1, None, "complete")
    window = closed_by(row, 1)
    assert (row.state, window.outstanding, window.in_doubt) == ("closed", 0, 0)


def test_a_session_with_numbers_missing_stays_open() -> None:
    row = SessionRow(1, 7, "fenced", 4, 1, 1, None, "complete")
    window = closed_by(row, 2)
    assert (row.state, window.outstanding, window.in_doubt) == ("fenced", 65, 0)


def test_a_cut_journal_that_knows_less_than_is_settled_leaves_the_rest_in_doubt() -> None:
    # Simulation, seed 77: the frame was set aside for it, with all the charges in it.
    row = SessionRow(1, 7, "fenced", 4, 1, 1, None, "truncated")
    window = closed_by(row, 0)
    assert (row.state, window.outstanding, window.in_doubt) == ("fenced", 0, 65)


def test_a_journal_is_not_believed_complete_when_it_knows_less_than_is_settled() -> None:
    row = SessionRow(1, 7, "fenced", 4, 1, 1, None, "complete")
    window = closed_by(row, 0)
    assert (row.journal, window.in_doubt) == ("truncated", 65)


def test_a_closed_session_of_which_a_call_is_still_to_settle_is_closed_no_more() -> None:
    # Simulation, seed 2000019: nobody had heard of it, so time had closed it.
    row = SessionRow(1, 7, "closed", 0, 0, 0, 0, "complete")
    closed_by(row, 1)
    assert (row.state, row.last_n) == ("fenced", 1)
    row.settled_count = row.highest_settled_n = 1
    closed_by(row, 1)
    assert row.state == "closed"


def test_what_an_adjustment_of_a_cut_journal_brings_home_stays_in_doubt() -> None:
    # Behind the cut another call may have spent what the first one left.
    window = rules.WindowBalance(
        id=10, budget_id=1, hard=True, limit=100, ceiling=100, settled=60, in_doubt=40
    )
    books = rules.Books({10: window}, {(7, 10): rules.Totals(100, settled=60, in_doubt=40)})
    books.adjust([10], -55, doubted=7)
    assert (window.settled, window.outstanding, window.in_doubt) == (5, 0, 95)
    assert books.of(7, 10).held == 95


def growth_in(window_end: datetime | None, *, held: int) -> rules.Decisions:
    """What is decided when a call of session 7 wants 20 more of a window it was admitted to."""
    window = rules.WindowBalance(
        id=10, budget_id=1, hard=True, limit=100, ceiling=100, settled=15, outstanding=held
    )
    totals = rules.Totals(granted=15 + held, settled=15)
    row = SessionRow(1, 7, "open", 4, 1, 1, None, None)
    need = rules.Need(7, 1, (rules.NeedLine(10, 20, 20, 0),), deadline_ms=100, growth=True)
    given = Input([], [], [need], {}, lambda _: {}, lambda _: [], NOW, 0)
    rows = {10: WindowRow(10, 1, 1, NOW - timedelta(days=1), window_end)}
    return step(
        Slice({7: row}, rows, rules.Books({10: window}, {(7, 10): totals})), given
    ).decisions


def test_growth_is_lent_after_the_end_of_its_window_while_money_is_out_in_it() -> None:
    assert len(growth_in(NOW, held=30).granted) == 1
    closed = growth_in(NOW, held=0)
    assert (len(closed.stale), closed.granted, closed.waiting) == (1, [], [])
    assert len(growth_in(None, held=0).granted) == 1
    assert len(growth_in(NOW + timedelta(seconds=1), held=0).granted) == 1


def test_a_session_that_closes_in_a_step_is_lent_nothing_in_it() -> None:
    # Simulation, seed 106775: a need from before the end was granted after it, and kept for ever.
    row = SessionRow(1, 7, "open", 4, 1, 1, None, None)
    window = rules.WindowBalance(
        id=10, budget_id=1, hard=True, limit=100, ceiling=100, settled=15, outstanding=65
    )
    books = rules.Books({10: window}, {(7, 10): rules.Totals(granted=80, settled=15)})
    frame = Frame(7, 5, (), (), frozenset(), (), (), None, (Close(7, 1),), b"")
    need = rules.Need(7, 1, (rules.NeedLine(10, 20, 20, 0),), deadline_ms=100)
    given = Input([(7, frame)], [], [need], {}, lambda _: {}, lambda _: [], NOW, 0)
    rows = {10: WindowRow(10, 1, 1, NOW, None)}
    output = step(Slice({7: row}, rows, books), given)
    assert (row.state, window.outstanding) == ("closed", 0)
    assert output.decisions.granted == []
