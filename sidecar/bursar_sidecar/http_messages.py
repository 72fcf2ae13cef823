"""The request a handler gets and the responder it answers with."""

import asyncio
import http
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

Headers = list[tuple[bytes, bytes]]


class Channel(Protocol):
    """What a responder needs of the connection it writes to."""

    lost: bool
    write_paused: bool

    @property
    def draining(self) -> bool:
        """The server is going down: no request after this one."""
        ...

    @property
    def peer(self) -> str:
        """The host of the other end; "" on a unix socket."""
        ...

    def write(self, data: bytes) -> None:
        """Bytes to the peer; dropped when it is gone."""
        ...

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Several pieces to the peer in order, without joining them first."""
        ...

    def hold(self, size: int) -> bool:
        """Count more bytes as held for the running request; False: too many are held."""
        ...

    async def drain(self) -> None:
        """Wait until the peer has read on, or is gone."""
        ...

    @property
    def may_switch(self) -> bool:
        """An upgrade was offered, and nothing has come behind the offer."""
        ...

    def hand_over(self, make: "Heir") -> asyncio.Transport | None:
        """What comes from the peer from now on goes to what `make` makes of the present protocol.
        None where it may not switch, or the peer is gone."""
        ...


Heir = Callable[[asyncio.Protocol], asyncio.Protocol]
"""Makes a connection's next protocol, which tells the one before that the connection is lost, and
when writing is paused and resumed."""


class Request:
    """One whole request. Header names are in lower case, values as they came; `names` has the names
    as the app wrote them, in the same order."""

    __slots__ = (
        "body",
        "encoded",
        "headers",
        "http_1_0",
        "keep_alive",
        "known",
        "method",
        "names",
        "path",
        "query",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        *,
        names: list[bytes] | None = None,
        keep_alive: bool = True,
        http_1_0: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        """Path and query exactly as they came."""
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.names = [name for name, _ in headers] if names is None else names
        self.body = body
        self.encoded: bytes | None = None
        """The body as it came, where `body` is what it was decompressed to."""
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.known: dict[object, Any] = {}
        """What was worked out of the head but for its content-length, by whom: requests of one
        connection with the same head share it."""

    def again(self, headers: Headers, names: list[bytes], body: bytes) -> "Request":
        """Another request with the same head, but for the content-length in `headers`."""
        other = Request.__new__(Request)
        other.method, other.target = self.method, self.target
        other.path, other.query = self.path, self.query
        other.headers, other.names = headers, names
        other.body, other.encoded = body, None
        other.keep_alive, other.http_1_0 = self.keep_alive, self.http_1_0
        return other

    def header(self, name: bytes) -> bytes:
        """The first value of a header (name in lower case), b"" when absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    @property
    def wants_trailers(self) -> bool:
        """The app said `TE: trailers`: fields after a chunked answer may be sent to it."""
        wanted: bool | None = self.known.get("trailers")
        if wanted is None:
            wanted = self.known["trailers"] = self._says_trailers()
        return wanted

    def _says_trailers(self) -> bool:
        if self.http_1_0:
            return False
        return any(
            part.strip().lower() == b"trailers"
            for name, value in self.headers
            if name == b"te"
            for part in value.split(b",")
        )


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The host of a connection's other end; "" on a unix socket, "unknown" when it is gone."""
    place = transport.get_extra_info("peername") if transport is not None else None
    if isinstance(place, tuple):
        return str(place[0])
    return "" if place is not None else "unknown"


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
_WITHOUT_BODY: Final = frozenset({204, 304})
"""Answers that end with their head (RFC 9112, 6.3)."""
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_FRAMING_LENGTHS: Final = frozenset(map(len, _FRAMING))
COPIED_BYTES: Final = 64 * 1024
"""Pieces up to here are joined for one write; a larger one is not copied."""
JSON_HEADERS: Headers = [(b"content-type", b"application/json")]


def _status_line(status: int, reason: bytes | None) -> bytes:
    if reason is None:
        return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


