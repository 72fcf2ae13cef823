"""The outbox: frames are numbered without gaps, bounded, and said again from the present state."""

import pytest

from bursar.v1 import allowances_pb2, charges_pb2
from bursar_sidecar import outbox as outbox_module
from bursar_sidecar.allowances import Book, BudgetRef, Plan, Waiter
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND
from bursar_sidecar.outbox import Charge, Outbox
from bursar_sidecar.pools import ENDED_GRACE_NS, AllowanceWord, Leg

NOW = 1_000 * NANOS_PER_SECOND
LATER = NOW + 2 * NANOS_PER_SECOND
TEAM = BudgetRef(1, hard=True)
KEY = BudgetRef(2, hard=True)
SOFT = BudgetRef(3, hard=False)


class Desk:
    """A book with one session and its outbox."""

    def __init__(self) -> None:
        self.leg = Leg(7, 20, "organizations/acme", "USD", platform=False)
        self.book = Book(organization=self.leg)
        self.outbox = Outbox(self.leg)

    def lend(self, budget_id: int, granted: int, *, ends_in_ms: int = 0, now: int = NOW) -> None:
        word = AllowanceWord(budget_id * 10, budget_id, True, granted, ends_in_ms=ends_in_ms)
        self.book.hear(self.leg, word, sent_at=now, received_at=now)

    def frame(self, now: int = NOW) -> allowances_pb2.SidecarFrame:
        frame = self.outbox.compose(self.book, now)
        assert frame is not None
        return frame

    def silent(self, now: int = NOW) -> bool:
        return self.outbox.compose(self.book, now) is None

    def wait(self, ceiling: int, *refs: BudgetRef) -> Waiter:
        waiter = self.book.wait(Plan(refs), ceiling, NOW, LATER)
        self.outbox.ask(waiter)
        return waiter

    def charge(self, n: int) -> Charge:
        message = charges_pb2.Settlement(session_epoch=7, n=n).SerializeToString()
        charge = Charge(7, n, message)
        self.outbox.charges.append(charge)
        return charge


@pytest.fixture
def desk() -> Desk:
    return Desk()


def numbers(frame: allowances_pb2.SidecarFrame) -> list[int]:
    return [settlement.n for settlement in frame.settlements]


def test_nothing_to_say_is_no_frame_but_a_sign_of_life_is_one(desk: Desk) -> None:
    assert desk.silent()
    desk.outbox.keep_alive()
    frame = desk.frame()
    assert (frame.session_epoch, frame.seq) == (7, 1)
    assert desk.silent()


def test_charges_go_in_order_and_are_acknowledged_by_frame(desk: Desk) -> None:
    charges = [desk.charge(n) for n in (1, 2)]
    assert numbers(desk.frame()) == [1, 2]
    later = desk.charge(3)
    assert numbers(desk.frame()) == [3]
    assert not desk.outbox.is_settled
    applied = desk.outbox.applied(1)
    assert (applied.charges, applied.sent_at) == (charges, NOW)
    assert desk.outbox.applied(1).charges == []
    assert desk.outbox.applied(2).charges == [later]
    assert desk.outbox.is_settled


def test_a_frame_holds_so_much_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_SETTLEMENTS", 2)
    for n in range(1, 6):
        desk.charge(n)
    desk.outbox.closes.append((5, 9))
    frames = [desk.frame() for _ in range(3)]
    assert [numbers(frame) for frame in frames] == [[1, 2], [3, 4], [5]]
    # A close follows the last charge.
    assert [len(frame.close_sessions) for frame in frames] == [0, 0, 1]


def test_too_much_unapplied_holds_the_next_frame_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_UNAPPLIED_FRAMES", 2)
    for n in (1, 2):
        desk.charge(n)
        desk.frame()
    desk.charge(3)
    assert desk.silent()
    desk.outbox.applied(1)
    assert numbers(desk.frame()) == [3]


def test_after_a_break_what_was_not_applied_is_said_again_in_order(desk: Desk) -> None:
    for n in (1, 2, 3):
        desk.charge(n)
        desk.frame()
    desk.charge(4)
    applied = desk.outbox.resume(1)
    assert [charge.n for charge in applied.charges] == [1]
    frame = desk.frame()
    assert (frame.seq, numbers(frame)) == (2, [2, 3, 4])


