"""Reservations as the data path holds them, and who waits in line for one, or for more in one."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog

from bursar_sidecar.allowances import LineIsFullError, Reservation, Waiter
from bursar_sidecar.desk import BudgetStanding, Call, Refusal
from bursar_sidecar.desk import Reservation as DeskReservation
from bursar_sidecar.journal import JournalError
from bursar_sidecar.journal_records import Opened

log = structlog.get_logger("bursar.cashier")

# A refusal without a better word says so much: what is in flight comes home within seconds.
RETRY_AFTER_S: Final = 1.0


class Hold:
    """A reservation as the data path holds it."""

    __slots__ = ("_reservation", "charge_id", "currency", "grows", "opened", "ticket")

    def __init__(self, reservation: Reservation, opened: Opened, currency: str) -> None:
        self._reservation = reservation
        self.charge_id = reservation.charge_id
        self.opened = opened
        self.currency = currency
        self.grows = False
        """It began with a part of its worst case, and grows."""
        self.ticket: Ticket | None = None
        """While it waits to grow."""

    @property
    def ceiling_nanos(self) -> int:
        """What is set aside."""
        return self._reservation.ceiling_nanos

    @property
    def reservation(self) -> Reservation:
        """The book's side of it."""
        return self._reservation


class Ticket:
    """A call that waits in line, and how it hears of its turn."""

    __slots__ = ("cause", "future", "hold", "standings", "waiter")

    def __init__(self, cause: Call | Hold, waiter: Waiter, future: "asyncio.Future[Hold]") -> None:
        self.cause = cause
        """The call that is to begin, or the open one that is to grow."""
        self.waiter = waiter
        self.future = future
        self.hold: Hold | None = None
        self.standings: tuple[BudgetStanding, ...] = ()


@contextlib.contextmanager
def told_if_full() -> Iterator[None]:
    """Tell the app when the line is full."""
    try:
        yield
    except LineIsFullError:
        raise Refusal(
            "overloaded", "Too many calls are waiting for money.", retry_after_s=RETRY_AFTER_S
        ) from None


def open_hold(reservation: DeskReservation) -> Hold:
    """The reservation as this desk knows it. Raises ValueError when it was settled before."""
    if not isinstance(reservation, Hold):
        raise TypeError(f"reservation is a {type(reservation).__name__}, none of this desk's")
    if reservation.reservation.settled:
        raise ValueError(f"reservation {reservation.charge_id} is settled already")
    return reservation


def journal_full(error: JournalError) -> Refusal:
    """What can't be written down must not be spent."""
    log.error("journal_full", fault=str(error))
    return Refusal("overloaded", f"journal_full: {error}", retry_after_s=RETRY_AFTER_S)


def of_an_older_session() -> Refusal:
    """Nothing more is lent to the session, or in the window, that a call began in."""
    return Refusal("no_allowance", "The session or window of the call is closed; it can't grow.")


def of_another_currency(platform: str, organization: str) -> Refusal:
    """A call is reserved in one currency: a budget of the platform in another can't count it, and
    a hard one is not passed by on that account."""
    return Refusal(
        "no_allowance",
        f"A hard budget of the platform is in {platform}, the organization's books are in "
        f"{organization}, and a platform's budget counts its own currency alone.",
    )


def sentence(fault: str) -> str:
    """A fault as a sentence."""
    return f"{fault[:1].upper()}{fault[1:]}."