class Responder:
    """Answers one request: `send` whole, or `start`, `write`, `finish`; `cut` breaks it off.

    Headers are written as they are given, in the order given. A content-length or a
    transfer-encoding among them stands where it is, as far as it is true; else framing is added.
    """

    __slots__ = (
        "_chunked",
        "_close",
        "_connection",
        "_no_body",
        "_on_hang_up",
        "_request",
        "finished",
        "gone",
        "started",
    )

    ends_provider = False
    """The provider is hung up on by the end of the app's answer, and by nothing else."""

    def __init__(self, connection: Channel, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._no_body = request.method == b"HEAD"
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

    def hold(self, size: int) -> bool:
        """Count more bytes as held for this request until it is answered; False: too many are."""
        return self._connection.hold(size)

    def interim(self, status: int, headers: Headers, reason: bytes | None = None) -> None:
        """An interim answer (1xx) before the real one; old clients do not get them."""
        if self.started or self._request.http_1_0:
            return
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        self._connection.write(b"%b%b\r\n" % (_status_line(status, reason), lines))

    @property
    def may_switch(self) -> bool:
        """The app offered an upgrade, and sent nothing behind it."""
        return self._connection.may_switch

    def switch(self, headers: Headers, make: Heir) -> asyncio.Transport | None:
        """Take the offered upgrade up: answer 101, and hand the connection over. None where that
        can't be (see `Channel.hand_over`), and then nothing is written."""
        transport = self._connection.hand_over(make)
        if transport is not None:
            self.started = self.finished = self._close = True
            lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            self._connection.write(b"%b%b\r\n" % (_status_line(101, None), lines))
        return transport

    def send(self, status: int, headers: Headers, body: bytes, reason: bytes | None = None) -> None:
        """The whole answer at once. `reason` is the status line's phrase, None for the usual."""
        self.started = self.finished = True
        framing = b""
        if status in _WITHOUT_BODY:
            self._no_body = True
        else:
            stated = _stated_framing(headers)
            if stated == b"transfer-encoding":
                headers = _without(headers, stated)
            if stated != b"content-length":
                framing = b"content-length: %d\r\n" % len(body)
        head = self._head(status, headers, framing, reason)
        if self._no_body or not body:
            self._connection.write(head)
        elif len(body) < COPIED_BYTES:
            self._connection.write(head + body)
        else:
            self._connection.writelines((head, body))

    def start(self, status: int, headers: Headers, reason: bytes | None = None) -> None:
        """Begin a streamed answer, chunked unless `headers` state a content-length."""
        self.started = True
        framing = b""
        if status in _WITHOUT_BODY:
            self._no_body = True
        else:
            stated = _stated_framing(headers)
            if stated != b"content-length":
                self._chunked = not self._request.http_1_0
                if not self._chunked:
                    self._close = True
                    headers = _without(headers, b"transfer-encoding")
                elif not stated:
                    framing = b"transfer-encoding: chunked\r\n"
        self._connection.write(self._head(status, headers, framing, reason))

    def write(self, data: bytes) -> None:
        """More of a streamed answer; when `paused`, await `drain` before the next."""
        if not data or self._no_body:
            return
        if not self._chunked:
            self._connection.write(data)
        elif len(data) < COPIED_BYTES:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._connection.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def chunk_writer(self) -> Callable[[bytes], None] | None:
        """Writes a whole chunk of a streamed answer with its framing, as `write` would; None where
        the answer is not chunked."""
        return self._connection.write if self._chunked and not self._no_body else None

    def finish(self, trailers: Headers | None = None) -> None:
        """End a streamed answer. `trailers` are sent where the app asked for them and the answer
        is chunked, else dropped."""
        self.finished = True
        if not self._chunked or self._no_body:
            return
        if trailers and self._request.wants_trailers:
            lines = b"".join([b"%b: %b\r\n" % pair for pair in trailers])
            self._connection.write(b"0\r\n%b\r\n" % lines)
        else:
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
    def peer(self) -> str:
        """The host that asks; "" on a unix socket."""
        return self._connection.peer

    @property
    def must_close(self) -> bool:
        """The connection ends with this answer."""
        return self._close

    @property
    def takes_chunks(self) -> bool:
        """The app's HTTP knows chunks."""
        return not self._request.http_1_0

    @property
    def wants_trailers(self) -> bool:
        """The app asked for fields after a chunked answer."""
        return self._request.wants_trailers

    def _head(self, status: int, headers: Headers, framing: bytes, reason: bytes | None) -> bytes:
        if self._connection.draining:
            self._close = True
        parts = [_status_line(status, reason)]
        parts += [b"%b: %b\r\n" % pair for pair in headers]
        parts.append(framing)
        if self._close:
            parts.append(b"connection: close\r\n")
        elif self._request.http_1_0:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def _stated_framing(headers: Headers) -> bytes:
    """The header that says where the body ends, in lower case; b"" where none does."""
    for name, _ in headers:
        if len(name) in _FRAMING_LENGTHS and (lowered := name.lower()) in _FRAMING:
            return lowered
    return b""


def _without(headers: Headers, dropped: bytes) -> Headers:
    return [pair for pair in headers if pair[0].lower() != dropped]


Handler = Callable[[Request, Responder], Awaitable[None]]
