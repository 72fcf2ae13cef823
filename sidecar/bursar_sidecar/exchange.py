"""One request and its answer on one connection to a provider.

`NeverSent` means not a byte of a call was written, so the provider cannot have billed it; `Broken`
means it was written and the end is unknown, so nothing may be retried or refunded.
"""

import asyncio
import select
from typing import Final, Protocol, cast

import httptools
import msgspec

from bursar_sidecar.http_messages import Headers

HIGH_WATER_BYTES: Final = 256 * 1024
"""Answer bytes held for a slow reader before the provider is made to wait."""
MAX_HEAD_BYTES: Final = 256 * 1024
"""Headers of a provider's answer; the largest seen in practice are some 8 kB."""


class NeverSent(Exception):
    """No byte of the call reached the provider: nothing can have been billed."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Broken(Exception):
    """The call was sent and did not come to its end: what was billed is unknown."""

    def __init__(
        self,
        reason: str,
        *,
        timed_out: bool = False,
        by_provider: bool = False,
        unread: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.by_provider = by_provider
        """The provider ended it: it produces no more. Otherwise it may not know yet."""
        self.unread = unread
        """The provider was made to wait, and much of what it had sent may never have been read."""


class PoolLimits(msgspec.Struct, frozen=True):
    """Bounds of one provider's pool; times in seconds."""

    max_connections: int = 1_000
    max_idle: int = 64
    """Kept for the next call; more would only be closed by the provider."""
    connect_s: float = 10.0
    """To have a connection, the wait for a free one included."""
    head_s: float = 600.0
    """To the first byte of the answer: reasoning models think for minutes."""
    stall_s: float = 300.0
    """Between two bytes of an answer."""
    longest_call_s: float = 1_800.0
    """A whole call; the control plane counts on it when a sidecar falls silent."""
    keep_alive_s: float = 50.0
    """Idle connections older than this are not used: providers close theirs at 60 s or more."""


class Owner(Protocol):
    """What an exchange needs of the pool it belongs to."""

    limits: PoolLimits

    def now(self) -> float:
        """Seconds on the pool's clock."""
        ...

    def take_back(self, connection: "UpstreamConnection") -> None:
        """A connection whose exchange is whole."""
        ...

    def forget(self, connection: "UpstreamConnection") -> None:
        """A connection is gone."""
        ...


