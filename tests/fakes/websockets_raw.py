"""A websocket between a raw app and a raw provider, through a sidecar, frame by frame."""

from typing import Any

from bursar_sidecar.extra_call_settings import Websocket
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.raw_wire import AUTHORITY, RawEnd, RawProvider
from tests.fakes.sidecar_bench import FixedClock
from tests.fakes.wire import delivered, join

DOLLAR = 10**9
NONCE = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Both as RFC 6455, 1.3 has them."""
PATH = "/v1/realtime"
LINE = Websocket(path=PATH, provider="openai", flat_price="0.10")
BY_MINUTE = Websocket(path=PATH, provider="openai", flat_price="0.10", price_per_minute="0.30")
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\nX-Request-Id: r-1\r\n\r\n" % ACCEPT
)


def offer(
    target: str = f"{PATH}?model=gpt-realtime", *, key: str = KEY, version: str = "1.1", **more: str
) -> bytes:
    """A request for a websocket; `more` are headers that replace or join the usual ones, "" for
    one that is left out."""
    headers = {
        "Host": "sidecar",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": NONCE.decode(),
        "Sec-WebSocket-Version": "13",
        "Authorization": f"Bearer {key}" if key else "",
    }
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"GET {target} HTTP/{version}\r\n{lines}\r\n".encode()


def frame(payload: bytes, *, masked: bool, opcode: int = 1, final: bool = True) -> bytes:
    """A frame; masked with zeros, which leave the payload readable."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    if masked:
        length = bytes((length[0] | 0x80,)) + length[1:] + bytes(4)
    return bytes((opcode | (0x80 if final else 0),)) + length + payload


def close_of(code: int, *, masked: bool) -> bytes:
    """A close frame without a reason."""
    return frame(code.to_bytes(2, "big"), masked=masked, opcode=8)


def code_in(data: bytes) -> int:
    """The code of the unmasked close frame that `data` is."""
    assert data[0] == 0x88, data
    assert len(data) == 2 + data[1], data
    return int.from_bytes(data[2:4], "big")


class TunnelBench:
    """A sidecar that allows websockets, with a raw app at it and raw connections behind it."""

    def __init__(self, line: Websocket = LINE, desk: FakeDesk | None = None, **settings: Any):
        self.desk = desk or FakeDesk()
        self.clock = FixedClock()
        self.provider = RawProvider()
        usual = {"name": "openai", "base_url": f"http://{AUTHORITY}/v1", "api_key": "sk-up"}
        upstream = Provider(**{**usual, **settings.pop("upstream", {})})
        self.proxy = build_proxy(
            Settings(providers=(upstream,), websockets=(line,), **settings),
            self.desk,
            self.clock,
            dial=self.provider.dial,
        )
        self.server = HttpServer(self.proxy.handle)
        self.app = self.connect()

    def connect(self) -> RawEnd:
        """One more app."""
        app = RawEnd()
        join(app, Connection(self.server))
        return app

    async def opened(self, request: bytes | None = None) -> RawEnd:
        """The app's websocket is open; the provider's end of it, both without their heads."""
        self.app.send(request or offer())
        provider = await self.provider_end()
        provider.send(SWITCHED)
        await self.app.until(lambda: self.app.received.endswith(b"\r\n\r\n"))
        self.app.pieces.clear()
        provider.pieces.clear()
        return provider

    async def provider_end(self) -> RawEnd:
        """The provider's end, once it has the request."""
        await delivered()
        assert self.provider.ends, self.app.received
        end = self.provider.ends[-1]
        await end.until(lambda: end.received.endswith(b"\r\n\r\n"))
        return end

    async def pass_s(self, seconds: float) -> None:
        """Let time pass, looked at each second as a running sidecar does."""
        for _ in range(int(seconds)):
            self.clock.seconds += 1.0
            self.proxy.tunnels.sweep(self.clock.seconds)
            await delivered()

    async def at_app(self) -> bytes:
        """What the app has got since it was last asked."""
        return await taken(self.app)


async def taken(end: RawEnd) -> bytes:
    """What an end has got since it was last asked."""
    await delivered()
    received = end.received
    end.pieces.clear()
    return received
