"""Connections in memory: two asyncio protocols joined without a socket.

Bytes are delivered by the loop in order, pausing and half-closing work as on a real transport, and
nothing waits for real time. `FakeApp` is an HTTP client, `FakeProvider` an HTTP server whose
answers the test writes byte by byte.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools

DEADLINE_S = 5.0
"""How long a test waits for what must happen; it happens at once, or never."""

LOOP_TURNS = 10
"""Turns of the loop that the longest chain of callbacks in these tests takes, and some."""


class MemoryTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.peer: MemoryTransport | None = None
        self.peername: object = None
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._high = 64 * 1024
        self._reading = True
        self._closing = False
        self._lost = False
        self._eof = False
        self._paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket to speak of."""
        return self.peername if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is told from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes the peer may leave unread before this end is told to pause."""
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        """Bytes that the peer has not read."""
        return self.peer._inbox_bytes if self.peer is not None else 0

    def is_closing(self) -> bool:
        """Closed or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Not paused."""
        return self._reading

    def pause_reading(self) -> None:
        """Bytes wait in the inbox."""
        self._reading = False

    def resume_reading(self) -> None:
        """What waits is delivered."""
        self._reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes for the peer, delivered by the loop."""
        peer = self.peer
        if self._closing or peer is None or peer._lost:
            return
        peer._inbox.append(bytes(data))
        peer._inbox_bytes += len(data)
        if peer._inbox_bytes > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()
        asyncio.get_running_loop().call_soon(peer._deliver)

    def can_write_eof(self) -> bool:
        """Half-close is possible."""
        return True

    def write_eof(self) -> None:
        """The peer reads the end after what was written."""
        if self.peer is not None:
            self.peer._eof = True
            asyncio.get_running_loop().call_soon(self.peer._deliver)

    def close(self) -> None:
        """What was written still arrives."""
        if not self._closing:
            self._closing = True
            self.write_eof()
            asyncio.get_running_loop().call_soon(self._lose, None)

    def abort(self) -> None:
        """Both ends lose the connection; what was written may not arrive."""
        if not self._lost:
            self._closing = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._lose, None)
            if self.peer is not None:
                loop.call_soon(self.peer._lose, ConnectionResetError("reset by peer"))

    def _deliver(self) -> None:
        while self._inbox and self._reading and not self._lost:
            data = self._inbox.popleft()
            self._inbox_bytes -= len(data)
            self.protocol.data_received(data)
        peer = self.peer
        if peer is not None and peer._paused and self._inbox_bytes <= peer._high // 4:
            peer._paused = False
            peer.protocol.resume_writing()
        if self._eof and not self._inbox and self._reading and not self._lost:
            self._eof = False
            if not self.protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._closing = True
            self._lost = True
            self._inbox.clear()
            self._inbox_bytes = 0
            self.protocol.connection_lost(error)


