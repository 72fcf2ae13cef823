"""The wire to the control plane: one gRPC stream of frames.

Plaintext goes to loopback and unix sockets only, unless the operator says otherwise.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

import grpc
import grpc.aio
import structlog

from bursar.v1 import allowances_pb2, allowances_pb2_grpc
from bursar_sidecar.setting_checks import is_local
from bursar_sidecar.settings import Settings, read_sidecar_key

log = structlog.get_logger("bursar.session")

# A peer that vanished without a word (a pulled cable) is noticed within 15 s, well inside the
# validity of 30 s.
KEEPALIVE_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
# gRPC's own pause between attempts to connect must not outlive ours.
MAX_RECONNECT_MS: Final = 1_000
# A control frame holds up to 4,096 allowances and 256 kB of prices.
MAX_FRAME_BYTES: Final = 16 << 20


class StreamEnded(OSError):
    """The control plane ended the stream in an orderly way."""


class Connection(Protocol):
    """One open stream."""

    async def write(self, frame: allowances_pb2.SidecarFrame) -> None:
        """Say a frame; waits while the peer does not read. Raises grpc.RpcError."""
        ...

    async def read(self) -> allowances_pb2.ControlFrame:
        """The next frame. Raises grpc.RpcError or StreamEnded."""
        ...


Dialer = Callable[[], AbstractAsyncContextManager[Connection]]


def dialer(settings: Settings) -> Dialer:
    """Opens streams to the configured control plane. Raises OSError if `tls_ca` can't be read."""
    options = [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
        # Several sidecars in one process (tests) must not share a connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0 if is_local(settings.address) else 1),
    ]
    credentials: grpc.ChannelCredentials | None = None
    if not settings.insecure and not is_local(settings.address):
        roots = Path(settings.tls_ca).read_bytes() if settings.tls_ca else None
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    credential = _Credential(settings)

    @contextlib.asynccontextmanager
    async def dial() -> AsyncIterator[Connection]:
        if credentials is None:
            channel = grpc.aio.insecure_channel(settings.address, options=options)
        else:
            channel = grpc.aio.secure_channel(settings.address, credentials, options=options)
        async with channel:
            stub = allowances_pb2_grpc.AllowanceServiceStub(channel)
            call = stub.Session(None, metadata=credential.metadata())
            try:
                yield _GrpcConnection(call)
            finally:
                call.cancel()

    return dial


class _Credential:
    """The sidecar's key, from its file anew where it is from one."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.sidecar_key_file
        self._key = settings.sidecar_key
        self._fault = ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a stream begins with; the last key that could be read."""
        if self._path:
            try:
                self._key, self._fault = read_sidecar_key(self._path), ""
            except (OSError, ValueError) as error:
                fault = str(error)
                if fault != self._fault:
                    self._fault = fault
                    log.error(
                        "credential_unreadable",
                        owner="sidecar_key",
                        path=self._path,
                        fault=error.strerror if isinstance(error, OSError) else fault,
                        effect="the last one is used on",
                    )
        return (("authorization", f"Bearer {self._key}"),)


class _GrpcConnection:
    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[allowances_pb2.SidecarFrame, allowances_pb2.ControlFrame]",
    ) -> None:
        self._call = call

    async def write(self, frame: allowances_pb2.SidecarFrame) -> None:
        try:
            await self._call.write(frame)
        except asyncio.InvalidStateError as error:  # the call has ended meanwhile
            raise StreamEnded("the control plane ended the stream") from error

    async def read(self) -> allowances_pb2.ControlFrame:
        frame = await self._call.read()
        if isinstance(frame, allowances_pb2.ControlFrame):
            return frame
        raise StreamEnded("the control plane ended the stream")
