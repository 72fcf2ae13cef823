"""Evidence that comes late: what a call that was settled provisionally really cost.

Only calls that an app made itself come here. The sidecar's own book is not touched: what was
reserved was given up as spent, and the control plane lends again what an adjustment frees.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bursar.v1 import charges_pb2
from bursar_sidecar import settlements
from bursar_sidecar.clock import NANOS_PER_SECOND, Clock
from bursar_sidecar.desk import Outcome, Receipt, Refusal, Reservation
from bursar_sidecar.holds import Hold
from bursar_sidecar.journal_records import Opened
from bursar_sidecar.journal_recovery import TRUNCATED, RecoveredSession
from bursar_sidecar.session import Session

EVIDENCE_WITHIN_S: Final = 24 * 3_600
"""How long evidence may come: as long as the control plane waits for it by default."""
_PROVISIONAL: Final = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


class Late(msgspec.Struct, frozen=True):
    """A call of an app that was settled provisionally."""

    charge_id: str
    opened: Opened


class Amendments:
    """Keeps sessions open to evidence, and sends it."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    def recovered(self, sessions: Iterable[RecoveredSession]) -> Mapping[str, Late]:
        """What apps held, and Envoys carried, when an earlier life ended, by charge id, as far as
        the journal knows it.

        Not of a session whose tail is missing: what looks open there may be settled.
        """
        found = {}
        for session in sessions:
            if session.platform or session.journal == TRUNCATED:
                continue
            for n, (opened, settlement) in session.handed_out.items():
                if (
                    settlement
                    and charges_pb2.Settlement.FromString(settlement).kind != _PROVISIONAL
                ):
                    continue
                charge_id = f"{session.epoch}-{n}"
                found[charge_id] = Late(charge_id, opened)
                self._keep(opened)
        return found

    def late(self, reservation: Reservation) -> Late:
        """A reservation that was just settled provisionally; evidence about it may come from now
        on."""
        if not isinstance(reservation, Hold):
            raise TypeError(f"reservation is a {type(reservation).__name__}, none of the cashier's")
        self._keep(reservation.opened)
        return Late(reservation.charge_id, reservation.opened)

    def amend(self, late: Late, outcome: Outcome, currency: str) -> Receipt:
        """Post what it really cost. Raises Refusal where its session takes no evidence any more."""
        epochs = [part.epoch for part in late.opened.parts]
        if not self._session.can_amend(epochs):
            raise Refusal(
                "evidence_too_late",
                f"The session of charge {late.charge_id} is closed; what was charged stays.",
            )
        cost_nanos, rows = settlements.settled(late.opened, outcome)
        self._session.amend(rows)
        return Receipt(late.charge_id, cost_nanos, currency, None)

    def _keep(self, opened: Opened) -> None:
        until = self._clock.boot_ns() + EVIDENCE_WITHIN_S * NANOS_PER_SECOND
        for part in opened.parts:
            self._session.keep(part.epoch, until)
