"""The streams that are open now, and what their sidecars last said.

It owns memory only: everything here can be lost and is said again after a reconnect. Balances
live in Postgres and are the writer's.
"""

import asyncio
from collections.abc import Iterable

import structlog

from bursar.v1 import allowances_pb2
from bursar_server.allowances.frames import Frame, Report
from bursar_server.identity.store import KeyRecord

log = structlog.get_logger(__name__)

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
        self.cut: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outbox: asyncio.Queue[ControlFrame] = asyncio.Queue(most_frames)

    def send(self, frame: ControlFrame) -> None:
        """Queue a frame; a sidecar that does not read is cut off."""
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self.end("the sidecar does not read")

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
    ) -> None:
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
        self.superseded = False
        """Whether a newer stream resumed the session."""
        self.own_epochs: set[int] = {session_epoch}
        """This session and the prior ones it may settle for."""
        self.reports: dict[int, Report] = {}
        self.used_at_ms: dict[int, int] = {}
        self.keys: dict[bytes, KeyRecord | None] = {}
        self.scopes: set[Scope] = set()
        self.budget_ids: set[int] = set()

    def send(self, frame: ControlFrame) -> None:
        """Queue a frame of this session."""
        frame.session_epoch = self.session_epoch
        frame.applied_seq = self.applied_seq
        self.stream.send(frame)

    def note(self, frame: Frame, now_ms: int) -> None:
        """Remember what the sidecar said about its allowances."""
        for report in frame.reports:
            before = self.reports.get(report.window_id)
            self.reports[report.window_id] = report
            if before is None or report.idle_ms < 1_000:
                self.used_at_ms[report.window_id] = now_ms


class Hub:
    """All open streams, by sidecar and by session."""

    def __init__(self) -> None:
        self.sessions: dict[int, LiveSession] = {}

    def add(self, session: LiveSession) -> None:
        """Take a session in. A session that was on an older stream moves: that stream ends."""
        older = self.sessions.get(session.session_epoch)
        if older is not None and older is not session:
            older.superseded = True
            older.stream.end("the session was resumed on another stream")
        self.sessions[session.session_epoch] = session
        session.stream.sessions[session.session_epoch] = session

    def remove(self, stream: Stream) -> list[int]:
        """Forget a stream; returns the epochs that are no longer live."""
        gone = []
        for epoch, session in stream.sessions.items():
            if self.sessions.get(epoch) is session:
                del self.sessions[epoch]
                gone.append(epoch)
        return gone

    def of_organization(self, organization_id: int) -> list[LiveSession]:
        """The live sessions of an organization."""
        return [s for s in self.sessions.values() if s.organization_id == organization_id]

    def streams(self) -> set[Stream]:
        """The open streams."""
        return {session.stream for session in self.sessions.values()}

    def connected_sidecars(self) -> set[int]:
        """Ids of the sidecars with an open stream."""
        return {session.stream.sidecar_id for session in self.sessions.values()}

    def users(self, window_ids: Iterable[int], now_ms: int, active_ms: int) -> dict[int, int]:
        """How many live sessions used each window lately, at least one."""
        counts = dict.fromkeys(window_ids, 0)
        for session in self.sessions.values():
            for window_id, used_at in session.used_at_ms.items():
                if window_id in counts and now_ms - used_at <= active_ms:
                    counts[window_id] += 1
        return {window_id: max(1, count) for window_id, count in counts.items()}
