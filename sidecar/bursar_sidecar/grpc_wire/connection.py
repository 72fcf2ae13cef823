"""One connection of HTTP/2: frames in, rpcs in between, frames out, both windows kept.

What comes in one read is handled whole before anything is written, and what several rpcs write in
one turn of the loop leaves together.
"""

import asyncio
from typing import Any, Final, cast

import grpc
import structlog

from bursar_sidecar.grpc_wire import frames
from bursar_sidecar.grpc_wire.closed_streams import ClosedStreams
from bursar_sidecar.grpc_wire.frames import WireError
from bursar_sidecar.grpc_wire.heads import (
    ANSWER,
    CONTENT_TYPE,
    MAX_HEAD_BYTES,
    UNSUPPORTED,
    Head,
    Heads,
    MalformedError,
    trailers,
)
from bursar_sidecar.grpc_wire.rpc import WINDOW_BYTES, AbortError, RefusedError, Rpc
from bursar_sidecar.grpc_wire.server import Server

log = structlog.get_logger("bursar.grpc_wire")

CONNECTION_WINDOW_BYTES: Final = 1 << 28
"""What may come on a connection at a time; each of its rpcs has a window of its own."""
MOST_RPCS_ON_A_CONNECTION: Final = 16_384
"""Envoy opens a connection for each of its threads, and a stream for each answer in flight."""

MOST_RESETS: Final = 50_000
"""Streams that the other end may begin and reset between two sweeps: an Envoy resets one a call."""

CONNECTION: Final = 0
"""The number of the stream that is none."""


