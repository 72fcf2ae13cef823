"""What time does to sessions that are not heard of, and the clock it is counted by."""

from datetime import UTC, datetime

import pytest

from bursar_server.allowances import life, rules
from bursar_server.allowances.frames import Close, Frame
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.step import Input, Output, Slice, step
from bursar_server.ledger import entries

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = 60_000
TERMS = life.Terms(silent_after_ms=30 * MINUTE, doubt_horizon_ms=24 * 60 * MINUTE)
EPOCH, OTHER = 7, 8
WINDOW = 10


class Books:
    """A session that was lent 80 of 100 and settled 15, last heard of at 0."""

    def __init__(self, **fields: object) -> None:
        values = {
            "organization_id": 1, "session_epoch": EPOCH, "state": "open", "applied_seq": 4,
            "settled_count": 1, "highest_settled_n": 1, "last_n": None, "journal": None,
        } | fields  # fmt: skip
        self.row = SessionRow(**values)  # type: ignore[arg-type]  # one field is given by each test
        self.window = rules.WindowBalance(
            id=WINDOW, budget_id=1, hard=True, limit=100, ceiling=100, settled=15, outstanding=65
        )
        self.totals = rules.Totals(granted=80, settled=15)
        self.state = Slice(
            {EPOCH: self.row, OTHER: SessionRow(1, OTHER, "open", 1, 0, 0, None, None)},
            {WINDOW: WindowRow(WINDOW, 1, 1, NOW, None)},
            rules.Books({WINDOW: self.window}, {(EPOCH, WINDOW): self.totals}),
        )

    def at(self, minutes: int, *frames: Frame, postings: list[entries.Posting] | None = None):  # type: ignore[no-untyped-def]  # an Output; the line is long enough
        return step(
            self.state,
            Input(
                [(frame.session_epoch, frame) for frame in frames], postings or [], [], {},
                lambda _: {}, lambda _: [], NOW, 0, lending=False, served_ms=minutes * MINUTE,
                due=() if frames else (EPOCH,), terms=TERMS,
            ),
        )  # fmt: skip

    @property
    def standing(self) -> tuple[int, int, int]:
        return self.window.settled, self.window.outstanding, self.window.in_doubt


def word(epoch: int = EPOCH, *closes: Close) -> Frame:
    return Frame(epoch, 5, (), (), frozenset(), (), (), None, closes, b"")


def test_a_session_within_the_longest_call_keeps_what_it_holds() -> None:
    books = Books()
    assert books.at(29).passed == []
    assert (books.row.state, books.standing) == ("open", (15, 65, 0))


def test_a_silent_session_may_not_spend_and_its_money_is_in_doubt() -> None:
    books = Books()
    (passed,) = books.at(30).passed
    assert (passed.held, passed.lost, passed.fenced) == ({WINDOW: 65}, False, True)
    assert (books.row.state, books.row.stage, books.standing) == ("fenced", "doubted", (15, 0, 65))
    (event,) = life.events_of(passed, "USD")
    assert (event.kind, event.amount_nanos, event.currency) == ("session_silent", 65, "USD")


def test_silence_counts_from_the_last_word() -> None:
    books = Books()
    books.at(20, word())
    assert books.at(49).passed == []
    assert len(books.at(50).passed) == 1


def test_a_word_of_another_session_about_it_counts_too() -> None:
    books = Books(state="fenced")
    books.at(20, word(OTHER, Close(EPOCH, 3)))
    assert books.at(49).passed == []


def test_past_the_horizon_it_is_posted_as_spent_and_not_before() -> None:
    books = Books()
    books.at(30)
    assert books.at(30 + 24 * 60 - 1).passed == []
    output: Output = books.at(30 + 24 * 60)
    (passed,) = output.passed
    assert (passed.held, passed.lost) == ({WINDOW: 65}, True)
    assert [(p.kind, p.amount_nanos) for p in output.losses] == [(entries.Kind.LOST, 65)]
    assert (books.standing, books.row.decision) == ((80, 0, 0), "spent")
    assert life.events_of(passed, "USD")[0].kind == "session_lost"
    assert books.at(90 * 24 * 60).passed == []


def test_evidence_lets_the_horizon_begin_anew() -> None:
    books = Books(state="fenced", journal="truncated", last_n=3)
    books.at(1, word(OTHER, Close(EPOCH, 3)))
    assert books.standing == (15, 0, 65)
    books.at(20 * 60, word(OTHER, Close(EPOCH, 3)))
    assert books.at(25 * 60).passed == []
    assert books.at(44 * 60).passed[0].lost


def test_a_recovered_journal_takes_back_what_the_horizon_posted() -> None:
    books = Books()
    books.at(30)
    books.at(30 + 24 * 60)
    output = books.at(60 * 24 * 3, word(OTHER, Close(EPOCH, 1)))
    assert [p.amount_nanos for p in output.losses] == [-65]
    assert (books.row.state, books.standing) == ("closed", (15, 0, 0))


def test_a_session_that_was_never_heard_and_never_lent_is_closed() -> None:
    books = Books(applied_seq=0, settled_count=0, highest_settled_n=0)
    books.state.books.totals.clear()
    (passed,) = books.at(30).passed
    assert (books.row.state, books.row.last_n, passed.held) == ("closed", 0, {})
    assert life.events_of(passed, "USD") == []


def test_a_session_that_holds_nothing_ends_without_an_event() -> None:
    books = Books()
    books.totals.returned = 65
    (passed,) = books.at(30).passed
    assert (books.row.state, books.row.stage) == ("fenced", "over")
    assert life.events_of(passed, "USD") == []
    assert books.at(90 * 24 * 60).passed == []


@pytest.mark.parametrize("fields", [{"state": "closed", "last_n": 1}, {"decision": "free"}])
def test_what_is_closed_or_decided_is_left_alone(fields: dict[str, object]) -> None:
    assert Books(**fields).at(90 * 24 * 60).passed == []


def test_the_clock_of_service_counts_the_time_between_commits() -> None:
    clock = life.ServedClock(1_000, 50, MINUTE)
    assert clock.read(50 + 40_000) == 41_000
    clock.committed(50 + 40_000)
    assert clock.read(50 + 80_000) == 81_000


def test_an_outage_counts_a_bounded_time_however_long_it_lasts() -> None:
    clock = life.ServedClock(0, 0, MINUTE)
    hour = 60 * MINUTE
    assert clock.read(hour) == MINUTE
    clock.committed(hour)
    assert clock.read(hour + 5) == MINUTE + 5


def test_the_clock_never_goes_back() -> None:
    clock = life.ServedClock(7, 1_000, MINUTE)
    clock.committed(500)
    assert clock.read(400) == 7


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, life.SILENT),
        ({"stage": "doubted"}, life.SILENT),
        ({"journal": "truncated"}, life.REPLACED),
        ({"journal": "complete", "decision": "spent"}, life.DECIDED),
        ({"decision": "free"}, life.DECIDED),
    ],
)
def test_a_session_that_may_not_spend_is_told_why(fields: dict[str, object], reason: str) -> None:
    row = Books(**{"state": "fenced"} | fields).row
    assert life.why_fenced(row) == reason