def join(
    one: asyncio.Protocol, other: asyncio.Protocol, *, peername: object = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols; `peername` is what the second is told of where the first one is."""
    first, second = MemoryTransport(one), MemoryTransport(other)
    second.peername = peername
    first.peer, second.peer = second, first
    one.connection_made(first)
    other.connection_made(second)
    return first, second


async def delivered() -> None:
    """Let the loop run until what was sent before has arrived and been handled."""
    loop = asyncio.get_running_loop()
    for _ in range(LOOP_TURNS):
        turn: asyncio.Future[None] = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


class _Changes:
    """Wakes whoever waits whenever something has changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; TimeoutError when it does not come true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Answer:
    """One answer as a client sees it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False


class FakeApp(asyncio.Protocol):
    """A client: `send` bytes, read `answer`s, `hang_up`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.interim: list[int] = []
        self.received = b""
        self.ended = False
        """The server has closed the connection, or its half of it."""
        self.lost = False
        self._changes = _Changes()
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._transport: MemoryTransport | None = None

    def send(self, data: bytes) -> None:
        """Write bytes."""
        assert self._transport is not None
        self._transport.write(data)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Write a whole POST request."""
        lines = {"host": "sidecar", "content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    def hang_up(self) -> None:
        """Close without waiting for an answer."""
        assert self._transport is not None
        self._transport.close()

    def stop_reading(self) -> None:
        """Leave what the server writes unread."""
        assert self._transport is not None
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        assert self._transport is not None
        self._transport.resume_reading()

    async def answer(self, number: int = 1) -> Answer:
        """The n-th whole answer."""
        await self.until(lambda: len(self.answers) >= number)
        return self.answers[number - 1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on this client."""
        await self._changes.until(condition)

    async def until_ended(self) -> Answer:
        """Wait until the server closed; the answer begun, whole or not."""
        await self.until(lambda: self.ended)
        return self.answers[-1] if self.answers else self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio."""
        assert isinstance(transport, MemoryTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        self.received += data
        self._parser.feed_data(data)
        self._changes.notify()

    def eof_received(self) -> bool:
        """asyncio."""
        self.ended = True
        self._changes.notify()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self.ended = self.lost = True
        self._changes.notify()

    def on_message_begin(self) -> None:
        """llhttp."""
        self._answer = Answer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp."""
        self._answer.headers[name.decode().lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """llhttp."""
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """llhttp."""
        self._answer.body += data

    def on_message_complete(self) -> None:
        """llhttp."""
        self._answer.complete = True
        if self._answer.status < 200:
            self.interim.append(self._answer.status)
        else:
            self.answers.append(self._answer)

    @property
    def body_so_far(self) -> bytes:
        """What has come of the answer under way."""
        return self._answer.body


class ProviderCall(asyncio.Protocol):
    """One connection at the provider: the requests that came, and what the test answers."""

    def __init__(self, changes: _Changes) -> None:
        self.requests: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.targets: list[str] = []
        self.lost = False
        self._changes = changes
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[str, str] = {}
        self._body = b""
        self.transport: MemoryTransport | None = None

    def send(self, data: bytes) -> None:
        """Write raw bytes of an answer."""
        assert self.transport is not None
        self.transport.write(data)

    def send_json(self, body: bytes, status: int = 200, headers: str = "") -> None:
        """A whole JSON answer."""
        head = (
            f"HTTP/1.1 {status} Any\r\ncontent-type: application/json\r\n{headers}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.send(head.encode() + body)

    def start_stream(self, headers: str = "") -> None:
        """The head of a chunked event stream."""
        self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            + headers.encode()
            + b"transfer-encoding: chunked\r\n\r\n"
        )

    def send_chunk(self, data: bytes) -> None:
        """One chunk of a chunked answer; an empty one ends it."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        """Close after what was written."""
        assert self.transport is not None
        self.transport.close()

    def reset(self) -> None:
        """Break the connection off."""
        assert self.transport is not None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio."""
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        self._parser.feed_data(data)
        self._changes.notify()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self.lost = True
        self._changes.notify()

    def on_message_begin(self) -> None:
        """llhttp."""
        self._headers = {}
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """llhttp."""
        self.targets.append(url.decode())

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp."""
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        """llhttp."""
        self._body += data

    def on_message_complete(self) -> None:
        """llhttp."""
        self.heads.append(self._headers)
        self.requests.append(self._body)


class FakeProvider:
    """Stands behind `dial`: every connection is a `ProviderCall` for the test to answer."""

    def __init__(self) -> None:
        self.connections: list[ProviderCall] = []
        self.refuses = False
        """Connections fail, as when nothing listens."""
        self._changes = _Changes()

    async def dial(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """What the pool calls instead of opening a socket."""
        if self.refuses:
            raise ConnectionRefusedError(111, "Connection refused")
        ours = ProviderCall(self._changes)
        theirs = factory()
        _, transport = join(ours, theirs)
        self.connections.append(ours)
        return transport, theirs

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the provider's side."""
        await self._changes.until(condition)

    async def request(self, number: int = 1) -> ProviderCall:
        """The connection that the n-th request of all came on, once it is whole."""
        await self.until(lambda: sum(len(c.requests) for c in self.connections) >= number)
        seen = 0
        for connection in self.connections:
            seen += len(connection.requests)
            if seen >= number:
                return connection
        raise AssertionError("unreachable: the condition held")
