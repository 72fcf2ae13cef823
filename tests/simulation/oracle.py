"""What is true, kept apart from all balances: what the provider did, and what was posted.

The invariants of the protocol as code. Money is counted here from the calls that were dispatched
and from the entries that were committed, never from the numbers that are under test.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.ledger.entries import PROVISIONAL_ACCOUNT, Kind
from bursar_sidecar.allowances import Reservation
from bursar_sidecar.desk import Call, Refusal
from bursar_sidecar.holds import Hold
from tests.simulation.control_process import Time
from tests.simulation.coverage import saw
from tests.simulation.database import (
    EPOCH,
    NOTHING,
    Broken,
    Database,
    Decision,
    Entry,
    Lent,
    Tables,
    Window,
)
from tests.simulation.newcomers import Newcomers
from tests.simulation.plans import version_name
from tests.simulation.sidecar import Life

Pair = tuple[int, int]
"""A session epoch and a budget window."""

KEY_TRUST_NS = 31 * 1_000_000_000
"""How long a key may be used after it was revoked: the validity of policy, and what drift adds."""
PRICE_TRUST_NS = KEY_TRUST_NS + 3 * 1_000_000_000
"""How long a replaced price may be pinned: policy's validity, and how long a call waits."""
EDGE_NS = 100_000_000
"""How far clocks may be apart about where a window ends: the skew between control planes."""


@dataclass(slots=True)
class Attempt:
    """One call as the provider saw it, and as its open record says."""

    life: Life
    parts: tuple[tuple[int, int, tuple[int, ...]], ...]
    """(session epoch, n, budget windows)."""
    ceiling: int
    """As it is now."""
    true: int
    told: int | None = None
    """What the sidecar recorded at its end."""
    dispatched: bool = False
    growing_to: int | None = None
    """The process died while it wrote this down, if it is not None in the end."""
    price_version: str = ""
    unsure: bool = False
    """Its open record or its end may be missing in the journal: the process died writing it."""


