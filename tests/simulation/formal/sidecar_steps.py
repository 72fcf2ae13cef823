"""What a sidecar does: admit, dispatch, grow, settle, return, lapse, drain, crash, start again."""

from collections.abc import Iterator

from tests.simulation.formal.parts import (
    Bounds,
    Call,
    Fate,
    Journal,
    Mutant,
    Pool,
    Process,
    Session,
    Sidecar,
    Step,
)

IN_FLIGHT = (Fate.RESERVED, Fate.OPEN)


def claim(call: Call) -> int:
    """What a call takes out of its session's pools: W while open, then its cost."""
    if call.fate is Fate.VOID:
        return 0
    return call.reserved if call.fate in IN_FLIGHT else call.cost


def free(session: Session, window: int, mutant: Mutant) -> int:
    """What the sidecar believes it may still reserve in a window."""
    pool = session.pools[window]
    used = sum(claim(call) for call in session.calls if window in call.draw)
    given_up = 0 if mutant is Mutant.RETURN_NOT_DEDUCTED else pool.given_up
    return pool.seen - given_up - used


def worst(call: Call, mutant: Mutant) -> int:
    """What a call can cost at most, if the price bound is right."""
    return call.reserved + (1 if mutant is Mutant.LOW_ESTIMATE else 0)


def with_session(sidecar: Sidecar, place: int, session: Session) -> Sidecar:
    """The sidecar with one session replaced."""
    sessions = sidecar.sessions
    return sidecar._replace(sessions=(*sessions[:place], session, *sessions[place + 1 :]))


def with_call(session: Session, n: int, call: Call) -> Session:
    """The session with one call replaced."""
    return session._replace(calls=(*session.calls[:n], call, *session.calls[n + 1 :]))


def with_pool(session: Session, window: int, pool: Pool) -> Session:
    """The session with one pool replaced."""
    pools = session.pools
    return session._replace(pools=(*pools[:window], pool, *pools[window + 1 :]))


def sidecar_steps(sidecar: Sidecar, bounds: Bounds, mutant: Mutant) -> Iterator[Step]:
    """All that the sidecar itself can do next. Only its last session may have a process."""
    place = len(sidecar.sessions) - 1
    session = sidecar.sessions[place]
    if session.process is Process.DOWN:
        if len(sidecar.sessions) < bounds.lives:
            fresh = Session(pools=tuple(Pool() for _ in bounds.limits))
            words = "{me} starts again, as a new session"
            yield Step(words, sidecar._replace(sessions=(*sidecar.sessions, fresh)))
        return
    for words, after in _in_session(session, sidecar.period, bounds, mutant):
        yield Step("{me} " + words, with_session(sidecar, place, after))
    if sidecar.period + 1 < len(bounds.draws):
        words = "{me}: its clock passes the end of the window"
        yield Step(words, sidecar._replace(period=sidecar.period + 1))


def _in_session(
    session: Session, period: int, bounds: Bounds, mutant: Mutant
) -> Iterator[tuple[str, Session]]:
    if session.process is not Process.DRAINED:
        if session.process is Process.UP:
            yield from _admit(session, period, bounds, mutant)
        for n, call in enumerate(session.calls):
            for words, after in _progress(session, n, call, bounds, mutant):
                yield words, with_call(session, n, after)
        yield from _talk(session, bounds, mutant)
    if session.calls or any(pool.granted for pool in session.pools):
        yield from _crash(session, bounds)


def _admit(
    session: Session, period: int, bounds: Bounds, mutant: Mutant
) -> Iterator[tuple[str, Session]]:
    """Reserve W in every window of the draw set or in none, and write the open record."""
    if len(session.calls) >= bounds.calls:
        return
    draw = bounds.draws[period]
    for size in bounds.sizes:
        asked = draw[:1] if mutant is Mutant.FIRST_BUDGET_ONLY else draw
        if any(_usable(session, bounds, draw, w, mutant) < size for w in asked):
            continue
        late = mutant is Mutant.JOURNAL_AFTER_DISPATCH
        call = Call(
            draw=draw,
            reserved=size,
            journaled=0 if late else size,
            fate=Fate.RESERVED if bounds.voids and not late else Fate.OPEN,
        )
        name = f"call {len(session.calls) + 1} with W {size} on windows {_list(draw)}"
        does = "reserves and journals" if bounds.voids else "journals and dispatches"
        does = "dispatches, before its journal has it," if late else does
        yield f"{does} {name}", session._replace(calls=(*session.calls, call))


def _usable(
    session: Session, bounds: Bounds, draw: tuple[int, ...], window: int, mutant: Mutant
) -> int:
    usable = free(session, window, mutant)
    if mutant is Mutant.OLD_WINDOW_REUSED and draw is not bounds.draws[0]:
        old = bounds.draws[0][draw.index(window)]
        usable += free(session, old, mutant) if old != window else 0
    return usable


