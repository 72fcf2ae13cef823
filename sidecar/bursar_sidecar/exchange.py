"""One request and its answer on one connection to a provider.

`NeverSent` means not a byte of a call was written, so the provider cannot have billed it; `Broken`
means it was written and the end is unknown, so nothing may be retried or refunded.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from bursar_sidecar.http_messages import Headers

HIGH_WATER_BYTES: Final = 256 * 1024
"""Answer bytes held for a slow reader before the provider is made to wait."""

Take = Callable[[bytes], bool]
"""Takes a piece of an answer's body; True when something has to be awaited before the next."""


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
        untaken: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.timed_out = timed_out
        self.by_provider = by_provider
        """The provider ended it: it produces no more. Otherwise it may not know yet."""
        self.unread = unread
        """The provider was made to wait, and much of what it had sent may never have been read."""
        self.untaken = untaken
        """It is proven that the provider had closed before a byte of the call reached it: the call
        may be sent again."""


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


class Line(Protocol):
    """What an exchange needs of the connection it uses."""

    @property
    def alive(self) -> bool:
        """Not known to be closed."""
        ...

    def write(self, pieces: tuple[bytes, ...]) -> None:
        """Bytes to the provider."""
        ...

    def flow(self, *, reading: bool) -> None:
        """Read on, or let the provider wait."""
        ...

    def abort(self) -> None:
        """Close without ceremony."""
        ...


class Exchange:
    """One request and its answer on one connection."""

    __slots__ = (
        "_begin",
        "_buffer",
        "_buffered",
        "_connection",
        "_done",
        "_error",
        "_pool",
        "_stopped",
        "_waiter",
        "chunked",
        "deadline",
        "head_only",
        "headers",
        "names",
        "on_interim",
        "reason",
        "sent",
        "stall_at",
        "status",
        "take",
        "take_chunk",
        "trailers",
    )

    def __init__(self, pool: Owner, connection: Line) -> None:
        self._pool = pool
        self._connection: Line | None = connection
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._done = False
        self._error: Exception | None = None
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None
        self._begin: Callable[[], Take] | None = None
        self.take: Take | None = None
        """Who takes the body now; None while nobody does."""
        self.take_chunk: Take | None = None
        """Takes a chunk of the body as it came, with its framing, where it need not be looked at;
        False leaves it to `take`. Asked only while there is a `take`."""
        self.head_only = False
        """The request is a HEAD: its answer has no body, whatever its headers say."""
        self.on_interim: Callable[[int, Headers, bytes], None] | None = None
        """Told of interim answers (1xx): status, headers as they came, reason phrase."""
        self.sent = False
        """Bytes of the request were handed to the network."""
        self.status = 0
        self.reason = b""
        """The status line's phrase."""
        self.chunked = False
        """The answer comes in chunks."""
        self.headers: Headers = []
        """Of the answer, names in lower case."""
        self.names: list[bytes] = []
        """The names of the same headers as the provider wrote them."""
        self.trailers: Headers = []
        """Fields after a chunked body, names as they came; complete once the body is."""
        now = pool.now()
        self.deadline = now + pool.limits.longest_call_s
        self.stall_at = now + pool.limits.head_s

    def send(self, *pieces: bytes) -> None:
        """Write the whole request, head and body. Raises NeverSent when the peer is gone."""
        connection = self._connection
        if connection is None or not connection.alive:
            self.close()
            raise NeverSent("the connection was closed before the call was written")
        self.sent = True
        connection.write(pieces)

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

    async def pump(self, take: Take | None = None, begin: Callable[[], Take] | None = None) -> bool:
        """Hand the body to `take` piece by piece, each in the turn of the loop that brought it.

        `begin` is called before, as soon as the head is here, and says who takes. Returns True when
        `take` did: what comes meanwhile is kept (a bounded amount, then the provider waits) for the
        next `pump`. Returns False at the end of the body. Raises Broken, and what `begin` and
        `take` raise.
        """
        if begin is not None:
            if self.status:
                take = begin()
            else:
                self._begin = begin
        if take is not None and self._hand_on(take):
            return True
        while True:
            if self._error is not None:
                raise self._error
            if self._done:
                return False
            self.take = take
            try:
                await self._wait()
            finally:
                self.take = self._begin = None
            if self._stopped:
                self._stopped = False
                return True

    def _hand_on(self, take: Take) -> bool:
        """What was kept, to `take`; whether it asked to stop."""
        for number, piece in enumerate(self._buffer, 1):
            self._buffered -= len(piece)
            if take(piece):
                del self._buffer[:number]
                return True
        self._buffer.clear()
        if self._connection is not None:
            self._connection.flow(reading=True)
        return False

    @property
    def backlog(self) -> int:
        """Bytes of the body that came and were not taken yet."""
        return self._buffered

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

    def stop(self) -> None:
        """Whoever takes the body has to wait before the next piece."""
        self.take = None
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Told by the connection.

    def got_head(self, status: int, reason: bytes, headers: Headers, names: list[bytes]) -> None:
        """The head is here."""
        self.status = status
        self.reason = reason
        self.headers = headers
        self.names = names
        begin, self._begin = self._begin, None
        if begin is None:
            if self.take is None:
                self._wake()
        else:
            try:
                self.take = begin()
            except Exception as error:  # noqa: BLE001 - raised where `pump` is awaited
                self._raise(error)

    def got_data(self, data: bytes) -> None:
        """A part of the body is here."""
        if self._connection is None:  # closed: nobody reads on
            return
        take = self.take
        if take is not None:
            try:
                if take(data):
                    self.stop()
            except Exception as error:  # noqa: BLE001 - raised where `pump` is awaited
                self._raise(error)
            return
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER_BYTES:
            self._connection.flow(reading=False)
        self._wake()

    def _raise(self, error: Exception) -> None:
        self.take = None
        self._error = error
        self._wake()

    def got_end(self, trailers: Headers) -> None:
        """The answer is whole; the connection belongs to the pool again."""
        self.trailers = trailers
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