class Oracle:
    """Watches everything; raises Broken."""

    def __init__(self, database: Database, time: Time) -> None:
        self.database = database
        self.time = time
        self.attempts: dict[tuple[int, int], Attempt] = {}
        self.truth: dict[Pair, int] = defaultdict(int)
        """Sum of min(true cost, W) of what was dispatched."""
        self.open_w: dict[Pair, int] = defaultdict(int)
        self.told_sum: dict[Pair, int] = defaultdict(int)
        self.posted_first: dict[Pair, int] = defaultdict(int)
        """First postings."""
        self.posted_all: dict[Pair, int] = defaultdict(int)
        """And what was adjusted since."""
        self.posted_lost: dict[Pair, int] = defaultdict(int)
        """What was decided to be spent, and taken back of it."""
        self.freed: dict[int, int] = defaultdict(int)
        """By window, what was decided to be free: it may be spent twice."""
        self.posted: dict[int, int] = defaultdict(int)
        """By window, all postings."""
        self.spent: dict[int, int] = defaultdict(int)
        """By window, the truth."""
        self.provisional = 0
        self.highest_limit: dict[int, int] = {}
        """By budget."""
        self.revoked_at: dict[int, int] = {}
        """By key id, in true time."""
        self.changed_at: dict[int, int] = {}
        """By budget id, when it was disabled or enabled last, in true time."""
        self.budgets_of_key: dict[int, set[int]] = {}
        self.organization_of = {k.id: k.organization_id for k in database.tables.keys.values()}
        self.hashes = {key.id: key.secret_hash for key in database.tables.keys.values()}
        self.unproven: set[int] = set()
        """Sessions whose journal was lost, cut or copied."""
        self.replaced_at: dict[str, int] = {}
        """By price version, when another was put on record, in true time."""
        self.given_up: set[int] = set()
        """Sessions whose money was decided to be free, whatever becomes of it."""
        self.ever: dict[int, Window] = {}
        """Every window there was."""
        self.told_granted: dict[Pair, int] = defaultdict(int)
        """The most that was ever granted, and so may be claimed."""
        self.unkept: set[int] = set()
        """Sessions whose acknowledged rows were lost, too."""
        self.forgot = False
        """Whether the database forgot what it had committed, once."""
        self.refusals: dict[str, int] = defaultdict(int)
        self.newcomers = Newcomers()
        database.on_commit = self.committed

    # -- what sidecars do ----------------------------------------------------------------------

    def intends(self, life: Life, reservation: Reservation, call: Call) -> None:
        """A call was admitted: invariant 7, and the draw set it must have."""
        now = life.clock.boot_ns()
        drawn: set[int] = set()
        for part in reservation.parts:
            if now >= part.leg.valid_until or part.leg.fenced:
                raise Broken("7: admitted after the validity lapsed")
            for pool in part.pools:
                window = self.ever.get(pool.window_id)
                if window is None:
                    raise Broken(f"2: window {pool.window_id} was told and never committed")
                drawn.add(window.row.budget_id)
                if window.hard and (not pool.lent or pool.free_nanos < 0):
                    raise Broken(f"7: admitted with {pool.free_nanos} free after it")
                self._in_time(pool.window_id)
        key_id = call.spender.key_id
        if self.organization_of[key_id] != life.machine.record.organization_id:
            raise Broken("7: a key of another organization is used")
        for budget_id in drawn ^ self._applicable(key_id):
            # What was disabled or enabled lately may be known here already, or not yet.
            changed_at = self.changed_at.get(budget_id)
            if changed_at is None or self.time.now_ns > changed_at + KEY_TRUST_NS:
                raise Broken(f"7: drew on budgets {drawn} instead of {self._applicable(key_id)}")
        if self.hashes[key_id] in life.refused_keys:
            raise Broken("7: a key is used by a sidecar that was told of its revocation")
        revoked_at = self.revoked_at.get(key_id)
        if revoked_at is not None and self.time.now_ns > revoked_at + KEY_TRUST_NS:
            raise Broken("7: a key is used long after it was revoked")
        _kind, true, *_ = call.run.split(":")
        attempt = Attempt(
            life,
            tuple((part.leg.epoch, part.n, tuple(part.window_ids)) for part in reservation.parts),
            _ceiling(call, reservation),
            int(true),
            unsure=True,
            price_version=call.price_version,
        )
        replaced_at = self.replaced_at.get(call.price_version)
        if replaced_at is not None:
            saw("a call was priced by a list that was replaced meanwhile")
            if self.time.now_ns > replaced_at + PRICE_TRUST_NS:
                raise Broken("7: a call is priced by a list that was replaced long ago")
        for epoch, n, window_ids in attempt.parts:
            before = self.attempts.get((epoch, n))
            if before is not None and before.life is life:
                raise Broken(f"6: charge {epoch}-{n} is given twice")
            self.attempts[epoch, n] = attempt
            for window_id in window_ids:
                self.open_w[epoch, window_id] += attempt.ceiling

    def priced(self, version: int) -> None:
        """Another price is on record."""
        self.replaced_at.setdefault(version_name(version - 1), self.time.now_ns)

    def _applicable(self, key_id: int) -> set[int]:
        budgets = self.database.tables.budgets
        return {id for id in self.budgets_of_key[key_id] if not budgets[id].disabled}

    def _in_time(self, window_id: int) -> None:
        row = self.ever[window_id].row
        start_ns = nanos_of(row.start_at)
        late = row.end_at is not None and self.time.now_ns >= nanos_of(row.end_at) + EDGE_NS
        if late or self.time.now_ns < start_ns - EDGE_NS:
            raise Broken(
                f"7: admitted into window {window_id} at {self.time.now_ns / 1e9}, it runs from "
                f"{start_ns / 1e9} to {nanos_of(row.end_at) / 1e9 if row.end_at else 'ever'}"
            )

    def undone(self, reservation: Reservation) -> None:
        """The open record could not be written."""
        for part in reservation.parts:
            attempt = self.attempts.pop((part.leg.epoch, part.n))
            for window_id in part.window_ids:
                self.open_w[part.leg.epoch, window_id] -= attempt.ceiling

    def dispatched(self, _life: Life, hold: Hold) -> None:
        """The provider has it now, and will bill it whatever happens here."""
        for attempt in self._attempts_of(hold):
            attempt.dispatched, attempt.unsure = True, False
            cost = min(attempt.true, attempt.ceiling)
            for epoch, _n, window_ids in attempt.parts:
                for window_id in window_ids:
                    self.truth[epoch, window_id] += cost
                    self.spent[window_id] += cost
                    self._within_limit(window_id)

    def grows(self, life: Life, hold: Hold, by_nanos: int) -> None:
        """More was reserved for an open call: invariant 7."""
        now = life.clock.boot_ns()
        for part in hold.reservation.parts:
            is_current = any(part.leg is leg for leg in life.legs())
            if now >= part.leg.valid_until or part.leg.fenced or not is_current:
                raise Broken("7: grew in a session that may not spend")
            for pool in part.pools:
                if pool.lent and pool.free_nanos < 0:
                    raise Broken(f"7: grew with {pool.free_nanos} free after it")
        for attempt in self._attempts_of(hold):
            attempt.growing_to = attempt.ceiling + by_nanos
        self._reserve(hold, by_nanos)

    def _reserve(self, hold: Hold, by_nanos: int) -> None:
        for attempt in self._attempts_of(hold):
            for epoch, _n, window_ids in attempt.parts:
                for window_id in window_ids:
                    self.open_w[epoch, window_id] += by_nanos

    def stays(self, hold: Hold, by_nanos: int) -> None:
        """The growth could not be written down."""
        self._attempts_of(hold)[0].growing_to = None
        self._reserve(hold, -by_nanos)

    def grew(self, hold: Hold, by_nanos: int) -> None:
        """What the growth covers flows, and the provider will bill it."""
        for attempt in self._attempts_of(hold):
            before = min(attempt.true, attempt.ceiling)
            attempt.ceiling, attempt.growing_to = attempt.ceiling + by_nanos, None
            cost = min(attempt.true, attempt.ceiling) - before
            for epoch, _n, window_ids in attempt.parts:
                for window_id in window_ids:
                    self.truth[epoch, window_id] += cost
                    self.spent[window_id] += cost
                    self._within_limit(window_id)

    def _within_limit(self, window_id: int) -> None:
        window = self.ever[window_id]
        highest = self.highest_limit[window.row.budget_id]
        # What was lent, and forgotten, may be lent to somebody else before it is claimed.
        if (
            not self.forgot
            and window.hard
            and self.spent[window_id] > highest + self.freed[window_id]
        ):
            raise Broken(
                f"1: {self.spent[window_id]} is spent of window {window_id}, whose limit never "
                f"was above {highest}"
            )

    def told(self, hold: Hold, cost_nanos: int) -> None:
        """The end of a call is about to be recorded."""
        for attempt in self._attempts_of(hold):
            attempt.told, attempt.unsure = cost_nanos, True
            if cost_nanos > attempt.ceiling:
                saw("a charge cost more than was set aside")
            for epoch, _n, window_ids in attempt.parts:
                for window_id in window_ids:
                    self.open_w[epoch, window_id] -= attempt.ceiling
                    self.told_sum[epoch, window_id] += cost_nanos
                    end_at = self.ever[window_id].row.end_at
                    if end_at is not None and self.time.now_ns >= nanos_of(end_at):
                        saw("a call ended after its window")

    def recorded(self, hold: Hold) -> None:
        """The end of a call is in the journal."""
        for attempt in self._attempts_of(hold):
            attempt.unsure = False

    def refused(self, _life: Life, refusal: Refusal) -> None:
        """Counted by reason, to know what histories reach."""
        self.refusals[refusal.reason] += 1
        if refusal.reason == "no_allowance":
            saw("no call could start without a valid policy")

    def _attempts_of(self, hold: Hold) -> list[Attempt]:
        first = hold.opened.parts[0]
        return [self.attempts[first.epoch, first.n]]

    # -- what is committed ---------------------------------------------------------------------

    def committed(self, before: Tables, after: Tables) -> None:
        """A transaction became durable: invariants 2, 3 and 6."""
        tables = ("allowances", "windows", "entries", "resolutions", "quarantined")
        if all(getattr(after, each) == getattr(before, each) for each in tables):
            # Nothing moved: a session was opened, or fenced.
            self._sessions(before, after)
            return
        posted_now = self._entries(before, after)
        self.ever.update(after.windows)
        if after.quarantined:
            raise Broken(f"3: a frame was set aside: {after.quarantined}")
        granted: set[int] = set()
        held: dict[int, int] = defaultdict(int)
        for pair, lent in after.allowances.items():
            old = before.allowances.get(pair, NOTHING)
            if _fell(old, lent):
                raise Broken(f"6: a total fell: {old} became {lent}")
            if lent.settled != self.posted_first[pair] or lent.lost != self.posted_lost[pair]:
                raise Broken(
                    f"6: {lent.settled} is settled by {pair}, {lent.lost} of it lost; entries say "
                    f"{self.posted_first[pair]} and {self.posted_lost[pair]}"
                )
            if lent.in_doubt and after.sessions[pair[0]].state == "open":
                raise Broken(f"2: {pair} may spend what is in doubt")
            if lent.granted > self.told_granted[pair]:
                if pair[1] in before.windows and before.windows[pair[1]].frozen:
                    raise Broken(f"2: {pair} was lent from a frozen window")
                self.told_granted[pair] = lent.granted
                if after.sessions[pair[0]].state == "open":
                    granted.add(pair[1])
            held[pair[1]] += lent.held
        for window_id, window in after.windows.items():
            if window.settled != self.posted[window_id] + window.opening:
                raise Broken(
                    f"6: window {window_id} has settled {window.settled}, entries say "
                    f"{self.posted[window_id]}, its opening line {window.opening}"
                )
            if window.hard:
                old_window = before.windows.get(window_id, window)
                self._window(old_window, window, held[window_id], posted_now[window_id])
                if window_id in granted:
                    _count_grant(window, after)
                    if window.settled + held[window_id] > window.limit:
                        raise Broken(
                            f"2: granted up to {window.settled + held[window_id]} of {window.limit}"
                        )
        self._sessions(before, after)
        for id, decision in after.resolutions.items():
            if decision.applied and not before.resolutions[id].applied:
                self._decided(decision)

    def _entries(self, before: Tables, after: Tables) -> dict[int, int]:
        """Returns by window what the new ones add to it."""
        changes: dict[tuple[int, int, int], int] = defaultdict(int)
        fresh = list(islice(after.entries.values(), len(before.entries), None))
        for entry in fresh:
            self._entry(entry)
            _count(entry)
            for window_id in entry.window_ids:
                self.posted[window_id] += entry.amount
                changes[entry.epoch, entry.n, window_id] += entry.amount
                self.posted_all[entry.epoch, window_id] += entry.amount
                if entry.kind is Kind.LOST:
                    self.posted_lost[entry.epoch, window_id] += entry.amount
                if entry.k == 0 and window_id not in entry.armed:
                    self.posted_first[entry.epoch, window_id] += entry.amount
            if entry.credit == PROVISIONAL_ACCOUNT:
                self.provisional += entry.amount
        self.newcomers.committed(before, after, fresh, self.attempts, self.unproven)
        posted_now: dict[int, int] = defaultdict(int)
        for (_epoch, _n, window_id), change in changes.items():
            posted_now[window_id] += max(0, change)
        return posted_now

    def _window(self, old: Window, new: Window, held: int, posted_now: int) -> None:
        if new.overrun > old.overrun:
            saw("a charge was overrun")
        if new.frozen and not old.frozen:
            saw("a forgotten grant was restored")
        if new.in_doubt > old.in_doubt:
            saw("money was in doubt")
        if new.in_doubt < old.in_doubt:
            saw("money in doubt was settled by evidence")
        if new.outstanding + new.in_doubt != held:
            raise Broken(
                f"2: window {new.row.id} has {new.outstanding} + {new.in_doubt} out, allowances "
                f"say {held}"
            )
        exposed = new.settled + held
        exposed_before = old.settled + old.outstanding + old.in_doubt
        if not self.forgot and exposed > max(new.ceiling, exposed_before + posted_now):
            raise Broken(f"2: {exposed} is out and spent of a ceiling of {new.ceiling}")
        highest = max(self.highest_limit[new.row.budget_id], new.opening)
        if not self.forgot and new.ceiling > highest:
            raise Broken("2: the ceiling is above every limit there was")

    def _decided(self, decision: Decision) -> None:
        if decision.refusal:
            saw("a decision was refused: the session came back")
            return
        saw(f"money was decided to be {decision.decision}")
        if decision.decision == "free":
            self.given_up.add(decision.session_epoch)
            for window_id, amount in decision.held.items():
                self.freed[window_id] += amount

    def _entry(self, entry: Entry) -> None:
        if entry.kind is Kind.LOST:
            return
        if entry.epoch in self.given_up and entry.amount > 0:
            saw("evidence came for money that was decided to be free")
        attempt = self.attempts.get((entry.epoch, entry.n))
        if attempt is None:
            raise Broken(f"6: charge {entry.epoch}-{entry.n} was never reserved")
        for epoch, n, window_ids in attempt.parts:
            counted = tuple(w for w in entry.window_ids if w not in entry.armed)
            if (epoch, n) == (entry.epoch, entry.n) and window_ids != counted:
                raise Broken(
                    f"6: charge {epoch}-{n} was admitted under {window_ids} and posted under "
                    f"{counted}"
                )
        if entry.price_version != attempt.price_version:
            raise Broken(
                f"6: {entry.epoch}-{entry.n} was priced by {attempt.price_version}, posted with "
                f"{entry.price_version}"
            )
        if entry.kind is Kind.FINAL and attempt.told is not None and entry.amount != attempt.told:
            raise Broken(f"6: {entry.epoch}-{entry.n} cost {attempt.told}, posted {entry.amount}")

    def _sessions(self, before: Tables, after: Tables) -> None:
        for epoch, session in after.sessions.items():
            if session.state == "closed" and before.sessions[epoch].state != "closed":
                saw("a session closed")
            if session.state == "closed" and session.settled_count != session.last_n:
                raise Broken(f"6: session {session.epoch} is closed with numbers missing")

    def tail_lost(self) -> None:
        """The database went back: what counts entries counts those that are left."""
        self.forgot = True
        for counts in (self.posted, self.posted_all, self.posted_first, self.posted_lost):
            counts.clear()
        self.provisional = 0
        self._entries(Tables(), self.database.tables)

    # -- after every step ----------------------------------------------------------------------

    def check(self, lives: list[Life]) -> None:
        """Invariants 4 and 5, on what is durable and on what sidecars hold."""
        if self.forgot:
            return  # not before all of them were heard; at the end all is asked for
        tables = self.database.tables
        for pair, cost in self.truth.items():
            covered = self.posted_all[pair] + tables.allowances.get(pair, NOTHING).held
            if pair[0] in self.given_up:
                continue
            if covered < cost and tables.windows[pair[1]].hard:
                raise Broken(
                    f"5: {cost} was spent by {pair}, only {covered} is settled or held for it"
                )
        for life in lives:
            for leg in life.legs():
                state = tables.sessions[leg.epoch].state
                for window_id, pool in leg.pools.items():
                    if not pool.lent or state == "closed" or leg.epoch in self.given_up:
                        continue
                    pair = (leg.epoch, window_id)
                    granted, returned = tables.allowances.get(pair, NOTHING)[:2]
                    used = pool.free_nanos + self.open_w[pair] + self.told_sum[pair]
                    if used > granted - returned:
                        raise Broken(
                            f"4: {pair} uses {used} of {granted} granted, {returned} returned"
                        )