def _progress(
    session: Session, n: int, call: Call, bounds: Bounds, mutant: Mutant
) -> Iterator[tuple[str, Call]]:
    name = f"call {n + 1}"
    if call.fate in IN_FLIGHT and not call.journaled:
        yield f"journals {name}", call._replace(journaled=call.reserved)
    if call.fate is Fate.RESERVED:
        yield f"dispatches {name}", call._replace(fate=Fate.OPEN)
        voided = call._replace(fate=Fate.VOID, settled_row=True)
        yield f"voids {name}, which was provably never sent", voided
    if call.fate is not Fate.OPEN:
        return
    if bounds.grown_to:
        flow_bound = call.reserved
        if mutant is Mutant.GROWTH_AFTER_FLOW:
            flow_bound = min(call.reserved + 1, bounds.grown_to)
        if call.flowed < flow_bound:
            more = call.flowed + 1
            yield f"lets {name} flow on, its cost so far is {more}", call._replace(flowed=more)
        grown = call.reserved + 1
        if grown <= bounds.grown_to and all(free(session, w, mutant) > 0 for w in call.draw):
            words = f"journals the growth of {name} to W {grown}"
            yield words, call._replace(reserved=grown, journaled=grown)
    for flowed in endings(call, bounds, mutant):
        end = call._replace(fate=Fate.ENDED, settled_row=True, flowed=flowed)
        yield f"settles {name} at {flowed}", end
        if flowed and mutant is Mutant.FREE_HANG_UP:
            words = f"settles {name} at 0 because the app hung up, after {flowed} was produced"
            yield words, end._replace(fate=Fate.HUNG_UP)
        if flowed == call.reserved and bounds.excess:
            over = end._replace(excess=bounds.excess)
            yield f"settles {name} at {over.cost}, above its W {call.reserved}", over


def endings(call: Call, bounds: Bounds, mutant: Mutant) -> range:
    """What the call may turn out to cost, up to what it can cost at most."""
    if bounds.grown_to:
        return range(call.flowed, call.flowed + 1)
    return range(worst(call, mutant) + 1)


def _talk(session: Session, bounds: Bounds, mutant: Mutant) -> Iterator[tuple[str, Session]]:
    """Returns and grants, validity, the end of a session."""
    as_delta = mutant is Mutant.RETURNS_AS_DELTAS
    for window, pool in enumerate(session.pools):
        most = free(session, window, mutant) if bounds.returns else 0
        for part in range(1, most + 1):
            total = pool.given_up + part
            sent = (*pool.returns_sent, part if as_delta else total)
            after = pool._replace(given_up=total, returns_sent=tuple(sorted(set(sent))))
            words = f"gives up {part} of window {window}, and says that it returned {total} in all"
            yield words, with_pool(session, window, after)
        for message in pool.grants_sent:
            if mutant is Mutant.GRANTS_AS_DELTAS:
                after = pool._replace(seen=pool.seen + message)
                words = f"hears that it was granted {message} more of window {window}"
            else:
                newer = tuple(total for total in pool.grants_sent if total > message)
                after = pool._replace(seen=message, grants_sent=newer)
                words = f"hears that it was granted {message} in all of window {window}"
            heard = with_pool(session, window, after)
            yield words, heard._replace(process=Process.UP)
    if bounds.lapses and session.process is Process.UP:
        yield "lets its validity lapse", session._replace(process=Process.LAPSED)
    if bounds.lapses and session.process is Process.LAPSED:
        yield (
            "hears from the control plane and is valid again",
            session._replace(process=Process.UP),
        )
    if bounds.drains and not any(call.fate in IN_FLIGHT for call in session.calls):
        yield "drains and asks to close its session", session._replace(process=Process.DRAINED)


def _crash(session: Session, bounds: Bounds) -> Iterator[tuple[str, Session]]:
    """The process dies. What it knew is gone; its journal is kept, cut at its end, or lost."""
    orphans = {Fate.OPEN: Fate.ORPHAN, Fate.RESERVED: Fate.ORPHAN_UNSENT}
    calls = tuple(call._replace(fate=orphans.get(call.fate, call.fate)) for call in session.calls)
    pools = tuple(p._replace(seen=0, given_up=0, grants_sent=()) for p in session.pools)
    dead = session._replace(calls=calls, pools=pools, process=Process.DOWN)
    if Journal.KEPT in bounds.disks:
        yield "dies; its journal is whole", dead
    if Journal.TRUNCATED in bounds.disks:
        for n, call in enumerate(calls):
            if call.settled_row:
                row, cut = "the settlement", call._replace(settled_row=False)
            elif call.journaled > min(bounds.sizes) and bounds.grown_to:
                row, cut = "the growth", call._replace(journaled=call.journaled - 1)
            else:
                row, cut = "the open record", call._replace(journaled=0)
            truncated = with_call(dead, n, cut)._replace(journal=Journal.TRUNCATED)
            words = f"dies; {row} of call {n + 1} is cut off its journal"
            yield words, truncated
            if later := calls[n + 1 :]:
                gone = tuple(c._replace(journaled=0, settled_row=False) for c in later)
                cut_calls = (*truncated.calls[: n + 1], *gone)
                yield words + ", and all of later calls", truncated._replace(calls=cut_calls)
    if Journal.LOST in bounds.disks:
        if not bounds.recovery:
            calls = tuple(call._replace(journaled=0, settled_row=False) for call in calls)
        words = "dies; its journal is lost"
        yield words, dead._replace(journal=Journal.LOST, calls=calls)


def _list(windows: tuple[int, ...]) -> str:
    return " and ".join(str(window) for window in windows)
