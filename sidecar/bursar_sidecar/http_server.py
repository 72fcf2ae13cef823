"""An HTTP/1.1 server over llhttp: what the data path needs of one, and nothing else.

A handler gets the whole request (bounded) and a `Responder`, answers whole or as a stream with
back-pressure, and is told at once when the app hangs up. All time limits are kept by one sweep per
server instead of a timer per connection.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_limits import Limits
from bursar_sidecar.http_messages import Handler, Headers, Request, Responder, error_body
from bursar_sidecar.listening import BACKLOG

__all__ = ["Handler", "Headers", "HttpServer", "Limits", "Request", "Responder", "error_body"]

SWEEP_S: Final = 1.0
"""How often time limits are checked; they are all tens of seconds, so a second late is nothing."""


class HttpServer:
    """Listens on one address and runs `handle` for each request."""

    def __init__(
        self,
        handle: Handler,
        limits: Limits | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.handle = handle
        self.limits = limits or Limits()
        self._now = now
        self.now: Callable[[], float] = now or (lambda: 0.0)
        self.draining = False
        self.held_bytes = 0
        """Of request bodies, over all connections."""
        self.address = ""
        """`host:port` once started; a port of 0 is replaced by the real one."""
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event = asyncio.Event()

    async def start(self, host: str, port: int) -> str:
        """Listen; returns the bound `host:port`. Raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self.now = self._now or loop.time
        self._server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=BACKLOG
        )
        bound = self._server.sockets[0].getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.address = f"{shown}:{bound[1]}"
        self._tick()
        return self.address

    async def listen(self, bound: socket.socket, address: str) -> None:
        """Listen on a socket that is bound to `address`, a unix socket or TCP."""
        loop = asyncio.get_running_loop()
        self.now = self._now or loop.time
        make = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        self._server = await make(lambda: Connection(self), sock=bound, backlog=BACKLOG)
        self.address = address
        self._tick()

    def _tick(self) -> None:
        self.sweep(self.now())
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._tick)

    def sweep(self, now: float) -> None:
        """Enforce every connection's time limits as of `now`, in seconds."""
        for connection in list(self._connections):
            connection.sweep(now)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.max_connections

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if self.draining and not self._connections:
            self._idle.set()

    async def drain(self, within_s: float) -> None:
        """Stop listening, let requests in flight end for `within_s` seconds, then cut the rest."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            try:
                async with asyncio.timeout(within_s):
                    await self._idle.wait()
            except TimeoutError:
                await self._abort_all()
        if self._timer is not None:
            self._timer.cancel()

    async def _abort_all(self) -> None:
        tasks = [c.task for c in self._connections if c.task is not None]
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks)
