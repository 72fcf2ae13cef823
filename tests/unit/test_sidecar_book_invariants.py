"""The book under any order of events: money is never invented, never lost, never jumps the line.

A model beside the book keeps its own account of every grant, reservation and cost, and compares
after each step.
"""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bursar_sidecar.allowances import Book, BudgetRef, Plan, Reservation, Waiter
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.pools import AllowanceWord, Leg, Pool

HARD = (1, 2, 3)
SOFT = 4
PLATFORM = 9

plans = st.builds(
    lambda hard, soft, platform: Plan(
        tuple(BudgetRef(b, hard=True) for b in sorted(hard))
        + ((BudgetRef(SOFT, hard=False),) if soft else ()),
        (BudgetRef(PLATFORM, hard=True),) if platform else (),
    ),
    st.sets(st.sampled_from(HARD)),
    st.booleans(),
    st.booleans(),
)
amounts = st.integers(0, 60)


@dataclass
class Account:
    """What the model knows of one window: totals as told, and the calls it holds."""

    granted: int = 0
    returned: int = 0
    settled: int = 0


class BookMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000 * NANOS_PER_SECOND
        self.organization = Leg(7, 20, "organizations/acme", "USD", platform=False)
        self.platform = Leg(8, 1, "organizations/platform", "USD", platform=True)
        self.book = Book(self.organization, self.platform)
        self.accounts: dict[int, Account] = {}
        self.open: list[Reservation] = []
        self.waiting: list[Waiter] = []
        self.numbers: dict[int, list[int]] = {7: [], 8: []}

    def pool(self, budget_id: int) -> Pool | None:
        leg = self.platform if budget_id == PLATFORM else self.organization
        return leg.pools.get(budget_id * 10)

    def free(self, budget_id: int) -> int | None:
        """What the model says is free; None: the window is unknown."""
        account = self.accounts.get(budget_id)
        if account is None:
            return None
        held = sum(r.ceiling_nanos for r in self.open if budget_id in self.budgets(r.plan))
        return account.granted - account.returned - account.settled - held

    def budgets(self, plan: Plan) -> list[int]:
        return [ref.budget_id for ref in (*plan.organization, *plan.platform)]

    def fits(self, plan: Plan, ceiling: int) -> bool:
        for ref in (*plan.organization, *plan.platform):
            free = self.free(ref.budget_id)
            if free is None or (ref.hard and free < ceiling):
                return False
        return True

    def started(self, reservation: Reservation) -> None:
        for part in reservation.parts:
            self.numbers[part.leg.epoch].append(part.n)
        self.open.append(reservation)

    @rule(budget_id=st.sampled_from((*HARD, SOFT, PLATFORM)), granted=st.integers(0, 300))
    def hear(self, budget_id: int, granted: int) -> None:
        leg = self.platform if budget_id == PLATFORM else self.organization
        word = AllowanceWord(budget_id * 10, budget_id, budget_id != SOFT, granted)
        self.book.hear(leg, word, sent_at=self.now, received_at=self.now)
        account = self.accounts.setdefault(budget_id, Account())
        account.granted = max(account.granted, granted)

    @rule(plan=plans, ceiling=amounts)
    def reserve(self, plan: Plan, ceiling: int) -> None:
        behind = any(
            self.free(ref.budget_id) is not None and ref.budget_id in waiter.short
            for waiter in self.waiting
            for ref in (*plan.organization, *plan.platform)
            if ref.hard
        )
        fits = self.fits(plan, ceiling)
        reservation = self.book.reserve(plan, ceiling, self.now)
        if reservation is None:
            assert behind or not fits
            return
        assert fits
        assert not behind
        self.started(reservation)

    @rule(plan=plans, ceiling=amounts)
    def reserve_or_wait(self, plan: Plan, ceiling: int) -> None:
        reservation = self.book.reserve(plan, ceiling, self.now)
        if reservation is not None:
            self.started(reservation)
            return
        self.waiting.append(
            self.book.wait(plan, ceiling, self.now, self.now + 2 * NANOS_PER_SECOND)
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cost=st.integers(0, 120))
    def settle(self, data: st.DataObject, cost: int) -> None:
        reservation = self.open[data.draw(st.integers(0, len(self.open) - 1))]
        budgets = self.budgets(reservation.plan)
        short_before = {b: max(0, -(self.free(b) or 0)) for b in budgets}
        self.open.remove(reservation)
        for waiter in [each for each in self.waiting if each.growing is reservation]:
            self.waiting.remove(waiter)
            self.book.withdraw(waiter)
        overrun = self.book.settle(reservation, cost, self.now)
        for budget_id in budgets:
            self.accounts[budget_id].settled += cost
        grown = [max(0, -(self.free(b) or 0)) - short_before[b] for b in budgets if b != SOFT]
        assert overrun == max([0, *grown])

    def grows(self, reservation: Reservation, by: int) -> bool:
        """Whether the model says that it fits."""
        return all(
            (self.free(ref.budget_id) or 0) >= by
            for ref in (*reservation.plan.organization, *reservation.plan.platform)
            if ref.hard
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data(), by=st.integers(1, 60), waits=st.booleans(), written=st.booleans())
    def extend(self, data: st.DataObject, by: int, waits: bool, written: bool) -> None:
        reservation = data.draw(st.sampled_from(self.open))
        before, fits = reservation.ceiling_nanos, self.grows(reservation, by)
        budgets = set(self.budgets(reservation.plan))
        behind = any(waiter.growing and waiter.short & budgets for waiter in self.waiting)
        if self.book.extend(reservation, by, self.now):
            assert fits
            assert not behind
            assert reservation.ceiling_nanos == before + by
            if not written:
                self.book.undo_extend(reservation, by)
                assert reservation.ceiling_nanos == before
            return
        assert behind or not fits
        assert reservation.ceiling_nanos == before
        if waits:
            deadline = self.now + 2 * NANOS_PER_SECOND
            self.waiting.append(self.book.wait_to_grow(reservation, by, self.now, deadline))

    @precondition(lambda self: self.open)
    @rule()
    def undo_latest(self) -> None:
        reservation = self.open[-1]
        if any(waiter.growing is reservation for waiter in self.waiting):
            return
        if any(self.numbers[p.leg.epoch][-1] != p.n for p in reservation.parts):
            return
        self.open.pop()
        self.book.undo(reservation)
        for part in reservation.parts:
            self.numbers[part.leg.epoch].pop()

    @precondition(lambda self: self.accounts)
    @rule(data=st.data(), at_most=st.none() | amounts)
    def recall(self, data: st.DataObject, at_most: int | None) -> None:
        budget_id = data.draw(st.sampled_from(sorted(self.accounts)))
        pool = self.pool(budget_id)
        assert pool is not None
        free = self.free(budget_id)
        assert free is not None
        given = pool.give_back(at_most)
        assert 0 <= given <= max(0, free)
        self.accounts[budget_id].returned += given

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.book.withdraw(waiter)

    @precondition(lambda self: any(waiter.growing is None for waiter in self.waiting))
    @rule(data=st.data(), plan=plans)
    def replan(self, data: st.DataObject, plan: Plan) -> None:
        admissions = [waiter for waiter in self.waiting if waiter.growing is None]
        self.book.replan(data.draw(st.sampled_from(admissions)), plan, self.now)

    @rule(ms=st.integers(1, 3_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms * 1_000_000
        self.book.rouse()

    @rule()
    def admit(self) -> None:
        for waiter in self.book.admit(self.now):
            assert waiter.reservation is not None
            self.waiting.remove(waiter)
            if waiter.growing is not None:
                # It has grown: before that so much more was free.
                assert self.grows(waiter.growing, 0)
                continue
            assert self.fits(waiter.plan, waiter.ceiling_nanos)
            self.started(waiter.reservation)
        # Nobody is left standing whose money is there and who waits behind nobody.
        for waiter in self.waiting:
            assert waiter.short

    @invariant()
    def totals_agree(self) -> None:
        for budget_id, account in self.accounts.items():
            pool = self.pool(budget_id)
            assert pool is not None
            assert pool.granted_nanos == account.granted
            assert pool.returned_nanos == account.returned
            assert pool.settled_nanos == account.settled
            assert pool.free_nanos == self.free(budget_id)
            assert (
                pool.free_nanos + pool.reserved_nanos + pool.settled_nanos
                == pool.granted_nanos - pool.returned_nanos
            )

    @invariant()
    def never_more_is_held_than_outstanding(self) -> None:
        for budget_id, account in self.accounts.items():
            if budget_id == SOFT:
                continue
            pool = self.pool(budget_id)
            assert pool is not None
            outstanding = account.granted - account.returned - account.settled
            assert max(0, pool.free_nanos) + pool.reserved_nanos <= max(
                pool.reserved_nanos, outstanding
            )

    @invariant()
    def numbers_have_no_gaps(self) -> None:
        for leg in (self.organization, self.platform):
            assert self.numbers[leg.epoch] == list(range(1, leg.last_n + 1))
            assert leg.open_count == sum(
                part.leg is leg for reservation in self.open for part in reservation.parts
            )

    @invariant()
    def the_line_is_who_waits(self) -> None:
        assert list(self.book.waiters.values()) == self.waiting
        growing = [waiter.order for waiter in self.waiting if waiter.growing]
        assert max(growing, default=-1) < 0
        lined_up = {waiter.order for line in self.book._lines.values() for waiter in line}
        assert lined_up == {waiter.order for waiter in self.waiting if waiter.short}
        for line in self.book._lines.values():
            assert line
            assert [waiter.order for waiter in line] == sorted(w.order for w in line)


TestBook = BookMachine.TestCase
# Long enough that lines of several waiters form and dissolve.
TestBook.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
