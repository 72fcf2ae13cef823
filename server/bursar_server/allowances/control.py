"""Lending as one part of the program: what `app` starts, serves and drains."""

import grpc

from bursar.v1 import allowances_pb2_grpc
from bursar_server.allowances.hub import Hub
from bursar_server.allowances.policy import PolicyDesk
from bursar_server.allowances.service import AllowanceService
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.writer import Writer
from bursar_server.changes import ChangeFeed
from bursar_server.clock import Clock
from bursar_server.database.pool import Pool

SHARD_ID = 0
"""Every organization lives in one shard; `organizations.shard_id` is where more would show."""


class AllowanceControl:
    """The writer, the policy desk and the stream service of one process."""

    def __init__(
        self, pool: Pool, feed: ChangeFeed, clock: Clock, settings: LendingSettings
    ) -> None:
        self.hub = Hub()
        self.writer = Writer(pool, self.hub, clock, settings, SHARD_ID)
        self.desk = PolicyDesk(pool, self.hub, clock, settings)
        self.desk.on_budget = self.writer.budget_changed
        self.service = AllowanceService(pool, self.hub, self.writer, self.desk, clock, settings)
        feed.listen(self.desk.note)

    async def start(self) -> None:
        """Take the shard over and begin. Raises BursarError if the database is away."""
        await self.writer.start()
        self.desk.start()

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """Serve the stream."""
        allowances_pb2_grpc.add_AllowanceServiceServicer_to_server(self.service, server)

    def connected_sidecars(self) -> set[int]:
        """Ids of the sidecars with an open stream."""
        return self.hub.connected_sidecars()

    async def drain(self) -> None:
        """End the streams, apply what was received, and let go."""
        for stream in self.hub.streams():
            stream.end("this control plane goes away")
        await self.writer.stop()
        await self.desk.stop()
