"""What the sidecar holds: pools of lent money, grouped by the session they were lent to.

Pure state, no event loop and no network. Times are nanoseconds of a clock that never goes back
(`Clock.boot_ns`), amounts are whole nanos of the session's currency.

A pool has totals that only grow: granted, returned, settled. What its open reservations hold is
`reserved`; what is left is free:

    free + reserved + settled == granted - returned        (for every pool, at every moment)

Free may be below zero: a call that cost more than was set aside is settled in full, and what no
allowance covers is overrun.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND

# How many seconds of traffic a pool would like to have free (the protocol's T), and how many of
# its largest calls besides: a burst must not wait for a renewal of 10 to 100 ms.
WANT_SECONDS: Final = 2
WANT_LARGEST_CALLS: Final = 3
# A renewal is asked for when less than this part of the wanted money is free: early enough for a
# round trip, late enough that not every call asks.
RENEW_BELOW_PERCENT: Final = 40
# The largest call is looked up in this stretch and the one before, so that one huge call does not
# hold money for ever.
LARGEST_CALL_STRETCH_NS: Final = 10 * NANOS_PER_SECOND
# After so many quiet seconds a halved burn rate of any real size is nothing.
FORGET_BURN_AFTER_SECONDS: Final = 62
# A window's end is known a little too early (see `Pool.place`). Free money of an ended window goes
# home only after this grace, so that a corrected end costs no grant.
ENDED_GRACE_NS: Final = 2 * NANOS_PER_SECOND
NEVER: Final = 1 << 62
# Pools of windows that are over are kept so many, the latest: a window that was given up some
# seconds too early may be lent from again, and its totals must go on, not begin anew.
MAX_PAST_POOLS: Final = 1_000


@dataclass(slots=True)
class Pool:
    """One budget's window as lent to one session."""

    window_id: int
    budget_id: int
    lent: bool
    """False: a soft budget, calls only name the window."""
    granted_nanos: int = 0
    returned_nanos: int = 0
    settled_nanos: int = 0
    reserved_nanos: int = 0
    starts_at: int = 0
    ends_at: int = NEVER
    window_end: str = ""
    """RFC 3339, for people; "" for a lifetime."""
    limit_nanos: int = 0
    known_settled_nanos: int = 0
    """What everybody settled, as the control plane last said."""
    acknowledged_nanos: int = 0
    """How much of `settled_nanos` the control plane has committed."""
    acknowledged_when_told_nanos: int = 0
    """`acknowledged_nanos` when `known_settled_nanos` was said."""
    closing: bool = False
    """The budget is gone: nothing is admitted under it any more, what is free goes home."""
    tail: bool = False
    """So little is left that each call asks for itself: nothing is wanted ahead of need."""
    hold_idle_ns: int = 0
    """In the tail: how long free money may lie idle before it goes home."""
    last_used_at: int = 0
    granted_at: int = 0
    """When money came last."""
    proof: bytes = b""
    """Of `granted_nanos`, for a control plane whose database forgot it."""
    overrun_nanos: int = 0
    """The most that was ever missing."""
    _placed: bool = False
    _burn_second: int = 0
    _burn_nanos: int = 0
    _this_second_nanos: int = 0
    _largest_since: int = 0
    _largest_nanos: int = 0
    _largest_before_nanos: int = 0

    @property
    def free_nanos(self) -> int:
        """What no call holds; below zero after an overrun."""
        return self.granted_nanos - self.returned_nanos - self.settled_nanos - self.reserved_nanos

    @property
    def remaining_nanos(self) -> int:
        """What the budget has left as far as is known here, own unacknowledged charges deducted."""
        own = self.settled_nanos - self.acknowledged_when_told_nanos
        return self.limit_nanos - self.known_settled_nanos - own

    def is_current(self, now: int) -> bool:
        """Whether a call admitted now belongs to this window."""
        return self.starts_at <= now < self.ends_at

    def place(self, *, sent_at: int, received_at: int, starts_in_ms: int, ends_in_ms: int) -> None:
        """Say where the window lies in time.

        The durations were counted at some moment between the sending of the last applied frame and
        now. The start is taken as late and the end as early as that allows, so that no call is
        ever admitted into a window that does not hold it; a later word can only tighten both.
        """
        starts_at = received_at + starts_in_ms * NANOS_PER_MS if starts_in_ms > 0 else 0
        # 0 means never, so that a window which is over is said to end in 1 ms.
        ends_at = NEVER if ends_in_ms == 0 else sent_at + (ends_in_ms - 1) * NANOS_PER_MS
        if not self._placed:
            self.starts_at, self.ends_at = starts_at, ends_at
        else:
            self.starts_at = min(self.starts_at, starts_at)
            self.ends_at = max(self.ends_at, ends_at)
        self._placed = True

    def take(self, amount_nanos: int, now: int) -> None:
        """Set an amount aside for a call."""
        self.reserved_nanos += amount_nanos
        self.last_used_at = now
        if now - self._largest_since >= LARGEST_CALL_STRETCH_NS:
            quiet = now - self._largest_since >= 2 * LARGEST_CALL_STRETCH_NS
            self._largest_before_nanos = 0 if quiet else self._largest_nanos
            self._largest_nanos = 0
            self._largest_since = now
        self._largest_nanos = max(self._largest_nanos, amount_nanos)

    def put_back(self, amount_nanos: int) -> None:
        """Undo `take`: the call never started."""
        self.reserved_nanos -= amount_nanos

    def settle(self, reserved_nanos: int, cost_nanos: int, now: int) -> int:
        """Turn a reservation into a cost. Returns by how much the pool's overrun grew."""
        self.reserved_nanos -= reserved_nanos
        self.settled_nanos += cost_nanos
        if now // NANOS_PER_SECOND != self._burn_second:
            self._roll_burn(now)
        self._this_second_nanos += cost_nanos
        free_nanos = self.free_nanos
        if free_nanos >= 0 or not self.lent:
            return 0
        self.overrun_nanos = max(self.overrun_nanos, -free_nanos)
        short_before = max(0, reserved_nanos - cost_nanos - free_nanos)
        return max(0, -free_nanos - short_before)

    def give_back(self, at_most_nanos: int | None = None) -> int:
        """Give free money up, for good, before it is told. Returns how much."""
        amount_nanos = max(0, self.free_nanos)
        if at_most_nanos is not None:
            amount_nanos = min(amount_nanos, at_most_nanos)
        self.returned_nanos += amount_nanos
        return amount_nanos

    def burn_nanos(self, now: int) -> int:
        """What a second of traffic settles: a moving average, or this second if it is busier."""
        self._roll_burn(now)
        return max(self._burn_nanos, self._this_second_nanos)

    def largest_call_nanos(self, now: int) -> int:
        """The largest reservation of the last 10 to 20 seconds."""
        age = now - self._largest_since
        if age >= 2 * LARGEST_CALL_STRETCH_NS:
            return 0
        if age >= LARGEST_CALL_STRETCH_NS:
            return self._largest_nanos
        return max(self._largest_nanos, self._largest_before_nanos)

    def want_nanos(self, now: int) -> int:
        """What it would like to have free."""
        if not self.lent or self.closing or self.tail or not self.is_current(now):
            return 0
        return (
            self.burn_nanos(now) * WANT_SECONDS + self.largest_call_nanos(now) * WANT_LARGEST_CALLS
        )

    def is_low(self, now: int) -> bool:
        """Whether a renewal should be asked for."""
        wanted_nanos = self.want_nanos(now)
        return self.free_nanos * 100 < wanted_nanos * RENEW_BELOW_PERCENT

    def is_over(self, now: int) -> bool:
        """Whether no call can be admitted into it any more."""
        return self.closing or now >= self.ends_at + ENDED_GRACE_NS

    @property
    def is_awaited(self) -> bool:
        """Whether calls elsewhere wait for what comes free here, as the control plane said last."""
        return self.tail and not self.hold_idle_ns

    def is_idle_in_tail(self, now: int) -> bool:
        """Whether its free money is better off at home.

        What has just come is not idle, however long nothing was used: a call may wait for the same
        of another budget, and each would go home while the other is asked for.
        """
        since = max(self.last_used_at, self.granted_at)
        return self.tail and self.free_nanos > 0 and now - since >= self.hold_idle_ns

    def _roll_burn(self, now: int) -> None:
        second = now // NANOS_PER_SECOND
        passed = second - self._burn_second
        if passed <= 0:
            return
        if passed > FORGET_BURN_AFTER_SECONDS:
            self._burn_nanos = 0
        else:
            # Half weight to each second before: a halving per quiet second.
            self._burn_nanos = (self._burn_nanos + self._this_second_nanos) // 2
            self._burn_nanos >>= passed - 1
        self._this_second_nanos = 0
        self._burn_second = second


