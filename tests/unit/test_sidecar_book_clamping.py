"""Clamping in the book: a call begins with what each of its pools has, within its own bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.allowances import Book, BudgetRef, Plan, Waiter
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.pools import AllowanceWord, Leg

NOW = 1_000 * NANOS_PER_SECOND
LATER = NOW + 2 * NANOS_PER_SECOND
TEAM, KEY, SOFT, WORLD = (
    BudgetRef(1, hard=True),
    BudgetRef(2, hard=True),
    BudgetRef(3, hard=False),
    BudgetRef(9, hard=True),
)
EVERYTHING = Plan((TEAM, KEY, SOFT), (WORLD,))


def book_of(team: int, key: int, world: int) -> Book:
    book = Book(
        Leg(7, 20, "organizations/acme", "USD", platform=False),
        Leg(8, 1, "organizations/platform", "USD", platform=True),
    )
    for budget_id, granted in ((1, team), (2, key), (3, 0), (9, world)):
        leg = book.platform if budget_id == WORLD.budget_id else book.organization
        assert leg is not None
        word = AllowanceWord(budget_id * 10, budget_id, budget_id != SOFT.budget_id, granted)
        book.hear(leg, word, sent_at=NOW, received_at=NOW)
    return book


def started(book: Book, waiter: Waiter) -> int | None:
    """What it began with, when the control plane said so."""
    for each in book.admit_granted(waiter, NOW, clamped=True):
        assert each is waiter
        assert each.reservation is not None
        return each.reservation.ceiling_nanos
    return None


@given(
    free=st.tuples(*[st.integers(0, 100)] * 3),
    ceiling=st.integers(0, 150),
    least=st.integers(0, 150),
)
def test_it_begins_with_the_tightest_pool_or_not_at_all(
    free: tuple[int, int, int], ceiling: int, least: int
) -> None:
    book = book_of(*free)
    waiter = book.wait(EVERYTHING, ceiling, NOW, LATER, least)
    fits = min(*free, ceiling)
    began = started(book, waiter)
    assert began == (fits if fits >= min(least, ceiling) else None)
    legs = [leg for leg in (book.organization, book.platform) if leg is not None]
    left = [pool.free_nanos for leg in legs for pool in leg.pools.values() if pool.lent]
    assert left == [each - (began or 0) for each in free]
    assert (waiter.order in book.waiters) == (began is None)


def test_money_that_came_in_one_session_alone_waits_for_the_other() -> None:
    book = book_of(60, 60, 0)
    waiter = book.wait(EVERYTHING, 100, NOW, LATER, 20)
    assert started(book, waiter) is None
    assert book.platform is not None
    word = AllowanceWord(90, 9, lent=True, granted_nanos=100)
    book.hear(book.platform, word, sent_at=NOW, received_at=NOW)
    # The platform's own verdict is that it was granted whole.
    (each,) = book.admit_granted(waiter, NOW)
    assert each.reservation is not None
    assert each.reservation.ceiling_nanos == 60


def test_at_the_end_of_a_wait_nothing_is_taken_from_who_waits_before() -> None:
    book = book_of(60, 100, 100)
    first = book.wait(Plan((TEAM,)), 80, NOW, LATER)
    second = book.wait(Plan((TEAM,)), 70, NOW, LATER, 20)
    assert list(book.admit_clamped(second, NOW)) == []
    book.withdraw(first)
    assert list(book.admit_clamped(second, NOW)) == [second]


@pytest.mark.parametrize("least", [None, 80, 500])
def test_who_can_do_with_nothing_less_gets_nothing_at_the_end_of_a_wait(least: int | None) -> None:
    book = book_of(60, 100, 100)
    waiter = book.wait(Plan((TEAM,)), 80, NOW, LATER, least)
    assert list(book.admit_clamped(waiter, NOW)) == []
    assert waiter.order in book.waiters


def test_an_unknown_window_admits_nobody() -> None:
    book = Book(Leg(7, 20, "organizations/acme", "USD", platform=False))
    waiter = book.wait(Plan((TEAM,)), 80, NOW, LATER, 0)
    assert list(book.admit_clamped(waiter, NOW)) == []
