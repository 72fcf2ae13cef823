"""With how much a call begins that could grow: a part of its worst case, or all of it. Pure.

A stream begins with a part. An app that waits for a plain answer gets it as the provider wrote it
as long as there is plenty: its call is run as a stream, and assembled, only where the worst case is
more than a small part of what a budget has left. In the tail of a window nothing begins small: what
it would grow into is not there.
"""

from typing import Final

from bursar_sidecar.allowances import Book, Plan, Reservation
from bursar_sidecar.desk import Call

AMPLE: Final = 32
"""A budget is ample for a plain call if it has left what so many of its worst cases cost. With
fewer, a handful of calls that cost a hundredth of it each would keep all others out."""


def begins_small(book: Book, plan: Plan, call: Call, now: int) -> bool:
    """Whether a call that may grow begins with a part of its worst case."""
    ample = not call.stream
    wanted_nanos = call.ceiling_nanos * AMPLE
    for leg, refs in ((book.organization, plan.organization), (book.platform, plan.platform)):
        for budget_id, hard in refs:
            pool = leg.current_pool(budget_id, now) if leg is not None and hard else None
            if pool is None:
                ample = ample and not hard  # nothing is known of it yet
            elif pool.lent:
                if pool.tail:
                    return False
                ample = ample and pool.remaining_nanos >= wanted_nanos
    return not ample


def grows_from(call: Call, reservation: Reservation) -> bool:
    """Whether a call grows from what was set aside for it; if not, and that is less than its worst
    case, it is clamped."""
    if not 0 < call.begin_nanos <= reservation.ceiling_nanos < call.ceiling_nanos:
        return False
    return not any(pool.tail and pool.lent for part in reservation.parts for pool in part.pools)
