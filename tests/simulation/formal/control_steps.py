"""What the control plane does for one session: grant, take home, post, fence, doubt, close."""

from collections.abc import Iterator

from tests.simulation.formal.parts import (
    Amounts,
    Bounds,
    Call,
    Fate,
    Journal,
    Kind,
    Mutant,
    Phase,
    Pool,
    Posted,
    Process,
    Session,
    Sidecar,
    Step,
)
from tests.simulation.formal.sidecar_steps import endings, with_call, with_pool, with_session

Found = tuple[str, Session, Kind, Amounts, Amounts, Amounts]
"""Words, the session after it, kind, need, posted, late."""


def control_steps(sidecar: Sidecar, bounds: Bounds, mutant: Mutant) -> Iterator[Step]:
    """All that can happen next to the sidecar's sessions at the control plane."""
    for place, session in enumerate(sidecar.sessions):
        name = f"session {place + 1} of {{me}}" if bounds.lives > 1 else "{me}"
        found = [
            *_grants(session, bounds, mutant),
            *_homecoming(session, mutant),
            *_life(session, bounds, mutant),
        ]
        for words, after, kind, need, posted, late in found:
            words = words.replace("{it}", name)
            yield Step(words, with_session(sidecar, place, after), kind, need, posted, late)
        for n, call in enumerate(session.calls):
            for step in _settlements(sidecar, place, n, call, bounds, mutant):
                yield step._replace(words=step.words.replace("{it}", f"call {n + 1} of {name}"))


def at(window: int, amount: int, windows: int) -> Amounts:
    """`amount` in one window, nothing in the others."""
    return tuple(amount if place == window else 0 for place in range(windows))


def _grants(session: Session, bounds: Bounds, mutant: Mutant) -> Iterator[Found]:
    windows = len(bounds.limits)
    if session.phase is not Phase.LIVE:
        return
    for window, pool in enumerate(session.pools):
        for part in range(1, bounds.most_granted - pool.granted + 1):
            need = at(window, part, windows)
            if not bounds.ticks:
                after = with_pool(session, window, _told(pool, part, mutant))
                words = f"the control plane grants {{it}} {part} of window {window}"
                yield words, after, Kind.GRANT, need, (), ()
            elif not pool.uncommitted:
                decided = pool._replace(uncommitted=part)
                if mutant is Mutant.GRANT_BEFORE_COMMIT:
                    told = _told(pool, part, mutant)
                    decided = decided._replace(grants_sent=told.grants_sent)
                words = f"a tick decides to grant {{it}} {part} of window {window}"
                yield words, with_pool(session, window, decided), Kind.INSIDE, need, (), ()
        if pool.uncommitted:
            committed = _told(pool, pool.uncommitted, mutant)._replace(uncommitted=0)
            unchecked = mutant is Mutant.CHECK_THEN_ACT
            need = () if unchecked else at(window, pool.uncommitted, windows)
            words = f"the tick commits what {{it}} is granted of window {window}"
            yield words, with_pool(session, window, committed), Kind.GRANT, need, (), ()


def _told(pool: Pool, part: int, mutant: Mutant) -> Pool:
    """The pool after a grant is committed and its message is on the way."""
    total = pool.granted + part
    message = part if mutant is Mutant.GRANTS_AS_DELTAS else total
    sent = tuple(sorted({*pool.grants_sent, message}))
    return pool._replace(granted=total, grants_sent=sent)


def _homecoming(session: Session, mutant: Mutant) -> Iterator[Found]:
    for window, pool in enumerate(session.pools):
        for message in pool.returns_sent:
            if mutant is Mutant.RETURNS_AS_DELTAS:
                after = pool._replace(returned=pool.returned + message)
                words = f"the control plane hears that {{it}} returned {message} more"
            else:
                newer = tuple(total for total in pool.returns_sent if total > message)
                returned = max(pool.returned, message)
                after = pool._replace(returned=returned, returns_sent=newer)
                words = f"the control plane hears that {{it}} returned {message} in all"
            words += f" of window {window}"
            yield words, with_pool(session, window, after), Kind.HOME, (), (), ()


