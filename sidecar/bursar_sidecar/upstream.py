"""The way to a provider: a bounded pool of HTTP/1.1 connections, one exchange at a time on each.

What matters here is telling apart what is known about a call that failed: `NeverSent` means not a
byte of it was written, so the provider cannot have billed it; `Broken` means it was written and the
end is unknown, so nothing may be retried or refunded. Answers are handed on chunk by chunk, and a
reader that is slow slows the provider down.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from bursar_sidecar.exchange import Broken, Exchange, NeverSent, PoolLimits
from bursar_sidecar.upstream_connection import UpstreamConnection

__all__ = ["Broken", "Dial", "Exchange", "NeverSent", "Pool", "PoolLimits", "dial"]

MAX_POOL_WAITERS: Final = 1_000
"""Calls waiting for a connection to one provider: past this the provider is simply overloaded."""
TICK_S: Final = 0.5
"""How often time limits are checked; the shortest is some seconds."""


Dial = Callable[
    [Callable[[], asyncio.Protocol], str, int, ssl.SSLContext | None],
    Awaitable[tuple[asyncio.BaseTransport, asyncio.BaseProtocol]],
]
"""Opens a connection: (protocol factory, host, port, TLS context or None). Raises OSError."""


async def dial(
    factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: ssl.SSLContext | None
) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
    """A TCP connection, verified TLS over it when a context is given."""
    return await asyncio.get_running_loop().create_connection(
        factory, host, port, ssl=tls, server_hostname=host if tls is not None else None
    )


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class Pool:
    """Connections to one provider's base URL."""

    def __init__(
        self,
        base_url: str,
        limits: PoolLimits | None = None,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] | None = None,
        dial: Dial = dial,
    ) -> None:
        """`base_url` is http or https; `tls` overrides the default verification of https."""
        parts = urlsplit(base_url)
        self.limits = limits or PoolLimits()
        self.host = parts.hostname or ""
        self.path = parts.path.rstrip("/").encode()
        self._secure = parts.scheme == "https"
        self.port = parts.port or (443 if self._secure else 80)
        self.authority = parts.netloc.rpartition("@")[2].encode()
        self._tls = tls
        self.now: Callable[[], float] = now or _loop_time
        """Seconds, by the loop's clock or the injected one."""
        self._dial = dial
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self._all)

    @property
    def idle_count(self) -> int:
        """How many of them serve no call."""
        return len(self._idle)

    def start(self) -> None:
        """Begin to enforce time limits; needs a running loop."""
        loop = asyncio.get_running_loop()
        if self.now is _loop_time:
            self.now = loop.time  # without looking the loop up each time
        self.sweep(self.now())
        self._timer = loop.call_later(TICK_S, self.start)

    def sweep(self, now: float) -> None:
        """Enforce every exchange's time limits and drop idle connections past theirs."""
        for connection in list(self._all):
            if connection.exchange is not None:
                connection.exchange.sweep(now)
            elif connection.expires_at and now > connection.expires_at:
                connection.abort()
            else:
                connection.rest()

    def close(self) -> None:
        """Close every connection; exchanges in flight fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._all):
            connection.abort()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def open(self, make: "Make | None" = None) -> Exchange:
        """A connection for one call, pooled or new; with `make` a new one of its kind, which never
        comes back into the pool. Raises NeverSent."""
        connection = self._reuse() if make is None else None
        if connection is None:
            try:
                async with asyncio.timeout(self.limits.connect_s):
                    connection = await self._obtain(make)
            except TimeoutError:
                raise NeverSent(
                    f"no connection to {self.host}:{self.port} within {self.limits.connect_s:g} s",
                    timed_out=True,
                ) from None
            except OSError as error:  # refused, unresolvable, or TLS that does not verify
                raise NeverSent(f"cannot connect to {self.host}:{self.port}: {error}") from None
        exchange = Exchange(self, connection)
        connection.exchange = exchange
        return exchange

    def _reuse(self) -> UpstreamConnection | None:
        now = self.now()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable(now):
                return connection
            connection.abort()
        return None

    async def _obtain(self, make: "Make | None") -> UpstreamConnection:
        while len(self._all) + self._opening >= self.limits.max_connections:
            if make is not None and self._idle:
                self._idle.pop().abort()  # its place is free as soon as it is gone
            if len(self._waiters) >= MAX_POOL_WAITERS or self._closed:
                raise NeverSent(f"too many calls wait for {self.host}:{self.port}")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.cancelled():
                    self._waiters.remove(waiter)
                else:  # the place was ours, and goes to the next
                    self._wake_one()
                raise
            connection = self._reuse() if make is None else None
            if connection is not None:
                return connection
        return await self._connect(make)

    async def _connect(self, make: "Make | None") -> UpstreamConnection:
        if self._secure and self._tls is None:
            self._tls = ssl.create_default_context()
        self._opening += 1
        try:
            connection = UpstreamConnection(self) if make is None else make(self)
            await self._dial(
                lambda: connection, self.host, self.port, self._tls if self._secure else None
            )
        except BaseException:
            self._wake_one()
            raise
        finally:
            self._opening -= 1
        self._all.add(connection)
        return connection

    def take_back(self, connection: UpstreamConnection) -> None:
        """A connection whose exchange is whole."""
        if self._closed or len(self._idle) >= self.limits.max_idle:
            connection.abort()
            return
        self._idle.append(connection)
        self._wake_one()

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


Make = Callable[[Pool], UpstreamConnection]
"""Makes a connection of another kind than calls use."""
