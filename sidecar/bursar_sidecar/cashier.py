"""The cashier: the desk as the data path sees it, over the book, the journal and the session.

A call that fits is admitted in one step without waiting: policy, book, journal. One that does not
waits in line, asks the control plane, and is refused only on its verdict or after its bounded wait.
An open call that is to grow does the same, before all that have not begun.
"""

import asyncio
import contextlib
from functools import lru_cache
from typing import Final

import structlog

from bursar.exchange import ExchangeRates
from bursar.pricing import PriceBook
from bursar.usage import Usage
from bursar.v1 import allowances_pb2
from bursar_sidecar import settlements
from bursar_sidecar.allowances import Book, Plan, Reservation, Waiter
from bursar_sidecar.beginnings import begins_small, grows_from
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND, Clock
from bursar_sidecar.desk import Call, Outcome, Receipt, Refusal, Spender
from bursar_sidecar.desk import Reservation as DeskReservation
from bursar_sidecar.growing_calls import GrowingCalls
from bursar_sidecar.holds import (
    RETRY_AFTER_S,
    Hold,
    Ticket,
    journal_full,
    of_an_older_session,
    of_another_currency,
    open_hold,
    sentence,
    told_if_full,
)
from bursar_sidecar.identity import MAX_KEY_LENGTH, Identity, KnownKey, hash_of
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.journal_records import OpenPart
from bursar_sidecar.outbox import ANSWER_MARGIN_MS, Charge
from bursar_sidecar.session import Session
from bursar_sidecar.standings import Standings, remaining_nanos

log = structlog.get_logger("bursar.cashier")

# How long a call waits for the answer to "who is this key": many times a round trip.
RESOLVE_WAIT_S: Final = 2.0
# Keys asked about at one time. A flood of guessed keys is refused beyond it instead of queued.
MAX_RESOLVING: Final = 1_024
# The bound of a Settlement and of a Need. Beyond it a budget would be left out, which none may be.
MAX_BUDGETS_OF_A_CALL: Final = 64
_NO_USAGE: Final = Usage()
_hash_of = lru_cache(256)(hash_of)
"""Of the keys in use now."""


