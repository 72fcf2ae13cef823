"""Which services an Envoy is served: a line each.

Their modules are imported when the services are made, because Envoy's messages are large and most
sidecars have no Envoy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from bursar_sidecar.envoy.parts import Parts, Service
from bursar_sidecar.grpc_listening import Place

if TYPE_CHECKING:
    from bursar_sidecar.grpc_wire.listening import WireListening

SERVICES: Final = (
    "bursar_sidecar.envoy.access_logs",
    "bursar_sidecar.envoy.checking",
    "bursar_sidecar.envoy.quotas",
    "bursar_sidecar.envoy.rate_limits",
    "bursar_sidecar.envoy.processing",
)
"""Modules; each has `service(parts)`, which makes a Service."""
THEIRS: Final = ("envoy", "udpa", "xds", "validate", "hpack")
"""What the packages install."""
SERVER: Final = "bursar_sidecar.grpc_wire.listening"
PACKAGES: Final = "xds-protos and hpack"
MOST_CONCURRENT_RPCS: Final = 16_384
"""A processing stream for each answer in flight, beside Checks and logs. Past this,
RESOURCE_EXHAUSTED, which Envoy takes for a failure of the service."""
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""A Check carries the whole body of a request; `max_request_bytes` is what is really taken."""


class MissingPackageError(OSError):
    """A package that only Envoy's services need is not installed."""


def made(parts: Parts) -> list[Service]:
    """All of them. Raises MissingPackageError."""
    try:
        import_module(SERVER)
        modules = [import_module(name) for name in SERVICES]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in THEIRS:
            raise
        raise MissingPackageError(
            f"envoy_address is set, and {error.name!r} is not installed: it is in the packages "
            f"{PACKAGES} (pip install 'bursar[envoy]')"
        ) from error
    return [cast(Service, module.service(parts)) for module in modules]


def server(place: Place) -> "WireListening":
    """Who serves them, once they are made."""
    listening = import_module(SERVER)
    made: WireListening = listening.WireListening(
        place, most_concurrent=MOST_CONCURRENT_RPCS, max_message_bytes=MAX_MESSAGE_BYTES
    )
    return made
