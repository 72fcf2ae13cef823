"""Money of a session that does not come back: what a decision does to the books, and evidence."""

from datetime import UTC, datetime

from bursar_server.allowances import rules
from bursar_server.allowances.frames import Close, Frame, Report
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.resolutions import Resolution, draws
from bursar_server.allowances.step import Input, Output, Slice, step
from bursar_server.ledger import entries

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = 7
WIDE, NARROW = 10, 11
"""Windows of a team and of a key in it."""


class Books:
    """A session that was lent 100 of the wide and 80 of the narrow window, and settled 15."""

    def __init__(self, journal: str | None = "truncated", in_doubt: int = 0) -> None:
        windows = {
            id: rules.WindowBalance(
                id=id, budget_id=id, hard=True, limit=200, ceiling=200, settled=15,
                outstanding=granted - 15 - in_doubt, in_doubt=in_doubt,
            )
            for id, granted in ((WIDE, 100), (NARROW, 80))
        }  # fmt: skip
        totals = {
            (EPOCH, WIDE): rules.Totals(granted=100, settled=15, in_doubt=in_doubt),
            (EPOCH, NARROW): rules.Totals(granted=80, settled=15, in_doubt=in_doubt),
        }
        self.row = SessionRow(1, EPOCH, "fenced", 4, 1, 1, None, journal)
        self.state = Slice(
            {EPOCH: self.row, 8: SessionRow(1, 8, "open", 4, 0, 0, None, None)},
            {id: WindowRow(id, 1, id, NOW, None) for id in windows},
            rules.Books(windows, totals),
        )

    def step(
        self,
        frame: Frame | None = None,
        postings: tuple[entries.Posting, ...] = (),
        resolutions: tuple[Resolution, ...] = (),
        connected: tuple[int, ...] = (),
    ) -> Output:
        frames = [] if frame is None else [(frame.session_epoch, frame)]
        output = step(
            self.state,
            Input(
                frames, postings, [], {}, lambda _: {}, lambda _: [], NOW, 0, lending=False,
                resolutions=resolutions, connected=connected,
            ),
        )  # fmt: skip
        for window in self.state.books.windows.values():
            held = window.settled - window.overrun + window.outstanding + window.in_doubt
            assert held <= window.ceiling
        return output

    def resolve(self, decision: str, connected: tuple[int, ...] = ()) -> Output:
        resolution = Resolution(1, 1, EPOCH, decision, returned=False)
        return self.step(resolutions=(resolution,), connected=connected)

    def standing(self, window_id: int) -> tuple[int, int, int, int]:
        window = self.state.books.windows[window_id]
        return window.settled, window.outstanding, window.in_doubt, window.overrun


def charge(n: int, cost: int) -> entries.Posting:
    """A call in both windows."""
    found = entries.lost(1, EPOCH, -n, cost, (WIDE, NARROW), NOW)
    return entries.Posting(found.settlement, 0, entries.Kind.FINAL, cost, "payable/openai")


def losses(output: Output) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(p.settlement.n, p.amount_nanos, p.settlement.budget_window_ids) for p in output.losses]


def test_the_fewest_draws_add_up_in_every_window() -> None:
    assert draws({}) == []
    assert draws({1: 0}) == []
    assert draws({3: 50, 1: 50, 2: 20}) == [(20, (1, 2, 3)), (30, (1, 3))]
    amounts = {1: 7, 2: 7, 3: 9, 4: 1, 5: 0}
    lines = draws(amounts)
    assert len(lines) == 3
    for window, amount in amounts.items():
        assert sum(part for part, drawn in lines if window in drawn) == amount


def test_spent_posts_all_that_is_held_and_in_doubt() -> None:
    books = Books(in_doubt=30)
    output = books.resolve("spent")
    assert losses(output) == [(-1, 65, (WIDE, NARROW)), (-2, 20, (WIDE,))]
    assert output.resolved[0].held == {WIDE: 85, NARROW: 65}
    assert books.standing(WIDE) == (100, 0, 0, 0)
    assert books.standing(NARROW) == (80, 0, 0, 0)
    assert (books.row.lost_count, books.row.decision) == (2, "spent")


def test_free_lets_it_come_home() -> None:
    books = Books(in_doubt=30)
    output = books.resolve("free")
    assert losses(output) == []
    assert books.standing(WIDE) == (15, 0, 0, 0)
    assert books.state.books.of(EPOCH, WIDE).returned == 85


def test_evidence_eats_what_was_lost_before_it_is_overrun() -> None:
    books = Books()
    books.resolve("spent")
    output = books.step(postings=(charge(2, 40),))
    assert losses(output) == [(-3, -40, (WIDE, NARROW))]
    assert books.standing(WIDE) == (100, 0, 0, 0)
    output = books.step(postings=(charge(3, 30),))
    # 25 were left of the narrow window, 45 of the wide one: 5 of this call were never lent there.
    assert losses(output) == [(-4, -25, (WIDE, NARROW)), (-5, -5, (WIDE,))]
    assert books.standing(WIDE) == (100, 0, 0, 0)
    assert books.standing(NARROW) == (85, 0, 0, 5)


def test_evidence_after_a_free_decision_is_overrun() -> None:
    books = Books()
    books.resolve("free")
    output = books.step(postings=(charge(2, 40),))
    assert losses(output) == []
    assert books.standing(NARROW) == (55, 0, 0, 40)


def test_money_that_a_woken_session_returns_was_not_lost() -> None:
    books = Books()
    books.resolve("spent")
    report = Report(WIDE, 100, 50, 0, 0, 0)
    frame = Frame(EPOCH, 5, (report,), (), frozenset(), (), (), None, (), b"")
    output = books.step(frame)
    assert losses(output) == [(-3, -50, (WIDE,))]
    assert books.standing(WIDE) == (50, 0, 0, 0)
    assert losses(books.step(frame)) == []


def test_a_whole_journal_takes_back_all_that_was_not_spent() -> None:
    books = Books(journal="complete")
    books.resolve("spent")
    frame = Frame(8, 1, (), (), frozenset(), (), (), None, (Close(EPOCH, 2),), b"")
    output = books.step(frame, (charge(2, 40),))
    assert books.row.state == "closed"
    assert sum(amount for _, amount, _ in losses(output)) == -85
    assert books.standing(WIDE) == (55, 0, 0, 0)
    assert books.standing(NARROW) == (55, 0, 0, 0)


def test_a_session_that_came_back_is_not_decided_about() -> None:
    books = Books()
    output = books.resolve("spent", connected=(EPOCH,))
    assert output.resolved[0].refusal == "SESSION_IS_CONNECTED"
    output = books.step(resolutions=(Resolution(1, 1, EPOCH, "free", returned=True),))
    assert output.resolved[0].refusal == "SESSION_RETURNED"
    assert books.standing(WIDE) == (15, 85, 0, 0)
    assert books.row.decision is None


def test_a_second_decision_finds_nothing() -> None:
    books = Books()
    books.resolve("spent")
    output = books.resolve("free")
    assert output.resolved[0].held == {}
    assert books.standing(WIDE) == (100, 0, 0, 0)


def test_what_an_adjustment_brings_home_after_a_decision_goes_the_same_way() -> None:
    for decision, settled in (("spent", 100), ("free", 25)):
        books = Books()
        provisional = charge(2, 40)
        provisional.kind = entries.Kind.PROVISIONAL
        books.step(postings=(provisional,))
        books.resolve(decision)
        back, cost = charge(2, -40), charge(2, 10)
        back.k, cost.k = 1, 2
        books.step(postings=(back, cost))
        assert books.standing(WIDE)[:3] == (settled, 0, 0)
