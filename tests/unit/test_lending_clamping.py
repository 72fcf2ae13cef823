"""Calls that can do with less: lent what there is, at once or at the end of their wait."""

from hypothesis import given
from hypothesis import strategies as st

from bursar_server.allowances import rules
from bursar_server.allowances.rules import Books, Decisions, Need, NeedLine

LATE, EARLY = 100, 0


def books_of(*available: int, limit: int = 100) -> Books:
    """Windows 10, 11 ... of a limit, with so much of it to be had; session 9 has the rest."""
    books = Books()
    for window_id, free in enumerate(available, 10):
        books.windows[window_id] = rules.WindowBalance(window_id, window_id, True, limit, limit)
        books.grant(9, window_id, limit - free)
    return books


def need(*lines: tuple[int, int], epoch: int = 1, deadline: int = LATE) -> Need:
    """A call that wants, and can do with, so much of windows 10, 11 ..."""
    asked = tuple(
        NeedLine(window_id, amount, least, 500)
        for window_id, (amount, least) in enumerate(lines, 10)
    )
    return Need(epoch, 1, asked, deadline)


def lend(books: Books, *needs: Need, now: int = EARLY) -> Decisions:
    return rules.lend(books, needs, [], {}, now_ms=now)


def granted(books: Books, epoch: int = 1) -> list[int]:
    return [books.of(epoch, window_id).granted for window_id in books.windows]


def test_what_can_never_be_had_is_clamped_at_once() -> None:
    books = books_of(60)
    decisions = lend(books, call := need((101, 20)))
    assert (decisions.clamped, decisions.granted, decisions.waiting) == ([call], [], [])
    assert (granted(books), decisions.touched) == ([60], {(1, 10)})


def test_what_may_come_home_is_waited_for_and_clamped_at_the_deadline() -> None:
    books = books_of(60)
    call = need((90, 20))
    assert lend(books, call).waiting == [call]
    assert granted(books) == [0]
    decisions = lend(books, call, now=LATE)
    assert (decisions.clamped, decisions.contended) == ([call], [])
    assert granted(books) == [60]


def test_what_came_home_in_the_meantime_is_lent_whole() -> None:
    books = books_of(60)
    call = need((90, 20))
    books.give_back(9, 10, 40)
    assert lend(books, call, now=LATE).granted == [call]
    assert granted(books)[0] >= 90


def test_who_cannot_do_with_less_is_contended_as_before() -> None:
    books = books_of(60)
    call = need((90, 90))
    assert lend(books, call, now=LATE).contended == [(call, [10])]
    assert granted(books) == [0]


def test_all_lines_have_their_least_or_none_gets_anything() -> None:
    books = books_of(60, 15)
    call = need((90, 20), (90, 20))
    decisions = lend(books, call, now=LATE)
    assert decisions.contended == [(call, [10, 11])]
    assert granted(books) == [0, 0]


def test_every_line_gets_what_there_is_up_to_what_it_asks_for() -> None:
    books = books_of(60, 100)
    call = need((90, 20), (90, 20))
    assert lend(books, call, now=LATE).clamped == [call]
    assert granted(books) == [60, 90]


def test_exhausted_is_said_only_if_not_even_the_least_is_there() -> None:
    books = books_of(60)
    books.post(9, [10], 40)
    books.post(9, [10], 30)
    assert books.windows[10].attainable == 30
    assert lend(books, call := need((90, 31))).exhausted == [(call, [10])]
    assert lend(books, call := need((90, 30))).clamped == [call]


def test_a_clamped_call_takes_nothing_that_an_earlier_one_waits_for() -> None:
    books = books_of(60)
    first, second = need((80, 80), deadline=200), need((500, 20), epoch=2)
    decisions = lend(books, first, second)
    assert (decisions.waiting, decisions.clamped) == ([first, second], [])
    decisions = lend(books, first, second, now=LATE)
    assert [each for each, _ in decisions.contended] == [second]
    assert granted(books, 2) == [0]


def test_growth_is_never_clamped() -> None:
    books = books_of(60)
    call = Need(1, 1, (NeedLine(10, 90, 90, 0),), LATE, growth=True)
    assert lend(books, call, now=LATE).contended == [(call, [10])]


lines = st.lists(
    st.tuples(st.integers(0, 150), st.integers(0, 150)).map(lambda p: (max(p), min(p))),
    min_size=2,
    max_size=2,
)


@given(
    available=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    calls=st.lists(lines, min_size=1, max_size=4),
    now=st.sampled_from((EARLY, LATE)),
)
def test_whatever_is_asked_nothing_is_lent_beyond_the_limit_and_none_gets_less_than_its_least(
    available: tuple[int, int], calls: list[list[tuple[int, int]]], now: int
) -> None:
    books = books_of(*available)
    needs = [need(*asked, epoch=epoch) for epoch, asked in enumerate(calls, 1)]
    decisions = lend(books, *needs, now=now)
    for window in books.windows.values():
        assert window.settled + window.outstanding + window.in_doubt <= window.limit
    judged = [*decisions.granted, *decisions.clamped, *decisions.waiting]
    judged += [each for each, _ in (*decisions.exhausted, *decisions.contended)]
    assert sorted(each.session_epoch for each in judged) == [each.session_epoch for each in needs]
    for each in needs:
        got = granted(books, each.session_epoch)
        if each in decisions.clamped:
            assert all(
                line.least <= amount <= line.amount
                for line, amount in zip(each.lines, got, strict=True)
            )
            assert any(a < line.amount for line, a in zip(each.lines, got, strict=True))
        elif each in decisions.granted:
            assert all(a >= line.amount for line, a in zip(each.lines, got, strict=True))
        else:
            assert not any(got)
