"""Envoy's services from their start to their end."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from bursar_sidecar.amendments import Late
from bursar_sidecar.clock import Clock
from bursar_sidecar.desk import Desk
from bursar_sidecar.envoy import services
from bursar_sidecar.envoy.held_calls import HeldCalls
from bursar_sidecar.envoy.held_metrics import HeldMetrics
from bursar_sidecar.envoy.parts import Parts, Service
from bursar_sidecar.grpc_listening import Place
from bursar_sidecar.local_grpc.handed_out import Evidence
from bursar_sidecar.proxy import Proxy
from bursar_sidecar.settings import Settings

if TYPE_CHECKING:
    from bursar_sidecar.grpc_wire.listening import WireListening

LAST_WORDS_S: Final = 1.0
"""After the last call has ended, how long answers may take to leave."""


class EnvoyServices:
    """The held calls, who tells them the time, and the server before them."""

    def __init__(
        self,
        settings: Settings,
        proxy: Proxy,
        desk: Desk,
        clock: Clock,
        evidence: Evidence,
        registry: CollectorRegistry,
        recovered: Mapping[str, Late] = MappingProxyType({}),
    ) -> None:
        """`recovered` are calls of earlier lives that evidence may come about."""
        self._settings = settings
        self.held = HeldCalls(settings, clock, proxy.admission, proxy.servings, evidence)
        self._metrics = HeldMetrics(self.held)
        self._parts = Parts(
            settings, proxy, desk, clock, self.held, registry, evidence, dict(recovered)
        )
        self._listening: WireListening | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self.served: list[Service] = []
        """Once started."""

    @property
    def address(self) -> str:
        """Where it listens, once started; "" where it does not."""
        return "" if self._listening is None else self._listening.address

    async def start(self) -> None:
        """Listen, where the settings say so. Raises OSError."""
        settings = self._settings
        if not settings.envoy_address:
            return
        made = self.served = services.made(self._parts)
        place = Place(
            "envoy_address",
            settings.envoy_address,
            settings.socket_mode,
            settings.envoy_tls_cert,
            settings.envoy_tls_key,
            settings.envoy_tls_client_ca,
        )
        listening = services.server(place)
        for one in made:
            listening.add(one.name, one.methods())
        await listening.start([one.name for one in made])
        self._listening = listening
        self._parts.registry.register(self._metrics)
        self._tasks = [asyncio.create_task(one.run(), name=one.name) for one in made]
        self._tasks.append(asyncio.create_task(self.held.run(), name="envoy-held-calls"))

    def described(self) -> dict[str, Any]:
        """For people; empty where no Envoy is served."""
        return {"address": self.address, **self._metrics.described()} if self.address else {}

    def apply(self, settings: Settings) -> None:
        """What holds for calls from now on; where it listens stays."""
        self.held.apply(settings)

    async def drain(self, drain_s: float) -> None:
        """Admit nothing more, let calls end for `drain_s`, charge the rest, close."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        await listening.retire()
        await self.held.drain(drain_s)
        await listening.stop(LAST_WORDS_S)
        self.held.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
