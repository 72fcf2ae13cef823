"""The allowance book: which money is free, which call may start, who waits for what.

A pure state machine: no event loop, no network, `now` (nanoseconds of `Clock.boot_ns`) is an
argument. The same code runs in production and under a simulated clock.

A call reserves in every budget that applies, all or nothing, in memory. What does not fit waits in
line: a later call never takes from a pool that an earlier waiter is short of. The book refuses
nothing by itself; whether waiting makes sense is the control plane's verdict.

An open call may grow (`extend`), in the pools it was admitted to and nowhere else, whatever became
of their windows since. Growth goes before all calls that have not begun: a call that can't grow has
to be cut.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.pools import AllowanceWord, Leg, Pool, fitting_pools

# More callers than this wait for money only when something is wrong; the rest are better told at
# once (overloaded) than after their own timeout.
MAX_WAITERS: Final = 1_000
# A budget that was exhausted for an amount refuses that amount and more without asking, for so
# long. Short, because somebody may raise the limit or hand money back; long enough that an app in
# a retry loop costs no round trips.
REFUSAL_MEMORY_NS: Final = NANOS_PER_SECOND


class BudgetRef(NamedTuple):
    """A budget that applies to a call."""

    budget_id: int
    hard: bool


class Plan(NamedTuple):
    """The budgets of a call, by the session that lends for them. Ascending ids."""

    organization: tuple[BudgetRef, ...] = ()
    platform: tuple[BudgetRef, ...] = ()


EMPTY_PLAN: Final = Plan()
ANY_REST: Final = -(10**30)  # less than any pool has left, also one that is overdrawn


@dataclass(slots=True)
class Part:
    """A reservation's half in one session: its number and the pools it draws on."""

    leg: Leg
    n: int
    pools: tuple[Pool, ...]

    @property
    def window_ids(self) -> list[int]:
        """The budget windows of its draw set, ascending."""
        return sorted(pool.window_id for pool in self.pools)


@dataclass(slots=True, eq=False)
class Reservation:
    """Money set aside for one call, in one session or two."""

    ceiling_nanos: int
    """W as it is now: it only grows."""
    parts: tuple[Part, ...]
    """The organization's first."""
    plan: Plan
    settled: bool = False

    @property
    def charge_id(self) -> str:
        """`<epoch>-<n>` in the organization's session."""
        first = self.parts[0]
        return f"{first.leg.epoch}-{first.n}"


@dataclass(slots=True, eq=False)
class Waiter:
    """A call in line. `short` names the budgets it is short of or behind somebody in."""

    order: int
    """Growth before all admissions, each in the order they came."""
    plan: Plan
    ceiling_nanos: int
    """What is to be set aside; for growth, what is to be added."""
    deadline: int
    least_nanos: int
    """The least it can begin with; below `ceiling_nanos` only if it may be clamped."""
    growing: Reservation | None = None
    """The open call that is to grow; None: a call that has not begun."""
    clamped: bool = False
    """Less than all of it was lent: it begins with what is there."""
    short: frozenset[int] = frozenset()
    reservation: Reservation | None = None
    """Set once its turn came."""
    asked_at: int = 0
    """When the control plane was asked for it last."""

    def __lt__(self, other: "Waiter") -> bool:
        return self.order < other.order


class Exhausted(NamedTuple):
    """A remembered verdict: so much was not to be had of a budget."""

    amount_nanos: int
    until: int
    evidence: object
    """What the refusal then said; the book does not look at it."""


class LineIsFullError(Exception):
    """`max_waiters` calls wait already."""


