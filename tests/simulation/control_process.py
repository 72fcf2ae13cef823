"""One process of the control plane: the real service, hub, writer and policy desk.

Only what production leaves to the event loop is written here: when a tick runs, when questions are
answered, and when a stream's frames are read.
"""

from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bursar.v1 import allowances_pb2
from bursar_server.allowances.frames import check_frame
from bursar_server.allowances.healing import NUMBERS_SKIPPED, Rewound
from bursar_server.allowances.hub import Hub, LiveSession
from bursar_server.allowances.policy import PolicyDesk
from bursar_server.allowances.service import AllowanceService
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.tick import Batch, Deposed
from bursar_server.allowances.writer import Writer
from bursar_server.changes import Change
from bursar_server.errors import BursarError, invalid
from bursar_server.ledger.entries import Kind
from bursar_server.sidecars.records import SidecarRecord
from tests.simulation.coverage import saw
from tests.simulation.database import EPOCH, Broken, Crash, Database
from tests.simulation.driving import drive
from tests.simulation.forgotten import RESTORING
from tests.simulation.honesty import Honesty
from tests.simulation.limits import check_limits
from tests.simulation.stores import RAISES, STORE
from tests.simulation.versions import as_older

MOST_GAP_MS = 3_600_000
"""Of service between two commits: hours pass in few steps here."""


