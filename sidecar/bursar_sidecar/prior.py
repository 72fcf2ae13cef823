"""Earlier sessions that still owe something: of a process that died, or fenced in this one."""

from dataclasses import dataclass

from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_recovery import TRUNCATED
from bursar_sidecar.outbox import Charge
from bursar_sidecar.pools import Leg
from bursar_sidecar.settlements import CRASHED, provisional


@dataclass(slots=True)
class Prior:
    """One of them. It is over when its last call is settled, all was acknowledged, and it was
    closed on the other side."""

    epoch: int
    organization_id: int
    journal: str
    last_n: int
    leg: Leg | None = None
    """Its book, when it was fenced in this process and calls may still be open."""
    owed: int = 0
    """Settlements that are not acknowledged yet."""
    close_applied: bool = False
    proof: bytes = b""
    """What the control plane gave to prove it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to do."""
        open_count = self.leg.open_count if self.leg else 0
        return self.close_applied and not self.owed and not open_count


def priors_of(journal: Journal, wall_ns: int) -> list[tuple[Prior, list[Charge]]]:
    """What the journal still proves, and the charges to send for it.

    Calls that were open when their sidecar died are settled here provisionally, at what was
    reserved: they were dispatched, or may have been. Their settlements are in the journal before
    this returns. Not so where the journal's end is missing: a call that looks open may be settled
    behind the cut, and the money it gave back may be spent by another; all that the session holds
    is in doubt there, and a posting on a guess would let a later correction free it.
    """
    found = []
    for session in journal.recovered:
        charges = [
            Charge(session.epoch, n, message)
            for n, message in sorted(session.unacknowledged.items())
        ]
        unsettled = {} if session.journal == TRUNCATED else session.open
        for n, (part, opened) in sorted(unsettled.items()):
            for row in provisional(opened, CRASHED, wall_ns).rows:
                if row.epoch == part.epoch and row.n == n:
                    journal.settled([row])
                    charges.append(Charge(part.epoch, n, row.settlement))
        prior = Prior(
            session.epoch,
            session.organization_id,
            session.journal,
            session.last_n,
            owed=len(charges),
            proof=session.proof,
        )
        found.append((prior, charges))
    return found