def test_a_need_names_what_is_short_and_sends_useless_money_home(desk: Desk) -> None:
    desk.lend(1, 500)
    desk.lend(2, 30)
    desk.wait(100, TEAM, KEY, SOFT)
    frame = desk.frame()
    (need,) = frame.needs
    assert (need.need_id, need.wait_ms) == (1, 2_000 - outbox_module.ANSWER_MARGIN_MS)
    assert [(x.budget_id, x.amount_nanos, x.least_nanos) for x in need.lines] == [
        (2, 100, 100),
        (3, 0, 0),
    ]
    assert need.lines[0].want_nanos == 300
    told = {u.budget_window_id: (u.returned_nanos, u.free_nanos) for u in frame.usage}
    assert told == {10: (0, 500), 20: (30, 0)}


def test_a_need_makes_up_for_an_overrun(desk: Desk) -> None:
    desk.lend(1, 100)
    reservation = desk.book.reserve(Plan((TEAM,)), 100, NOW)
    assert reservation is not None
    desk.book.settle(reservation, 140, NOW)
    desk.wait(100, TEAM)
    assert desk.frame().needs[0].lines[0].amount_nanos == 140


def test_many_needs_at_once_want_a_stock_once(desk: Desk) -> None:
    for _ in range(3):
        desk.wait(100, TEAM)
    frame = desk.frame()
    assert [need.need_id for need in frame.needs] == [1, 2, 3]
    assert [need.lines[0].want_nanos for need in frame.needs] == [300, 0, 0]


def test_a_waiter_asks_once_until_it_is_answered(desk: Desk) -> None:
    waiter = desk.wait(100, TEAM)
    desk.outbox.ask(waiter)
    assert len(desk.frame().needs) == 1
    desk.outbox.ask(waiter)
    assert desk.silent()
    assert desk.outbox.answered(1) is waiter
    assert desk.outbox.answered(1) is None
    desk.outbox.ask(waiter)
    assert desk.frame().needs[0].need_id == 2


def test_a_session_that_lends_nothing_of_what_is_short_says_nothing(desk: Desk) -> None:
    desk.book.platform = Leg(8, 1, "organizations/platform", "USD", platform=True)
    platform = Outbox(desk.book.platform)
    platform.ask(desk.wait(100, TEAM))
    assert platform.compose(desk.book, NOW) is None
    assert desk.frame().needs


def test_who_leaves_is_withdrawn_if_it_was_asked_for(desk: Desk) -> None:
    asked, unasked = desk.wait(100, TEAM), None
    desk.frame()
    unasked = desk.wait(100, TEAM)
    for waiter in (asked, unasked):
        desk.book.withdraw(waiter)
        desk.outbox.withdraw(waiter)
    frame = desk.frame()
    assert (list(frame.withdrawn_need_ids), len(frame.needs)) == ([1], 0)


def test_after_a_break_who_waits_asks_anew_without_a_gap(desk: Desk) -> None:
    desk.wait(100, TEAM)
    desk.frame()
    desk.wait(100, TEAM)
    desk.frame()
    desk.wait(100, TEAM)
    # The first need was applied there, the second was lost on the way.
    desk.outbox.resume(1)
    frame = desk.frame()
    assert [need.need_id for need in frame.needs] == [2, 3, 4]
    assert list(frame.withdrawn_need_ids) == [1]


def test_a_pool_tells_how_it_stands_when_it_is_low(desk: Desk) -> None:
    desk.lend(1, 300)
    desk.book.reserve(Plan((TEAM,)), 100, NOW)
    (usage,) = desk.frame().usage
    assert (usage.granted_seen_nanos, usage.reserved_nanos, usage.free_nanos) == (300, 100, 200)
    assert usage.want_nanos == 300
    assert desk.silent()
    desk.book.reserve(Plan((TEAM,)), 100, NOW)
    # Low now, but it was told a moment ago.
    assert desk.silent(NOW + 99 * NANOS_PER_MS)
    assert desk.frame(NOW + 100 * NANOS_PER_MS).usage[0].free_nanos == 100


def test_a_pool_at_rest_is_not_told_again(desk: Desk) -> None:
    desk.lend(1, 1_000)
    desk.book.reserve(Plan((TEAM,)), 1, NOW)
    desk.frame()
    for seconds in (1, 5, 100):
        assert desk.silent(NOW + seconds * NANOS_PER_SECOND)


