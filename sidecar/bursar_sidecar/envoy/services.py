"""Which services an Envoy is served: a line each.

Their modules are imported when the services are made, because Envoy's messages are large and most
sidecars have no Envoy.
"""

from importlib import import_module
from typing import Final, cast

from bursar_sidecar.envoy.parts import Parts, Service

SERVICES: Final = (
    "bursar_sidecar.envoy.access_logs",
    "bursar_sidecar.envoy.checking",
    "bursar_sidecar.envoy.quotas",
    "bursar_sidecar.envoy.rate_limits",
    "bursar_sidecar.envoy.processing",
)
"""Modules; each has `service(parts)`, which makes a Service."""
PACKAGE: Final = "xds-protos"


class MissingPackageError(OSError):
    """The package that Envoy's messages come from is not installed."""


def made(parts: Parts) -> list[Service]:
    """All of them. Raises MissingPackageError."""
    try:
        modules = [import_module(name) for name in SERVICES]
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("envoy", "udpa", "xds", "validate"):
            raise
        raise MissingPackageError(
            f"envoy_address is set, and {error.name!r} is not installed: it is in the package "
            f"{PACKAGE} (pip install 'bursar[envoy]')"
        ) from error
    return [cast(Service, module.service(parts)) for module in modules]
