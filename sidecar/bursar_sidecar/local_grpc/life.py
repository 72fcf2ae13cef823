"""The local gRPC service from its start to its end."""

import asyncio
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from bursar_sidecar.amendments import Late
from bursar_sidecar.clock import Clock
from bursar_sidecar.desk import Desk
from bursar_sidecar.local_grpc.handed_out import Evidence
from bursar_sidecar.local_grpc.server import SpendServer
from bursar_sidecar.local_grpc.service import SpendService
from bursar_sidecar.local_grpc.spend_metrics import SpendMetrics
from bursar_sidecar.local_grpc.till import Till
from bursar_sidecar.settings import Settings

LAST_WORDS_S = 1.0
"""After everything is charged, how long answers may take to leave."""


class LocalGrpc:
    """The till, who tells it the time, and the server before it."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        clock: Clock,
        evidence_to: Evidence,
        recovered: Mapping[str, Late],
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self.till = Till(settings, desk, clock, evidence_to, recovered)
        self._metrics = SpendMetrics(self.till, registry)
        self._server: SpendServer | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, once started; "" where it does not."""
        return "" if self._server is None else self._server.address

    async def start(self) -> None:
        """Listen, where the settings say so. Raises OSError."""
        if not self._settings.grpc_address:
            return
        server = SpendServer(self._settings, SpendService(self.till, self._metrics))
        await server.start()
        self._server = server
        self._sweeping = asyncio.create_task(self.till.run(), name="reservations")

    def apply(self, settings: Settings) -> None:
        """Providers and limits from now on; where it listens stays."""
        self.till.apply(settings)

    async def drain(self, drain_s: float) -> None:
        """Reserve nothing more, let last words come for `drain_s`, charge the rest, close."""
        server, self._server = self._server, None
        if server is None:
            return
        await server.retire()
        await self.till.drain(drain_s)
        await server.stop(LAST_WORDS_S)
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