def _life(session: Session, bounds: Bounds, mutant: Mutant) -> Iterator[Found]:
    """Fence, doubt, close, write off; and how mutants free what they should hold."""
    if session.phase is Phase.CLOSED:
        return
    dead = session.process is Process.DOWN
    freed = _freed(session)
    if bounds.fences and session.phase is Phase.LIVE:
        words = "the control plane fences {it}: no more grants"
        yield words, session._replace(phase=Phase.FENCED), Kind.INSIDE, (), (), ()
    if session.phase in (Phase.LIVE, Phase.FENCED):
        if dead and session.journal is not Journal.KEPT:
            words = "{it} is reported without a whole journal: its money is in doubt"
            doubt = session._replace(phase=Phase.IN_DOUBT)
            if mutant is Mutant.DISK_LOSS_AS_RETURN:
                words, doubt = "{it} is reported without its journal, and its money freed", freed
            yield words, doubt, Kind.HOME, (), (), ()
        elif bounds.silence:
            words = "{it} was silent for too long: its money is in doubt"
            yield words, session._replace(phase=Phase.IN_DOUBT), Kind.INSIDE, (), (), ()
    elif session.phase is Phase.IN_DOUBT and bounds.horizon:
        yield _horizon(session, freed, mutant)
    if dead and session.journal is Journal.LOST and bounds.recovery:
        words = "the lost journal of {it} is found again"
        yield words, session._replace(journal=Journal.KEPT), Kind.INSIDE, (), (), ()
    ready = session.process is Process.DRAINED or (dead and session.journal is Journal.KEPT)
    # What its last n is, a dead session's journal says.
    known = [c for c in session.calls if not dead or c.journaled or c.settled_row]
    settled = all(call.posted in (Posted.FINAL, Posted.PROVISIONAL) for call in known)
    if ready and (settled or mutant is Mutant.CLOSE_BEFORE_SETTLEMENTS):
        words = f"{{it}} is closed at call {len(known)}, and the rest is freed"
        yield words, freed, Kind.HOME, (), (), ()
    expired = session.process in (Process.LAPSED, Process.DOWN)
    if mutant is Mutant.RELEASE_ON_EXPIRY and expired:
        yield "what {it} holds is freed because it expired", freed, Kind.HOME, (), (), ()


def _freed(session: Session) -> Session:
    """The session closed, with R raised to all that was not settled."""
    pools = tuple(
        pool._replace(returned=pool.returned + pool.held, returns_sent=(), uncommitted=0)
        for pool in session.pools
    )
    return session._replace(pools=pools, phase=Phase.CLOSED)


def _horizon(session: Session, freed: Session, mutant: Mutant) -> Found:
    if mutant is Mutant.DOUBT_EXPIRES:
        words = "what is in doubt of {it} is freed because a day went by"
        return words, freed, Kind.HOME, (), (), ()
    pools = tuple(
        pool._replace(
            settled=pool.settled + pool.held,
            written_off=pool.written_off + pool.held,
            uncommitted=0,
        )
        for pool in session.pools
    )
    lost = tuple(pool.held for pool in session.pools)
    words = "what is in doubt of {it} is posted as spent, for want of evidence"
    written_off = session._replace(pools=pools, phase=Phase.WRITTEN_OFF)
    return words, written_off, Kind.FACT, (), lost, ()


