"""What Envoy's services are made of, and what each of them is to who starts and stops them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from bursar_sidecar.amendments import Late
from bursar_sidecar.clock import Clock
from bursar_sidecar.desk import Desk
from bursar_sidecar.envoy.held_calls import HeldCalls
from bursar_sidecar.local_grpc.handed_out import Evidence
from bursar_sidecar.proxy import Proxy
from bursar_sidecar.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """Of one process."""

    settings: Settings
    """Those at the start; the present ones are the proxy's."""
    proxy: Proxy
    """For its admission, servings, recount, metrics and call log."""
    desk: Desk
    clock: Clock
    held: HeldCalls
    registry: CollectorRegistry
    """For metrics of one's own."""
    evidence: Evidence | None = None
    """Where what comes late about a call of an earlier life is told."""
    recovered: Mapping[str, Late] = field(default_factory=dict)
    """Calls that an earlier life left, by charge id."""


class Service(Protocol):
    """One service that Envoy asks."""

    name: str
    """Its full name in Envoy's protos."""

    def methods(self) -> Mapping[str, Any]:
        """Its `grpc.RpcMethodHandler`s by name."""
        ...

    async def run(self) -> None:
        """What it does besides answering, until cancelled; may return at once."""
        ...


class Answering:
    """A service that does nothing besides answering."""

    async def run(self) -> None:
        """Nothing."""