def _count_grant(window: Window, after: Tables) -> None:
    if window.row.organization_id == PLATFORM_ORGANIZATION_ID:
        saw("the platform's budgets were lent")
        users = {after.sessions[e].spender for e, w in after.allowances if w == window.row.id}
        if len(users) > 1:
            saw("two organizations shared the platform's budget")


def _fell(old: Lent, new: Lent) -> bool:
    """Evidence takes its part of what was lost back before it settles or returns it."""
    given = new.granted < old.granted or new.returned < old.returned
    proven = new.settled - new.lost < old.settled - old.lost
    return given or proven or new.returned + new.settled < old.returned + old.settled


def _count(entry: Entry) -> None:
    if entry.kind is Kind.LOST and entry.amount < 0:
        saw("evidence took back what was decided to be spent")
    if entry.k == 1 and entry.amount <= 0 and entry.kind is Kind.PROVISIONAL:
        saw("a final took its provisional back")
    elif entry.kind is Kind.FINAL:
        saw("a final was posted")
    elif entry.kind is Kind.PROVISIONAL:
        saw("a provisional was posted")
    elif entry.kind is Kind.RELEASED:
        saw("a release was posted")


def _ceiling(call: Call, reservation: Reservation) -> int:
    """The most the provider will bill: what was asked for, or what a clamped call was left."""
    if call.least_nanos >= call.ceiling_nanos:
        return call.ceiling_nanos if not call.begin_nanos else reservation.ceiling_nanos
    reserved = reservation.ceiling_nanos
    if not call.least_nanos <= reserved <= call.ceiling_nanos:
        raise Broken(f"7: began with {reserved}, not {call.least_nanos} to {call.ceiling_nanos}")
    saw("a call began clamped", reserved < call.ceiling_nanos)
    return reserved


def nanos_of(at: datetime) -> int:
    return int((at - EPOCH).total_seconds() * 1_000_000) * 1_000