class Exchange:
    """One request and its answer on one connection."""

    __slots__ = (
        "_buffer",
        "_buffered",
        "_connection",
        "_done",
        "_error",
        "_pool",
        "_waiter",
        "deadline",
        "headers",
        "sent",
        "stall_at",
        "status",
    )

    def __init__(self, pool: Owner, connection: "UpstreamConnection") -> None:
        self._pool = pool
        self._connection: UpstreamConnection | None = connection
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._done = False
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.sent = False
        """Bytes of the request were handed to the network."""
        self.status = 0
        self.headers: Headers = []
        now = pool.now()
        self.deadline = now + pool.limits.longest_call_s
        self.stall_at = now + pool.limits.head_s

    def send(self, data: bytes) -> None:
        """Write the whole request, head and body. Raises NeverSent when the peer is gone."""
        connection = self._connection
        if connection is None or not connection.alive:
            self.close()
            raise NeverSent("the connection was closed before the call was written")
        self.sent = True
        connection.write(data)

    async def head(self) -> int:
        """The answer's status, once its head is here. Raises Broken."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body since the last read; b"" at its end. Raises Broken."""
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._done:
                return b""
            await self._wait()
        chunks = self._buffer
        self._buffer = []
        self._buffered = 0
        if self._connection is not None:
            self._connection.flow(reading=True)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def abort(self, reason: str) -> None:
        """Cut the call off; a waiting reader gets Broken."""
        self.fail(Broken(reason, unread=self._buffered > HIGH_WATER_BYTES))

    def shorten(self, within_s: float) -> None:
        """Nobody waits any more: the answer must be whole within so many seconds from now."""
        self.deadline = min(self.deadline, self._pool.now() + within_s)

    def close(self) -> None:
        """Done with it, whatever its state; an unfinished answer is cut off."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Told by the connection.

    def got_head(self, status: int, headers: Headers) -> None:
        """The head is here."""
        self.status = status
        self.headers = headers
        self._wake()

    def got_data(self, data: bytes) -> None:
        """A part of the body is here."""
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER_BYTES and self._connection is not None:
            self._connection.flow(reading=False)
        self._wake()

    def got_end(self) -> None:
        """The answer is whole; the connection belongs to the pool again."""
        self._done = True
        self._connection = None
        self._wake()

    def fail(self, error: Broken) -> None:
        """The answer will not come to its end."""
        if not self._done and self._error is None:
            self._error = error
            self.close()
            self._wake()

    def sweep(self, now: float) -> None:
        """Enforce the time limits as of `now`."""
        if now > self.deadline:
            unread = self._buffered > HIGH_WATER_BYTES
            self.fail(Broken("the answer took too long", timed_out=True, unread=unread))
        elif now > self.stall_at and self._buffered <= HIGH_WATER_BYTES:
            self.fail(Broken("the provider sent nothing for too long", timed_out=True))


class UpstreamConnection(asyncio.Protocol):
    """One connection to a provider; used by the pool and `Exchange` only."""

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._reading = True
        self._lost = False
        self._interim = False
        self._close_delimited = False
        self._headers: Headers = []
        self._head_bytes = 0
        self._complete = False
        self._keep_alive = False
        self._keep_alive_s = pool.limits.keep_alive_s
        self.expires_at = 0.0
        self.exchange: Exchange | None = None

    @property
    def alive(self) -> bool:
        """Not known to be closed."""
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    def reusable(self, now: float) -> bool:
        """Safe for another call: alive, not too old, and nothing from the peer lies unread.

        The kernel is asked, because a close by the peer may not have been read by the loop yet.
        """
        if not self.alive or now > self.expires_at:
            return False
        return self._poll is None or not self._poll.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def write(self, data: bytes) -> None:
        """Bytes to the provider."""
        if self._transport is not None:
            self._transport.write(data)

    def flow(self, *, reading: bool) -> None:
        """Read on, or let the provider wait."""
        if reading != self._reading and self.alive and self._transport is not None:
            self._reading = reading
            if reading:
                if self.exchange is not None:
                    self.exchange.stall_at = self._pool.now() + self._pool.limits.stall_s
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def abort(self) -> None:
        """Close without ceremony."""
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        exchange = self.exchange
        if exchange is None:  # an idle connection has nothing to say that we could use
            self.abort()
            return
        exchange.stall_at = self._pool.now() + self._pool.limits.stall_s
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            exchange.fail(Broken(f"the provider's answer is not valid HTTP/1.1: {error}"))
            return
        if not exchange.status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                exchange.fail(Broken(f"the provider's headers exceed {MAX_HEAD_BYTES} bytes"))
        elif self._complete:
            self._end()

    def on_message_begin(self) -> None:
        """llhttp: an answer starts."""
        self._headers = []
        self._interim = False

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """llhttp: one header, or a trailer."""
        self._headers.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        """llhttp: the head is whole."""
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        framed = False
        for name, value in self._headers:
            if name in (b"content-length", b"transfer-encoding"):
                framed = True
            elif name == b"keep-alive":
                self._keep_alive_s = self._stated_keep_alive(value)
        self._close_delimited = not framed
        if self.exchange is not None:
            self.exchange.got_head(status, self._headers)
        self._headers = []

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        if self.exchange is not None:
            self.exchange.got_data(data)

    def on_message_complete(self) -> None:
        """llhttp: the answer is whole."""
        if not self._interim:
            self._complete = True
            # To be asked here: once the parser has moved on it no longer knows.
            self._keep_alive = self._parser.should_keep_alive()

    def eof_received(self) -> bool:
        """asyncio: the provider sent its last byte; `connection_lost` follows."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._lost = True
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if exchange.status and self._close_delimited and exc is None:
            exchange.got_end()
        else:
            # After a reset, what had come and was not read yet is lost.
            exchange.fail(Broken("the provider closed the connection", by_provider=exc is None))

    def _stated_keep_alive(self, value: bytes) -> float:
        for part in value.split(b","):
            name, _, number = part.strip().partition(b"=")
            if name.lower() == b"timeout" and number.isdigit() and len(number) < 6:
                # A second less than stated: the provider's clock started before ours.
                return min(self._pool.limits.keep_alive_s, int(number) - 1.0)
        return self._keep_alive_s

    def _end(self) -> None:
        exchange, self.exchange = self.exchange, None
        self._complete = False
        self._head_bytes = 0
        keep = (
            self._keep_alive
            and not self._close_delimited
            and self._transport is not None
            and self._transport.get_write_buffer_size() == 0
        )
        if exchange is not None:
            exchange.got_end()
        self.flow(reading=True)
        self.expires_at = self._pool.now() + self._keep_alive_s
        if keep:
            self._pool.take_back(self)
        else:
            self.abort()
