"""One sidecar: the real cashier, book, journal, identity, roster and outbox, process by process.

Only what production leaves to the event loop and to gRPC is written here: waiting for one's turn,
saying what the outboxes hold, hearing what came, and the beat.
"""

from typing import Any

from bursar.pricing import snapshot
from bursar.usage import Usage
from bursar.v1 import allowances_pb2
from bursar_server.sidecars.records import SidecarRecord
from bursar_sidecar.allowances import Book
from bursar_sidecar.cashier import RESOLVE_WAIT_S
from bursar_sidecar.clock import NANOS_PER_MS
from bursar_sidecar.desk import Call, Outcome, OutcomeKind, Refusal, Spender
from bursar_sidecar.holds import Hold, Ticket
from bursar_sidecar.identity import Identity, hash_of
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_recovery import COMPLETE
from bursar_sidecar.pools import Leg
from bursar_sidecar.roster import StreamRestart
from bursar_sidecar.session import WELCOME_TIMEOUT_S
from tests.simulation.control_process import ControlPlane, Link, Stream
from tests.simulation.coverage import heard, saw
from tests.simulation.disk import Disk, DiskPath, Killed
from tests.simulation.driving import MemorySync, drive
from tests.simulation.flows import FLOW, Flowing, begin_of, charged, cost_of, flowing, produced
from tests.simulation.plans import least_of, priced, target_of
from tests.simulation.stepped import (
    Clock,
    KeyAskedError,
    QuietSession,
    SteppedCashier,
    Turn,
    Waits,
    Witness,
)
from tests.simulation.versions import as_older, reading_journals

LIMITS = JournalLimits(segment_bytes=3_000, unacknowledged_bytes=20_000, open_calls=20)
"""Small, so that every history rotates segments and some reach the caps."""


