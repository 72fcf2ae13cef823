"""One connection to a provider: bytes to llhttp, its findings to the exchange that is running.

What a provider sends is not trusted to be well formed: an answer that could be read in two ways
ends as Broken, and whatever comes after the end of an answer is never taken for the next one.
"""

import asyncio
import select
import socket
import struct
from typing import Final, Protocol, cast

import httptools
import structlog

from bursar_sidecar.exchange import Broken, Exchange, PoolLimits
from bursar_sidecar.http_messages import Headers

log = structlog.get_logger("bursar.upstream")

MAX_HEAD_BYTES: Final = 256 * 1024
"""Headers of a provider's answer; the largest seen in practice are some 8 kB."""
FRAMING_BYTES_PER_BYTE: Final = 16
"""Chunk sizes, extensions and trailers beyond that, for each byte of a body: a chunk of one byte
needs five."""
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120
"""Where Linux has it in its `struct tcp_info` (since 4.1), of which so much is asked for:"""
_TCP_INFO_BYTES: Final = _BYTES_ACKED_AT + _BYTES_ACKED.size
_UNKNOWN: Final = -1
_BODILESS: Final = frozenset({204, 304})


class Owner(Protocol):
    """What a connection needs of the pool it belongs to."""

    limits: PoolLimits
    host: str
    """The provider's, for the log."""

    def now(self) -> float:
        """Seconds on the pool's clock."""
        ...

    def take_back(self, connection: "UpstreamConnection") -> None:
        """A connection whose exchange is whole."""
        ...

    def forget(self, connection: "UpstreamConnection") -> None:
        """A connection is gone."""
        ...


