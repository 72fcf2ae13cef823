"""The streams that are open now, and what their sidecars last said.

It owns memory only: everything here can be lost and is said again after a reconnect. Balances
live in Postgres and are the writer's.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable

import structlog

from bursar.v1 import allowances_pb2
from bursar_server.allowances.frames import Frame, Report
from bursar_server.allowances.proofs import GrantProof, Seal, SessionProof
from bursar_server.allowances.records import WindowRow
from bursar_server.allowances.rules import Holder
from bursar_server.allowances.tail import Traffic
from bursar_server.errors import invalid
from bursar_server.identity.store import KeyRecord

log = structlog.get_logger(__name__)

IN_USE_MS = 1_000
"""A pool idle for less is in use: sidecars report a pool in use every second."""

ControlFrame = allowances_pb2.ControlFrame
Scope = tuple[str, int]


class StreamCut(Exception):
    """The stream ends from this side; the text is for the log and the sidecar."""


class Stream:
    """One open stream of one sidecar, with a bounded outbox."""

    def __init__(
        self,
        sidecar_id: int,
        organization_id: int,
        name: str,
        secret_hash: bytes,
        most_frames: int,
    ) -> None:
        self.sidecar_id = sidecar_id
        self.secret_hash = secret_hash
        self.price_snapshot_version = ""
        self.organization_id = organization_id
        self.name = name
        self.sessions: dict[int, LiveSession] = {}
        self.draining = False
        """Whether the sidecar was told to empty itself."""
        self.cut: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outbox: asyncio.Queue[ControlFrame] = asyncio.Queue(most_frames)

    def send(self, frame: ControlFrame) -> None:
        """Queue a frame; a sidecar that does not read is cut off."""
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self.end("the sidecar does not read")

    def drain(self, *, wanted: bool) -> None:
        """Tell the sidecar to empty itself, or that it need not any more, where that is news."""
        if wanted != self.draining:
            self.draining = wanted
            for session in self.sessions.values():
                if not session.platform:
                    session.send(ControlFrame(drain=allowances_pb2.Drain(over=not wanted)))

    async def next_frame(self) -> ControlFrame:
        """The next frame to write."""
        return await self._outbox.get()

    def drained(self) -> bool:
        """Whether everything queued was taken."""
        return self._outbox.empty()

    def end(self, reason: str) -> None:
        """End the stream from this side."""
        if not self.cut.done():
            log.info("stream_cut", sidecar=self.name, reason=reason)
            self.cut.set_result(reason)


class LiveSession:
    """One session on an open stream."""

    def __init__(
        self,
        stream: Stream,
        session_epoch: int,
        organization_id: int,
        organization: str,
        currency: str,
        applied_seq: int,
        *,
        spender_organization: str,
        platform: bool,
        boot_id: str = "",
        seal: Seal | None = None,
    ) -> None:
        self.boot_id = boot_id
        self.seal = seal
        """What proves to it, and to a later owner, what it was told."""
        self.stream = stream
        self.session_epoch = session_epoch
        self.organization_id = organization_id
        self.organization = organization
        """Its slug."""
        self.spender_organization = spender_organization
        """The slug of the organization whose sidecar this is: who spends, in either ledger."""
        self.currency = currency
        self.platform = platform
        self.applied_seq = applied_seq
        self.received_seq = applied_seq
        self.heard_at_ms = 0
        self.silent = False
        """Whether it was asked for money and has said nothing since."""
        self.superseded = False
        """Whether a newer stream resumed the session."""
        self.own_epochs: set[int] = {session_epoch}
        """This session and the prior ones it may settle for."""
        self.reports: dict[int, Report] = {}
        self.used_at_ms: dict[int, int] = {}
        self.keys: dict[bytes, KeyRecord | None] = {}
        self.scopes: set[Scope] = set()
        self.budget_ids: set[int] = set()
        self.is_asking = False
        """Whether keys it asked for were not told yet."""
        self.policy_told: int | None = None
        """The policy version that it was told on this stream; None: nothing yet."""
        self.policy_told_at_ms = 0
        self.policy_heard = (0, 0)
        """What it acknowledged on this stream: (version, last n admitted under an older one)."""
        self.contradicted = False
        """Whether it settled a number again as something else; that is told once."""
        self.overclaimed = False
        """Whether it said, without proof, that more was granted to it; that is told once."""
        self.quarantined = 0
        """Its frames on this stream that could not be applied."""
        self._proven: dict[int, tuple[tuple[WindowRow, int], bytes]] = {}
        """By window: what was proven last, and how."""
        self._unapplied: deque[tuple[int, int]] = deque()
        self._moved = asyncio.Event()

    def proof(self) -> bytes:
        """The proof that it was opened."""
        if self.seal is None:
            return b""
        return self.seal.make(
            SessionProof(
                self.organization_id,
                self.session_epoch,
                self.stream.organization_id,
                self.stream.sidecar_id,
                self.boot_id,
            )
        )

    def prove(self, window: WindowRow, granted: int) -> bytes:
        """The proof that so much of a window was granted to it."""
        if self.seal is None:
            return b""
        known = self._proven.get(window.id)
        if known is not None and known[0] == (window, granted):
            return known[1]  # it is told with each answer, and made once
        proof = self.seal.make(
            GrantProof(
                self.organization_id,
                self.session_epoch,
                self.boot_id,
                window.id,
                window.budget_id,
                window.start_at,
                window.end_at,
                granted,
            )
        )
        self._proven[window.id] = (window, granted), proof
        return proof

    def forget_proof(self, window_id: int) -> None:
        """The window is over for the session."""
        self._proven.pop(window_id, None)

    def is_of(self, proof: GrantProof, window_id: int) -> bool:
        """Whether a proof speaks of this session and that window."""
        return (proof.organization_id, proof.session_epoch, proof.boot_id, proof.window_id) == (
            self.organization_id,
            self.session_epoch,
            self.boot_id,
            window_id,
        )

    def hear_policy(self, version: int, last_n: int) -> None:
        """It acknowledges a policy. Raises BursarError (INVALID_ARGUMENT) if that can't be."""
        heard_version, heard_n = self.policy_heard
        told = self.policy_told or 0
        if not heard_version <= version <= told:
            wanted = f"{heard_version} (acknowledged) to {told} (told)"
            raise invalid("policy_ack.policy_version", version, wanted)
        if last_n < heard_n:
            wanted = f"at least {heard_n}, as acknowledged before"
            raise invalid("policy_ack.last_n_under_older", last_n, wanted)
        self.policy_heard = (version, last_n)

    def received(self, seq: int, size: int) -> None:
        """A frame of `size` bytes is here, and goes to the writer."""
        self.received_seq = seq
        self._unapplied.append((seq, size))

    async def room(self, most_frames: int, most_bytes: int) -> None:
        """Wait until less than that much of the session is received and not applied."""
        while True:
            while self._unapplied and self._unapplied[0][0] <= self.applied_seq:
                self._unapplied.popleft()
            size = sum(size for _, size in self._unapplied)
            if len(self._unapplied) < most_frames and size < most_bytes:
                return
            self._moved.clear()
            await self._moved.wait()

    def send(self, frame: ControlFrame) -> None:
        """Queue a frame of this session."""
        frame.session_epoch = self.session_epoch
        frame.applied_seq = self.applied_seq
        self._moved.set()
        self.stream.send(frame)