@dataclass(slots=True)
class Book:
    """All that the sidecar holds and all who wait.

    Invariant: for every pool, free + reserved + settled == granted - returned. No call starts
    unless every hard budget it falls under has free >= its ceiling.
    """

    organization: Leg | None = None
    platform: Leg | None = None
    max_waiters: int = MAX_WAITERS
    waiters: dict[int, Waiter] = field(default_factory=dict)
    _lines: dict[int, list[Waiter]] = field(default_factory=dict)
    _exhausted: dict[int, Exhausted] = field(default_factory=dict)
    _dirty: set[int] = field(default_factory=set)
    _ready: list[Waiter] = field(default_factory=list)
    _last_order: int = 0
    _last_growth_order: int = -(1 << 62)

    # -- admission -----------------------------------------------------------------------------

    def reserve(self, plan: Plan, ceiling_nanos: int, now: int) -> Reservation | None:
        """Set the ceiling aside in every budget of the plan, or touch nothing and return None.

        None also where a window is not known yet, and where earlier calls wait for the same pool.
        """
        lines = self._lines
        if lines:
            for budget_id, hard in plan.organization:
                if hard and budget_id in lines:
                    return None
            for budget_id, hard in plan.platform:
                if hard and budget_id in lines:
                    return None
        return self._take(plan, ceiling_nanos, now)

    def enter(self, plan: Plan, now: int) -> Reservation | None:
        """Open a call that was made already: nothing is set aside for it, and so no budget can lack
        it. None where a window is not known yet."""
        return self._take(plan, 0, now, ANY_REST)

    def _take(
        self, plan: Plan, ceiling_nanos: int, now: int, rest_nanos: int | None = None
    ) -> Reservation | None:
        least_nanos = ceiling_nanos if rest_nanos is None else rest_nanos
        leg = self.organization
        if leg is None:
            return None
        pools = fitting_pools(leg, plan.organization, least_nanos, now)
        if pools is None:
            return None
        if not plan.platform:
            leg.last_n += 1
            leg.open_count += 1
            for pool in pools:
                pool.take(ceiling_nanos, now)
            return Reservation(ceiling_nanos, (Part(leg, leg.last_n, tuple(pools)),), plan)
        second = self.platform
        if second is None:
            return None
        more = fitting_pools(second, plan.platform, least_nanos, now)
        if more is None:
            return None
        parts = []
        for each, its_pools in ((leg, pools), (second, more)):
            each.last_n += 1
            each.open_count += 1
            for pool in its_pools:
                pool.take(ceiling_nanos, now)
            parts.append(Part(each, each.last_n, tuple(its_pools)))
        return Reservation(ceiling_nanos, tuple(parts), plan)

    def undo(self, reservation: Reservation) -> None:
        """Take back the latest reservation, whose open record could not be written.

        Its numbers are free again: nobody ever saw them. Raises ValueError if a later reservation
        exists, because numbers have no gaps.
        """
        for part in reservation.parts:
            if part.leg.last_n != part.n or reservation.settled:
                raise ValueError(f"reservation {reservation.charge_id} is not the latest")
        reservation.settled = True
        for part in reservation.parts:
            part.leg.last_n -= 1
            part.leg.open_count -= 1
            for pool in part.pools:
                pool.put_back(reservation.ceiling_nanos)
                self._dirty.add(pool.budget_id)

    # -- growth --------------------------------------------------------------------------------

    def extend(self, reservation: Reservation, by_nanos: int, now: int) -> bool:
        """Set more aside for an open call in every pool it draws on, or touch nothing.

        False where a pool has too little free, where other growth waits for it, and where a session
        of the call is fenced or replaced: such a one is lent nothing more. Raises ValueError for a
        settled reservation, or where nothing is added.
        """
        if reservation.settled:
            raise ValueError(f"reservation {reservation.charge_id} is settled already")
        if by_nanos <= 0:
            raise ValueError(f"by_nanos is {by_nanos}; expected more than 0")
        if not self.is_current(reservation):
            return False
        for pool in _pools_of(reservation):
            line = self._lines.get(pool.budget_id)
            if pool.lent and line is not None and line[0].growing is not None:
                return False
        return self._grow(reservation, by_nanos, now)

    def undo_extend(self, reservation: Reservation, by_nanos: int) -> None:
        """Take back growth that could not be written, or that came too late."""
        if reservation.settled or by_nanos > reservation.ceiling_nanos:
            raise ValueError(f"reservation {reservation.charge_id} did not grow by {by_nanos}")
        reservation.ceiling_nanos -= by_nanos
        for pool in _pools_of(reservation):
            pool.put_back(by_nanos)
            self._dirty.add(pool.budget_id)

    def is_current(self, reservation: Reservation) -> bool:
        """Whether all its sessions are those of now, and may spend."""
        return all(
            not part.leg.fenced and (part.leg is self.organization or part.leg is self.platform)
            for part in reservation.parts
        )

    def wait_to_grow(
        self, reservation: Reservation, by_nanos: int, now: int, deadline: int
    ) -> Waiter:
        """Join the line behind other growth and before all admissions. Raises LineIsFullError."""
        if len(self.waiters) >= self.max_waiters:
            raise LineIsFullError
        self._last_growth_order += 1
        order, plan = self._last_growth_order, reservation.plan
        waiter = Waiter(order, plan, by_nanos, deadline, by_nanos, reservation)
        self.waiters[order] = waiter
        self._line_up(waiter, self._short_of(waiter, now))
        return waiter

    def _grow(self, reservation: Reservation, by_nanos: int, now: int) -> bool:
        pools = _pools_of(reservation)
        if reservation.settled or not self.is_current(reservation):
            return False
        if any(pool.lent and pool.free_nanos < by_nanos for pool in pools):
            return False
        for pool in pools:
            pool.take(by_nanos, now)
        reservation.ceiling_nanos += by_nanos
        return True

    # -- the end of a call ---------------------------------------------------------------------

    def settle(self, reservation: Reservation, cost_nanos: int, now: int) -> int:
        """Close a reservation at its cost (0: released). Returns the largest overrun it made.

        What exceeds the reservation comes out of the free part; a pool without enough goes below
        zero. Raises ValueError when it was settled before, or for a negative cost.
        """
        if reservation.settled:
            raise ValueError(f"reservation {reservation.charge_id} is settled already")
        if cost_nanos < 0:
            raise ValueError(f"cost_nanos is {cost_nanos}; expected 0 or more")
        reservation.settled = True
        overrun_nanos = 0
        for part in reservation.parts:
            part.leg.open_count -= 1
            for pool in part.pools:
                grown_nanos = pool.settle(reservation.ceiling_nanos, cost_nanos, now)
                if grown_nanos > overrun_nanos:
                    overrun_nanos = grown_nanos
                if self.waiters:
                    self._dirty.add(pool.budget_id)
        return overrun_nanos

    # -- waiting -------------------------------------------------------------------------------

    def wait(
        self,
        plan: Plan,
        ceiling_nanos: int,
        now: int,
        deadline: int,
        least_nanos: int | None = None,
    ) -> Waiter:
        """Join the line, behind all who are short of the same pools. Raises LineIsFullError.

        `least_nanos` is what the call can do with if it may be clamped; None: only with all.
        """
        if len(self.waiters) >= self.max_waiters:
            raise LineIsFullError
        self._last_order += 1
        least = ceiling_nanos if least_nanos is None else min(least_nanos, ceiling_nanos)
        waiter = Waiter(self._last_order, plan, ceiling_nanos, deadline, least)
        self.waiters[waiter.order] = waiter
        self._line_up(waiter, self._short_of(waiter, now))
        return waiter

    def withdraw(self, waiter: Waiter) -> None:
        """Leave the line. Those behind may get their turn: call `admit` afterwards."""
        if self.waiters.pop(waiter.order, None) is not None:
            self._dirty |= waiter.short
            self._line_up(waiter, frozenset())

    def replan(self, waiter: Waiter, plan: Plan, now: int) -> None:
        """The budgets that apply to a waiting call changed."""
        if waiter.order in self.waiters:
            waiter.plan = plan
            self._dirty |= waiter.short
            self._line_up(waiter, self._short_of(waiter, now))
            self._dirty |= waiter.short
            self._ready.append(waiter)

    def admit(self, now: int) -> Iterator[Waiter]:
        """Reserve for all whose turn has come, in their order; their `reservation` is set.

        The caller writes each open record (or growth) before it asks for the next, and may `undo`
        (or `undo_extend`) it.
        """
        if not self.waiters:
            self._dirty.clear()
        ready, self._ready = self._ready, []
        for waiter in ready:
            if waiter.order not in self.waiters:
                continue
            short = self._short_of(waiter, now)
            if short:
                self._line_up(waiter, short)
            else:
                yield from self._start(waiter, now)
        while self._dirty:
            budget_id = self._dirty.pop()
            for waiter in list(self._lines.get(budget_id, ())):
                if waiter.order not in self.waiters:
                    continue
                short = self._short_of(waiter, now)
                if not short:
                    yield from self._start(waiter, now)
                    continue
                self._line_up(waiter, short)
                if budget_id in short:
                    break

    def rouse(self) -> None:
        """Time passed (a window may have begun): look at every line again."""
        self._dirty.update(self._lines)
        self._ready.extend(waiter for waiter in self.waiters.values() if not waiter.short)

    def stuck_pools(self, now: int) -> list[tuple[Leg, Pool]]:
        """Pools with free money that lets nobody in their line start: it is better off at home,
        where it adds up with others'. Call after `admit`."""
        found = []
        for leg in (self.organization, self.platform):
            for budget_id in self._lines if leg else ():
                pool = leg.current_pool(budget_id, now) if leg else None
                if leg and pool is not None and pool.lent and pool.free_nanos > 0:
                    found.append((leg, pool))
        return found

    def admit_granted(self, waiter: Waiter, now: int, *, clamped: bool = False) -> Iterator[Waiter]:
        """Reserve for one whose need was granted: that money came for it, whoever waits before.

        One that was `clamped`, in one of its sessions, begins with what all its pools have.
        """
        waiter.clamped = waiter.clamped or clamped
        if waiter.order in self.waiters:
            yield from self._start(waiter, now)

    def admit_clamped(self, waiter: Waiter, now: int) -> Iterator[Waiter]:
        """Reserve what is free here for one that may be clamped and whose wait is over, unless
        somebody waits before it."""
        first = all(self._lines[budget_id][0] is waiter for budget_id in waiter.short)
        if first and waiter.least_nanos < waiter.ceiling_nanos:
            yield from self.admit_granted(waiter, now, clamped=True)

    def _start(self, waiter: Waiter, now: int) -> Iterator[Waiter]:
        reservation = waiter.growing
        if reservation is None:
            reservation = self._take(waiter.plan, self._affordable(waiter, now), now)
        elif not self._grow(reservation, waiter.ceiling_nanos, now):
            return
        if reservation is None:
            return
        self.withdraw(waiter)
        waiter.reservation = reservation
        yield waiter

    def _affordable(self, waiter: Waiter, now: int) -> int:
        """What a call is to begin with: all it asks for, or if it is clamped what each of its hard
        pools has free, and never less than its least."""
        if not waiter.clamped:
            return waiter.ceiling_nanos
        most = waiter.ceiling_nanos
        for leg, refs in self._sides(waiter.plan):
            for budget_id, hard in refs:
                pool = leg.current_pool(budget_id, now) if leg else None
                if pool is not None and hard and pool.lent:
                    most = min(most, pool.free_nanos)
        return max(most, waiter.least_nanos)

    def _short_of(self, waiter: Waiter, now: int) -> frozenset[int]:
        """Budgets without a known window, with too little free, or with somebody before it."""
        if waiter.growing is not None:
            pools = _pools_of(waiter.growing)
            return frozenset(
                pool.budget_id for pool in pools if pool.lent and self._lacks(waiter, pool)
            )
        short = []
        for leg, refs in self._sides(waiter.plan):
            for budget_id, hard in refs:
                pool = leg.current_pool(budget_id, now) if leg else None
                if pool is None or (hard and pool.lent and self._lacks(waiter, pool)):
                    short.append(budget_id)
        return frozenset(short)

    def _lacks(self, waiter: Waiter, pool: Pool) -> bool:
        line = self._lines.get(pool.budget_id)
        behind = line is not None and line[0].order < waiter.order
        return behind or pool.free_nanos < waiter.ceiling_nanos

    def _line_up(self, waiter: Waiter, short: frozenset[int]) -> None:
        """Stand in the lines of exactly these budgets."""
        for budget_id in waiter.short - short:
            line = self._lines[budget_id]
            line.remove(waiter)
            if not line:
                del self._lines[budget_id]
        for budget_id in short - waiter.short:
            insort(self._lines.setdefault(budget_id, []), waiter)
        waiter.short = short

    def _sides(self, plan: Plan) -> tuple[tuple[Leg | None, tuple[BudgetRef, ...]], ...]:
        return ((self.organization, plan.organization), (self.platform, plan.platform))

    # -- what the control plane says -----------------------------------------------------------

    def hear(self, leg: Leg, word: AllowanceWord, *, sent_at: int, received_at: int) -> Pool:
        """Merge an allowance; forgets refusals of its budget where it changed anything."""
        known = leg.pools.get(word.window_id)
        before = (known.granted_nanos, known.limit_nanos, known.lent) if known else None
        pool = leg.hear(word, sent_at=sent_at, received_at=received_at)
        if before != (pool.granted_nanos, pool.limit_nanos, pool.lent):
            self._exhausted.pop(word.budget_id, None)
        self._dirty.add(word.budget_id)
        return pool

    def touch(self, budget_id: int) -> None:
        """Something about a budget changed: look at its line again, forget its refusal."""
        self._exhausted.pop(budget_id, None)
        self._dirty.add(budget_id)

    def remember_exhausted(
        self, budget_id: int, amount_nanos: int, *, now: int, for_ns: int, evidence: object
    ) -> None:
        """Keep a verdict for a moment (at most REFUSAL_MEMORY_NS)."""
        until = now + min(for_ns, REFUSAL_MEMORY_NS)
        self._exhausted[budget_id] = Exhausted(amount_nanos, until, evidence)

    def recall_exhausted(self, plan: Plan, ceiling_nanos: int, now: int) -> list[Exhausted]:
        """Remembered verdicts that refuse such a call now."""
        if not self._exhausted:
            return []
        found = []
        for leg, refs in self._sides(plan):
            for budget_id, hard in refs:
                memory = self._exhausted.get(budget_id)
                if memory is None or not hard:
                    continue
                if now >= memory.until:
                    del self._exhausted[budget_id]
                    continue
                pool = leg.current_pool(budget_id, now) if leg else None
                fits = pool is not None and (not pool.lent or pool.free_nanos >= ceiling_nanos)
                if ceiling_nanos >= memory.amount_nanos and not fits:
                    found.append(memory)
        return found


def _pools_of(reservation: Reservation) -> list[Pool]:
    return [pool for part in reservation.parts for pool in part.pools]
