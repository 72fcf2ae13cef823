"""The registry of reservations that apps hold: names, deadlines, what is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.local_grpc.reservations import (
    Entry,
    RequestIdReusedError,
    Reservations,
    State,
    TooManyError,
)

SECOND = 1_000_000_000
HOLDER = b"h"


def registry(**limits: int) -> Reservations[str]:
    return Reservations(**{"most_open": 3, "longest_ns": 100 * SECOND, **limits})


def opened(
    made: Reservations[str], number: int = 1, *, now: int = 0, hold_s: int = 10
) -> Entry[str]:
    entry, is_new = made.begin(HOLDER, f"r{number}", b"c", now)
    assert is_new
    made.opened(entry, f"7-{number}", "held", now, hold_s * SECOND)
    return entry


def test_the_same_attempt_is_the_same_reservation() -> None:
    made = registry()
    entry = opened(made)
    assert made.begin(HOLDER, "r1", b"c", 1) == (entry, False)
    other, is_new = made.begin(b"another key", "r1", b"c", 1)
    assert is_new
    assert other is not entry


def test_another_content_under_the_same_id_is_refused() -> None:
    made = registry()
    opened(made)
    with pytest.raises(RequestIdReusedError):
        made.begin(HOLDER, "r1", b"d", 1)


def test_an_attempt_that_got_no_money_may_be_tried_again() -> None:
    made = registry()
    entry, _ = made.begin(HOLDER, "r1", b"c", 0)
    made.abandon(entry)
    assert made.open_count == 0
    assert made.begin(HOLDER, "r1", b"another content", 0)[1]


def test_only_so_many_are_open_those_that_wait_included() -> None:
    made = registry()
    opened(made, 1)
    opened(made, 2)
    made.begin(HOLDER, "r3", b"c", 0)
    with pytest.raises(TooManyError):
        made.begin(HOLDER, "r4", b"c", 0)
    assert not made.begin(HOLDER, "r1", b"c", 0)[1], "a repeat is no further one"


def test_another_key_does_not_find_it() -> None:
    made = registry()
    entry = opened(made)
    assert made.find(HOLDER, "7-1") is entry
    assert made.find(b"another key", "7-1") is None
    assert made.find(HOLDER, "7-2") is None


def test_a_deadline_only_moves_away_and_never_beyond_the_longest_call() -> None:
    made = registry()
    entry = opened(made, hold_s=10)
    made.extend(entry, 5 * SECOND, 2 * SECOND)
    assert (entry.deadline, entry.state) == (10 * SECOND, State.EXTENDED)
    made.extend(entry, 50 * SECOND, 2 * SECOND)
    assert entry.deadline == 52 * SECOND
    made.extend(entry, 90 * SECOND, 50 * SECOND)
    assert entry.deadline == 100 * SECOND
    made.extend(entry, 0, 60 * SECOND)
    assert entry.deadline == 100 * SECOND


def test_what_is_due_comes_in_the_order_of_deadlines() -> None:
    made = registry()
    late, early = opened(made, 1, hold_s=9), opened(made, 2, hold_s=3)
    assert made.next_deadline() == 3 * SECOND
    assert made.due(3 * SECOND - 1) == []
    assert made.due(9 * SECOND) == [early, late]


def test_what_ended_is_neither_due_nor_open_and_keeps_only_its_answer() -> None:
    made = registry()
    entry = opened(made)
    made.end(entry, State.SETTLED, b"word", "answer", SECOND)
    assert (made.open_count, made.next_deadline(), made.due(99 * SECOND)) == (0, None, [])
    found = made.find(HOLDER, "7-1")
    assert found is entry
    assert (entry.word, entry.answer, entry.held) == (b"word", "answer", None)


def test_what_expired_keeps_what_late_evidence_needs_and_may_end_once_more() -> None:
    made = registry()
    entry = opened(made)
    made.end(entry, State.EXPIRED, b"", "charged", 10 * SECOND)
    assert entry.held == "held"
    made.end(entry, State.SETTLED, b"word", "adjusted", 11 * SECOND)
    assert [entry.held, entry.state, made.remembered_count] == [None, State.SETTLED, 1]


def test_the_remembered_are_bounded_in_time_and_number() -> None:
    made = registry(remember_ns=100 * SECOND, most_remembered=2, most_expired=1)
    for number in range(1, 6):
        entry = opened(made, number, now=number * SECOND)
        state = State.EXPIRED if number > 3 else State.SETTLED
        made.end(entry, state, b"w", None, number * SECOND)
    known = [number for number in range(1, 6) if made.find(HOLDER, f"7-{number}")]
    assert known == [2, 3, 5]
    made.begin(HOLDER, "r9", b"c", 103 * SECOND)
    assert [number for number in range(1, 6) if made.find(HOLDER, f"7-{number}")] == [5]
    assert made.begin(HOLDER, "r2", b"another", 103 * SECOND)[1], "its id is free again"


steps = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "expire", "sweep", "extend"]), st.integers(0, 4)),
    max_size=60,
)


@given(steps)
def test_every_reservation_is_open_or_ended_and_counts_add_up(
    played: list[tuple[str, int]],
) -> None:
    made = registry(most_open=3, most_remembered=3, most_expired=2)
    entries: list[Entry[str]] = []
    now = 0
    for what, number in played:
        now += SECOND
        if what == "begin":
            try:
                entry, is_new = made.begin(HOLDER, f"n{len(entries)}", b"c", now)
            except TooManyError:
                assert made.open_count == 3
                continue
            assert is_new
            made.opened(entry, f"7-{len(entries)}", "held", now, number * SECOND)
            entries.append(entry)
        elif what == "sweep":
            for entry in made.due(now):
                made.end(entry, State.EXPIRED, b"", None, now)
        elif entries:
            entry = entries[number % len(entries)]
            if not entry.is_open:
                continue
            if what == "extend":
                made.extend(entry, number * SECOND, now)
            else:
                state = State.EXPIRED if what == "expire" else State.SETTLED
                made.end(entry, state, b"", None, now)
        still = [entry for entry in entries if entry.is_open]
        assert made.open_count == len(still)
        assert sorted(e.name for e in made.open_entries()) == sorted(e.name for e in still)
        assert made.next_deadline() == min((e.deadline for e in still), default=None)
        assert made.remembered_count <= 5
        assert all(entry.deadline <= entry.opened_at + 100 * SECOND for entry in entries)
