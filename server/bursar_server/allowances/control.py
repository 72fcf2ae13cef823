"""Lending as one part of the program: what `app` starts, serves and drains."""

import asyncio

import grpc
import structlog

from bursar.v1 import allowances_pb2_grpc
from bursar_server.allowances.correcting import Corrector
from bursar_server.allowances.hub import Hub
from bursar_server.allowances.policy import PolicyDesk
from bursar_server.allowances.service import AllowanceService
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.writer import Writer
from bursar_server.changes import ChangeFeed
from bursar_server.clock import Clock
from bursar_server.database.pool import Pool

log = structlog.get_logger(__name__)

SHARD_ID = 0
"""Every organization lives in one shard; `organizations.shard_id` is where more would show."""


class AllowanceControl:
    """The writer, the policy desk and the stream service of one process."""

    def __init__(
        self,
        pool: Pool,
        feed: ChangeFeed,
        clock: Clock,
        settings: LendingSettings,
        failed: asyncio.Event,
    ) -> None:
        """`failed` is set when lending can't go on in this process: it must end and be started
        again. Nothing is lent or posted any more, and sidecars go on with what they hold."""
        self.hub = Hub()
        self.writer = Writer(pool, self.hub, clock, settings, SHARD_ID)
        self.corrector = Corrector(pool, self.writer, clock, settings)
        self.desk = PolicyDesk(pool, self.hub, clock, settings)
        self.desk.on_budget = self.writer.budget_changed
        self.service = AllowanceService(pool, self.hub, self.writer, self.desk, clock, settings)
        feed.listen(self.desk.note)
        self._failed = failed
        self.resolve_after_ms = settings.resolve_after_ms
        self.valid_for_ms = settings.valid_for_ms

    async def start(self) -> None:
        """Take the shard over and begin. Raises BursarError if the database is away."""
        for task in (await self.writer.start(), self.desk.start(), self.corrector.start()):
            task.add_done_callback(self._ended)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Serve the stream."""
        allowances_pb2_grpc.add_AllowanceServiceServicer_to_server(self.service, server)

    def connected_sidecars(self) -> set[int]:
        """Ids of the sidecars with an open stream."""
        return self.hub.connected_sidecars()

    def is_connected(self, session_epoch: int) -> bool:
        """Whether a session has an open stream."""
        return session_epoch in self.hub.sessions

    async def resolution_applied(self, resolution_id: int) -> None:
        """Wait until a recorded decision about a session is applied, or a bounded time."""
        await self.writer.resolution_applied(resolution_id)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        fault = task.exception()
        if fault is not None:
            log.critical("lending_failed", task=task.get_name(), exc_info=fault)
            for stream in self.hub.streams():
                stream.end("this control plane can't lend any more")
            self._failed.set()

    async def drain(self) -> None:
        """End the streams, apply what was received, and let go."""
        for stream in self.hub.streams():
            stream.end("this control plane goes away")
        await self.corrector.stop()
        await self.writer.stop()
        await self.desk.stop()
