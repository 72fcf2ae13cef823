"""Saying again what was acknowledged, to a control plane whose database forgot it."""

import structlog

from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_kept import Kept
from bursar_sidecar.outbox import Charge
from bursar_sidecar.prior import Prior

log = structlog.get_logger("bursar.again")

MOST_SESSIONS = 200
"""Earlier lives that are named for it, the latest: a Hello names 256 at most."""


class Again:
    """The settlements that the journal still holds, one after the other."""

    def __init__(self, journal: Journal, priors: dict[int, Prior]) -> None:
        """Names the sessions that are over in `priors`, so that they are closed again, too.

        Raises OSError.
        """
        self._journal = journal
        self._kept = Kept(journal.directories, journal.late)
        present = {epoch for epoch in self._kept.sessions if journal.is_live(epoch)}
        over = sorted(self._kept.sessions.keys() - priors.keys() - present)
        if len(over) > MOST_SESSIONS:
            log.error("sessions_not_said_again", epochs=over[:-MOST_SESSIONS])
        for epoch in over[-MOST_SESSIONS:]:
            kept = self._kept.sessions[epoch]
            priors[epoch] = Prior(
                epoch, kept.organization_id, kept.journal, kept.last_n, proof=kept.proof
            )
        self._epochs = {*priors, *present}
        self._settlements = self._kept.settlements()

    def following(self) -> tuple[int, Charge] | None:
        """The next one and its organization; None at the end. Raises OSError."""
        for settled in self._settlements:
            epoch, n = settled.epoch, settled.n
            if epoch in self._epochs and not self._journal.is_owed(epoch, n):
                charge = Charge(epoch, n, settled.settlement)
                return self._kept.sessions[epoch].organization_id, charge
        return None