class Cashier(GrowingCalls):
    """Implements `desk.Desk`."""

    def __init__(
        self,
        clock: Clock,
        book: Book,
        identity: Identity,
        journal: Journal,
        session: Session,
        *,
        reserve_wait_ms: int,
    ) -> None:
        self._clock = clock
        self._book = book
        self._identity = identity
        self._journal = journal
        self._session = session
        self.reserve_wait_ms = reserve_wait_ms
        self._standings = Standings(book, identity)
        self._tickets: dict[int, Ticket] = {}
        self._resolving: dict[bytes, asyncio.Future[None]] = {}
        self._draining = False
        self._idle = asyncio.Event()
        self.overrun_count = 0
        session.listener = self

    # -- desk ----------------------------------------------------------------------------------

    async def identify(self, api_key: str) -> Spender:
        """The spender behind a key; usually answered from memory. Raises Refusal."""
        if not 1 <= len(api_key) <= MAX_KEY_LENGTH:
            raise Refusal("key_unknown")
        key_hash = _hash_of(api_key)
        if not self._session.began.is_set():
            await self._begin()
        self._check_open()
        known = self._identity.known(key_hash, self._clock.boot_ns())
        if known is None:
            known = await self._resolve(key_hash)
        return _spender_of(known)

    def is_budgeted(self, spender: Spender, provider: str, model: str) -> bool:
        """Whether a hard money budget applies to such a call."""
        plan = self._identity.plan(spender, provider, model, model)
        for ref in plan.organization:
            if ref.hard:
                return True
        return any(ref.hard for ref in plan.platform)

    def prices(self) -> PriceBook:
        """The current price book."""
        return self._session.prices()

    def exchange_rates(self) -> ExchangeRates:
        """What is known of exchange rates."""
        return self._session.exchange_rates()

    async def reserve(self, call: Call) -> DeskReservation:
        """Set the ceiling aside in every budget that applies. Raises Refusal."""
        self._check_open()
        now = self._clock.boot_ns()
        spender = call.spender
        key_hash = self._identity.hash_of_id(spender.key_id)
        known = self._identity.known(key_hash, now) if key_hash is not None else None
        if known is None:
            if key_hash is None:
                raise Refusal("no_allowance", "The key is not known here any more; try again.")
            known = await self._resolve(key_hash)
            now = self._clock.boot_ns()
        # A key that was revoked since it was identified stops here.
        current = _spender_of(known)
        plan = self._plan(call, current)
        if call.is_made and (entered := self._book.enter(plan, now)) is not None:
            return self._open(call, entered)
        ceiling_nanos = min(call.ceiling_nanos, settlements.MAX_NANOS)
        if call.begin_nanos and begins_small(self._book, plan, call, now):
            ceiling_nanos = min(call.begin_nanos, ceiling_nanos)
        reservation = self._book.reserve(plan, ceiling_nanos, now)
        if reservation is not None:
            return self._open(call, reservation)
        least_nanos = min(call.least_nanos, ceiling_nanos)
        self._recall_refusal(plan, least_nanos, now)
        deadline = now + self.reserve_wait_ms * NANOS_PER_MS if call.may_wait else now
        with told_if_full():
            waiter = self._book.wait(plan, ceiling_nanos, now, deadline, least_nanos)
        return await self._turn(self._line_up(call, waiter))

    def settle(self, reservation: DeskReservation, outcome: Outcome) -> Receipt:
        """Close a reservation, exactly once. Raises ValueError when it was closed before."""
        hold = open_hold(reservation)
        held = hold.reservation
        if outcome.cost_nanos < 0:
            raise ValueError(f"cost_nanos is {outcome.cost_nanos}; expected 0 or more")
        if hold.ticket is not None:
            self._stop_waiting(hold.ticket)
            self._refuse(hold.ticket, Refusal("no_allowance", "The call ended before it grew."))
        cost_nanos, rows = settlements.settled(hold.opened, outcome)
        self._journal.settled(rows)
        overrun_nanos = self._book.settle(held, cost_nanos, self._clock.boot_ns())
        if overrun_nanos:
            self.overrun_count += 1
            log.warning("overrun", charge_id=held.charge_id, overrun_nanos=overrun_nanos)
        for part, row in zip(held.parts, rows, strict=True):
            charge = Charge(row.epoch, row.n, row.settlement, cost_nanos, part.pools)
            self._session.charge(part.leg, charge)
        if self._book.waiters:
            self._session.pump()
        self._note_idle()
        return Receipt(
            charge_id=held.charge_id,
            cost_nanos=cost_nanos,
            currency=hold.currency,
            budget_remaining_nanos=remaining_nanos(held),
        )

    # -- life ----------------------------------------------------------------------------------

    def readiness(self) -> str:
        """Why no call can be served now; "" when all is well."""
        if self._draining:
            return "draining"
        return self._session.fault(self._clock.boot_ns()) or self._journal.fault

    async def drain(self, calls_timeout_s: float, close_timeout_s: float) -> bool:
        """Admit nothing more, wait for open calls, give all money back and close the sessions.

        True if all of it was acknowledged; otherwise the journal holds the rest.
        """
        self._draining = True
        for ticket in list(self._tickets.values()):
            if ticket.waiter.growing is None:  # an open call is let go on to its end
                self._refuse(
                    ticket,
                    Refusal("overloaded", "The sidecar is being drained and admits no calls."),
                )
        self._note_idle()
        try:
            async with asyncio.timeout(calls_timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("calls_left_open", count=self._journal.open_calls)
        return await self._session.close(close_timeout_s)

    def resume(self) -> None:
        """Admit calls again; whoever called `drain` has given it up."""
        self._draining = False
        self._idle.clear()

    def _note_idle(self) -> None:
        if self._draining and not self._journal.open_calls:
            self._idle.set()

    async def _begin(self) -> None:
        """A call in the first moments of the process waits for the control plane's first word."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.reserve_wait_ms / 1000):
                await self._session.began.wait()

    def _check_open(self) -> None:
        if self._draining:
            raise Refusal("overloaded", "The sidecar is being drained and admits no calls.")
        fault = self._session.fault(self._clock.boot_ns())
        if fault:
            raise Refusal("no_allowance", sentence(fault), retry_after_s=RETRY_AFTER_S)

    # -- admission -----------------------------------------------------------------------------

    def _plan(self, call: Call, spender: Spender) -> Plan:
        plan = self._identity.plan(spender, call.provider, call.model, call.requested_model)
        if max(len(plan.organization), len(plan.platform)) > MAX_BUDGETS_OF_A_CALL:
            raise Refusal(
                "no_allowance",
                f"{len(plan.organization) + len(plan.platform)} budgets apply to this call; "
                f"at most {MAX_BUDGETS_OF_A_CALL} can be counted.",
            )
        platform = self._book.platform
        if platform is not None and plan.platform and platform.currency != spender.currency:
            if any(ref.hard for ref in plan.platform):
                raise of_another_currency(platform.currency, spender.currency)
            return Plan(plan.organization)
        return plan

    def _open(self, call: Call, reservation: Reservation) -> Hold:
        """Write the open record. Raises Refusal, and then nothing is reserved."""
        parts = tuple(
            OpenPart(part.leg.epoch, part.n, tuple(part.window_ids)) for part in reservation.parts
        )
        opened = settlements.open_record(call, parts, reservation.ceiling_nanos)
        try:
            self._journal.opened(opened)
        except JournalError as error:
            self._book.undo(reservation)
            raise journal_full(error) from error
        self._session.touched()
        hold = Hold(reservation, opened, call.spender.currency)
        hold.grows = grows_from(call, reservation)
        return hold

    def _line_up(self, cause: Call | Hold, waiter: Waiter) -> Ticket:
        ticket = Ticket(cause, waiter, self._future())
        self._tickets[waiter.order] = ticket
        self._session.ask(waiter)
        return ticket

    def _future(self) -> "asyncio.Future[Hold]":
        return asyncio.get_running_loop().create_future()

    async def _turn(self, ticket: Ticket) -> Hold:
        """Wait until its turn came, or its time is over. Raises Refusal."""
        try:
            async with asyncio.timeout(self.reserve_wait_ms / 1000):
                return await ticket.future
        except TimeoutError:
            hold = ticket.hold or self._clamped(ticket)
            if hold is not None:
                return hold
            raise self._too_late(ticket) from None
        except asyncio.CancelledError:
            if ticket.hold is not None and ticket.waiter.growing is None:
                self._release(ticket.hold)
            raise
        finally:
            self._leave(ticket)

    def _clamped(self, ticket: Ticket) -> Hold | None:
        """The wait is over: a call that may be clamped begins with what is free here, rather than
        not at all. Raises Refusal."""
        now = self._clock.boot_ns()
        if self._session.fault(now) or isinstance(ticket.cause, Hold):
            return None
        for started in self._book.admit_clamped(ticket.waiter, now):
            self._session.withdraw(started)
            assert started.reservation is not None  # the book sets it before it says so
            ticket.hold = self._open(ticket.cause, started.reservation)
        return ticket.hold

    def _leave(self, ticket: Ticket) -> None:
        """It waits no longer, whichever way that ended."""
        del self._tickets[ticket.waiter.order]
        if isinstance(ticket.cause, Hold):
            ticket.cause.ticket = None
        self._stop_waiting(ticket)

    def _stop_waiting(self, ticket: Ticket) -> None:
        waiter = ticket.waiter
        if waiter.order in self._book.waiters:
            self._book.withdraw(waiter)
            self._session.withdraw(waiter)
            self._session.pump()

    def _release(self, hold: Hold) -> None:
        """The app left while it waited: the call was admitted and never sent."""
        now = self._clock.wall_ns()
        self.settle(hold, Outcome("released", _NO_USAGE, 0, finished_at=now))

    def _too_late(self, ticket: Ticket) -> Refusal:
        now = self._clock.boot_ns()
        fault = self._session.fault(now)
        if fault:
            return Refusal("no_allowance", sentence(fault), retry_after_s=RETRY_AFTER_S)
        if not ticket.standings and self._session.is_silent():
            return Refusal(
                "no_allowance",
                "The allowances held here are used up, and the control plane does not answer.",
                retry_after_s=RETRY_AFTER_S,
            )
        standings = ticket.standings or self._standings.known_here(ticket.waiter, now)
        return Refusal("budget_reserved", retry_after_s=RETRY_AFTER_S, budgets=standings)

    # -- what the session tells ----------------------------------------------------------------

    def admitted(self, waiter: Waiter) -> None:
        """A waiting call got its money."""
        self._session.withdraw(waiter)
        ticket = self._tickets.get(waiter.order)
        reservation = waiter.reservation
        assert reservation is not None  # the book sets it before it says so
        if ticket is None or ticket.future.done():
            if waiter.growing is None:
                self._book.undo(reservation)
            else:
                self._book.undo_extend(reservation, waiter.ceiling_nanos)
            return
        cause = ticket.cause
        try:
            if isinstance(cause, Hold):
                self._grown(cause, waiter.ceiling_nanos)
                ticket.hold = cause
            else:
                ticket.hold = self._open(cause, reservation)
        except Refusal as refusal:
            ticket.future.set_exception(refusal)
            return
        ticket.future.set_result(ticket.hold)

    def judged(self, waiter: Waiter, verdict: allowances_pb2.Verdict) -> None:
        """The control plane answered a need otherwise than with money."""
        ticket = self._tickets.get(waiter.order)
        if ticket is None:
            return
        standings = tuple(self._standings.told(binding) for binding in verdict.binding)
        retry_after_s = verdict.retry_after_ms / 1000 if verdict.retry_after_ms else None
        now = self._clock.boot_ns()
        if verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED:
            refusal = Refusal("budget_exhausted", retry_after_s=retry_after_s, budgets=standings)
            # Of growth nothing is remembered: it may draw on a window that is over.
            for binding in verdict.binding if waiter.growing is None else ():
                self._book.remember_exhausted(
                    binding.budget_id,
                    waiter.least_nanos,
                    now=now,
                    for_ns=verdict.retry_after_ms * NANOS_PER_MS or NANOS_PER_SECOND,
                    evidence=(retry_after_s, self._standings.told(binding)),
                )
            self._refuse(ticket, refusal)
        elif verdict.outcome == allowances_pb2.NEED_OUTCOME_CONTENDED:
            ticket.standings = standings or ticket.standings
            if waiter.deadline - now <= 2 * ANSWER_MARGIN_MS * NANOS_PER_MS:
                self._refuse(
                    ticket,
                    Refusal(
                        "budget_reserved",
                        retry_after_s=retry_after_s or RETRY_AFTER_S,
                        budgets=ticket.standings,
                    ),
                )
        elif waiter.growing is not None and verdict.outcome == allowances_pb2.NEED_OUTCOME_STALE:
            self._refuse(ticket, of_an_older_session())
        # A stale need (a budget is gone), or a contended one with time left, is asked again by
        # the session's next beat.

    def policy_changed(self) -> None:
        """Keys or budgets changed: wake who asked, look again at who waits."""
        now = self._clock.boot_ns()
        for asked in [h for h in self._resolving if self._identity.known(h, now) is not None]:
            self._resolving.pop(asked).set_result(None)
        for ticket in list(self._tickets.values()):
            if ticket.future.done():
                continue
            call = ticket.cause
            if isinstance(call, Hold):
                # What was admitted goes on; its budgets are those of its admission.
                if not self._book.is_current(call.reservation):
                    self._refuse(ticket, of_an_older_session())
                continue
            try:
                key_hash = self._identity.hash_of_id(call.spender.key_id)
                known = self._identity.known(key_hash, now) if key_hash is not None else None
                if known is not None:
                    plan = self._plan(call, _spender_of(known))
                    if plan != ticket.waiter.plan:
                        self._book.replan(ticket.waiter, plan, now)
            except Refusal as refusal:
                self._refuse(ticket, refusal)

    def _refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        if not ticket.future.done():
            ticket.future.set_exception(refusal)

    # -- keys ----------------------------------------------------------------------------------

    async def _resolve(self, key_hash: bytes) -> KnownKey:
        """Ask the control plane who a key is. Raises Refusal."""
        future = None
        try:
            async with asyncio.timeout(RESOLVE_WAIT_S):
                known = None
                while known is None:
                    future = self._asked(key_hash)
                    await asyncio.shield(future)
                    known = self._identity.known(key_hash, self._clock.boot_ns())
                return known
        except TimeoutError:
            if self._resolving.get(key_hash) is future and future is not None:
                # The question or its answer may be lost: who waits longer asks again.
                self._resolving.pop(key_hash).set_result(None)
            raise Refusal(
                "no_allowance",
                "The control plane did not tell in time who the key is.",
                retry_after_s=RETRY_AFTER_S,
            ) from None

    def _asked(self, key_hash: bytes) -> "asyncio.Future[None]":
        """Done when the answer is here or somebody gave up. Raises Refusal."""
        future = self._resolving.get(key_hash)
        if future is None:
            if len(self._resolving) >= MAX_RESOLVING:
                raise Refusal(
                    "overloaded",
                    "Too many unknown keys are asked about.",
                    retry_after_s=RETRY_AFTER_S,
                )
            future = self._resolving[key_hash] = asyncio.get_running_loop().create_future()
            self._session.resolve(key_hash)
        return future

    # -- refusals ------------------------------------------------------------------------------

    def _recall_refusal(self, plan: Plan, ceiling_nanos: int, now: int) -> None:
        """Refuse at once what was refused a moment ago."""
        found = [m.evidence for m in self._book.recall_exhausted(plan, ceiling_nanos, now)]
        if found:
            known = [evidence for evidence in found if isinstance(evidence, tuple)]
            raise Refusal(
                "budget_exhausted",
                retry_after_s=max((e[0] for e in known if e[0] is not None), default=None),
                budgets=tuple(e[1] for e in known),
            )


def _spender_of(known: KnownKey) -> Spender:
    if known.spender is None:
        raise Refusal(known.refusal)
    return known.spender