class Life:
    """One process of a sidecar, from its start to its end."""

    def __init__(self, machine: "Sidecar", number: int) -> None:
        self.machine = machine
        self.witness = machine.witness
        self.clock = machine.clock
        directory: Any = DiskPath(machine.disk, "")
        self.journal = Journal(directory, boot_id=machine.boot_id, limits=LIMITS)
        self.book = Book()
        self.identity = Identity()
        dial: Any = None
        with reading_journals(older=machine.older):
            self.session = QuietSession(
                dial, self.clock, self.book, self.identity, self.journal, build="simulated"
            )
        self.session._boot_id = f"{machine.name}-{number}"
        self.roster = self.session._roster
        self.cashier = SteppedCashier(
            self.clock, self.book, self.identity, self.journal, self.session, reserve_wait_ms=2_000
        )
        self.cashier.life = self
        self.stream: Stream | None = None
        self.hello_sent_at = 0
        self.heard_at: int | None = None
        """When the present stream was heard last."""
        self.waiting: list[Ticket] = []
        self.asking: list[tuple[tuple[str, int, str], int]] = []
        """Calls whose key is asked for, and until when they wait for the answer."""
        self.open: list[Hold] = []
        self.flows: dict[Hold, Flowing] = {}
        """Of the open calls those whose output is watched."""
        self.refused_keys: set[bytes] = set()
        """Whose refusal this process has heard."""
        self.draining = False
        self._goodbye = False
        self.closed = False

    # -- calls ---------------------------------------------------------------------------------

    def call(self, api_key: str, ceiling_nanos: int, plan: str) -> None:
        """An app's call; `plan` is what the provider will do with it."""
        deadline = self.clock.boot_ns() + int(RESOLVE_WAIT_S * 1e9)
        self._call((api_key, ceiling_nanos, plan), deadline)

    def _call(self, call: tuple[str, int, str], deadline: int) -> None:
        api_key, ceiling_nanos, plan = call
        version = ""
        if plan.startswith("priced:"):
            terms = priced(plan, self.session.prices())
            if terms is None:
                return
            ceiling_nanos, plan, version = terms
            saw("a call was priced by the list in force")
        try:
            spender: Spender = drive(self.cashier.identify(api_key))
            hold = drive(
                self.cashier.reserve(
                    Call(
                        spender, "simulated", "model", "model", ceiling_nanos,
                        least_of(plan) or ceiling_nanos, begin_of(plan),
                        stream=plan.startswith(FLOW), run=plan, price_version=version,
                        started_at=self.clock.wall_ns(),
                    )
                )
            )  # fmt: skip
        except KeyAskedError:
            if self.clock.boot_ns() < deadline:
                self.asking.append((call, deadline))
        except Waits as waits:
            self.waiting.append(waits.ticket)
        except Refusal as refusal:
            self.witness.refused(self, refusal)
        else:
            assert isinstance(hold, Hold)
            self._dispatch(hold)

    def _dispatch(self, hold: Hold) -> None:
        self.open.append(hold)
        self.witness.dispatched(self, hold)
        if hold.opened.run.startswith(FLOW):
            self.flows[hold] = flowing(hold, target_of(hold), self.clock.monotonic())
            self.produce(hold, 0)

    def produce(self, hold: Hold, llm_tokens: int) -> None:
        """The provider of a progressive call produces more: it flows, the call grows, or is cut."""
        flow = self.flows[hold]
        flow.produced = min(flow.whole, flow.produced + llm_tokens)
        oracle: Any = self.witness
        produced(oracle, hold, flow.billed)
        if flow.is_over:
            saw("a progressive stream came to its end")
            self._end_flow(hold)
            return
        growth, seen, elapsed = flow.growth, flow.seen, self.clock.monotonic() - flow.since
        if seen >= growth.ask_at and growth.may_ask(elapsed) and hold.ticket is None:
            target = growth.target(seen, elapsed)
            if self.cashier.extend_here(hold, cost_of(target), cost_of(target)):
                growth.grew(target, seen, elapsed)
            else:
                self._ask(hold, target)
        if seen > growth.cut_at:
            if hold.ticket is not None:
                # It was asked for and is not there yet: what is free here, or nothing.
                self.waiting.remove(hold.ticket)
                self.cashier._leave(hold.ticket)
            least, most = growth.least(seen, elapsed), growth.target(seen, elapsed)
            if self.cashier.extend_here(hold, cost_of(most), cost_of(least)):
                flow.grew(hold, elapsed)
                saw("a stream took the last of what was free")
        if seen > growth.cut_at:
            saw("a progressive stream was cut")
            self._end_flow(hold)

    def _ask(self, hold: Hold, target: int) -> None:
        flow = self.flows[hold]
        elapsed = self.clock.monotonic() - flow.since
        try:
            drive(self.cashier.extend(hold, cost_of(target)))
        except Waits as waits:
            self.waiting.append(waits.ticket)
        except Refusal as refusal:
            flow.growth.refused(flow.seen, elapsed)
            self.witness.refused(self, refusal)
        else:
            flow.grew(hold, elapsed)

    def _end_flow(self, hold: Hold) -> None:
        flow = self.flows.pop(hold)
        told = min(flow.told(), hold.ceiling_nanos)
        charged(flow, hold, told)
        self._settle(hold, "final" if flow.is_over else "aborted", told)

    def grow(self, hold: Hold, by_nanos: int) -> None:
        """An open call is to produce more."""
        try:
            drive(self.cashier.extend(hold, min(target_of(hold), hold.ceiling_nanos + by_nanos)))
            saw("a call grew from what was free")
        except Waits as waits:
            self.waiting.append(waits.ticket)
        except Refusal as refusal:
            saw("growth was refused")
            self.witness.refused(self, refusal)

    def look_at_lines(self) -> None:
        """Waiting calls whose turn came start; those that waited too long leave."""
        now = self.clock.boot_ns()
        asking, self.asking = self.asking, []
        for call, deadline in asking:
            known = self.identity.known(hash_of(call[0]), now) is not None
            if known and not self.draining:
                self._call(call, deadline)
            elif now < deadline:
                self.asking.append((call, deadline))
        for ticket in list(self.waiting):
            turn: Any = ticket.future
            assert isinstance(turn, Turn)
            late = now >= ticket.waiter.deadline
            if not turn.done() and not late:
                continue
            self.waiting.remove(ticket)
            if not turn.done():
                self._at_last(ticket, turn)
            self.cashier._leave(ticket)
            flow = self.flows.get(ticket.cause) if isinstance(ticket.cause, Hold) else None
            if turn.hold is not None:
                if ticket.waiter.growing is None:
                    saw("a call waited and was admitted")
                    self._dispatch(turn.hold)
                else:
                    saw("a call waited and grew")
                    if flow is not None:
                        flow.grew(turn.hold, self.clock.monotonic() - flow.since)
            else:
                if turn.refusal is None:
                    saw("a call waited too long")
                refusal = turn.refusal or self.cashier._too_late(ticket)
                if flow is not None:
                    flow.growth.refused(flow.seen, self.clock.monotonic() - flow.since)
                self.witness.refused(self, refusal)

    def _at_last(self, ticket: Ticket, turn: Turn) -> None:
        """Its wait is over."""
        try:
            turn.hold = self.cashier._clamped(ticket)
        except Refusal as refusal:
            turn.refusal = refusal
        saw("a call began with what was left here", turn.hold is not None)

    def hang_up(self, ticket: Ticket) -> None:
        """The app of a waiting call is gone."""
        if isinstance(ticket.cause, Hold):
            self.finish(ticket.cause)
            return
        saw("an app hung up while its call waited")
        self.waiting.remove(ticket)
        turn: Any = ticket.future
        if turn.hold is not None:
            saw("an app hung up as its call was admitted")
            self.witness.told(turn.hold, 0)
            self.cashier._release(turn.hold)
        self.cashier._leave(ticket)

    def finish(self, hold: Hold) -> None:
        """The provider's answer ended, as its plan says."""
        if hold in self.flows:
            self._end_flow(hold)
            return
        kind, true, cost = hold.opened.run.split(":")[:3]
        told, ceiling = int(cost), hold.ceiling_nanos
        if target_of(hold) > ceiling:
            # It did not grow to what it might have been: what flowed is below W, or it was cut.
            kind = "aborted" if int(true) > ceiling else kind
            told = ceiling if kind == "unknown" else min(told, ceiling)
        kinds: dict[str, OutcomeKind] = {
            "final": "final", "error": "provider_error", "aborted": "aborted", "unknown": "unknown",
        }  # fmt: skip
        self._settle(hold, kinds[kind], told)

    def _settle(self, hold: Hold, kind: OutcomeKind, told: int) -> None:
        self.open.remove(hold)
        saw("a call ended while it waited to grow", hold.ticket is not None)
        self.witness.told(hold, told)
        self.cashier.settle(hold, Outcome(kind, Usage(), told, finished_at=self.clock.wall_ns()))
        if self.journal._unwritten:
            saw("a full disk kept a charge from being written")
        else:
            self.witness.recorded(hold)

    # -- the stream ----------------------------------------------------------------------------

    def connect(self, plane: ControlPlane, number: int) -> None:
        """Say Hello on a new stream."""
        link = self.machine.link
        if not link.up:
            return
        self.lose_stream()
        self.hello_sent_at = self.clock.boot_ns()
        hello = allowances_pb2.Hello(
            boot_id=self.session._boot_id,
            build="simulated",
            prior_sessions=self.roster.prior_sessions(),
            price_snapshot_version=snapshot().version,
            session_proofs=self.roster.session_proofs(),
        )
        stream = Stream(number, self.machine.record, plane, link)
        if self.machine.older != plane.older:
            saw(f"an older {'sidecar' if self.machine.older else 'control plane'} met a newer peer")
        stream.older = stream.older or self.machine.older
        if not link.down:
            saw("a Hello arrived and its Welcome did not")
        refused = plane.open(stream, self.machine.record, hello)
        if not refused or not link.down:
            self.stream = stream
        elif "hello.prior_sessions" in refused:
            self.roster.disown(refused)

    def lose_stream(self) -> None:
        """The stream is over for this side."""
        self.heard_at = None
        if self.stream is not None:
            self.stream = None
            self.session.connected = False
            self.roster.lost()

    def speak(self) -> None:
        """Say what the outboxes hold."""
        if self.stream is None or not self.session.connected:
            return
        now = self.clock.boot_ns()
        self.roster.top_up()
        for outbox in self.roster.welcomed():
            if now - outbox.last_sent_at >= self.roster.valid_for_ms * NANOS_PER_MS // 3:
                outbox.keep_alive()
            while (frame := outbox.compose(self.book, now)) is not None:
                self.stream.said += 1
                self.stream.up.append(as_older(frame) if self.stream.older else frame)
                if not outbox.has_news:
                    break

    def hear(self, most: int) -> None:
        """Hear frames that came."""
        stream = self.stream
        if not self.machine.link.down:
            return
        while stream is not None and stream.down and most > 0:
            most -= 1
            frame = stream.down.popleft()
            self.heard_at = self.clock.boot_ns()
            heard(frame)
            for key in frame.policy.keys:
                if key.refusal:
                    self.refused_keys.add(key.key_hash)
            try:
                self.session._hear(frame, self.hello_sent_at)
            except StreamRestart:
                self.lose_stream()
                return
            self.session.connected = True
        if stream is not None and not stream.served and not stream.down:
            self.lose_stream()

    def beat(self) -> None:
        """Time is told: to the journal after a fault, to the lines, to who waited too long, and to
        who listens to a peer that says nothing."""
        now = self.clock.boot_ns()
        if self.stream is not None:
            # As `Session._converse` and `_listen` do.
            since = self.hello_sent_at if self.heard_at is None else self.heard_at
            silence_ms = self.roster.valid_for_ms * 2 // 3
            if not self.session.connected:
                silence_ms = int(WELCOME_TIMEOUT_S * 1000)
            if now - since >= silence_ms * NANOS_PER_MS:
                saw("a silent stream was given up")
                self.lose_stream()
        self.journal.retry()
        if self.book.waiters:
            self.session._serve_lines()
        self.look_at_lines()

    def sync(self) -> None:
        """The journal's thread syncs."""
        sync: Any = self.journal._sync
        assert isinstance(sync, MemorySync)
        sync.run()

    def drain(self) -> None:
        """Begin to end in an orderly way, or go on with it. Sets `closed` at its end."""
        if not self.draining:
            self.draining = self.cashier._draining = True
            for ticket in [each for each in self.waiting if each.waiter.growing is None]:
                self.cashier._refuse(ticket, Refusal("overloaded"))
            self.look_at_lines()
        outboxes = self.roster.outboxes()
        if self.journal.open_calls and self.open:
            return
        if not self._said_goodbye(outboxes):
            return
        if all(outbox.is_settled for outbox in outboxes):
            self.journal.close()
            self.closed = True

    def _said_goodbye(self, outboxes: list[Any]) -> bool:
        """What `Session.close` says once no call is open."""
        if self._goodbye or not outboxes:
            return True
        for outbox in outboxes:
            for pool in outbox.leg.pools.values():
                pool.give_back()
            outbox.report(outbox.leg.pools)
            if not outbox.leg.open_count:
                outbox.closes.append((outbox.leg.epoch, outbox.leg.last_n))
        self._goodbye = True
        return True

    def legs(self) -> list[Leg]:
        """The present sessions."""
        return [outbox.leg for outbox in self.roster.outboxes()]