class Malformed(Exception):
    """What a provider sent is HTTP to llhttp, and yet not to be taken for an answer."""


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
        self._reason = b""
        self._headers: Headers = []
        self._names: list[bytes] = []
        self._raw_bytes = 0
        self._body_bytes = 0
        self._complete = False
        self._between_chunks = False
        self._keep_alive = False
        self._keep_alive_s = pool.limits.keep_alive_s
        self._acked_at_rest = _UNKNOWN
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

    def write(self, pieces: tuple[bytes, ...]) -> None:
        """Bytes to the provider."""
        if self._transport is None:
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

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
        take_chunk = exchange.take_chunk if exchange.take is not None else None
        if take_chunk is not None and self._between_chunks and take_chunk(data):
            return  # the parser, which has not seen it, stands where it stood: between two chunks
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserUpgrade) and self.switched(
                data[error.args[0] :]
            ):
                return
            if not self._complete:
                reason = error.__context__ if isinstance(error.__context__, Malformed) else error
                exchange.fail(Broken(f"the provider's answer is not valid HTTP/1.1: {reason}"))
                return
            # The answer itself is whole. What follows it is nobody's, and neither is what is sent
            # on this connection from now on.
            self._keep_alive = False
            log.warning("a provider sent more than its answer", host=self._pool.host)
        self._between_chunks = self._between_chunks and data.endswith(b"\r\n")
        if self._complete:
            self._end()
        elif self._raw_bytes > MAX_HEAD_BYTES + FRAMING_BYTES_PER_BYTE * self._body_bytes:
            what = "framing of its chunks" if exchange.status else "headers"
            exchange.fail(Broken(f"the provider's {what} exceed {MAX_HEAD_BYTES} bytes"))

    def switched(self, rest: bytes) -> bool:
        """The provider took an upgrade up, and `rest` came behind its answer; whether one was
        offered. No call offers any."""
        return False

    def on_message_begin(self) -> None:
        """llhttp: an answer starts."""
        if self._complete:
            raise Malformed("an answer that was not asked for")
        self._reason = b""
        self._headers = []
        self._names = []
        self._interim = False

    def on_status(self, reason: bytes) -> None:
        """llhttp: (a part of) the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """llhttp: one header, or a trailer."""
        self._names.append(name)
        self._headers.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        """llhttp: the head is whole."""
        version = self._parser.get_http_version()
        status = self._parser.get_status_code()
        if status < 100 or (version != "1.1" and version != "1.0"):
            raise Malformed(f"HTTP/{version} with status {status}")
        exchange = self.exchange
        headers, names = self._headers, self._names
        self._headers, self._names = [], []
        if status < 200:
            self._interim = True
            if exchange is not None and exchange.on_interim is not None and status > 101:
                pairs = [(name, value) for name, (_, value) in zip(names, headers, strict=True)]
                exchange.on_interim(status, pairs, self._reason)
            return
        framed = self._framed(version, headers)
        head_only = exchange is not None and exchange.head_only
        self._close_delimited = not (framed or head_only or status in _BODILESS)
        if exchange is not None:
            exchange.got_head(status, self._reason, headers, names)
        if head_only:
            # llhttp does not know what was asked, and would wait for a body: this parser is done.
            self._keep_alive = self._parser.should_keep_alive()
            self._complete = True
            self._parser = httptools.HttpResponseParser(self)

    def _framed(self, version: str, headers: Headers) -> bool:
        framed = False
        present = dict(headers)  # quicker than looking at each
        if b"transfer-encoding" not in present and b"keep-alive" not in present:
            return b"content-length" in present
        for name, value in headers:
            if name == b"content-length":
                framed = True
            elif name == b"transfer-encoding":
                framed = True
                if self.exchange is not None:
                    self.exchange.chunked = True
                if value.strip().lower() != b"chunked" or version == "1.0":
                    # Not asked for (no TE), and the app would get it for the content itself.
                    shown = value[:40].decode("latin-1")
                    raise Malformed(f"Transfer-Encoding {shown!r} in an answer of HTTP/{version}")
            elif name == b"keep-alive":
                self._keep_alive_s = self._stated_keep_alive(value)
        return framed

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        if self._complete:
            raise Malformed("content after the answer")
        self._body_bytes += len(data)
        if self.exchange is not None:
            self.exchange.got_data(data)

    def on_chunk_header(self) -> None:
        """llhttp: the size of a chunk, or the end of the last one."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """llhttp: a chunk is whole."""
        self._between_chunks = True

    def on_message_complete(self) -> None:
        """llhttp: the answer is whole."""
        if not self._interim and not self._complete:
            self._complete = True
            # To be asked here: once the parser has moved on it no longer knows.
            self._keep_alive = self._parser.should_keep_alive()

    def rest(self) -> None:
        """Nothing is under way: note what the provider has acknowledged of all that was before."""
        if self._acked_at_rest == _UNKNOWN:
            self._acked_at_rest = self.acknowledged()

    def acknowledged(self) -> int:
        """Bytes that the provider's side has acknowledged so far; -1 where that can't be known."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None or not hasattr(socket, "TCP_INFO"):
            return _UNKNOWN
        try:
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:  # a unix socket, or one that is closed
            return _UNKNOWN
        if len(told) < _TCP_INFO_BYTES:
            return _UNKNOWN
        acked: int = _BYTES_ACKED.unpack_from(told, _BYTES_ACKED_AT)[0]
        return acked

    def eof_received(self) -> bool:
        """asyncio: the provider sent its last byte; `connection_lost` follows."""
        exchange = self.exchange
        if exchange is not None and self._never_heard():
            # It closed an idle connection while the call was on its way to it.
            reason = "the provider closed the connection before the call reached it"
            exchange.fail(Broken(reason, by_provider=True, untaken=True))
        return False

    def _never_heard(self) -> bool:
        """Whether the provider had closed before a byte of this call reached it.

        Whatever a TCP peer sends, its last segment too, acknowledges all that it has received. Here
        the end came, and with it not a byte more is acknowledged than before the call.
        """
        at_rest = self._acked_at_rest
        return at_rest != _UNKNOWN and not self._raw_bytes and self.acknowledged() == at_rest

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._lost = True
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if exchange.status and self._close_delimited and exc is None:
            exchange.got_end([])
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

    def _trailers(self) -> Headers:
        if not self._names:
            return []
        return [(name, value) for name, (_, value) in zip(self._names, self._headers, strict=True)]

    def _end(self) -> None:
        exchange, self.exchange = self.exchange, None
        self._complete = self._between_chunks = False
        self._raw_bytes = self._body_bytes = 0
        self._acked_at_rest = _UNKNOWN
        keep = (
            self._keep_alive
            and not self._close_delimited
            and self._transport is not None
            and self._transport.get_write_buffer_size() == 0
        )
        if exchange is not None:
            exchange.got_end(self._trailers())
        self.flow(reading=True)
        self.expires_at = self._pool.now() + self._keep_alive_s
        if keep:
            self._pool.take_back(self)
        else:
            self.abort()
