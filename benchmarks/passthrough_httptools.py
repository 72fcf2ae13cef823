"""The least that a proxy in Python costs: asyncio Protocols over llhttp on both sides.

Heads are parsed, every byte is passed on, nothing is looked at; each of an app's connections has
one of its own to the upstream.

`python -m benchmarks.passthrough_httptools URL` forwards to URL, and prints its own address.
"""

import asyncio
import signal
import sys
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

NOT_FORWARDED = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding"})


class Upstream(asyncio.Protocol):
    """The connection to the upstream; the answer's bytes go straight on."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of the answer."""
        self._parser.feed_data(data)
        self._app.write(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: a header, which nobody asks about."""

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._app.close()


class App(asyncio.Protocol):
    """An app's connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the app is connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._upstream = await loop.create_connection(
            lambda: Upstream(self), self._host, self._port
        )
        for message in self._waiting:
            self._send(message)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of a request."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """llhttp: (a part of) the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one header."""
        if name.lower() not in NOT_FORWARDED:
            self._headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """llhttp: the request is whole."""
        body = b"".join(self._body)
        headers = b"".join([b"%b: %b\r\n" % pair for pair in self._headers])
        self._send(
            b"%b %b HTTP/1.1\r\nhost: upstream\r\n%bcontent-length: %d\r\n\r\n%b"
            % (self._parser.get_method(), self._target, headers, len(body), body)
        )
        self._begin()

    def _send(self, message: bytes) -> None:
        if self._upstream is None or self._upstream.transport is None:
            self._waiting.append(message)
        else:
            self._upstream.transport.write(message)

    def write(self, data: bytes) -> None:
        """Bytes of the answer."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """The upstream is gone."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the app is gone."""
        if self._upstream is not None and self._upstream.transport is not None:
            self._upstream.transport.close()


async def _serve(upstream: str) -> None:
    parts = urlsplit(upstream)
    host, port = parts.hostname or "", parts.port or 80
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: App(host, port), "127.0.0.1", 0)
    bound = server.sockets[0].getsockname()
    print(f"http://{bound[0]}:{bound[1]}", flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


def main() -> None:
    """Serve on a free port until SIGTERM."""
    uvloop.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
