"""The grpc.aio server: address, transport, limits, health, reflection, drain."""

from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bursar_server.errors import BursarError, failed_precondition
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border

log = structlog.get_logger(__name__)

# The largest requests are price lists of some thousand models, about 1 MB.
MOST_BYTES_OF_A_REQUEST = 8 * 1024 * 1024
# Each sidecar keeps one rpc open; the rest are people and scripts. Past this, RESOURCE_EXHAUSTED.
MOST_CONCURRENT_RPCS = 4096
# A sidecar behind a dead network is noticed well before its policy lapses (30 s).
KEEPALIVE_TIME_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
# Sidecars ping as well; more often than this is answered with GOAWAY.
LEAST_PING_INTERVAL_MS = 5_000

OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES_OF_A_REQUEST),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", LEAST_PING_INTERVAL_MS),
    ("grpc.http2.max_ping_strikes", 2),
    # Without this a second server on the same port would take half of the calls, unnoticed.
    ("grpc.so_reuseport", 0),
)

Register = Callable[[grpc.aio.Server], None]


class Transport(msgspec.Struct, frozen=True):
    """Where to listen, and behind which certificates (PEM files). Without: plaintext."""

    address: str
    """host:port (port 0: any free one) or unix:/path."""
    certificate: Path | None = None
    private_key: Path | None = None
    client_authorities: Path | None = None
    """If given, clients must present a certificate of one of these."""


class GrpcServer:
    """One server and its life: start, serve, drain."""

    def __init__(
        self, transport: Transport, keys: AdminKeys, services: Sequence[tuple[str, Register]]
    ) -> None:
        """`services` are full names ("bursar.v1.KeyService") with what adds each to a server."""
        self._transport = transport
        self._names = [name for name, _ in services]
        self._server = grpc.aio.server(
            interceptors=(Border(keys),),
            options=OPTIONS,
            maximum_concurrent_rpcs=MOST_CONCURRENT_RPCS,
        )
        for _, register in services:
            register(self._server)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        self.serving = False
        """Whether calls are accepted."""
        self.address = ""
        """Where, with the real port; empty before `bind`."""

    def bind(self) -> None:
        """Take the address, and serve nothing yet. Raises FAILED_PRECONDITION if it, or a
        certificate, can't be used."""
        self.address = self._listen()

    async def start(self) -> None:
        """Serve; binds first where that was not done."""
        if not self.address:
            self.bind()
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.serving = True
        log.info("grpc_serving", address=self.address, tls=self._transport.certificate is not None)

    async def retire(self) -> None:
        """Tell health checks to send no more; calls still work."""
        self.serving = False
        await self._health.enter_graceful_shutdown()

    async def drain(self, grace_s: float | None) -> None:
        """Accept nothing new, let calls end for `grace_s`, then cancel them."""
        await self.retire()
        await self._server.stop(grace_s)

    def _listen(self) -> str:
        address = self._transport.address
        credentials = self._credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise _unusable(f"can't listen on {address} for gRPC: is it in use?")
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    def _credentials(self) -> grpc.ServerCredentials | None:
        transport = self._transport
        if transport.certificate is None or transport.private_key is None:
            return None
        authorities = transport.client_authorities
        return grpc.ssl_server_credentials(
            [(_read(transport.private_key), _read(transport.certificate))],
            root_certificates=None if authorities is None else _read(authorities),
            require_client_auth=authorities is not None,
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(f"can't read {path}: {error.strerror}") from error


def _unusable(message: str) -> BursarError:
    return failed_precondition("TRANSPORT_UNUSABLE", message)
