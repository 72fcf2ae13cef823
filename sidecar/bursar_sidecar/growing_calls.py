"""The cashier's part for calls that are open and grow: from what is free here, or by asking.

Growth is written down before it is said to be there: only then may flow what it covers.
"""

from abc import ABC, abstractmethod
from typing import Final

from msgspec import structs

from bursar_sidecar import settlements
from bursar_sidecar.allowances import Book, Reservation, Waiter
from bursar_sidecar.clock import NANOS_PER_MS, Clock
from bursar_sidecar.desk import Call, Refusal
from bursar_sidecar.desk import Reservation as DeskReservation
from bursar_sidecar.holds import (
    RETRY_AFTER_S,
    Hold,
    Ticket,
    journal_full,
    of_an_older_session,
    open_hold,
    sentence,
    told_if_full,
)
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.session import Session

_ENDLESS: Final = 1 << 62


class GrowingCalls(ABC):
    """What `desk.Desk` says of growth."""

    _clock: Clock
    _book: Book
    _journal: Journal
    _session: Session
    reserve_wait_ms: int

    async def extend(self, reservation: DeskReservation, ceiling_nanos: int) -> None:
        """Let what is set aside for an open call grow to so much. Raises Refusal.

        ValueError when it was settled before, or waits to grow already.
        """
        hold = open_hold(reservation)
        held = hold.reservation
        if hold.ticket is not None:
            raise ValueError(f"reservation {held.charge_id} waits to grow already")
        by_nanos = min(ceiling_nanos, settlements.MAX_NANOS) - held.ceiling_nanos
        if by_nanos <= 0:
            return
        now = self._clock.boot_ns()
        fault = self._session.fault(now)
        if fault:
            raise Refusal("no_allowance", sentence(fault), retry_after_s=RETRY_AFTER_S)
        if not self._book.is_current(held):
            raise of_an_older_session()
        if self._book.extend(held, by_nanos, now):
            self._grown(hold, by_nanos)
            return
        deadline = now + self.reserve_wait_ms * NANOS_PER_MS
        with told_if_full():
            waiter = self._book.wait_to_grow(held, by_nanos, now, deadline)
        hold.ticket = self._line_up(hold, waiter)
        await self._turn(hold.ticket)

    def extend_here(
        self, reservation: DeskReservation, ceiling_nanos: int, least_nanos: int
    ) -> bool:
        """Let it grow to so much from what is free here, or as far as that goes, but not less than
        to the least. Whether it grew. ValueError when it was settled before."""
        hold = open_hold(reservation)
        held = hold.reservation
        now = self._clock.boot_ns()
        if hold.ticket is not None or self._session.fault(now):
            return False
        wanted = min(ceiling_nanos, settlements.MAX_NANOS) - held.ceiling_nanos
        by_nanos = min(wanted, _free_nanos(held))
        if by_nanos <= 0 or held.ceiling_nanos + by_nanos < least_nanos:
            return False
        if not self._book.extend(held, by_nanos, now):
            return False
        try:
            self._grown(hold, by_nanos)
        except Refusal:  # the journal is full, and has said so
            return False
        return True

    def _grown(self, hold: Hold, by_nanos: int) -> None:
        """Write the growth down. Raises Refusal, and then it did not grow."""
        opened = structs.replace(hold.opened, reserved_nanos=hold.ceiling_nanos)
        try:
            self._journal.grown(opened)
        except JournalError as error:
            self._book.undo_extend(hold.reservation, by_nanos)
            raise journal_full(error) from error
        hold.opened = opened
        self._session.touched()

    @abstractmethod
    def _line_up(self, cause: Call | Hold, waiter: Waiter) -> Ticket:
        """Let a call wait for its turn."""

    @abstractmethod
    async def _turn(self, ticket: Ticket) -> Hold:
        """Wait until its turn came, or its time is over. Raises Refusal."""


def _free_nanos(held: Reservation) -> int:
    """What all its pools have free."""
    pools = [pool for part in held.parts for pool in part.pools]
    return min((pool.free_nanos for pool in pools if pool.lent), default=_ENDLESS)
