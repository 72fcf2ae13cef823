"""Raw ends of a connection, for comparing what goes over the wire byte by byte.

`Recorded` is one exchange: what an app sends and what a provider answers, each in given pieces.
`directly` lets the two talk to each other, `through` puts a sidecar between them; both return what
each end received.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.sidecar_bench import FixedClock
from tests.fakes.wire import MemoryTransport, delivered, join

AUTHORITY = "provider.test"
DEADLINE_S = 60.0
"""Far more than the largest body takes on a busy machine."""


class Recorded(msgspec.Struct, frozen=True):
    """One exchange. Pieces of an answer are sent one by one, each delivered before the next."""

    request: tuple[bytes, ...]
    answer: tuple[bytes, ...]


class Wire(msgspec.Struct):
    """What the two ends received."""

    at_provider: bytes
    at_app: list[bytes]
    """Pieces, as they came."""

    @property
    def answer(self) -> bytes:
        """All that the app received."""
        return b"".join(self.at_app)


class RawEnd(asyncio.Protocol):
    """Keeps what it receives, in pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.transport: MemoryTransport | None = None
        self.ended = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio."""
        assert isinstance(transport, MemoryTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        self.pieces.append(data)
        self._changed.set()

    def eof_received(self) -> bool:
        """asyncio."""
        self.ended = True
        self._changed.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self.ended = True
        self._changed.set()

    @property
    def received(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)

    def send(self, data: bytes) -> None:
        """Write bytes."""
        assert self.transport is not None
        self.transport.write(data)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what came; TimeoutError when it does not come true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class RawProvider:
    """Stands behind `dial`; its connections are raw ends."""

    def __init__(self) -> None:
        self.ends: list[RawEnd] = []
        self.opened = asyncio.Event()

    async def dial(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """What the pool calls instead of opening a socket."""
        ours, theirs = RawEnd(), factory()
        _, transport = join(ours, theirs)
        self.ends.append(ours)
        self.opened.set()
        return transport, theirs


class RawBench:
    """A sidecar between a raw app and a raw provider."""

    def __init__(self, **settings: Any) -> None:
        self.desk = FakeDesk()
        self.provider = RawProvider()
        upstream = settings.pop("upstream", {"api_key": KEY})
        usual = {"name": "openai", "base_url": f"http://{AUTHORITY}/v1"}
        provider = Provider(**{**usual, **upstream})
        self.proxy = build_proxy(
            Settings(providers=(provider,), **settings),
            self.desk,
            FixedClock(),
            dial=self.provider.dial,
        )
        self.server = HttpServer(self.proxy.handle)
        self.app = RawEnd()
        self.connection = Connection(self.server)
        join(self.app, self.connection)

    async def provider_end(self) -> RawEnd:
        """The provider's end of the first connection."""
        async with asyncio.timeout(DEADLINE_S):
            await self.provider.opened.wait()
        return self.provider.ends[0]


async def directly(recorded: Recorded) -> Wire:
    """The exchange without anything between the two."""
    app, provider = RawEnd(), RawEnd()
    join(app, provider)
    await _play(recorded, app, provider)
    return Wire(provider.received, app.pieces)


async def through(recorded: Recorded, bench: RawBench | None = None) -> Wire:
    """The exchange through a sidecar; its desk sees one call, settled."""
    bench = bench or RawBench()
    for piece in recorded.request:
        bench.app.send(piece)
        await delivered()
    provider = await bench.provider_end()
    await _play(Recorded((), recorded.answer), bench.app, provider)
    return Wire(provider.received, bench.app.pieces)


async def _play(recorded: Recorded, app: RawEnd, provider: RawEnd) -> None:
    for piece in recorded.request:
        app.send(piece)
        await delivered()
    for piece in recorded.answer:
        provider.send(piece)
        await delivered()


def without(message: bytes, owned: tuple[bytes, ...]) -> bytes:
    """A message, its head without the lines of headers whose names begin so (in lower case)."""
    head, end, body = message.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 1"):  # an interim answer; the real one follows
        body, owned = without(body, owned), ()
    first, *lines = head.split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(owned)]
    return b"\r\n".join((first, *kept)) + end + body


def without_comment(answer: bytes) -> bytes:
    """A chunked stream without the chunk in which the sidecar tells the cost."""
    at = answer.find(b": bursar {")
    if at < 0:
        return answer
    start = answer.rindex(b"\r\n", 0, at - 2) + 2
    end = answer.index(b"\r\n", at) + 2
    return answer[:start] + answer[end:]