def _settlements(
    sidecar: Sidecar, place: int, n: int, call: Call, bounds: Bounds, mutant: Mutant
) -> Iterator[Step]:
    """Settlements arrive: finals, provisionals of a replay, evidence, corrections."""
    session = sidecar.sessions[place]
    entries = _Entries(sidecar, place, n, mutant)
    told = call.fate in (Fate.ENDED, Fate.VOID, Fate.HUNG_UP)
    dropped = mutant is Mutant.FENCE_DROPS_SETTLEMENTS and session.phase is Phase.FENCED
    early = mutant is Mutant.ACKNOWLEDGED_BEFORE_COMMIT
    if told and call.posted in (Posted.NOTHING, Posted.PROVISIONAL):
        if dropped or early:
            why = "the session is fenced" if dropped else "the control plane died before the commit"
            gone = with_call(session, n, call._replace(posted=Posted.DROPPED))
            words = f"the final of {{it}} is acknowledged, not posted: {why}"
            yield Step(words, with_session(sidecar, place, gone))
        if not dropped:
            yield entries.final(call)
    if call.posted is Posted.FINAL and mutant is Mutant.NO_DEDUPLICATION and call.cost:
        yield entries.twice(call)
    unsettled = call.fate in (Fate.ORPHAN, Fate.ORPHAN_UNSENT, Fate.ENDED) and not call.settled_row
    # Only a whole journal is replayed so: behind a cut one a call may hide that was paid from what
    # an earlier one freed, and the provisional's later adjustment would free that money again.
    provable = session.journal is Journal.KEPT or (
        session.journal is Journal.TRUNCATED and mutant is Mutant.CUT_JOURNAL_REPLAYED
    )
    if (
        session.process is Process.DOWN
        and provable
        and unsettled
        and call.journaled
        and call.posted is Posted.NOTHING
    ):
        yield entries.provisional(call)
    orphan = call.fate in (Fate.ORPHAN, Fate.ORPHAN_UNSENT)
    if bounds.evidence and orphan:
        sent = call.fate is Fate.ORPHAN
        for flowed in endings(call, bounds, mutant) if sent else range(1):
            known = call._replace(fate=Fate.ENDED, flowed=flowed)
            after = with_session(sidecar, place, with_call(session, n, known))
            yield Step(f"the provider's own usage of {{it}} is found: it cost {flowed}", after)
            if sent and bounds.excess and flowed == call.reserved:
                over = known._replace(excess=bounds.excess)
                after = with_session(sidecar, place, with_call(session, n, over))
                words = f"the provider's own usage of {{it}} is found: it cost {over.cost}"
                yield Step(words + ", above its W", after)
    if bounds.corrections and call.posted is Posted.FINAL and not call.corrected:
        yield entries.correction(call, 1)
        if call.amount:
            yield entries.correction(call, -1)


class _Entries:
    """Posts to the windows of one call."""

    def __init__(self, sidecar: Sidecar, place: int, n: int, mutant: Mutant) -> None:
        self.sidecar, self.place, self.n, self.mutant = sidecar, place, n, mutant
        self.session = sidecar.sessions[place]

    def _step(self, words: str, call: Call, *, settled: int, late: int) -> Step:
        """`settled` raises C and S; `late` moves S alone, and is overrun where it is positive."""
        pools = tuple(
            pool._replace(settled=pool.settled + settled) if window in call.draw else pool
            for window, pool in enumerate(self.session.pools)
        )
        session = with_call(self.session, self.n, call)._replace(pools=pools)
        counted = call.draw
        if self.mutant is Mutant.SELECTORS_RE_RUN and self.sidecar.period:
            counted = tuple(range(len(pools)))[1:]
        posted = tuple(settled + late if w in counted else 0 for w in range(len(pools)))
        overrun = tuple(max(0, late) if w in counted else 0 for w in range(len(pools)))
        after = with_session(self.sidecar, self.place, session)
        return Step(words, after, Kind.FACT, (), posted, overrun)

    def final(self, call: Call) -> Step:
        done = call._replace(posted=Posted.FINAL, reserved=0, journaled=0, settled_row=True)
        if call.posted is Posted.PROVISIONAL:
            difference = call.cost - call.amount
            words = f"the final of {{it}}, {call.cost}, adjusts its provisional by {difference}"
            if self.mutant is Mutant.FINAL_DROPPED:
                words = f"the final of {{it}}, {call.cost}, is dropped as a duplicate"
                return self._step(words, done, settled=0, late=0)
            adjusted = done._replace(amount=call.cost)
            return self._step(words, adjusted, settled=0, late=difference)
        words = f"the final of {{it}} is posted: {call.cost}"
        return self._step(words, done._replace(amount=call.cost), settled=call.cost, late=0)

    def twice(self, call: Call) -> Step:
        words = f"the final of {{it}} arrives again and is posted again: {call.cost}"
        return self._step(words, call, settled=call.cost, late=0)

    def provisional(self, call: Call) -> Step:
        worst = 0 if self.mutant is Mutant.REPLAY_VOIDS else call.journaled
        words = f"replay: {{it}} is posted provisionally at {worst}"
        known = call._replace(posted=Posted.PROVISIONAL, amount=worst)
        return self._step(words, known, settled=worst, late=0)

    def correction(self, call: Call, difference: int) -> Step:
        words = f"the price of {{it}} is corrected, by {difference}"
        amount = call.amount + difference
        corrected = call._replace(amount=amount, corrected=difference)
        return self._step(words, corrected, settled=0, late=difference)
