"""The request a handler gets and the responder it answers with."""

import http
import json
from collections.abc import Awaitable, Callable
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


class Channel(Protocol):
    """What a responder needs of the connection it writes to."""

    lost: bool
    write_paused: bool

    @property
    def draining(self) -> bool:
        """The server is going down: no request after this one."""
        ...

    def write(self, data: bytes) -> None:
        """Bytes to the peer; dropped when it is gone."""
        ...

    async def drain(self) -> None:
        """Wait until the peer has read on, or is gone."""
        ...


class Request:
    """One whole request. Header names are in lower case, values as they came."""

    __slots__ = ("body", "headers", "http_1_0", "keep_alive", "method", "path", "query")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        *,
        keep_alive: bool = True,
        http_1_0: bool = False,
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0

    def header(self, name: bytes) -> bytes:
        """The first value of a header (name in lower case), b"" when absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


def error_body(code: str, message: str, kind: str = "invalid_request_error") -> bytes:
    """An error in the shape that SDKs of the OpenAI dialect read."""
    return json.dumps(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}
    ).encode()


def _status_lines() -> dict[int, bytes]:
    return {
        status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        for status in http.HTTPStatus
    }


_STATUS_LINES = _status_lines()
JSON_HEADERS: Headers = [(b"content-type", b"application/json")]


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Responder:
    """Answers one request: `send` whole, or `start`, `write`, `finish`; `cut` breaks it off."""

    __slots__ = (
        "_chunked",
        "_close",
        "_connection",
        "_head_only",
        "_on_hang_up",
        "_request",
        "finished",
        "gone",
        "started",
    )

    def __init__(self, connection: Channel, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._head_only = request.method == b"HEAD"
        self._chunked = False
        self._close = not request.keep_alive
        self._on_hang_up: Callable[[], None] | None = None
        self.started = False
        self.finished = False
        self.gone = connection.lost
        """The app has hung up; nothing written from now on arrives."""

    def on_hang_up(self, callback: Callable[[], None] | None) -> None:
        """Calls `callback` once when the app hangs up; at once when it already has."""
        self._on_hang_up = callback
        if self.gone and callback is not None:
            self._on_hang_up = None
            callback()

    def lost(self) -> None:
        """Told by the connection: the app is gone."""
        self.gone = True
        callback, self._on_hang_up = self._on_hang_up, None
        if callback is not None:
            callback()

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer at once."""
        self.started = self.finished = True
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        self._connection.write(head if self._head_only else head + body)

    def start(self, status: int, headers: Headers) -> None:
        """Begin a streamed answer, chunked unless `headers` state a content-length."""
        self.started = True
        framing = b""
        if not any(name == b"content-length" for name, _ in headers):
            if self._request.http_1_0:
                self._close = True
            else:
                self._chunked = True
                framing = b"transfer-encoding: chunked\r\n"
        self._connection.write(self._head(status, headers, framing))

    def write(self, data: bytes) -> None:
        """More of a streamed answer; when `paused`, await `drain` before the next."""
        if not data or self._head_only:
            return
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self) -> None:
        """End a streamed answer."""
        self.finished = True
        if self._chunked and not self._head_only:
            self._connection.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Break a streamed answer off, so that the app sees it is not whole."""
        self.finished = True
        self._close = True

    @property
    def paused(self) -> bool:
        """The app reads slower than we write."""
        return self._connection.write_paused

    async def drain(self) -> None:
        """Wait until the app has read on, or is gone."""
        await self._connection.drain()

    @property
    def must_close(self) -> bool:
        """The connection ends with this answer."""
        return self._close

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        if self._connection.draining:
            self._close = True
        parts = [_status_line(status)]
        parts += [b"%b: %b\r\n" % pair for pair in headers]
        parts.append(framing)
        if self._close:
            parts.append(b"connection: close\r\n")
        elif self._request.http_1_0:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


Handler = Callable[[Request, Responder], Awaitable[None]]
