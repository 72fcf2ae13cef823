"""A gRPC server over frames of our own.

What `grpc_listening.py` is over grpc.aio, for services that are asked so often that grpc.aio would
cost more than what they do.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2

from bursar_sidecar.grpc_listening import HEALTH_SERVICE, Place
from bursar_sidecar.grpc_wire.connection import Connection
from bursar_sidecar.grpc_wire.server import Room
from bursar_sidecar.listening import BACKLOG, bound, inode_of, removed, shown

MOST_CONNECTIONS: Final = 1_024
"""An Envoy has one for each of its threads and clusters."""
KEEPALIVE_S: Final = 10.0
"""Who has said nothing for so long is asked, and has as long to answer."""
PROTOCOL: Final = "h2"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class WireListening:
    """One server and its life: start, serve, retire, stop."""

    def __init__(self, place: Place, *, most_concurrent: int, max_message_bytes: int) -> None:
        """`most_concurrent` rpcs are served at a time; past them RESOURCE_EXHAUSTED."""
        self.room = Room(max_message_bytes)
        self.address = ""
        """Where, with the real port, once started."""
        self._place = place
        self._most_concurrent = most_concurrent
        self._running = 0
        self._handlers: dict[str, Handler] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        self.add(
            HEALTH_SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._health.Check,
                    health_pb2.HealthCheckRequest.FromString,
                    health_pb2.HealthCheckResponse.SerializeToString,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._health.Watch,
                    health_pb2.HealthCheckRequest.FromString,
                    health_pb2.HealthCheckResponse.SerializeToString,
                ),
            },
        )

    def add(self, service: str, methods: Mapping[str, Handler]) -> None:
        """Serve the methods of a service, by their names."""
        for name, handler in methods.items():
            self._handlers[f"/{service}/{name}"] = handler

    async def start(self, services: Sequence[str]) -> None:
        """Listen, and tell health checks that these services are served.

        Raises OSError when the address is taken or a certificate can't be read.
        """
        loop = asyncio.get_running_loop()
        place = self._place
        secure = self._tls()
        made = bound(place.address, mode=place.socket_mode)
        unix = place.address.startswith("unix:")
        create = loop.create_unix_server if unix else loop.create_server
        self._server = await create(
            lambda: Connection(self), sock=made, backlog=BACKLOG, ssl=secure
        )
        self.address = shown(made, place.address)
        self._inode = inode_of(place.address)
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._timer = loop.call_later(KEEPALIVE_S, self._sweep)

    async def retire(self) -> None:
        """Tell health checks to send no more; what comes all the same is still answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let rpcs end for so long, then cancel them."""
        if self._server is None:
            return
        self._server.close()
        if self._place.address.startswith("unix:"):
            removed(self._place.address, self._inode)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.leave()
        if self._connections:
            try:
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
            except TimeoutError:
                await self._abort_all()

    async def _abort_all(self) -> None:
        rpcs = [rpc for each in self._connections for rpc in each.rpcs.values()]
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()
        if tasks := [rpc.task for rpc in rpcs if rpc.task is not None]:
            await asyncio.wait(tasks)

    def _sweep(self) -> None:
        for connection in list(self._connections):
            connection.sweep()
        self._timer = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._sweep)

    def _tls(self) -> ssl.SSLContext | None:
        place = self._place
        if not place.tls_cert:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(place.tls_cert, place.tls_key)
        context.set_alpn_protocols([PROTOCOL])
        if place.tls_client_ca:
            context.load_verify_locations(place.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    # To the connections: `connection.Server`.

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""
        self._connections.add(connection)
        self._empty.clear()
        return len(self._connections) <= MOST_CONNECTIONS

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def begin(self) -> bool:
        """An rpc begins; False when there are too many."""
        if self._running >= self._most_concurrent:
            return False
        self._running += 1
        return True

    def over(self) -> None:
        """An rpc that began is over."""
        self._running -= 1

    def handler(self, path: str) -> "Handler | None":
        """What serves a path."""
        return self._handlers.get(path)
