"""What one session has to say: numbered frames, and what of them was applied.

Pure: no event loop, no network. A frame that was not applied is said again after a reconnect, from
the state as it is then: charges in their order, the calls that still wait, how allowances stand.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from bursar.v1 import allowances_pb2
from bursar_sidecar.allowances import Book, Waiter
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND
from bursar_sidecar.pools import Leg, Pool
from bursar_sidecar.settlement_wire import BYTES, tag, varint
from bursar_sidecar.settlements import MAX_NANOS

# The border's bounds on one frame.
MAX_SETTLEMENTS: Final = 4_096
MAX_NEEDS: Final = 1_024
MAX_USAGE: Final = 4_096
MAX_RESOLVE: Final = 1_024
MAX_WITHDRAWN: Final = 4_096
MAX_CLOSES: Final = 64
# A message of gRPC has 4 MB by default; charges with many tags stay well below it.
MAX_CHARGE_BYTES: Final = 1 << 20
# Frames on their way that were not applied yet. When the control plane falls behind, charges wait
# here and are sent in larger frames, instead of in its memory.
MAX_UNAPPLIED_FRAMES: Final = 64
# A renewal that was not answered with money is asked for again after this: the money may not be
# there, and asking faster would not make it.
LOW_AGAIN_NS: Final = 100 * NANOS_PER_MS
# How often a pool in use tells how it stands otherwise: fresh enough for a recall to find idle
# money.
REPORT_AGAIN_NS: Final = NANOS_PER_SECOND
# The control plane's answer to a need must arrive before the call gives up by itself, so that the
# refusal can name the budgets.
ANSWER_MARGIN_MS: Final = 150
_SETTLEMENT: Final = tag(allowances_pb2.SidecarFrame.SETTLEMENTS_FIELD_NUMBER, BYTES)


@dataclass(slots=True, eq=False)
class Charge:
    """One settlement on its way."""

    epoch: int
    n: int
    message: bytes
    cost_nanos: int = 0
    pools: tuple[Pool, ...] = ()


@dataclass(slots=True)
class SentFrame:
    """A frame that was sent and not applied yet."""

    seq: int
    sent_at: int
    charges: list[Charge]
    closes: list[tuple[int, int]]
    last_need_id: int


@dataclass(slots=True)
class Applied:
    """What an acknowledgement settles."""

    charges: list[Charge] = field(default_factory=list)
    closes: list[tuple[int, int]] = field(default_factory=list)
    sent_at: int = 0
    """When the last applied frame was sent; 0: nothing new was applied."""


@dataclass(slots=True)
class _Reported:
    """How a pool stood when it was last told."""

    at: int
    state: tuple[int, int, int, int]


class Outbox:
    """The frames of one session."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.charges: deque[Charge] = deque()
        self.closes: deque[tuple[int, int]] = deque()
        self.sent: deque[SentFrame] = deque()
        self.seq = 0
        self.last_sent_at = 0
        self.policy_ack: tuple[int, int] | None = None
        self._needs: dict[int, Waiter] = {}
        self._asked: dict[int, Waiter] = {}
        self._need_of: dict[int, int] = {}
        self._last_need_id = 0
        self._applied_need_id = 0
        self._withdrawn: deque[int] = deque()
        self._resolve: dict[bytes, None] = {}
        self._report: set[int] = set()
        self._reported: dict[int, _Reported] = {}
        self._keep_alive = False
        self.applied_at = 0
        """When the last frame that was applied was sent."""

    # -- what is to be said --------------------------------------------------------------------

    def ask(self, waiter: Waiter) -> None:
        """A call waits for money that this session is lent."""
        # Only if it lacks something that this session lends: an empty frame would say nothing.
        refs = waiter.plan.platform if self.leg.platform else waiter.plan.organization
        if waiter.order not in self._need_of and any(r.budget_id in waiter.short for r in refs):
            self._needs[waiter.order] = waiter

    def withdraw(self, waiter: Waiter) -> None:
        """A call no longer waits."""
        self._needs.pop(waiter.order, None)
        need_id = self._need_of.pop(waiter.order, None)
        if need_id is not None and self._asked.pop(need_id, None) is not None:
            self._withdrawn.append(need_id)

    def answered(self, need_id: int) -> Waiter | None:
        """A verdict came: whose need was it? None if nobody waits for it any more."""
        waiter = self._asked.pop(need_id, None)
        if waiter is not None:
            self._need_of.pop(waiter.order, None)
        return waiter

    def is_asked(self, waiter: Waiter) -> bool:
        """Whether its need is on its way or unanswered."""
        return waiter.order in self._need_of or waiter.order in self._needs

    def unanswered_ns(self, now: int) -> int:
        """For how long the first of the calls that wait has had no answer; 0: none waits."""
        for waiter in self._asked.values():
            return now - waiter.asked_at
        return 0

    def resolve(self, key_hashes: Iterable[bytes]) -> None:
        """Ask who keys are."""
        self._resolve.update(dict.fromkeys(key_hashes))

    def report(self, window_ids: Iterable[int]) -> None:
        """Tell how these pools stand, in the next frame."""
        self._report.update(window_ids)

    def keep_alive(self) -> None:
        """Say something, if only that we are here."""
        self._keep_alive = True

    @property
    def applied_seq(self) -> int:
        """The last frame that is known to be applied."""
        return self.seq - len(self.sent)

    @property
    def has_news(self) -> bool:
        """Whether something is to be said that no timer reminds of."""
        return bool(
            self.charges
            or self.closes
            or self._report
            or self._needs
            or self._resolve
            or self.policy_ack
            or self._withdrawn
        )

    @property
    def is_settled(self) -> bool:
        """Whether every charge, close and report was applied."""
        return not (self.charges or self.closes or self.sent or self._report)

    # -- frames --------------------------------------------------------------------------------

    def compose(self, book: Book, now: int) -> allowances_pb2.SidecarFrame | None:
        """The next frame, or None when there is nothing to say (or too much unapplied)."""
        if len(self.sent) >= MAX_UNAPPLIED_FRAMES:
            return None
        self._report_by_itself(now)
        urgent = self._needs or self._withdrawn or self._resolve or self._report
        if not (urgent or self.charges or self.closes or self.policy_ack or self._keep_alive):
            return None
        self._keep_alive = False
        frame = allowances_pb2.SidecarFrame(session_epoch=self.leg.epoch, seq=self.seq + 1)
        # Needs before reports: asking gives free money back, and the report says so.
        self._add_needs(frame, book, now)
        self._add_reports(frame, now)
        charges = self._add_charges(frame)
        for key_hash in list(self._resolve)[:MAX_RESOLVE]:
            del self._resolve[key_hash]
            frame.resolve_keys.add(key_hash=key_hash)
        while self._withdrawn and len(frame.withdrawn_need_ids) < MAX_WITHDRAWN:
            frame.withdrawn_need_ids.append(self._withdrawn.popleft())
        if self.policy_ack is not None:
            version, last_n = self.policy_ack
            frame.policy_ack.policy_version = version
            frame.policy_ack.last_n_under_older = last_n
            self.policy_ack = None
        closes: list[tuple[int, int]] = []
        while self.closes and not self.charges and len(closes) < MAX_CLOSES:
            epoch, last_n = self.closes.popleft()
            frame.close_sessions.add(session_epoch=epoch, last_n=last_n)
            closes.append((epoch, last_n))
        self.seq += 1
        self.last_sent_at = now
        self.sent.append(SentFrame(self.seq, now, charges, closes, self._last_need_id))
        return frame

    def applied(self, seq: int) -> Applied:
        """The control plane has committed every frame up to `seq`."""
        applied = Applied()
        while self.sent and self.sent[0].seq <= seq:
            frame = self.sent.popleft()
            applied.charges += frame.charges
            applied.closes += frame.closes
            applied.sent_at = self.applied_at = frame.sent_at
            self._applied_need_id = frame.last_need_id
        for charge in applied.charges:
            for pool in charge.pools:
                pool.acknowledged_nanos += charge.cost_nanos
        return applied

    def resume(self, last_seq: int) -> Applied:
        """A new stream for the same session, which has applied up to `last_seq`.

        What was not applied is to be said again; calls that wait ask anew.
        """
        applied = self.applied(last_seq)
        for frame in reversed(self.sent):
            self.charges.extendleft(reversed(frame.charges))
            self.closes.extendleft(reversed(frame.closes))
        self.sent.clear()
        self.seq = last_seq
        # Of the older stream: the new one tells the policy anew.
        self.policy_ack = None
        # Needs that were applied may still wait there, those that were not must leave no gap.
        waiting = [*self._asked.values(), *self._needs.values()]
        self._withdrawn = deque(need for need in self._asked if need <= self._applied_need_id)
        self._last_need_id = self._applied_need_id
        self._asked.clear()
        self._need_of.clear()
        self._needs = {waiter.order: waiter for waiter in sorted(waiting)}
        self._report.update(self.leg.pools)
        self._reported.clear()
        return applied

    def forsake(self, epochs: Collection[int]) -> None:
        """Say nothing more of these sessions: the other side takes nothing of them. Their charges
        stay in the journal."""
        self.charges = deque(c for c in self.charges if c.epoch not in epochs)
        self.closes = deque(c for c in self.closes if c[0] not in epochs)
        for frame in self.sent:
            frame.charges = [c for c in frame.charges if c.epoch not in epochs]
            frame.closes = [c for c in frame.closes if c[0] not in epochs]

    def hand_over(self) -> tuple[list[Charge], list[Waiter]]:
        """The session is over: its charges, and the calls that wait, go to the next one."""
        charges = [charge for frame in self.sent for charge in frame.charges]
        charges += self.charges
        waiting = [*self._asked.values(), *self._needs.values()]
        return charges, sorted(waiting)

    def _add_charges(self, frame: allowances_pb2.SidecarFrame) -> list[Charge]:
        charges: list[Charge] = []
        wire: list[bytes] = []
        size = 0
        while self.charges and len(charges) < MAX_SETTLEMENTS and size < MAX_CHARGE_BYTES:
            charge = self.charges.popleft()
            message = charge.message
            wire += (_SETTLEMENT, varint(len(message)), message)
            charges.append(charge)
            size += len(message)
        if wire:
            frame.MergeFromString(b"".join(wire))  # one step for all that are on the wire already
        return charges

    def _add_needs(self, frame: allowances_pb2.SidecarFrame, book: Book, now: int) -> None:
        wanted: set[int] = set()
        for order in list(self._needs)[:MAX_NEEDS]:
            waiter = self._needs.pop(order)
            short = self._short_here(waiter, book, now)
            if not short or order not in book.waiters:
                continue
            self._last_need_id += 1
            self._asked[self._last_need_id] = waiter
            waiter.asked_at = now
            self._need_of[order] = self._last_need_id
            left_ms = (waiter.deadline - now) // NANOS_PER_MS - ANSWER_MARGIN_MS
            need = frame.needs.add(need_id=self._last_need_id, wait_ms=max(0, left_ms))
            need.growth = waiter.growing is not None
            for budget_id, hard, pool in short:
                line = need.lines.add(budget_id=budget_id)
                if not hard:
                    continue
                want_nanos = 3 * waiter.ceiling_nanos
                if need.growth and pool is not None:
                    line.budget_window_id = pool.window_id
                deficit_nanos = 0
                if pool is not None:
                    # What is free and does not let anybody in the line start goes home, so that
                    # the control plane sees all there is.
                    if pool.give_back():
                        self._report.add(pool.window_id)
                    deficit_nanos = max(0, -pool.free_nanos)
                    want_nanos = max(want_nanos, pool.want_nanos(now))
                line.amount_nanos = min(waiter.ceiling_nanos + deficit_nanos, MAX_NANOS)
                line.least_nanos = min(waiter.least_nanos + deficit_nanos, MAX_NANOS)
                if budget_id not in wanted:
                    # Once a frame: many calls that wait at once do not each want a stock.
                    wanted.add(budget_id)
                    line.want_nanos = min(want_nanos, MAX_NANOS)

    def _short_here(
        self, waiter: Waiter, book: Book, now: int
    ) -> list[tuple[int, bool, Pool | None]]:
        """What a call is short of in this session: budget, whether hard, and the pool it draws on.

        An open call draws on those it was admitted to; if that was in another session, on none.
        """
        if waiter.growing is not None:
            parts = [part for part in waiter.growing.parts if part.leg is self.leg]
            return [
                (pool.budget_id, True, pool)
                for part in parts
                for pool in part.pools
                if pool.budget_id in waiter.short
            ]
        refs = book.organization is self.leg and waiter.plan.organization
        refs = refs or (book.platform is self.leg and waiter.plan.platform) or ()
        return [
            (budget_id, hard, self.leg.current_pool(budget_id, now))
            for budget_id, hard in refs
            if budget_id in waiter.short
        ]

    def _report_by_itself(self, now: int) -> None:
        """Find pools that are low, that changed since they were told, or that are over."""
        for pool in list(self.leg.pools.values()):
            before = self._reported.get(pool.window_id)
            if pool.is_over(now):
                self._send_home(pool, before)
                continue
            if pool.is_idle_in_tail(now):
                pool.give_back()
                self._report.add(pool.window_id)
                continue
            if before is None:
                # Also what was lent ahead and not used yet: who says nothing is never asked for it.
                if pool.reserved_nanos or pool.settled_nanos or pool.free_nanos > 0:
                    self._report.add(pool.window_id)
                continue
            age = now - before.at
            if age >= REPORT_AGAIN_NS:
                if before.state != _state(pool) or pool.is_low(now):
                    self._report.add(pool.window_id)
            elif (age >= LOW_AGAIN_NS or before.state[0] != pool.granted_nanos) and pool.is_low(
                now
            ):
                self._report.add(pool.window_id)

    def _send_home(self, pool: Pool, told: _Reported | None) -> None:
        """Give a pool up that is over; forget it once that was applied."""
        pool.give_back()
        if told is None or told.state != _state(pool):
            self._report.add(pool.window_id)
        elif not pool.reserved_nanos and told.at <= self.applied_at:
            self.leg.forget(pool.window_id)
            del self._reported[pool.window_id]

    def _add_reports(self, frame: allowances_pb2.SidecarFrame, now: int) -> None:
        for window_id in list(self._report)[:MAX_USAGE]:
            self._report.discard(window_id)
            pool = self.leg.pools.get(window_id)
            if pool is None:
                continue
            before = self._reported.get(window_id)
            said = frame.usage.add(
                budget_window_id=window_id,
                granted_seen_nanos=pool.granted_nanos,
                returned_nanos=pool.returned_nanos,
                reserved_nanos=pool.reserved_nanos,
                free_nanos=max(pool.free_nanos, -MAX_NANOS),
                want_nanos=min(pool.want_nanos(now), MAX_NANOS),
                burn_nanos_per_second=min(pool.burn_nanos(now), MAX_NANOS),
                largest_call_nanos=pool.largest_call_nanos(now),
                idle_ms=(now - pool.last_used_at) // NANOS_PER_MS,
            )
            heard = before is not None and before.at <= self.applied_at
            if before is None or not heard or before.state[0] != pool.granted_nanos:
                # Once it was heard nobody needs to be convinced again.
                said.grant_proof = pool.proof
            self._reported[window_id] = _Reported(now, _state(pool))


def _state(pool: Pool) -> tuple[int, int, int, int]:
    return (
        pool.granted_nanos,
        pool.returned_nanos,
        pool.reserved_nanos,
        pool.settled_nanos,
    )