class Hub:
    """All open streams, by sidecar and by session."""

    def __init__(self) -> None:
        self.sessions: dict[int, LiveSession] = {}
        self._left: dict[int, LiveSession] = {}
        """Sessions whose stream ended, as long as frames of it may not be applied yet."""
        self._reporters: dict[int, dict[int, LiveSession]] = {}
        """Who reported on a window, by window and by session."""
        self.tail: set[int] = set()
        """Windows in their tail."""

    def note(self, session: LiveSession, frame: Frame, now_ms: int) -> None:
        """Remember what a sidecar said about its allowances."""
        session.heard_at_ms = now_ms
        session.silent = False
        for report in frame.reports:
            before = session.reports.get(report.window_id)
            session.reports[report.window_id] = report
            self._reporters.setdefault(report.window_id, {})[session.session_epoch] = session
            if before is None or report.idle_ms < IN_USE_MS:
                session.used_at_ms[report.window_id] = now_ms

    def forget_report(self, session: LiveSession, window_id: int) -> None:
        """Nothing of the window is left in the session, and it has ended."""
        session.reports.pop(window_id, None)
        session.used_at_ms.pop(window_id, None)
        session.forget_proof(window_id)
        reporters = self._reporters.get(window_id, {})
        if reporters.get(session.session_epoch) is session:
            del reporters[session.session_epoch]
        if not reporters:
            self._reporters.pop(window_id, None)
            self.tail.discard(window_id)

    def add(self, session: LiveSession) -> None:
        """Take a session in. A session that was on an older stream moves: that stream ends."""
        if (left := self._left.pop(session.session_epoch, None)) is not None:
            # Its Welcome says what was applied until now; all behind that is said again.
            left.superseded = True
        older = self.sessions.get(session.session_epoch)
        if older is not None and older is not session:
            older.superseded = True
            # Its stream may take long to end, where the other side is gone. Until then nobody
            # answers for what was said on it, and nobody would find out that it is silent.
            for window_id in list(older.reports):
                self.forget_report(older, window_id)
            older.stream.end("the session was resumed on another stream")
        self.sessions[session.session_epoch] = session
        session.stream.sessions[session.session_epoch] = session

    def remove(self, stream: Stream) -> list[int]:
        """Forget a stream; returns the epochs that are no longer live."""
        gone = []
        for epoch, session in stream.sessions.items():
            for window_id in list(session.reports):
                self.forget_report(session, window_id)
            if self.sessions.get(epoch) is session:
                del self.sessions[epoch]
                self._left[epoch] = session
                gone.append(epoch)
        return gone

    def all_taken(self) -> None:
        """No frame of any stream waits any more to be applied."""
        self._left.clear()

    def of_organization(self, organization_id: int) -> list[LiveSession]:
        """The live sessions of an organization."""
        return [s for s in self.sessions.values() if s.organization_id == organization_id]

    def streams(self) -> set[Stream]:
        """The open streams."""
        return {session.stream for session in self.sessions.values()}

    def connected_sidecars(self) -> set[int]:
        """Ids of the sidecars with an open stream."""
        return {session.stream.sidecar_id for session in self.sessions.values()}

    def traffic(self, window_ids: Iterable[int], now_ms: int, active_ms: int) -> dict[int, Traffic]:
        """What goes on in each window: at least one session counts as its user."""
        return {window_id: self._traffic(window_id, now_ms, active_ms) for window_id in window_ids}

    def _traffic(self, window_id: int, now_ms: int, active_ms: int) -> Traffic:
        users = reserved = calls = callers = 0
        for session in self._reporters.get(window_id, {}).values():
            users += now_ms - session.used_at_ms.get(window_id, -active_ms) < active_ms
            report = session.reports[window_id]
            reserved += report.reserved
            if report.largest_call:
                calls += report.largest_call
                callers += 1
        return Traffic(max(1, users), calls // callers if callers else 0, reserved)

    def note_tail(self, looked_at: Collection[int], tail: Collection[int]) -> None:
        """Remember which of the windows looked at are in their tail now."""
        self.tail.difference_update(looked_at)
        self.tail.update(tail)

    def reserved(self, session_epoch: int, window_id: int) -> int | None:
        """What a session last said is set aside for its calls in flight; None: nobody knows."""
        session = self.sessions.get(session_epoch)
        if session is None or (report := session.reports.get(window_id)) is None:
            return None
        return report.reserved

    def reserved_by_organization(self) -> dict[str, int]:
        """The same, added up over the windows of each organization's live sessions, by slug."""
        found: dict[str, int] = {}
        for session in self.sessions.values():
            said = sum(report.reserved for report in session.reports.values())
            found[session.organization] = found.get(session.organization, 0) + said
        return found

    def holders(self, window_ids: Iterable[int]) -> list[Holder]:
        """What connected sessions last said they have free in these windows."""
        return [
            Holder(epoch, window_id, report.free, report.idle_ms, session.silent)
            for window_id in window_ids
            for epoch, session in self._reporters.get(window_id, {}).items()
            if (report := session.reports.get(window_id)) is not None
        ]
