"""The protocol's invariants, as far as one sidecar with its sessions can show them.

Those that need all sidecars (1, 2 and the sum of entries in 6) are in `state_space`.
"""

from collections.abc import Iterator

from tests.simulation.formal.parts import (
    Call,
    Fate,
    Journal,
    Mutant,
    Phase,
    Posted,
    Process,
    Session,
    Sidecar,
)
from tests.simulation.formal.sidecar_steps import IN_FLIGHT, free, worst

WITHIN_LIMIT = "1: the sum of min(true cost, W) is above the highest limit there was"
GUARD = "2: a grant left settled + outstanding + in doubt above the limit"
CEILING = "2: settled - overrun + outstanding + in doubt is above the ceiling"
ESCROW = "4: free + open W + unsettled cost is above what is outstanding for the session"
COVERED = "5: the journal is alive, and a dispatched call is neither accepted nor resendable"
HELD = "5: settled + held is below the truth"
COUNT = "6: a closed session lacks a settlement"
EXACT = "6: the entries of a call do not add up to its cost"
ENTRIES = "6: settled is not the sum of the entries"
FELL = "6: granted, returned or settled fell"
POOL = "7: a call was admitted beyond what its pool had free"


def truth(call: Call, mutant: Mutant) -> int:
    """What a call has cost or may still cost at most; of an overrun, the part within W."""
    if call.fate in (Fate.VOID, Fate.RESERVED, Fate.ORPHAN_UNSENT):
        return 0
    if call.fate in (Fate.OPEN, Fate.ORPHAN):
        return max(call.flowed, worst(call, mutant))
    return call.flowed


RULES = frozenset(
    (WITHIN_LIMIT, GUARD, CEILING, ESCROW, COVERED, HELD, COUNT, EXACT, ENTRIES, FELL, POOL)
)
OVERSPENT = frozenset((WITHIN_LIMIT,))
"""What a broken rule may lead to: the money is gone."""


def local_faults(sidecar: Sidecar, mutant: Mutant) -> Iterator[str]:
    """The rules that the sidecar's sessions break."""
    for session in sidecar.sessions:
        yield from _calls_faults(session)
        yield from _pools_faults(session, mutant)


def _calls_faults(session: Session) -> Iterator[str]:
    kept = session.journal is Journal.KEPT
    for call in session.calls:
        if call.posted is Posted.FINAL:
            if call.amount != call.flowed + call.excess + call.corrected:
                yield EXACT
            continue
        if session.phase is Phase.CLOSED and call.posted is Posted.NOTHING:
            yield COUNT
        if kept and call.posted is not Posted.PROVISIONAL:
            on_disk = call.settled_row or call.journaled >= max(call.reserved, call.flowed)
            sent = call.fate not in (Fate.RESERVED, Fate.VOID, Fate.ORPHAN_UNSENT)
            if call.posted is Posted.DROPPED or (sent and not on_disk):
                yield COVERED


def _pools_faults(session: Session, mutant: Mutant) -> Iterator[str]:
    for window, pool in enumerate(session.pools):
        calls = [call for call in session.calls if window in call.draw]
        excess = sum(call.excess for call in calls)
        if session.process in (Process.UP, Process.LAPSED):
            rest = free(session, window, mutant)
            if rest + excess < 0:
                yield POOL
            open_w = sum(call.reserved for call in calls if call.fate in IN_FLIGHT)
            unsettled = sum(
                call.cost
                for call in calls
                if call.fate not in IN_FLIGHT and call.posted is Posted.NOTHING
            )
            # What was posted as spent for want of evidence is no longer outstanding, but there.
            # An overrun that nothing covered eats what others reserved until they settle too:
            # that much, and no more, may be missing.
            there = pool.held + pool.written_off + excess
            if max(0, rest) + open_w + unsettled > there:
                yield ESCROW
        entries = sum(call.amount - call.corrected for call in calls)
        if entries + pool.held + pool.written_off < sum(truth(call, mutant) for call in calls):
            yield HELD


def fell(before: Sidecar, after: Sidecar) -> str:
    """Whether a total fell in a step."""
    for old, new in zip(before.sessions, after.sessions, strict=False):
        for was, now in zip(old.pools, new.pools, strict=True):
            if now.granted < was.granted or now.returned < was.returned:
                return FELL
            if now.settled < was.settled:
                return FELL
    return ""