class Connection(asyncio.Protocol):
    """From an Envoy, or from any gRPC client."""

    def __init__(self, server: Server) -> None:
        self.peer = ""
        self.heard = True
        """Something came since the last sweep, or there was none."""
        self.rpcs: dict[int, Rpc] = {}
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._heads = Heads()
        self._input = b""
        self._greeted = False
        self._last = 0
        """The greatest number of a stream that was begun."""
        self._closed = ClosedStreams()
        self._resets = 0
        self._block: tuple[int, int, bytearray] | None = None
        """A head that goes on in CONTINUATION frames: its stream, its flags, what came."""
        self._out: list[bytes] = []
        self._flushing = False
        self._window = frames.FIRST_WINDOW
        """What the other end would take on the connection, in octets."""
        self._stream_window = frames.FIRST_WINDOW
        """What it takes on a new stream."""
        self._frame_bytes = frames.MAX_FRAME_BYTES
        self._owed = 0
        self._waiting: dict[int, Rpc] = {}
        """Rpcs with something unsent, the longest wait first."""
        self._leaving = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix:"
        if not self._server.admit(self):
            self._transport.abort()
            return
        mine = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: MOST_RPCS_ON_A_CONNECTION,
            frames.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            frames.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
        }
        self._out.append(frames.settings(mine))
        self._out.append(
            frames.window_update(CONNECTION, CONNECTION_WINDOW_BYTES - frames.FIRST_WINDOW)
        )
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone, and with it whatever was asked."""
        self._transport = None
        for rpc in list(self.rpcs.values()):
            self._cancel(rpc)
        self._server.forget(self)

    def pause_writing(self) -> None:
        """asyncio: the other end reads too slowly. It gets no more to answer until it has read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """asyncio: it has read."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self.heard = True
        try:
            self._read(self._input + data if self._input else data)
        except WireError as error:
            log.info("connection_ended", peer=self.peer, why=str(error), code=error.code)
            self._out.append(frames.going_away(self._last, error.code, str(error)))
            self._flush()
            self._close()
            return
        if self._out and not self._flushing:
            self._flush()

    # Frames in

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self._greeted:
            if not data.startswith(frames.PREFACE[:end]):
                raise WireError(frames.PROTOCOL_ERROR, "no preface of HTTP/2")
            if end < len(frames.PREFACE):
                self._input = data
                return
            self._greeted, at = True, len(frames.PREFACE)
        while end - at >= frames.HEAD_BYTES:
            size = int.from_bytes(data[at : at + 3], "big")
            if size > frames.MAX_FRAME_BYTES:
                raise WireError(frames.FRAME_SIZE_ERROR, f"a frame of {size} octets")
            start = at + frames.HEAD_BYTES
            if end - start < size:
                break
            number = int.from_bytes(data[at + 5 : start], "big") & frames.LARGEST_WINDOW
            self._frame(data[at + 3], data[at + 4], number, data[start : start + size])
            at = start + size
        self._input = data[at:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or number != self._block[0]):
            raise WireError(frames.PROTOCOL_ERROR, "a head was not gone on with")
        if kind == frames.DATA:
            self._data(flags, number, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, number, frames.content(flags, payload))
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(number, frames.number(payload))
        elif kind == frames.RST_STREAM:
            frames.number(payload)
            self._check_begun(number)
            if (rpc := self.rpcs.get(number)) is not None:
                self._count_reset()
                rpc.half_closed = True
                self._cancel(rpc)
        elif kind == frames.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == frames.PING:
            if len(payload) != 8:  # of bytes
                raise WireError(frames.FRAME_SIZE_ERROR, "a ping is eight octets")
            _check_no_stream(number, "a ping")
            if not flags & frames.ACK:
                self._out.append(frames.frame(frames.PING, frames.ACK, CONNECTION, payload))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == frames.GOAWAY:
            _check_no_stream(number, "a GOAWAY")
        elif kind == frames.PRIORITY:
            frames.check_priority(number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise WireError(frames.PROTOCOL_ERROR, "a client promised a push")
        # PRIORITY and GOAWAY change nothing here; what is unknown is ignored: RFC 9113, 4.1.

    def _check_begun(self, number: int) -> None:
        if not number or number > self._last:
            raise WireError(frames.PROTOCOL_ERROR, f"stream {number} was not begun")

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._owed += len(payload)
        if self._owed >= CONNECTION_WINDOW_BYTES // 2:
            self._out.append(frames.window_update(CONNECTION, self._owed))
            self._owed = 0
        if flags & frames.PADDED:
            payload = frames.content(frames.PADDED, payload)
        rpc = self.rpcs.get(number)
        if rpc is None:
            self._check_begun(number)
            self._closed.check_data(number)
            return
        if rpc.half_closed:
            raise WireError(frames.STREAM_CLOSED, f"data of stream {number}, which was ended")
        try:
            if payload:
                rpc.take(payload)
            if flags & frames.END_STREAM:
                rpc.end()
        except RefusedError as error:
            self._refuse(rpc, error)

    def _headers(self, flags: int, number: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            self._block = (number, flags, bytearray(block))
            return
        rpc, ended = self.rpcs.get(number), bool(flags & frames.END_STREAM)
        if rpc is None and number <= self._last and number % 2:
            self._heads.skip(block)
            self._closed.check_head(number)
            return
        if rpc is not None:
            self._heads.skip(block)
            self._trailers(rpc, ended=ended)
            return
        if not number % 2:
            raise WireError(frames.PROTOCOL_ERROR, f"stream {number} is not a client's")
        self._last = number
        try:
            head = self._heads.read(block)
        except MalformedError as error:
            log.info("rpc_malformed", peer=self.peer, why=str(error))
            self._out.append(frames.reset(number, frames.PROTOCOL_ERROR))
            self._closed.add(number, by_them=ended)
            return
        self._begin(number, head, ended=ended)

    def _trailers(self, rpc: Rpc, *, ended: bool) -> None:
        """Of a request; gRPC has none that mean anything."""
        if rpc.half_closed:
            raise WireError(frames.STREAM_CLOSED, f"a head of stream {rpc.number}, which was ended")
        if not ended:
            raise WireError(frames.PROTOCOL_ERROR, "a second head")
        try:
            rpc.end()
        except RefusedError as error:
            self._refuse(rpc, error)

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise WireError(frames.PROTOCOL_ERROR, "nothing is gone on with")
        number, first_flags, block = self._block
        block += payload
        if len(block) > MAX_HEAD_BYTES:
            raise WireError(frames.ENHANCE_YOUR_CALM, f"a head of over {MAX_HEAD_BYTES} octets")
        if flags & frames.END_HEADERS:
            self._block = None
            self._headers(first_flags | frames.END_HEADERS, number, bytes(block))

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        _check_no_stream(number, "settings")
        if flags & frames.ACK:
            if payload:
                raise WireError(frames.FRAME_SIZE_ERROR, "an acknowledgement that says more")
            return
        for name, value in frames.read_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                # Of the streams that are open, too: section 6.9.2.
                for rpc in self.rpcs.values():
                    rpc.window += value - self._stream_window
                    if rpc.window > frames.LARGEST_WINDOW:
                        raise WireError(frames.FLOW_CONTROL_ERROR, "a stream's window overflows")
                self._stream_window = value
            elif name == frames.MAX_FRAME_SIZE:
                self._frame_bytes = value
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, CONNECTION))
        self._send_waiting()

    def _window_update(self, number: int, octets: int) -> None:
        if not octets:
            raise WireError(frames.PROTOCOL_ERROR, "a window grew by nothing")
        if not number:
            self._window += octets
            if self._window > frames.LARGEST_WINDOW:
                raise WireError(frames.FLOW_CONTROL_ERROR, "the connection's window is too large")
        elif (rpc := self.rpcs.get(number)) is None:
            self._check_begun(number)
            return
        else:
            rpc.window += octets
            if rpc.window > frames.LARGEST_WINDOW:
                self._out.append(frames.reset(number, frames.FLOW_CONTROL_ERROR))
                self._cancel(rpc)
        self._send_waiting()

    # Rpcs

    def _begin(self, number: int, head: Head, *, ended: bool) -> None:
        if self._leaving or len(self.rpcs) >= MOST_RPCS_ON_A_CONNECTION:
            self._out.append(frames.reset(number, frames.REFUSED_STREAM))
            self._closed.add(number, by_them=ended)
            return
        if head.method != b"POST" or not head.content_type.startswith(CONTENT_TYPE):
            self._end_at_once(number, UNSUPPORTED, ended=ended)
            return
        handler = self._server.handler(head.path)
        if handler is None:
            self._end_at_once(number, _only(grpc.StatusCode.UNIMPLEMENTED), ended=ended)
            return
        if not self._server.begin():
            self._end_at_once(number, _only(grpc.StatusCode.RESOURCE_EXHAUSTED), ended=ended)
            return
        rpc = Rpc(
            self,
            number,
            head,
            window=self._stream_window,
            room=self._server.room,
        )
        rpc.half_closed = ended
        self.rpcs[number] = rpc
        # The loop's own: asyncio.create_task would look it up again, and name the task.
        rpc.task = self._loop.create_task(self._run(rpc, handler))
        rpc.task.add_done_callback(lambda _: self._over(rpc))

    def _end_at_once(self, number: int, block: bytes, *, ended: bool) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        self._out.append(frames.frame(frames.HEADERS, flags, number, block))
        if not ended:
            self._out.append(frames.reset(number, frames.NO_ERROR))
        self._closed.add(number, by_them=ended)

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > MOST_RESETS:
            raise WireError(frames.ENHANCE_YOUR_CALM, f"over {MOST_RESETS} resets in a short time")

    async def _run(self, rpc: Rpc, handler: Any) -> None:
        try:
            await rpc.serve(handler)
        except AbortError:
            pass  # it has said its status
        except RefusedError as error:
            rpc.code, rpc.details = error.code, str(error)
        except Exception:
            log.exception("rpc_failed", path=rpc.head.path)
            rpc.code, rpc.details = grpc.StatusCode.UNKNOWN, "the handler failed"
        self._answered(rpc)

    def _over(self, rpc: Rpc) -> None:
        """The handler has ended, be it that it never began."""
        self._server.over()
        if not rpc.ending:
            rpc.code = grpc.StatusCode.CANCELLED
            self._answered(rpc)

    def _answered(self, rpc: Rpc) -> None:
        """The handler has said all."""
        rpc.ending = True
        if self.rpcs.get(rpc.number) is rpc:
            if not rpc.unsent:
                self._finish(rpc)
            self._flush_soon()

    def _refuse(self, rpc: Rpc, error: RefusedError) -> None:
        """What came of an rpc can't be served: it ends, whatever its handler does."""
        rpc.code, rpc.details = error.code, str(error)
        rpc.ending = True
        self._finish(rpc)
        if rpc.task is not None:
            rpc.task.cancel()

    def _finish(self, rpc: Rpc) -> None:
        """Say how it ended; nothing of it is unsent."""
        code = cast(int, rpc.code.value[0])
        block = trailers(code, rpc.details, rpc.trailing, alone=not rpc.answered)
        flags = frames.END_HEADERS | frames.END_STREAM
        self._out.append(frames.frame(frames.HEADERS, flags, rpc.number, block))
        if not rpc.half_closed:
            self._out.append(frames.reset(rpc.number, frames.NO_ERROR))
        self._drop(rpc)

    def _cancel(self, rpc: Rpc) -> None:
        """The other end wants no more of it."""
        self._drop(rpc)
        if rpc.task is not None:
            rpc.task.cancel()

    def _drop(self, rpc: Rpc) -> None:
        if self.rpcs.pop(rpc.number, None) is not None:
            self._closed.add(rpc.number, by_them=rpc.half_closed)
        self._waiting.pop(rpc.number, None)
        rpc.drop()
        if self._leaving and not self.rpcs:
            self._flush_soon()

    # Frames out

    def send(self, rpc: Rpc, payload: bytes) -> None:
        """Let a message leave as soon as the windows allow."""
        if self.rpcs.get(rpc.number) is not rpc:
            return
        if not rpc.answered:
            rpc.answered = True
            self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, rpc.number, ANSWER))
        size = len(payload)
        if not rpc.unsent and size <= min(rpc.window, self._window, self._frame_bytes):
            rpc.window -= size
            self._window -= size
            self._out.append(frames.frame(frames.DATA, 0, rpc.number, payload))
        else:
            rpc.unsent.append(payload)
            rpc.unsent_bytes += size
            self._waiting[rpc.number] = rpc
            self._send_waiting()
        self._flush_soon()

    def credit(self, rpc: Rpc, octets: int) -> None:
        """So much more may come of an rpc."""
        if self.rpcs.get(rpc.number) is rpc:
            self._out.append(frames.window_update(rpc.number, octets))
            self._flush_soon()

    def _send_waiting(self) -> None:
        for rpc in list(self._waiting.values()):
            if self._window <= 0:
                return
            self._send_unsent(rpc)

    def _send_unsent(self, rpc: Rpc) -> None:
        while rpc.unsent:
            room = min(rpc.window, self._window, self._frame_bytes)
            if room <= 0:
                break
            payload = rpc.unsent.popleft()
            if len(payload) > room:
                seen = memoryview(payload)  # its slices are no copies
                rpc.unsent.appendleft(seen[room:])
                payload = seen[:room]
            rpc.window -= len(payload)
            self._window -= len(payload)
            rpc.unsent_bytes -= len(payload)
            self._out.append(frames.frame(frames.DATA, 0, rpc.number, payload))
        rpc.left()
        if not rpc.unsent:
            self._waiting.pop(rpc.number, None)
            if rpc.ending:
                self._finish(rpc)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is None or self._transport.is_closing():
            self._out.clear()
            return
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._leaving and not self.rpcs:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # The server's side

    def sweep(self) -> None:
        """Called now and then: who answers nothing until the next time is gone."""
        if not self.heard:
            self.abort()
            return
        self.heard = False
        self._resets = 0
        self._out.append(frames.frame(frames.PING, 0, CONNECTION, b"\0" * 8))
        self._flush()

    def leave(self) -> None:
        """Serve no new rpcs; close once those in flight have ended."""
        self._leaving = True
        self._out.append(frames.going_away(self._last, frames.NO_ERROR))
        self._flush()

    def abort(self) -> None:
        """Close now, whatever is in flight."""
        if self._transport is not None:
            self._transport.abort()


def _check_no_stream(number: int, what: str) -> None:
    if number:
        raise WireError(frames.PROTOCOL_ERROR, f"{what} of stream {number}")


def _only(code: grpc.StatusCode) -> bytes:
    """An answer that is nothing but its status."""
    return trailers(cast(int, code.value[0]), cast(str, code.value[1]), alone=True)
