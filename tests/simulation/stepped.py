"""The parts of a sidecar that wait or keep time, without an event loop to wait in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bursar_sidecar.allowances import Reservation
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.clock import NANOS_PER_MS
from bursar_sidecar.desk import Call, Refusal
from bursar_sidecar.holds import Hold, Ticket
from bursar_sidecar.identity import KnownKey
from bursar_sidecar.journal import JournalFullError
from bursar_sidecar.session import Session
from tests.simulation.control_process import Time
from tests.simulation.coverage import saw
from tests.simulation.database import EPOCH

if TYPE_CHECKING:
    from tests.simulation.sidecar import Life


EPOCH_NS = int(EPOCH.timestamp()) * 1_000_000_000


class Witness(Protocol):
    """Who watches what sidecars do, to compare it with what may be."""

    def intends(self, life: Life, reservation: Reservation, call: Call) -> None:
        """A reservation was made; its open record is about to be written."""

    def undone(self, reservation: Reservation) -> None:
        """The open record could not be written; the call does not start."""

    def dispatched(self, life: Life, hold: Hold) -> None:
        """The first byte goes upstream."""

    def grows(self, life: Life, hold: Hold, by_nanos: int) -> None:
        """More was reserved for an open call; it is about to be written down."""

    def stays(self, hold: Hold, by_nanos: int) -> None:
        """It could not be written down."""

    def grew(self, hold: Hold, by_nanos: int) -> None:
        """What the growth covers flows."""

    def told(self, hold: Hold, cost_nanos: int) -> None:
        """The end of a call was recorded."""

    def recorded(self, hold: Hold) -> None:
        """It is in the journal."""

    def refused(self, life: Life, refusal: Refusal) -> None:
        """A call may not start."""


class Clock:
    """A sidecar's clocks: they run fast or slow, and the wall clock is off."""

    def __init__(self, time: Time, skew_ms: int, drift_ppm: int) -> None:
        self._time = time
        self._skew_ns = skew_ms * NANOS_PER_MS
        self._drift_ppm = drift_ppm

    def boot_ns(self) -> int:
        """Nanoseconds, suspended time included."""
        now = self._time.now_ns
        return now + now * self._drift_ppm // 1_000_000

    def wall_ns(self) -> int:
        """Nanoseconds of the day."""
        return EPOCH_NS + self.boot_ns() + self._skew_ns

    def monotonic(self) -> float:
        """Seconds."""
        return self.boot_ns() / 1e9


class Waits(BaseException):
    """A call stands in line."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__()
        self.ticket = ticket


class Turn:
    """What a waiting call waits for: a future without an event loop."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.refusal: Refusal | None = None

    def done(self) -> bool:
        """Whether its turn came, or never will."""
        return self.hold is not None or self.refusal is not None

    def set_result(self, hold: Hold) -> None:
        """Its turn came."""
        self.hold = hold

    def set_exception(self, refusal: Refusal) -> None:
        """It may not start."""
        self.refusal = refusal


class KeyAskedError(Exception):
    """It was asked who a key is; the call waits for the answer."""


class QuietSession(Session):
    """The session without its timers."""

    def _gather(self, _seconds: float) -> None:
        """Everything is said when the simulation says so."""


class SteppedCashier(Cashier):
    """The cashier without an event loop to wait on."""

    life: Life

    async def _begin(self) -> None:
        """Nobody waits for the first word here."""

    async def _resolve(self, key_hash: bytes) -> KnownKey:
        self._session.resolve(key_hash)
        raise KeyAskedError

    def _open(self, call: Call, reservation: Reservation) -> Hold:
        witness = self.life.witness
        witness.intends(self.life, reservation, call)
        try:
            return super()._open(call, reservation)
        except Refusal as refusal:
            full = isinstance(refusal.__cause__, JournalFullError)
            saw(f"a full {'journal' if full else 'disk'} refused a call")
            witness.undone(reservation)
            raise

    def _grown(self, hold: Hold, by_nanos: int) -> None:
        witness = self.life.witness
        witness.grows(self.life, hold, by_nanos)
        try:
            super()._grown(hold, by_nanos)
        except Refusal:
            saw("growth could not be written")
            witness.stays(hold, by_nanos)
            raise
        witness.grew(hold, by_nanos)
        now = self._clock.boot_ns()
        pools = [pool for part in hold.reservation.parts for pool in part.pools]
        saw("a call grew after its window", any(not pool.is_current(now) for pool in pools))

    def _future(self) -> Any:
        return Turn()

    async def _turn(self, ticket: Ticket) -> Hold:
        raise Waits(ticket)
