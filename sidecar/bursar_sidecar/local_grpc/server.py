"""Where the local gRPC service listens: address, transport, limits, health, reflection, drain."""

import os
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bursar_sidecar.local_grpc.lazy_reflection import LazyReflection
from bursar_sidecar.local_grpc.service import SERVICE_NAME, SpendService
from bursar_sidecar.settings import Settings

log = structlog.get_logger("bursar.spend")

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Requests and answers of providers come here as text; images in them as base64."""
MOST_CONCURRENT_RPCS: Final = 4_096
"""An app has a stream, or an rpc for each of its calls. Past this, RESOURCE_EXHAUSTED."""
KEEPALIVE_TIME_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
LEAST_PING_INTERVAL_MS: Final = 5_000

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_INTERVAL_MS),
    # Reservations are known to the process that made them: two must not share a port unnoticed.
    ("grpc.so_reuseport", 0),
)


class SpendServer:
    """One server and its life: start, serve, retire, stop."""

    def __init__(self, settings: Settings, service: SpendService) -> None:
        self._settings = settings
        self._server = grpc.aio.server(
            options=_OPTIONS, maximum_concurrent_rpcs=MOST_CONCURRENT_RPCS
        )
        service.register(self._server)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection = LazyReflection([SERVICE_NAME, health.SERVICE_NAME])
        self._server.add_generic_rpc_handlers((reflection,))
        self.address = ""
        """Where, with the real port, once started."""

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken or a certificate can't be read."""
        wanted = self._settings.grpc_address
        credentials = self._credentials()
        # From the first moment a socket lets in only whom the setting says.
        former = os.umask(0o777 & ~int(self._settings.socket_mode, 8))
        try:
            if credentials is None:
                port = self._server.add_insecure_port(wanted)
            else:
                port = self._server.add_secure_port(wanted, credentials)
        except RuntimeError:
            port = 0
        finally:
            os.umask(former)
        if not port:
            raise OSError(f"grpc_address {wanted} can't be listened on: is it in use?")
        self.address = wanted
        if not wanted.startswith("unix:"):
            self.address = f"{wanted.rpartition(':')[0]}:{port}"
        await self._server.start()
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def retire(self) -> None:
        """Tell health checks to send no more; last words are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let rpcs end for so long, then cancel them."""
        await self._server.stop(grace_s)

    def _credentials(self) -> grpc.ServerCredentials | None:
        settings = self._settings
        if not settings.grpc_tls_cert:
            return None
        pair = (
            Path(settings.grpc_tls_key).read_bytes(),
            Path(settings.grpc_tls_cert).read_bytes(),
        )
        return grpc.ssl_server_credentials([pair])
