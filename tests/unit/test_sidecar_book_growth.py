"""Growth of an open call in the book: all pools or none, before all who have not begun."""

import pytest

from bursar_sidecar.allowances import Book, BudgetRef, LineIsFullError, Plan, Reservation, Waiter
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.pools import AllowanceWord, Leg, Pool

SECOND = NANOS_PER_SECOND
NOW = 1_000 * SECOND
LATER = NOW + 2 * SECOND
TEAM, KEY, SOFT = BudgetRef(1, hard=True), BudgetRef(2, hard=True), BudgetRef(3, hard=False)
WORLD = BudgetRef(9, hard=True)
EVERYTHING = Plan((TEAM, KEY, SOFT), (WORLD,))


@pytest.fixture
def book() -> Book:
    """100 nanos of the team's budget, 200 of the key's, 300 of the platform's."""
    book = Book(
        Leg(7, 20, "organizations/acme", "USD", platform=False),
        Leg(8, 1, "organizations/platform", "USD", platform=True),
    )
    for budget_id, granted in ((1, 100), (2, 200), (3, 0), (9, 300)):
        lend(book, budget_id, granted)
    return book


def lend(book: Book, budget_id: int, granted: int, *, window_id: int = 0) -> Pool:
    leg = book.platform if budget_id == WORLD.budget_id else book.organization
    assert leg is not None
    word = AllowanceWord(
        window_id or budget_id * 10, budget_id, budget_id != SOFT.budget_id, granted
    )
    return book.hear(leg, word, sent_at=NOW, received_at=NOW)


def reserve(book: Book, plan: Plan, nanos: int) -> Reservation:
    reservation = book.reserve(plan, nanos, NOW)
    assert reservation is not None
    return reservation


def free(book: Book) -> list[int]:
    legs = [leg for leg in (book.organization, book.platform) if leg is not None]
    return [pool.free_nanos for leg in legs for pool in leg.pools.values() if pool.lent]


def turns(book: Book) -> list[Waiter]:
    return list(book.admit(NOW))


def test_a_call_grows_in_every_pool_or_in_none(book: Book) -> None:
    call = reserve(book, EVERYTHING, 40)
    assert book.extend(call, 60, NOW)
    assert (call.ceiling_nanos, free(book)) == (100, [0, 100, 200])
    assert not book.extend(call, 1, NOW)
    assert (call.ceiling_nanos, free(book)) == (100, [0, 100, 200])
    assert book.settle(call, 70, NOW) == 0
    assert free(book) == [30, 130, 230]


def test_the_platforms_part_alone_can_keep_a_call_from_growing(book: Book) -> None:
    hog = reserve(book, Plan((), (WORLD,)), 290)
    call = reserve(book, EVERYTHING, 5)
    assert not book.extend(call, 6, NOW)
    assert free(book) == [95, 195, 5]
    book.settle(hog, 0, NOW)
    assert book.extend(call, 6, NOW)


def test_growth_that_could_not_be_written_is_taken_back(book: Book) -> None:
    call = reserve(book, EVERYTHING, 40)
    assert book.extend(call, 60, NOW)
    book.undo_extend(call, 60)
    assert (call.ceiling_nanos, free(book)) == (40, [60, 160, 260])
    assert book.organization is not None
    assert book.organization.last_n == 1


def test_growth_passes_calls_that_have_not_begun(book: Book) -> None:
    call = reserve(book, Plan((TEAM,)), 40)
    first = book.wait(Plan((TEAM,)), 90, NOW, LATER)
    assert book.extend(call, 10, NOW)
    growth = book.wait_to_grow(call, 80, NOW, LATER)
    assert growth.short == first.short == {1}
    lend(book, 1, 180)
    assert turns(book) == [growth]
    assert (call.ceiling_nanos, growth.reservation, free(book)[0]) == (130, call, 50)
    assert book.waiters == {first.order: first}


def test_a_call_stands_behind_growth_even_if_its_own_money_is_there(book: Book) -> None:
    call = reserve(book, Plan((TEAM,)), 40)
    growth = book.wait_to_grow(call, 80, NOW, LATER)
    assert book.reserve(Plan((TEAM,)), 10, NOW) is None
    assert book.wait(Plan((TEAM,)), 10, NOW, LATER).short == {1}
    book.withdraw(growth)
    assert len(turns(book)) == 1


def test_growth_stands_behind_earlier_growth_and_before_later(book: Book) -> None:
    calls = [reserve(book, Plan((TEAM,)), 30) for _ in range(3)]
    waiting = [book.wait_to_grow(call, 20, NOW, LATER) for call in calls[:2]]
    assert not book.extend(calls[2], 5, NOW)
    book.settle(calls[2], 0, NOW)
    lend(book, 1, 110)
    assert turns(book) == waiting


def test_growth_draws_on_the_window_of_the_calls_admission(book: Book) -> None:
    assert book.organization is not None
    old = book.organization.pools[10]
    call = reserve(book, Plan((TEAM,)), 40)
    old.ends_at = NOW + SECOND
    new = lend(book, 1, 1_000, window_id=11)
    after = NOW + 10 * SECOND
    assert book.extend(call, 60, after)
    assert (old.reserved_nanos, new.reserved_nanos) == (100, 0)
    assert not book.extend(call, 1, after)
    growth = book.wait_to_grow(call, 1, after, after + SECOND)
    lend(book, 1, 101, window_id=10)
    assert list(book.admit(after)) == [growth]


@pytest.mark.parametrize("which", ["fenced", "replaced", "platform replaced"])
def test_a_call_of_an_older_session_does_not_grow(book: Book, which: str) -> None:
    call = reserve(book, EVERYTHING, 10)
    growing = book.wait_to_grow(call, 1_000, NOW, LATER)
    assert book.organization is not None
    if which == "fenced":
        book.organization.fenced = True
    elif which == "replaced":
        book.organization = Leg(9, 20, "organizations/acme", "USD", platform=False)
    else:
        book.platform = Leg(9, 1, "organizations/platform", "USD", platform=True)
    assert not book.is_current(call)
    assert not book.extend(call, 1, NOW)
    for part in call.parts:
        for pool in part.pools:
            pool.granted_nanos += 10_000
    book.rouse()
    assert turns(book) == []
    book.withdraw(growing)
    assert book.settle(call, 10, NOW) == 0


def test_a_settled_call_does_not_grow_nor_by_nothing(book: Book) -> None:
    call = reserve(book, EVERYTHING, 10)
    with pytest.raises(ValueError, match="by_nanos is 0"):
        book.extend(call, 0, NOW)
    with pytest.raises(ValueError, match="did not grow by 11"):
        book.undo_extend(call, 11)
    book.settle(call, 10, NOW)
    with pytest.raises(ValueError, match="settled already"):
        book.extend(call, 1, NOW)
    with pytest.raises(ValueError, match="did not grow"):
        book.undo_extend(call, 1)


def test_the_line_is_bounded_for_growth_too(book: Book) -> None:
    book.max_waiters = 1
    call = reserve(book, EVERYTHING, 10)
    book.wait_to_grow(call, 1_000, NOW, LATER)
    with pytest.raises(LineIsFullError):
        book.wait_to_grow(call, 1_000, NOW, LATER)
