"""One app's HTTP/1.1 connection, parsed by llhttp.

Requests that are sent ahead wait and are run in order, one handler task at a time. An app that
hangs up is reported to the running handler at once. Malformed and oversized requests are answered
with a JSON error, after which the connection ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol, cast

import httptools
import structlog

from bursar_sidecar.http_limits import Limits
from bursar_sidecar.http_messages import (
    JSON_HEADERS,
    Handler,
    Headers,
    Heir,
    Request,
    Responder,
    error_body,
    peer_of,
)
from bursar_sidecar.repeated_heads import MAX_MISSES, RepeatedHead, repeated_head
from bursar_sidecar.request_rules import Fault, Head, most_framing, origin_form
from bursar_sidecar.upgrade_offers import UpgradeBody, framing_of

log = structlog.get_logger("bursar.http")

MAX_PIPELINED: Final = 64
"""Whole requests waiting on one connection: reading stops at the first that waits, so only what one
read brought can queue; more than this in one read is no app of ours."""
MAX_PIECES: Final = 256
"""Pieces of a body kept apart before they are joined: a body in chunks of one byte is no bigger in
memory than any other."""
HIGH_WATER_BYTES: Final = 256 * 1024
"""Unsent answer bytes per connection before the writer has to wait."""


class Host(Protocol):
    """What a connection needs of the server it belongs to."""

    limits: Limits
    handle: Handler
    now: Callable[[], float]
    draining: bool
    held_bytes: int
    """Of request bodies, over all connections."""

    def admit(self, connection: "Connection") -> bool:
        """Take a new connection in; False when there are too many."""
        ...

    def forget(self, connection: "Connection") -> None:
        """A connection is gone."""
        ...


class Connection(asyncio.Protocol):
    """One app's connection. Used by `HttpServer` and `Responder` only."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._limits = server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Request | Fault] = deque()
        self._active: Responder | None = None
        self.task: asyncio.Task[None] | None = None  # the running handler
        self._drain_waiter: asyncio.Future[None] | None = None
        self._rejection: Fault | None = None
        self._repeated: RepeatedHead | None = None
        self._read_whole: Request | None = None
        self._misses = 0
        self._discarding = False
        self._reading = True
        self._close_at: float | None = None
        self._last_bytes_at = self._idle_since = server.now()
        self._paused_at = 0.0
        self._held = 0
        self._served_bytes = 0
        self._offered = False  # an upgrade, by the last request that is read here
        self._behind = 0  # bytes that came after it
        self.lost = False
        self.write_paused = False
        self._begin()

    # --- the request being read -------------------------------------------------------------

    def _begin(self) -> None:
        self._begun = self._begun_in_this_read = False
        self._begun_at = 0.0
        self._raw_bytes = 0
        self._in_head = True
        self._target = b""
        self._headers: Headers = []
        self._names: list[bytes] = []
        self._pieces: list[bytes] = []
        self._joined = bytearray()
        self._body_bytes = 0
        self._chunked = False
        self._keep_alive = True
        self._http_1_0 = False
        self._expects_continue = False

    def on_message_begin(self) -> None:
        """llhttp: a request starts."""
        self._begin()
        self._begun = True
        self._begun_in_this_read = True
        self._begun_at = self._server.now()

    def on_url(self, url: bytes) -> None:
        """llhttp: (a part of) the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """llhttp: one header; also called for trailers, which are dropped."""
        if self._in_head:
            self._names.append(name)
            self._headers.append((name.lower(), value or b""))
            if len(self._names) > self._limits.max_headers:
                raise self._reject(
                    431,
                    "too_many_headers",
                    f"The request has more than {self._limits.max_headers} headers.",
                )

    def on_headers_complete(self) -> None:
        """llhttp: the head is whole."""
        self._in_head = False
        head_bytes = len(self._target) + sum([len(n) + len(v) + 4 for n, v in self._headers])
        if head_bytes > self._limits.max_head_bytes:
            raise self._head_too_large()
        version = self._parser.get_http_version()
        try:
            head = Head(version, self._target, self._headers)
        except Fault as fault:
            self._rejection = fault
            raise
        if head.length > self._limits.max_body_bytes:
            raise self._body_too_large(head.length)
        self._chunked = head.chunked
        self._keep_alive = self._parser.should_keep_alive()
        self._http_1_0 = version == "1.0"
        if head.expects_continue:
            self._expects_continue = True
            self._maybe_continue()

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        self._expects_continue = False
        size = len(data)
        self._body_bytes += size
        self._held += size
        self._server.held_bytes += size
        if self._body_bytes > self._limits.max_body_bytes:
            raise self._body_too_large(self._body_bytes)
        if self._server.held_bytes > self._limits.max_held_bytes:
            raise self._reject(503, "overloaded", "Too many large requests at once; try again.")
        self._pieces.append(data)
        if len(self._pieces) > MAX_PIECES:
            self._joined += b"".join(self._pieces)
            self._pieces.clear()

    def _whole_body(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        if self._joined:
            joined, self._joined = self._joined, bytearray()
            joined += b"".join(pieces)
            return bytes(joined)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _let_go(self, size: int) -> None:
        self._held -= size
        self._server.held_bytes -= size

    def on_message_complete(self) -> None:
        """llhttp: the request is whole."""
        if not self._parser.should_upgrade():  # else the body is still to come
            self.enqueue(self._parser.get_method())

    def enqueue(self, method: bytes) -> None:
        """The request read is whole: run it, or let it wait its turn."""
        if len(self._waiting) >= MAX_PIPELINED:
            raise self._reject(400, "too_many_pipelined", "Too many requests sent ahead.")
        request = Request(
            method,
            origin_form(self._target),
            self._headers,
            self._whole_body(),
            names=self._names,
            keep_alive=self._keep_alive,
            http_1_0=self._http_1_0,
        )
        self._begun = False
        self._read_whole = request
        self._waiting.append(request)
        if self._active is None:
            self._next()

    def stop_parsing(self) -> None:
        """Nothing more is read as a request on this connection."""
        self._discarding = True

    def _resume_without_upgrade(self, rest: bytes) -> None:
        # An offer to upgrade (Java's client makes one to h2c) may be ignored, but llhttp stops
        # parsing at it: a fresh parser reads the body, and the connection ends with the answer.
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._enqueue_rejection(Fault(405, "method_not_allowed", "CONNECT is not served here."))
            return
        self._keep_alive = False
        self._offered = True
        framing = framing_of(self._headers)
        self._behind = 0 if framing else len(rest)
        self._parser = httptools.HttpRequestParser(UpgradeBody(self, method))
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n" + rest)

    # --- what the transport tells -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the peer is connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if not self._server.admit(self):
            self._discarding = True
            self._enqueue_rejection(
                Fault(503, "overloaded", "Too many connections; try again shortly.")
            )

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._last_bytes_at = self._server.now()
        if self._discarding:
            self._behind += len(data)
            return
        free = self._active is None and not self.write_paused
        if free and not self._begun and self._repeated is not None:
            request = self._repeated.request(data, self._room())
            if request is not None:
                self._held += len(request.body)
                self._server.held_bytes += len(request.body)
                self._misses = 0
                self._run(request)
                return
        begun = self._begun
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            fault, self._rejection = self._rejection, None
            self._enqueue_rejection(
                fault or Fault(400, "malformed_http", f"Not valid HTTP/1.1: {error}")
            )
        whole, self._read_whole = self._read_whole, None
        if whole is not None and not begun and self._misses < MAX_MISSES:
            self._misses += 1 if self._repeated is not None else 0
            self._repeated = repeated_head(data, whole)
        if self._waiting:
            # One waits behind the running one: no more until its turn, so that little can queue.
            self._pause_reading()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._resume_without_upgrade(data[upgrade.args[0] :])
        if not self._begun:
            return
        if self._begun_in_this_read:  # who knows at which of its bytes
            self._begun_in_this_read = False
            return
        self._raw_bytes += len(data)
        if self._in_head:
            if self._raw_bytes > self._limits.max_head_bytes:
                self._enqueue_rejection(self._head_too_large())
        elif self._chunked and self._raw_bytes > self._body_bytes + most_framing(self._body_bytes):
            self._enqueue_rejection(
                Fault(400, "framing_too_large", "The body's chunks are mostly framing.")
            )

    def eof_received(self) -> bool:
        """asyncio: the peer sent its last byte; an app that does so has hung up."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.lost = True
        self._waiting.clear()
        self._let_go(self._held - self._served_bytes)
        self._server.forget(self)
        self.resume_writing()
        if self._active is not None:
            self._active.lost()

    def pause_writing(self) -> None:
        """asyncio: the peer reads too slowly."""
        self.write_paused = True
        self._paused_at = self._server.now()

    def resume_writing(self) -> None:
        """asyncio: the peer has read on."""
        self.write_paused = False
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if not self.lost:
            self._next()

    @property
    def may_switch(self) -> bool:
        """An upgrade was offered, and nothing came behind it."""
        return self._offered and not self._behind

    def hand_over(self, make: Heir) -> asyncio.Transport | None:
        """Let another protocol have what comes from now on; None where that can't be."""
        transport = self._transport
        if not self.may_switch or self.lost or transport is None:
            return None
        transport.set_protocol(make(self))
        self._resume_reading()
        return transport

    # --- answering --------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """The server is going down: no request after this one."""
        return self._server.draining

    @property
    def peer(self) -> str:
        """The host of the other end; "" on a unix socket, "unknown" when it is gone."""
        return peer_of(self._transport)

    def write(self, data: bytes) -> None:
        """Bytes to the peer; dropped when it is gone."""
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Several pieces to the peer in order, without joining them first."""
        if self._transport is not None and not self.lost:
            self._transport.writelines(pieces)

    def hold(self, size: int) -> bool:
        """Count more bytes as held for the running request; False: too many are held."""
        self._held += size
        self._served_bytes += size
        self._server.held_bytes += size
        return self._server.held_bytes <= self._limits.max_held_bytes

    async def drain(self) -> None:
        """Wait until the peer has read on, or is gone."""
        if self.write_paused and not self.lost:
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter

    def _next(self) -> None:
        if self._active is not None or self.write_paused:
            return  # an app that does not read its answers gets no more of them
        if not self._waiting:
            self._maybe_continue()
            self._resume_reading()
            return
        item = self._waiting.popleft()
        if isinstance(item, Request):
            self._run(item)
        else:
            self._answer_rejection(item)

    def _run(self, request: Request) -> None:
        self._active = Responder(self, request)
        self._served_bytes = len(request.body)
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._serve(request, self._active))

    def _room(self) -> int:
        """How large a body may be now."""
        limits = self._limits
        return min(limits.max_body_bytes, limits.max_held_bytes - self._server.held_bytes)

    async def _serve(self, request: Request, responder: Responder) -> None:
        try:
            await self._server.handle(request, responder)
        except Exception:
            # The last line of defence: whatever went wrong, the app gets no stack trace.
            log.exception("handler failed", path=request.path.decode("latin-1"))
        finally:
            if not responder.finished:
                if responder.started:
                    responder.cut()
                else:
                    body = error_body("internal_error", "The sidecar failed.", "server_error")
                    responder.send(500, JSON_HEADERS, body)
            self._served(responder)

    def _served(self, responder: Responder) -> None:
        self._active = None
        self.task = None
        self._let_go(self._served_bytes)
        self._served_bytes = 0
        # What was sent ahead meanwhile had to wait: its time begins now.
        self._last_bytes_at = self._begun_at = self._idle_since = self._server.now()
        if self.lost or self._transport is None:
            return
        if responder.must_close or self.draining:
            self._waiting.clear()
            self._transport.close()
            return
        self._next()

    def _maybe_continue(self) -> None:
        # Only when nothing is being answered: an interim answer may not land inside another.
        if self._expects_continue and self._active is None and not self._waiting:
            self._expects_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _pause_reading(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # --- refusing ---------------------------------------------------------------------------

    def _reject(self, status: int, code: str, message: str) -> Fault:
        self._rejection = Fault(status, code, message)
        return self._rejection

    def _head_too_large(self) -> Fault:
        self._rejection = Fault.of_head(self._limits.max_head_bytes)
        return self._rejection

    def _body_too_large(self, size: int) -> Fault:
        self._rejection = Fault.of_body(size, self._limits.max_body_bytes)
        return self._rejection

    def _enqueue_rejection(self, rejection: Fault) -> None:
        self._discarding = True
        self._let_go(self._body_bytes if self._begun else 0)
        self._begin()
        self._waiting.append(rejection)
        if self._active is None:
            self._next()

    def _answer_rejection(self, rejection: Fault) -> None:
        request = Request(b"GET", b"/", [], b"", keep_alive=False)
        Responder(self, request).send(rejection.status, JSON_HEADERS, rejection.body)
        self._waiting.clear()
        self._close_at = self._server.now() + self._limits.linger_s
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume_reading()

    # --- time -------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Enforce the time limits; `now` is the loop's time in seconds."""
        if self._transport is None or self.lost:
            return
        if self._close_at is not None:
            if now > self._close_at:
                self._transport.abort()
        elif self.write_paused:
            if now - self._paused_at > self._limits.write_stall_s:
                self._transport.abort()
        elif self._active is not None:
            return
        elif self._begun:
            stalled = now - self._last_bytes_at > self._limits.request_stall_s
            if stalled or now - self._begun_at > self._limits.request_total_s:
                self._enqueue_rejection(
                    Fault(408, "request_timeout", "The request did not arrive in time.")
                )
        elif now - self._idle_since > self._limits.keep_alive_s:
            self._transport.close()

    def close_if_idle(self) -> None:
        """Close unless a request is being read or answered."""
        if self._active is None and not self._begun and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break off at once; a handler that runs is told and then cancelled."""
        if self._transport is not None:
            self._transport.abort()
        if self.task is not None:
            self.task.cancel()
