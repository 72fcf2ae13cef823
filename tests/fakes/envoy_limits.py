"""Envoy's limit services over a desk in memory, asked over a real gRPC connection."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
from envoy.service.rate_limit_quota.v3 import rlqs_pb2_grpc
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from msgspec import structs

from bursar_sidecar.clock import Clock
from bursar_sidecar.desk import Desk
from bursar_sidecar.envoy.life import EnvoyServices
from bursar_sidecar.envoy_limit_settings import read_limits
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.spending import FakeEvidence, MovedClock

MILLI = 1_000_000
"""Nanos: a thousandth of a unit."""
FLAT = {"name": "calls", "match": {"limit": "calls"}, "provider": "acme", "flat_price": "0.002"}
INPUT = {
    "name": "input",
    "match": {"limit": "input"},
    "provider": "openai",
    "model": "gpt-4o-mini",
    "counts": "input",
    "least_hits": 100,
}
OUTPUT = {**INPUT, "name": "output", "match": {"limit": "output"}, "counts": "output"}
AFTER = {"when": "after"}


def settings_of(*tables: Mapping[str, Any], **fields: Any) -> Settings:
    """Settings with these `[[envoy_limits]]`."""
    faults: list[str] = []
    limits = read_limits([dict(table) for table in tables], {"PAYER": KEY}, faults)
    assert not faults, faults
    openai = Provider("openai", "http://provider.test/v1", api_key="sk-upstream")
    base = Settings(envoy_address="127.0.0.1:0", providers=(openai,), drain_s=0)
    return structs.replace(base, envoy_limits=limits, **fields)


class Asking:
    """Envoy's side: one connection, and what is behind it."""

    def __init__(self, settings: Settings, desk: Desk, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.proxy = build_proxy(settings, desk, clock)
        self.registry = self.proxy.metrics.registry
        fake = desk if isinstance(desk, FakeDesk) else FakeDesk()
        evidence = FakeEvidence(fake)
        self.services = EnvoyServices(settings, self.proxy, desk, clock, evidence, self.registry)

    async def start(self) -> None:
        """Listen, and connect."""
        self.proxy.start()
        await self.services.start()
        self._channel = grpc.aio.insecure_channel(
            self.services.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.limits: Any = rls_pb2_grpc.RateLimitServiceStub(self._channel)
        self.quotas: Any = rlqs_pb2_grpc.RateLimitQuotaServiceStub(self._channel)

    async def stop(self) -> None:
        """End it."""
        await self._channel.close(None)
        await self.services.drain(0)
        self.proxy.close()

    async def ask(self, *descriptors: Any, domain: str = "bursar", addend: int = 0) -> Any:
        """One question of the rate limit filter."""
        request = rls_pb2.RateLimitRequest(
            domain=domain, descriptors=descriptors, hits_addend=addend
        )
        return await self.limits.ShouldRateLimit(request)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the metrics; 0 where there is none."""
        return self.registry.get_sample_value(f"bursar_sidecar_{name}", labels) or 0.0


def descriptor(hits: int | None = None, /, *, key: str = KEY, **entries: str) -> Any:
    """A descriptor with these entries, and the app's key if there is one."""
    made = rls_pb2.RateLimitRequest().descriptors.add()
    if key:
        made.entries.add(key="bursar_key", value=f"Bearer {key}")
    for name, value in entries.items():
        made.entries.add(key=name, value=value)
    if hits is not None:
        made.hits_addend.value = hits
    return made


def headers_of(response: Any) -> dict[str, str]:
    """What the app is told."""
    return {header.key: header.value for header in response.response_headers_to_add}


@contextlib.asynccontextmanager
async def asking(
    *tables: Mapping[str, Any], desk: Desk | None = None, clock: Clock | None = None, **fields: Any
) -> AsyncIterator[Asking]:
    """The services for the length of a test."""
    made = Asking(settings_of(*tables, **fields), desk or FakeDesk(), clock or MovedClock())
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
