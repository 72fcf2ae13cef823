"""The sessions of this process: the current ones, earlier ones, and what each still owes.

State without a network. The stream (`session.py`) tells it what was heard; what it has to say is in
the outboxes.
"""

from typing import Final

import structlog

from bursar.v1 import allowances_pb2
from bursar_sidecar.again import Again
from bursar_sidecar.allowances import Book, Waiter
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND, Clock
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.journal_records import Settled
from bursar_sidecar.journal_recovery import COMPLETE, TRUNCATED
from bursar_sidecar.outbox import MAX_SETTLEMENTS, Applied, Charge, Outbox
from bursar_sidecar.pools import Leg
from bursar_sidecar.prior import Prior, priors_of

log = structlog.get_logger("bursar.roster")

# A frame is applied within a tick, tens of milliseconds. What takes so much longer is an outage.
SILENT_AFTER_NS: Final = NANOS_PER_SECOND
# Earlier sessions that are named on for late evidence, the latest: a Hello names 256 at most.
MOST_KEPT_SESSIONS: Final = 16


class StreamRestart(Exception):
    """The stream must begin anew, for the reason given."""


class Roster:
    """Which sessions there are, and whose charges go where."""

    def __init__(self, clock: Clock, book: Book, journal: Journal) -> None:
        self._clock = clock
        self._book = book
        self._journal = journal
        self.valid_for_ms = 0
        self._outboxes: dict[int, Outbox] = {}
        self._priors: dict[int, Prior] = {}
        self._backlog: dict[int, list[Charge]] = {}
        self._disowned: set[int] = set()
        self._named: set[int] = set()
        self._welcomed: set[int] = set()
        self._fresh: set[int] = set()
        self._lost_tails = 0
        """How often it heard that the other side forgot what it had committed."""
        self._kept_until: dict[int, int] = {}
        self._amended: dict[tuple[int, int], int] = {}
        """Acknowledgements on their way that are of what was amended since."""
        self._again: Again | None = None
        """What is said again for it."""
        for prior, charges in priors_of(journal, clock.wall_ns()):
            self._priors[prior.epoch] = prior
            self._backlog.setdefault(prior.organization_id, []).extend(charges)

    # -- questions -----------------------------------------------------------------------------

    def outboxes(self) -> list[Outbox]:
        """Of the current sessions."""
        return list(self._outboxes.values())

    def outbox_of(self, leg: Leg) -> Outbox:
        """Where charges of this session, which may be an earlier one, are sent."""
        return self._outboxes[leg.organization_id]

    def at(self, epoch: int) -> Outbox | None:
        """The outbox of a current session."""
        return next((box for box in self._outboxes.values() if box.leg.epoch == epoch), None)

    def welcomed(self) -> list[Outbox]:
        """Of the sessions that the present stream has welcomed: who may speak on it."""
        return [box for box in self._outboxes.values() if box.leg.epoch in self._welcomed]

    def is_silent(self, now: int) -> bool:
        """Whether the control plane owes an acknowledgement for longer than it should take."""
        return any(
            box.sent and now - box.sent[0].sent_at >= SILENT_AFTER_NS
            for box in self._outboxes.values()
        )

    def is_fresh(self, leg: Leg) -> bool:
        """Whether the present stream has told the session's own budgets."""
        return leg.epoch in self._fresh

    def fault(self, now: int, stream_fault: str) -> str:
        """Why nothing may be admitted now; "" when policy and allowances are valid."""
        if self._book.organization is None:
            return f"the control plane has not been reached: {stream_fault}"
        for leg in (self._book.organization, self._book.platform):
            if leg is None:
                continue
            if leg.fenced:
                return "the session was fenced; a new one is being opened"
            if not leg.policy_known:
                return "the control plane has not told the budgets yet"
            if now >= leg.valid_until:
                return f"the control plane has been silent too long: {stream_fault}"
        return ""

    # -- charges -------------------------------------------------------------------------------

    def charge(self, leg: Leg, charge: Charge) -> None:
        """A settlement to be sent, until it is acknowledged."""
        self._outboxes[leg.organization_id].charges.append(charge)
        if prior := self._priors.get(charge.epoch):
            prior.owed += 1

    def keep(self, epoch: int, until: int) -> None:
        """Name this session, once it is an earlier one, in every Hello until then, so that evidence
        about its calls may come late."""
        self._kept_until[epoch] = max(until, self._kept_until.pop(epoch, 0))
        if len(self._kept_until) > MOST_KEPT_SESSIONS:
            del self._kept_until[min(self._kept_until)]

    def is_kept(self, epoch: int) -> bool:
        """Whether evidence about the session's calls may come still."""
        return self._clock.boot_ns() < self._kept_until.get(epoch, 0)

    def can_amend(self, epoch: int) -> bool:
        """Whether the control plane takes another word about a call of this session."""
        prior = self._priors.get(epoch)
        return self.at(epoch) is not None or (prior is not None and epoch not in self._disowned)

    def amend(self, epoch: int, n: int, message: bytes) -> None:
        """Evidence about a call that is settled provisionally. Raises KeyError unless the session
        can be amended."""
        outbox = self.at(epoch) or self._outboxes[self._priors[epoch].organization_id]
        if self._journal.is_owed(epoch, n):
            self._amended[epoch, n] = self._amended.get((epoch, n), 0) + 1
        self._journal.settled([Settled(epoch, n, message)])
        self.charge(outbox.leg, Charge(epoch, n, message))

    def acknowledge(self, applied: Applied) -> None:
        """The control plane has committed these charges and closes."""
        by_epoch: dict[int, list[int]] = {}
        for charge in applied.charges:
            by_epoch.setdefault(charge.epoch, []).append(charge.n)
        for epoch, numbers in by_epoch.items():
            if prior := self._priors.get(epoch):
                prior.owed -= len(numbers)
            if self._amended:
                numbers = [n for n in numbers if not self._is_amended(epoch, n)]
            self._journal.acknowledged(epoch, numbers)
        for epoch, _last_n in applied.closes:
            if prior := self._priors.get(epoch):
                prior.close_applied = True
            elif self.at(epoch) is not None:
                self._journal.session_closed(epoch)
        if self._again is not None:
            return  # more of them may be sent
        for prior in [prior for prior in self._priors.values() if prior.is_over]:
            if self.is_kept(prior.epoch):
                continue
            self._kept_until.pop(prior.epoch, None)
            del self._priors[prior.epoch]
            self._journal.session_closed(prior.epoch)
            log.info("earlier_session_closed", session_epoch=prior.epoch)

    def _is_amended(self, epoch: int, n: int) -> bool:
        """Whether an acknowledgement is of what was amended since: the amendment has its own."""
        count = self._amended.pop((epoch, n), 0)
        if count > 1:
            self._amended[epoch, n] = count - 1
        return count > 0

    # -- a stream's life -----------------------------------------------------------------------

    def prior_sessions(self) -> list[allowances_pb2.PriorSession]:
        """What a Hello names; remembers it."""
        named = [p for p in self._priors.values() if p.epoch not in self._disowned]
        named += [
            Prior(
                box.leg.epoch,
                box.leg.organization_id,
                COMPLETE,
                box.leg.last_n,
                proof=box.leg.proof,
            )
            for box in self._outboxes.values()
            if box.leg.fenced
        ]
        self._named = {prior.epoch for prior in named}
        return [
            allowances_pb2.PriorSession(
                session_epoch=prior.epoch,
                last_n=prior.last_n,
                journal=(
                    allowances_pb2.JOURNAL_STATE_TRUNCATED
                    if prior.journal == TRUNCATED
                    else allowances_pb2.JOURNAL_STATE_COMPLETE
                ),
                proof=prior.proof,
            )
            for prior in named
        ]

    def session_proofs(self) -> list[bytes]:
        """What proves the present sessions to a control plane whose database forgot them."""
        return [box.leg.proof for box in self._outboxes.values() if box.leg.proof]

    def disown(self, fault: str) -> None:
        """The Hello was refused for what it named: earlier lives must not stop this one."""
        if self._named:
            self._disowned |= self._named
            for outbox in self._outboxes.values():
                outbox.forsake(self._named)
            log.error(
                "prior_sessions_refused",
                epochs=sorted(self._named),
                fault=fault,
                effect="their settlements stay in the journal until the next start",
            )

    def fence(self) -> None:
        """The present sessions admit nothing more; the next Hello names them as earlier ones."""
        for outbox in self._outboxes.values():
            outbox.leg.fenced = True

    def lost(self) -> None:
        """The stream ended."""
        self._fresh.clear()
        self._welcomed.clear()

    def welcome(self, welcome: allowances_pb2.Welcome, hello_sent_at: int) -> None:
        """A session was opened or resumed. Raises StreamRestart."""
        self.valid_for_ms = welcome.valid_for_ms
        outbox = self._outboxes.get(welcome.organization_id)
        is_forgotten = welcome.lost_tails > self._lost_tails
        if outbox is not None and outbox.leg.epoch == welcome.session_epoch:
            is_forgotten |= welcome.last_seq < outbox.applied_seq
            outbox.leg.proof = welcome.proof or outbox.leg.proof
            self.acknowledge(outbox.resume(welcome.last_seq))
        else:
            outbox = self._open(welcome, outbox)
        outbox.applied_at = max(outbox.applied_at, hello_sent_at)
        self._welcomed.add(welcome.session_epoch)
        self._lost_tails = max(self._lost_tails, welcome.lost_tails)
        if is_forgotten:
            self._say_again(outbox)
        for prior in self._priors.values():
            if prior.organization_id != welcome.organization_id or prior.epoch in self._disowned:
                continue
            if prior.epoch not in self._named:
                raise StreamRestart("an earlier session has to be named first")
            outbox.closes.append((prior.epoch, prior.last_n))
        log.info(
            "session_welcomed",
            session_epoch=welcome.session_epoch,
            organization=welcome.organization,
            resumed=welcome.resumed,
        )

    def _say_again(self, outbox: Outbox) -> None:
        """The other side forgot what it had committed: say all again that is kept."""
        try:
            self._again = Again(self._journal, self._priors)
        except OSError as error:
            raise StreamRestart(f"the journal can't be read: {error}") from error
        for box in self._outboxes.values():
            box.leg.bring_back()
            box.report(box.leg.pools)
        log.warning("said_again", session_epoch=outbox.leg.epoch, sessions=len(self._priors))

    def top_up(self) -> None:
        """Go on saying again what is kept, a bounded part at a time. Raises StreamRestart."""
        while self._again and any(len(b.charges) < MAX_SETTLEMENTS for b in self.welcomed()):
            try:
                found = self._again.following()
            except OSError as error:
                raise StreamRestart(f"the journal can't be read: {error}") from error
            if found is None:
                self._again = None
                return
            organization_id, charge = found
            outbox = self._outboxes.get(organization_id)
            if outbox is None or charge.epoch in self._disowned:
                continue
            outbox.charges.append(charge)
            if prior := self._priors.get(charge.epoch):
                prior.owed += 1

    def told_policy(self, leg: Leg) -> None:
        """The present stream has told the session's own budgets."""
        self._fresh.add(leg.epoch)
        leg.policy_known = True
        self.prolong(leg)

    def prolong(self, leg: Leg) -> None:
        """The validity counts from the sending of the last applied frame.

        Only a stream that told the policy prolongs it.
        """
        if leg.epoch in self._fresh:
            applied_at = self._outboxes[leg.organization_id].applied_at
            leg.valid_until = max(leg.valid_until, applied_at + self.valid_for_ms * NANOS_PER_MS)

    def _open(self, welcome: allowances_pb2.Welcome, old: Outbox | None) -> Outbox:
        """A new session of an organization; the old one's debts go with it."""
        leg = Leg(
            welcome.session_epoch,
            welcome.organization_id,
            welcome.organization,
            welcome.currency,
            platform=welcome.platform,
            proof=welcome.proof,
        )
        self._disclaim(leg.epoch)
        try:
            self._journal.session_opened(leg.epoch, leg.organization_id, leg.platform, leg.proof)
        except JournalError as error:
            raise StreamRestart(str(error)) from error
        outbox = Outbox(leg)
        waiting: list[Waiter] = []
        if old is not None:
            charges, waiting = old.hand_over()
            outbox.charges.extend(charges)
            self._priors[old.leg.epoch] = Prior(
                old.leg.epoch,
                leg.organization_id,
                COMPLETE,
                old.leg.last_n,
                old.leg,
                owed=sum(charge.epoch == old.leg.epoch for charge in charges),
                proof=old.leg.proof,
            )
        backlog = self._backlog.pop(leg.organization_id, [])
        outbox.charges.extend(c for c in backlog if c.epoch not in self._disowned)
        if kept := [charge for charge in backlog if charge.epoch in self._disowned]:
            self._backlog[leg.organization_id] = kept
        self._outboxes[leg.organization_id] = outbox
        if leg.platform:
            self._book.platform = leg
        else:
            self._book.organization = leg
        self._book.rouse()
        for waiter in waiting:
            outbox.ask(waiter)
        return outbox

    def _disclaim(self, epoch: int) -> None:
        """An earlier session with the number of a new one was of another control plane, whose
        data is gone: nobody can take its charges any more."""
        prior = self._priors.pop(epoch, None)
        if prior is not None:
            log.error("foreign_session_dropped", session_epoch=epoch, settlements=prior.owed)
            self._journal.session_closed(epoch)
            for backlog in self._backlog.values():
                backlog[:] = [charge for charge in backlog if charge.epoch != epoch]
