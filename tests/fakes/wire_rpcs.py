"""Services for the tests of gRPC over our own frames, and a client that writes frames by hand."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from hpack import Decoder

from bursar_sidecar.grpc_wire import frames
from bursar_sidecar.grpc_wire.connection import Connection
from bursar_sidecar.grpc_wire.server import Room
from tests.fakes.wire import MemoryTransport, delivered, join

SERVICE = "test.Wire"
MAX_MESSAGE_BYTES = 32 << 20
MOST_LARGE_BYTES = 41 << 20


class Behaviours:
    """Handlers over plain bytes, and what became of them."""

    def __init__(self) -> None:
        self.stopped = 0
        """`wait`s that were cancelled."""
        self.began = asyncio.Semaphore(0)
        """One for each `wait` that began."""
        self.goes_on = asyncio.Event()
        self.written = 0
        """Messages that `flood` has written."""

    async def echo(self, request: bytes, context: Any) -> bytes:
        """The message."""
        return request

    async def double(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """Every message, twice."""
        async for message in messages:
            await context.write(message)
            await context.write(message)

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """As many messages as the request says, each longer than the one before."""
        for length in range(int(request)):
            yield b"x" * length

    async def total(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        """The length of all messages."""
        return str(sum([len(message) async for message in messages])).encode()

    async def refuse(self, request: bytes, context: Any) -> None:
        """A status."""
        await context.abort(
            grpc.StatusCode.NOT_FOUND, "nö: 100 %\n", (("why", "x"), ("raw-bin", b"\x00\xff"))
        )

    async def fail(self, request: bytes, context: Any) -> bytes:
        """A fault of ours."""
        raise ValueError("a secret")

    async def wait(self, request: bytes, context: Any) -> bytes:
        """Until told to go on."""
        self.began.release()
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return request

    async def cancelled(self, request: bytes, context: Any) -> bytes:
        """As where something that the handler waits for is cancelled."""
        raise asyncio.CancelledError

    async def first(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """The first message; the rest is not read."""
        async for message in messages:
            await context.write(message)
            return

    async def flood(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """100 kB after 100 kB, as long as somebody takes them."""
        for _ in range(1_000):
            await context.write(b"f" * 100_000)
            self.written += 1

    async def headers(self, request: bytes, context: Any) -> bytes:
        """What came with the request."""
        return repr(sorted(context.invocation_metadata())).encode()

    def methods(self) -> dict[str, Any]:
        """All of them by name."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return {
            "Echo": unary(self.echo),
            "Double": stream(self.double),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Total": grpc.stream_unary_rpc_method_handler(self.total),
            "Refuse": unary(self.refuse),
            "Fail": unary(self.fail),
            "Wait": unary(self.wait),
            "Cancelled": unary(self.cancelled),
            "First": stream(self.first),
            "Flood": stream(self.flood),
            "Headers": unary(self.headers),
        }


class FakeServer:
    """What a connection asks of the server."""

    def __init__(self, behaviours: Behaviours) -> None:
        self.room = Room(MAX_MESSAGE_BYTES, MOST_LARGE_BYTES)
        self.most = 100
        self.running = 0
        self.connections: set[Connection] = set()
        self._methods = {
            f"/{SERVICE}/{name}": handler for name, handler in behaviours.methods().items()
        }

    def admit(self, connection: Connection) -> bool:
        """Everybody."""
        self.connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        self.connections.discard(connection)

    def begin(self) -> bool:
        """Up to `most`."""
        if self.running == self.most:
            return False
        self.running += 1
        return True

    def over(self) -> None:
        """One less."""
        self.running -= 1

    def handler(self, path: str) -> Any:
        """By its path."""
        return self._methods.get(path)


class Frame(NamedTuple):
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class RawClient(asyncio.Protocol):
    """Writes frames, keeps what comes."""

    def __init__(self, server: FakeServer) -> None:
        self.frames: list[Frame] = []
        self.lost = False
        self._bytes = b""
        self._decoder = Decoder()
        self.connection = Connection(server)
        self.transport, _ = join(self, self.connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio."""
        assert isinstance(transport, MemoryTransport)

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        self._bytes += data
        while len(self._bytes) >= frames.HEAD_BYTES:
            size = int.from_bytes(self._bytes[:3], "big") + frames.HEAD_BYTES
            if len(self._bytes) < size:
                return
            one, self._bytes = self._bytes[:size], self._bytes[size:]
            number = int.from_bytes(one[5:9], "big")
            self.frames.append(Frame(one[3], one[4], number, one[9:]))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self.lost = True

    async def say(self, *parts: bytes) -> None:
        """Write them at once, and let what follows happen."""
        self.transport.write(b"".join(parts))
        await delivered()

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """Frames of a kind that came."""
        return [f for f in self.frames if f.kind == kind and stream in (None, f.stream)]

    def data(self, stream: int) -> bytes:
        """What came of a stream."""
        return b"".join(f.payload for f in self.of(frames.DATA, stream))

    def status(self, stream: int) -> str:
        """The `grpc-status` of a stream that ended, "" before."""
        for found in self.of(frames.HEADERS, stream):
            pairs = {bytes(n): bytes(v) for n, v in self._decoder.decode(found.payload, raw=True)}
            if b"grpc-status" in pairs:
                assert found.flags & frames.END_STREAM
                return pairs[b"grpc-status"].decode()
        return ""

    def error(self) -> int:
        """The error that the connection ended with."""
        (away,) = self.of(frames.GOAWAY)
        return int.from_bytes(away.payload[4:8], "big")


def text(value: str) -> bytes:
    """A string of HPACK, as it is."""
    return bytes((len(value),)) + value.encode()


def literal(name: str, value: str) -> bytes:
    """A header that is put into no table."""
    return b"\x00" + text(name) + text(value)


def head(method: str, service: str = SERVICE) -> bytes:
    """The head of an rpc's request, encoded."""
    return (
        literal(":method", "POST")
        + literal(":scheme", "http")
        + literal(":path", f"/{service}/{method}")
        + literal("content-type", "application/grpc")
        + literal("te", "trailers")
    )


def opened(stream: int, method: str, *, ended: bool = False) -> bytes:
    """The HEADERS frame that begins an rpc."""
    flags = frames.END_HEADERS | (frames.END_STREAM if ended else 0)
    return frames.frame(frames.HEADERS, flags, stream, head(method))


def message(payload: bytes) -> bytes:
    """A message of gRPC."""
    return len(payload).to_bytes(5, "big") + payload


def said(stream: int, payload: bytes, *, ended: bool = False) -> bytes:
    """The DATA frame of one message."""
    return frames.frame(frames.DATA, int(ended), stream, message(payload))


HELLO = frames.PREFACE + frames.settings({})


class Raw:
    """A client that writes frames, the server, its handlers."""

    def __init__(self) -> None:
        """Connected; nothing said."""
        self.behaviours = Behaviours()
        self.server = FakeServer(self.behaviours)
        self.client = RawClient(self.server)


async def greeted(*parts: bytes) -> Raw:
    """One that has said hello, and these."""
    raw = Raw()
    await raw.client.say(HELLO, *parts)
    return raw
