"""A sidecar that an Envoy asks, on a real socket, without a control plane: as `live_sidecar`.

Time is the machine's, the desk is the one in memory; the Envoy before it is the test's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from bursar_sidecar.clock import SystemClock
from bursar_sidecar.envoy.life import EnvoyServices
from bursar_sidecar.proxy import Proxy
from tests.fakes.desk import FakeDesk
from tests.fakes.live_sidecar import LiveSidecar
from tests.fakes.spending import FakeEvidence


class LiveEnvoyServices(LiveSidecar):
    """`envoy_address` is where an Envoy asks."""

    envoy_address = ""

    async def _started_beside(self, proxy: Proxy) -> None:
        self.evidence = FakeEvidence(self.desk)
        self.services = EnvoyServices(
            proxy.settings, proxy, self.desk, SystemClock(), self.evidence, CollectorRegistry()
        )
        await self.services.start()
        self.envoy_address = self.services.address

    async def _ended_beside(self) -> None:
        await self.services.drain(0)


@contextmanager
def live_envoy_services(
    desk: FakeDesk | None = None, upstream: dict[str, Any] | None = None, **settings: Any
) -> Iterator[LiveEnvoyServices]:
    """For the length of a test; the address is any free one."""
    settings.setdefault("envoy_address", "127.0.0.1:0")
    made = LiveEnvoyServices(desk or FakeDesk(), upstream or {}, settings)
    try:
        made.start()
        yield made
    finally:
        made.stop()
