"""A gRPC server that this process listens with: address, transport, limits, health, its end.

The same for every service of the sidecar's that is spoken to by gRPC; which services those are is
said by who makes it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Requests and answers of providers come as text; images in them as base64."""
KEEPALIVE_TIME_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
LEAST_PING_INTERVAL_MS: Final = 5_000
HEALTH_SERVICE: Final = health.SERVICE_NAME


class Place(msgspec.Struct, frozen=True):
    """Where to listen, and how."""

    setting: str
    """The setting's name, for messages."""
    address: str
    """`host:port`, where port 0 is any free one, or `unix:/path`."""
    socket_mode: str
    """Permissions of a unix socket, in octal digits."""
    tls_cert: str = ""
    """PEM file of the certificate that is shown; "" for plaintext."""
    tls_key: str = ""
    """PEM file of its private key."""
    tls_client_ca: str = ""
    """PEM file of the authority that must have signed the other end's certificate; "": none is
    asked for."""


class GrpcListening:
    """One server and its life: start, serve, retire, stop."""

    def __init__(
        self,
        place: Place,
        *,
        most_concurrent: int,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """`most_concurrent` rpcs are served at a time; past them RESOURCE_EXHAUSTED."""
        self._place = place
        self.server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_INTERVAL_MS),
                # Reservations are known to the process that made them: two must not share a port
                # unnoticed.
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=most_concurrent,
        )
        """Takes the handlers of services, before `start`."""
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        self.address = ""
        """Where, with the real port, once started."""

    async def start(self, services: Sequence[str]) -> None:
        """Listen, and tell health checks that these services are served.

        Raises OSError when the address is taken or a certificate can't be read.
        """
        wanted = self._place.address
        credentials = self._credentials()
        # From the first moment a socket lets in only whom the setting says.
        former = os.umask(0o777 & ~int(self._place.socket_mode, 8))
        try:
            if credentials is None:
                port = self.server.add_insecure_port(wanted)
            else:
                port = self.server.add_secure_port(wanted, credentials)
        except RuntimeError:
            port = 0
        finally:
            os.umask(former)
        if not port:
            raise OSError(f"{self._place.setting} {wanted} can't be listened on: is it in use?")
        self.address = wanted
        if not wanted.startswith("unix:"):
            self.address = f"{wanted.rpartition(':')[0]}:{port}"
        await self.server.start()
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def retire(self) -> None:
        """Tell health checks to send no more; what comes all the same is still answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let rpcs end for so long, then cancel them."""
        await self.server.stop(grace_s)

    def _credentials(self) -> grpc.ServerCredentials | None:
        place = self._place
        if not place.tls_cert:
            return None
        pair = (Path(place.tls_key).read_bytes(), Path(place.tls_cert).read_bytes())
        if not place.tls_client_ca:
            return grpc.ssl_server_credentials([pair])
        authority = Path(place.tls_client_ca).read_bytes()
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=True)