class Sidecar:
    """A machine that runs one sidecar process after the other."""

    def __init__(
        self, name: str, record: SidecarRecord, clock: Clock, disk: Disk, witness: Witness
    ) -> None:
        self.name = name
        self.record = record
        self.clock = clock
        self.disk = disk
        self.witness = witness
        self.boots = 1
        self.machine_name = name
        self.link = Link()
        self.older = False
        """Whether it runs an older build."""
        self.lives = 0
        self.ended = False
        """Whether it is drained at the end of a history, and starts no more."""
        self.life: Life | None = None

    @property
    def boot_id(self) -> str:
        """Of the machine: another one after a power loss."""
        return f"{self.machine_name}-boot-{self.boots}"

    def start(self) -> None:
        """Start the process, unless one runs."""
        if self.life is None:
            self.lives += 1
            try:
                self.life = Life(self, self.lives)
            except OSError:  # the disk is full: it can't start yet
                saw("a disk was too full to start")
                return
            except Killed:
                saw("a process was killed as it started")
                return
            for session in self.life.journal.recovered:
                whole = session.journal == COMPLETE
                saw(f"a {'whole' if whole else 'cut'} journal was replayed")

    def empty_disk(self) -> None:
        """There is room on its disk again."""
        if self.disk.full:
            saw("a full disk had room again")
            self.disk.full = False