@dataclass(slots=True)
class AllowanceWord:
    """What the control plane says about one allowance; totals are merged by maximum."""

    window_id: int
    budget_id: int
    lent: bool
    granted_nanos: int
    returned_nanos: int = 0
    starts_in_ms: int = 0
    ends_in_ms: int = 0
    window_end: str = ""
    limit_nanos: int = 0
    settled_nanos: int = 0
    proof: bytes = b""
    tail: bool = False
    hold_idle_ms: int = 0


@dataclass(slots=True)
class Leg:
    """The book's side of one session: its numbers and its pools.

    A call takes one reservation in the organization's session, and a second one in the platform's
    if budgets of the platform apply.
    """

    epoch: int
    organization_id: int
    organization: str
    currency: str
    platform: bool
    last_n: int = 0
    open_count: int = 0
    fenced: bool = False
    valid_until: int = 0
    """Until when policy and allowances hold."""
    proof: bytes = b""
    """Of the session, for a control plane whose database forgot it."""
    policy_known: bool = False
    """Whether the session was told its own budgets."""
    pools: dict[int, Pool] = field(default_factory=dict)
    by_budget: dict[int, list[Pool]] = field(default_factory=dict)
    _past: dict[int, Pool] = field(default_factory=dict)

    def current_pool(self, budget_id: int, now: int) -> Pool | None:
        """The pool of the window that a call admitted now belongs to, if it is known."""
        for pool in self.by_budget.get(budget_id, ()):
            if pool.starts_at <= now < pool.ends_at and not pool.closing:
                return pool
        return None

    def hear(self, word: AllowanceWord, *, sent_at: int, received_at: int) -> Pool:
        """Merge what the control plane says. Old and repeated words change nothing."""
        pool = self.pools.get(word.window_id)
        if pool is None:
            pool = self._past.pop(word.window_id, None)
            if pool is None:
                pool = Pool(word.window_id, word.budget_id, word.lent, last_used_at=received_at)
            self.pools[word.window_id] = pool
            self.by_budget.setdefault(word.budget_id, []).append(pool)
        pool.lent = word.lent
        if word.granted_nanos > pool.granted_nanos:
            pool.granted_nanos = word.granted_nanos
            pool.granted_at = received_at
        if word.granted_nanos == pool.granted_nanos and word.proof:
            pool.proof = word.proof
        pool.limit_nanos = word.limit_nanos
        pool.known_settled_nanos = word.settled_nanos
        pool.acknowledged_when_told_nanos = pool.acknowledged_nanos
        pool.window_end = word.window_end
        pool.tail = word.tail
        pool.hold_idle_ns = word.hold_idle_ms * NANOS_PER_MS
        pool.place(
            sent_at=sent_at,
            received_at=received_at,
            starts_in_ms=word.starts_in_ms,
            ends_in_ms=word.ends_in_ms,
        )
        return pool

    def forget(self, window_id: int) -> None:
        """Set a pool aside that is over and empty; its totals go on if it is lent from again."""
        pool = self._past[window_id] = self.pools.pop(window_id)
        if len(self._past) > MAX_PAST_POOLS:
            del self._past[next(iter(self._past))]
        remaining = [other for other in self.by_budget[pool.budget_id] if other is not pool]
        if remaining:
            self.by_budget[pool.budget_id] = remaining
        else:
            del self.by_budget[pool.budget_id]

    def bring_back(self) -> None:
        """Tell again how every pool stands, those of windows that are over too."""
        for window_id, pool in self._past.items():
            self.pools[window_id] = pool
            self.by_budget.setdefault(pool.budget_id, []).append(pool)
        self._past.clear()

    def close_budget(self, budget_id: int) -> list[Pool]:
        """The budget is gone: give its free money up. Returns the pools it concerns."""
        pools = self.by_budget.get(budget_id, [])
        for pool in pools:
            pool.closing = True
            pool.give_back()
        return list(pools)

    def reopen_budget(self, budget_id: int) -> None:
        """The budget is back (it was only disabled)."""
        for pool in (*self.by_budget.get(budget_id, ()), *self._past.values()):
            if pool.budget_id == budget_id:
                pool.closing = False


def fitting_pools(
    leg: Leg, refs: Iterable[tuple[int, bool]], ceiling_nanos: int, now: int
) -> list[Pool] | None:
    """The current pools of these budgets (id, whether hard) if each can carry the ceiling, else
    None.

    On the path of every call: `Leg.current_pool` and `Pool.free_nanos`, written out.
    """
    pools = []
    for budget_id, hard in refs:
        for pool in leg.by_budget.get(budget_id, ()):
            if pool.starts_at <= now < pool.ends_at and not pool.closing:
                break
        else:
            return None
        if hard and pool.lent:
            free_nanos = pool.granted_nanos - pool.returned_nanos
            if free_nanos - pool.settled_nanos - pool.reserved_nanos < ceiling_nanos:
                return None
        pools.append(pool)
    return pools