def test_an_ended_window_gives_its_rest_back_and_is_forgotten_once_that_is_known(
    desk: Desk,
) -> None:
    desk.lend(1, 300, ends_in_ms=1_001)
    reservation = desk.book.reserve(Plan((TEAM,)), 100, NOW)
    assert reservation is not None
    desk.frame()
    over = NOW + NANOS_PER_SECOND + ENDED_GRACE_NS
    assert desk.silent(over - 1)
    (usage,) = desk.frame(over).usage
    assert (usage.returned_nanos, usage.reserved_nanos) == (200, 100)
    desk.book.settle(reservation, 40, over)
    (usage,) = desk.frame(over + 1).usage
    assert (usage.returned_nanos, usage.free_nanos) == (260, 0)
    assert desk.silent(over + 2)
    assert 10 in desk.leg.pools
    desk.outbox.applied(3)
    assert desk.silent(over + 3)
    assert desk.leg.pools == {}
    assert desk.leg.by_budget == {}


def test_keys_are_asked_about_in_bounded_frames(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_RESOLVE", 2)
    desk.outbox.resolve([b"a", b"b", b"a", b"c"])
    assert [ask.key_hash for ask in desk.frame().resolve_keys] == [b"a", b"b"]
    assert [ask.key_hash for ask in desk.frame().resolve_keys] == [b"c"]


def test_a_session_that_ends_hands_its_debts_over(desk: Desk) -> None:
    first = desk.charge(1)
    desk.frame()
    second = desk.charge(2)
    waiter = desk.wait(100, TEAM)
    assert desk.outbox.hand_over() == ([first, second], [waiter])


def test_absurd_amounts_never_leave_the_bounds_of_the_border(desk: Desk) -> None:
    """A frame beyond them would end the stream, again and again, for everybody."""
    most = 10**18
    desk.lend(1, most)
    reservation = desk.book.reserve(Plan((TEAM,)), most, NOW)
    assert reservation is not None
    (usage,) = desk.frame().usage
    assert usage.want_nanos == most
    desk.book.settle(reservation, most, NOW)
    more = desk.book.reserve(Plan((TEAM,)), 0, NOW)
    assert more is not None
    desk.book.settle(more, most, NOW)
    desk.wait(most, TEAM, KEY)
    frame = desk.frame(NOW + NANOS_PER_SECOND)
    amounts = [x for line in frame.needs[0].lines for x in (line.amount_nanos, line.want_nanos)]
    assert amounts == [most] * 4
    assert abs(frame.usage[0].free_nanos) <= most


def test_a_pool_in_its_tail_asks_for_nothing_ahead_and_sends_home_what_lies_idle(
    desk: Desk,
) -> None:
    word = AllowanceWord(10, 1, True, 100, tail=True, hold_idle_ms=500)
    desk.book.hear(desk.leg, word, sent_at=NOW, received_at=NOW)
    reservation = desk.book.reserve(Plan((TEAM,)), 60, NOW)
    assert reservation is not None
    (usage,) = desk.frame().usage
    assert (usage.free_nanos, usage.want_nanos, usage.returned_nanos) == (40, 0, 0)
    assert desk.silent(NOW + 499 * NANOS_PER_MS)
    (usage,) = desk.frame(NOW + 500 * NANOS_PER_MS).usage
    assert (usage.free_nanos, usage.returned_nanos, usage.reserved_nanos) == (0, 40, 60)


def test_what_has_just_come_is_not_idle_however_long_nothing_was_used(desk: Desk) -> None:
    # Simulation, seed 364: a call in the tail of two budgets gave the money of each home while it
    # asked for the other, for ever.
    word = AllowanceWord(10, 1, True, 100, tail=True, hold_idle_ms=500)
    later = NOW + 60 * NANOS_PER_SECOND
    desk.book.hear(desk.leg, word, sent_at=NOW, received_at=NOW)
    word = AllowanceWord(10, 1, True, 130, tail=True, hold_idle_ms=500)
    desk.book.hear(desk.leg, word, sent_at=later, received_at=later)
    assert desk.leg.pools[10].is_idle_in_tail(later + 499 * NANOS_PER_MS) is False
    assert desk.leg.pools[10].is_idle_in_tail(later + 500 * NANOS_PER_MS)


def test_a_pool_that_was_lent_ahead_is_told_of_once(desk: Desk) -> None:
    # The control plane recalls money only from those that said they have it.
    desk.lend(1, 100)
    (usage,) = desk.frame().usage
    assert usage.free_nanos == 100
    assert desk.silent(NOW + 3 * NANOS_PER_SECOND)