class Time:
    """True time, in nanoseconds; every node reads it through a clock of its own."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000


class ServerClock:
    """The control plane's clocks: the wall clock is off by a little."""

    def __init__(self, time: Time, skew_ms: int) -> None:
        self._time = time
        self._skew_ms = skew_ms

    def now(self) -> datetime:
        """The wall-clock time."""
        return EPOCH + timedelta(microseconds=self._time.now_ns // 1000 + self._skew_ms * 1000)

    def monotonic(self) -> float:
        """Seconds."""
        return self._time.now_ns / 1e9

    def monotonic_ms(self) -> int:
        """Milliseconds."""
        return self._time.now_ns // 1_000_000


@dataclass(slots=True)
class Link:
    """The network between a machine and the control plane: each way works or is dead."""

    up: bool = True
    down: bool = True


class Stream:
    """A stream with both directions in flight; what `hub.Stream` is to the control plane."""

    def __init__(
        self, number: int, sidecar: SidecarRecord, plane: "ControlPlane", link: Link
    ) -> None:
        self.link = link
        self.older = plane.older
        """Whether one end is an older build."""
        self.number = number
        self.sidecar_id = sidecar.id
        self.secret_hash = sidecar.secret_hash
        self.price_snapshot_version = ""
        self.organization_id = sidecar.organization_id
        self.name = f"sidecars/{sidecar.slug}"
        self.sessions: dict[int, LiveSession] = {}
        self.plane = plane
        self.up: deque[allowances_pb2.SidecarFrame] = deque()
        self.down: deque[allowances_pb2.ControlFrame] = deque()
        self.served = True
        """Whether the control plane still reads and writes it."""
        self.fault = ""
        self.said = 0
        """Frames, both ways."""

    def send(self, frame: allowances_pb2.ControlFrame) -> None:
        """On its way to the sidecar."""
        self.said += 1
        plane = self.plane
        plane.honesty.told(frame, plane.database.tables, plane.clock.now())
        self.down.append(as_older(frame) if self.older else frame)

    def drain(self, *, wanted: bool) -> None:
        """Nobody here asks for it: sidecars are drained as their process ends."""
        assert not wanted

    def end(self, reason: str) -> None:
        """The control plane ends it."""
        self.fault = self.fault or reason


class QuietDesk(PolicyDesk):
    """Says nothing of prices as long as nobody has set one."""

    async def _price_frames(
        self, connection: Any, session: LiveSession, snapshot_version: str
    ) -> list[allowances_pb2.ControlFrame]:
        if not connection.prices:
            return []
        return await super()._price_frames(connection, session, snapshot_version)


class ControlPlane:
    """A process that owns the shard from its start until another one takes it."""

    def __init__(
        self, database: Database, time: Time, skew_ms: int, *, older: bool = False
    ) -> None:
        self.older = older
        pool: Any = database
        settings = LendingSettings(most_gap_ms=MOST_GAP_MS)
        self.clock = ServerClock(time, skew_ms)
        self.hub = Hub()
        self.writer = Writer(pool, self.hub, self.clock, settings, 0)
        self.desk = QuietDesk(pool, self.hub, self.clock, settings)
        self.desk.on_budget = self.writer.budget_changed
        self.service = AllowanceService(
            pool, self.hub, self.writer, self.desk, self.clock, settings
        )
        self.database = database
        self.honesty = Honesty()
        self.alive = True
        self.refusals: list[str] = []
        """Frames of honest sidecars that were refused, with the reason."""
        tables = database.tables
        database.owners += 1
        tables.owner_epoch = max(tables.owner_epoch + 1, database.owners)
        drive(RESTORING.skip_numbers(tables, NUMBERS_SKIPPED, 0))
        self.owner_epoch = self.writer._tick.owner_epoch = tables.owner_epoch
        stale = drive(STORE.budgets_with_stale_windows(tables, self.clock.now()))
        self.writer._changed_budgets.update(stale)
        unapplied = drive(STORE.unapplied_resolutions(tables))
        self.writer._resolutions.update({id: [] for id in unapplied})
        self.writer._next_boundary = drive(RAISES.next_boundary(tables))

    def open(self, stream: Stream, sidecar: SidecarRecord, hello: allowances_pb2.Hello) -> str:
        """A sidecar says Hello; returns why it is turned away, "" if it is not."""
        live: Any = stream
        try:
            drive(self.service._open(live, sidecar, hello))
        except BursarError as error:
            self.close(stream)
            if isinstance(self.writer.fault, Rewound):
                self._note_lost_tail()
            self.alive = self.alive and self.writer.fault is None
            return f"{error}"
        except Crash:
            self.alive = False
            return "crashed"
        return ""

    def _note_lost_tail(self) -> None:
        # Who finds it out lives long enough to write it down.
        self.database.faults.clear()
        drive(self.writer.note_lost_tail())

    def read(self, stream: Stream, most: int) -> None:
        """Take frames off the stream, check them, and hand them to the writer."""
        if not stream.link.up:
            return
        while stream.up and most > 0 and stream.served and self.alive:
            most -= 1
            message = stream.up.popleft()
            try:
                session = stream.sessions.get(message.session_epoch)
                if session is None:
                    raise invalid("session_epoch", message.session_epoch, "one of this stream")
                if message.seq != session.received_seq + 1:
                    raise invalid("seq", message.seq, f"{session.received_seq + 1}, without gaps")
                frame = check_frame(message, session.organization_id, session.own_epochs)
                if frame.policy_ack is not None:
                    session.hear_policy(*frame.policy_ack)
            except BursarError as error:
                self.refusals.append(str(error))
                self.close(stream)
                return
            session.received_seq = message.seq
            if not session.superseded:
                self.honesty.asked(message)
            if frame.resolve:
                self.desk.ask(session, frame.resolve)
            drive(self.writer.submit(session, frame))

    def tick(self) -> None:
        """One transaction of the writer, with what came since the last one."""
        if not self.alive:
            return
        batch, before = self.writer._take(), self.database.tables
        told = [s for _, frame in batch.frames for s in frame.settlements]
        saw(
            "a charge was said again and dropped",
            sum((s.session_epoch, s.n, 0) in before.entries for s in told),
        )
        try:
            if (
                batch.frames
                or batch.needs
                or batch.changed_budgets
                or batch.resolutions
                or batch.boundary_due
            ):
                drive(self.writer._apply(batch))
            drive(self.writer.pass_time())
            wrote = self.database.tables is not before
            if wrote and self.owner_epoch != self.database.tables.owner_epoch:
                raise Broken("6: a control plane that was deposed has written")
            self._facts_are_posted(batch)
            check_limits(self.database.tables, self.clock.now(), applied=False)
        except Rewound:
            self._note_lost_tail()
            self.alive = False
            return
        except Deposed:
            saw("a deposed owner was stopped")
            self.alive = False
            return
        except Crash:
            self.alive = False
            return
        for session in {s for s in self.hub.sessions.values() if _fault(s)}:
            self.close(_stream_of(session))

    def _facts_are_posted(self, batch: Batch) -> None:
        """Whatever else a frame says, its settlements count (invariant 3)."""
        entries = self.database.tables.entries
        for _, frame in batch.frames:
            for settlement in frame.settlements:
                identity = (settlement.session_epoch, settlement.n)
                amount, k = 0, 0
                while (entry := entries.get((*identity, k))) is not None:
                    amount += entry.amount
                    k += 1
                final = settlement.kind is Kind.FINAL
                if not k or (final and amount != settlement.cost_nanos):
                    raise Broken(f"3: {identity} cost {settlement.cost_nanos}, posted {amount}")

    def answer(self) -> None:
        """Tell who keys are, and what changed."""
        if not self.alive:
            return
        desk = self.desk
        asked, desk._asked = desk._asked, defaultdict(set)
        drive(desk._tell(asked))

    def note(self, change: Change) -> None:
        """A change was committed in this process."""
        if self.alive:
            self.desk.note(change)

    def resolve(self, resolution_id: int) -> None:
        """A decision about a session is on record."""
        if self.alive:
            self.writer._resolutions.setdefault(resolution_id, [])

    def close(self, stream: Stream) -> None:
        """A stream ended, or its end was noticed."""
        if stream.served:
            stream.served = False
            live: Any = stream
            self.desk.forget(live)
            self.writer.session_gone(self.hub.remove(live))


def _stream_of(session: LiveSession) -> Stream:
    stream: Any = session.stream
    assert isinstance(stream, Stream)
    return stream


def _fault(session: LiveSession) -> str:
    return _stream_of(session).fault
