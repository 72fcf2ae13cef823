"""Bringing an answer back: plain, as a stream, or unread; each settles the call on its way.

Owns: what of an answer is held until the call is settled, and where the app is told the cost.
Refuses: to let the last byte of an answer go before its charge is written.
"""

from collections.abc import Awaitable, Callable
from typing import Final, cast

from bursar_sidecar.app_headers import cost_headers
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.content_coding import (
    MAX_PIECE_BYTES,
    READABLE,
    Decoder,
    Undecodable,
    coding_of,
    decoded,
)
from bursar_sidecar.desk import Receipt
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.exchange import Exchange, Take
from bursar_sidecar.http_messages import Headers, Responder
from bursar_sidecar.meter import StreamMeter, cost_comment
from bursar_sidecar.passed_headers import (
    HOP_BY_HOP,
    answer_headers,
    passed_trailers,
    without_length,
)
from bursar_sidecar.produced import Produced
from bursar_sidecar.recount import Recount

MAX_PLAIN_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Plain answers are held whole, so that their cost is in the headers; a larger one flows through
unread, and is charged at its reservation."""
MAX_CHUNKS: Final = 100_000
"""Of a plain answer, kept apart so that they go on as they came; nobody sends 64 MiB in more, and
each takes memory of its own."""
MAX_UNPACKED_STREAM_BYTES: Final = 1024 * 1024 * 1024
"""Of a compressed stream, in all; none of it is kept."""


def _taken(piece: bytes) -> bool:
    raise RuntimeError(f"{len(piece)} bytes came behind the end of an answer")


async def _finished() -> None:
    raise RuntimeError("an answer that is finished was finished again")


class Answering:
    """The answer of one call on its way to the app. Raises Broken when the provider breaks off.

    Head and pieces are handled in the turn of the loop that brought them, by `_begin` and one of
    the `_take_...`; what has to be awaited in between is in `_catch_up`.
    """

    __slots__ = (
        "_attempt",
        "_chunks",
        "_coding",
        "_decoder",
        "_endpoint",
        "_exchange",
        "_facts",
        "_finish",
        "_headers",
        "_meter",
        "_recount",
        "_respond",
        "_server",
        "_size",
        "_take",
        "_write_chunk",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        server: Server,
        facts: Facts,
        attempt: Attempt,
        exchange: Exchange,
        respond: Responder,
        recount: Recount,
    ) -> None:
        self._endpoint = endpoint
        self._server = server
        self._facts = facts
        self._attempt = attempt
        self._exchange = exchange
        self._respond = respond
        self._recount = recount
        self._headers: Headers = []
        self._coding = ""
        self._take: Take = self._take_plain
        self._finish: Callable[[], Awaitable[None]] = self._finish_plain
        self._chunks: list[bytes] = []
        self._size = 0
        self._meter: StreamMeter | None = None
        self._decoder: Decoder | None = None
        self._write_chunk: Callable[[bytes], None] | None = None

    async def bring_back(self) -> None:
        """All of it."""
        exchange = self._exchange
        exchange.on_interim = self._interim
        try:
            stopped = await exchange.pump(begin=self._begin)
            while stopped:
                await self._catch_up()
                stopped = await exchange.pump(self._take)
            await self._finish()
        finally:
            # Its own methods, held by itself and by what it holds, would keep the call and all its
            # bytes until the collector looks.
            exchange.on_interim = exchange.take_chunk = None
            self._take, self._finish = _taken, _finished

    def _interim(self, status: int, headers: Headers, reason: bytes) -> None:
        passed = [pair for pair in headers if pair[0].lower() not in HOP_BY_HOP]
        self._respond.interim(status, passed, reason)

    def _begin(self) -> Take:
        """The head is here: which way the answer goes; who takes its pieces."""
        attempt, exchange = self._attempt, self._exchange
        attempt.status = exchange.status
        headers = exchange.headers
        self._headers = answer_headers(
            headers, exchange.names, trailers=self._respond.wants_trailers
        )
        present = dict(headers)
        self._coding = coding_of(headers) if b"content-encoding" in present else ""
        content_type = present.get(b"content-type", b"").lower()
        ids = self._endpoint.dialect.request_id_headers
        if not ids.isdisjoint(present):
            attempt.request_id = [v for name, v in headers if name in ids][-1].decode("latin-1")
        if attempt.terms.set_output_limit is not None:
            self._headers.append((b"x-bursar-max-output", b"%d" % attempt.terms.set_output_limit))
        if attempt.terms.clamped_output is not None:
            self._headers.append((b"x-bursar-clamped-output", b"%d" % attempt.terms.clamped_output))
        if attempt.status >= 300:
            attempt.fail()
        elif self._coding and self._coding not in READABLE:
            self._flow(f"the provider compressed its answer with {self._coding[:40]}")
        elif self._endpoint.known_before and not content_type.startswith(b"text/event-stream"):
            reading = self._endpoint.reading(self._facts, self._server)
            reading.whole(b"")
            attempt.charge(reading)
            self._flow("")
        elif content_type.startswith(b"text/event-stream") and self._endpoint.streams:
            self._stream()
        return self._take

    async def _catch_up(self) -> None:
        """What has to be awaited before the next piece is taken."""
        meter = self._meter
        if meter is not None and meter.ended and self._attempt.receipt is None:
            await self._recount.count(self._attempt, self._facts, cut=False, unread=False)
            self._settle_stream(b"", comment=True)
        if self._respond.paused:
            await self._respond.drain()

    # --- plain: held whole, because it is settled before its first byte goes out -----------------

    def _take_plain(self, piece: bytes) -> bool:
        self._chunks.append(piece)
        self._size += len(piece)
        if self._size <= MAX_PLAIN_ANSWER_BYTES and len(self._chunks) <= MAX_CHUNKS:
            return False
        self._flow("an answer too large to read")
        return True  # another takes the next

    async def _finish_plain(self) -> None:
        chunks, attempt, exchange = self._chunks, self._attempt, self._exchange
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        receipt = attempt.receipt or self._charge_plain(body)
        self._headers += cost_headers(receipt, attempt.usage.total_llm_tokens)
        respond = self._respond
        if exchange.chunked and respond.takes_chunks:
            respond.start(attempt.status, self._headers, exchange.reason)
            for chunk in chunks:
                respond.write(chunk)
            respond.finish(passed_trailers(exchange.trailers))
        else:
            respond.send(attempt.status, self._headers, body, exchange.reason)

    def _charge_plain(self, body: bytes) -> Receipt:
        if self._coding:
            try:
                body = decoded(body, self._coding, MAX_PLAIN_ANSWER_BYTES)
            except Undecodable as error:
                return self._attempt.charge_reserved(f"an answer that is {error}", "final")
        reading = self._endpoint.reading(self._facts, self._server)
        reading.whole(body)
        return self._attempt.charge(reading)

    # --- a stream: flows event by event, and is settled before its last one goes out -------------

    def _meter_stream(self) -> None:
        reading = self._endpoint.stream_reading(self._facts, self._server)
        if self._recount.keeps_text(self._attempt, self._facts):
            reading.kept = Produced()
        self._meter = StreamMeter(reading)
        self._attempt.streams(reading)

    def _stream(self) -> None:
        attempt = self._attempt
        self._meter_stream()
        if self._coding:
            # Asked for without compression, and compressed all the same: what flows is not edited.
            self._decoder = Decoder(
                self._coding, MAX_UNPACKED_STREAM_BYTES, most_a_piece=MAX_PIECE_BYTES
            )
            self._take, self._finish = self._take_packed, self._finish_packed
        else:
            self._headers = without_length(self._headers)
            self._take, self._finish = self._take_stream, self._finish_stream
        self._headers.append((b"x-bursar-charge-id", attempt.charge_id.encode()))
        self._respond.start(attempt.status, self._headers, self._exchange.reason)
        if not self._coding and attempt.flow is None:
            self._write_chunk = self._respond.chunk_writer()
            if self._write_chunk is not None:
                self._exchange.take_chunk = self._take_chunk

    def _take_chunk(self, chunk: bytes) -> bool:
        """A chunk of text alone, as it came: most of a stream."""
        if not cast(StreamMeter, self._meter).passes(chunk):
            return False
        cast(Callable[[bytes], None], self._write_chunk)(chunk)
        if self._respond.paused:
            self._exchange.stop()
        return True

    def _take_stream(self, piece: bytes) -> bool:
        return self._pass(cast(StreamMeter, self._meter).feed(piece))

    def _pass(self, out: bytes) -> bool:
        """Whole events on to the app."""
        meter, respond = cast(StreamMeter, self._meter), self._respond
        if meter.ended:
            if self._attempt.receipt is not None:
                out += meter.held
                meter.held = b""
            elif self._recount.wanted(self._attempt):
                respond.write(out)
                return True
            else:
                self._settle_stream(out, comment=True)
                return respond.paused
        respond.write(out)
        return respond.paused

    def _settle_stream(self, out: bytes, *, comment: bool) -> None:
        meter = cast(StreamMeter, self._meter)
        receipt = self._attempt.charge(meter.reading)
        self._respond.write(out)
        if comment and self._endpoint.dialect.comments_in_streams:
            self._respond.write(
                cost_comment(receipt)
            )  # a chunk of its own: theirs stay as they are
        self._respond.write(meter.held)
        meter.held = b""

    async def _finish_stream(self) -> None:
        await self._end_stream(cast(StreamMeter, self._meter).flush())

    async def _end_stream(self, out: bytes) -> None:
        meter = cast(StreamMeter, self._meter)
        if self._attempt.receipt is None:
            await self._recount.count(self._attempt, self._facts, cut=False, unread=False)
            # Never a comment inside an event that lacks its end.
            self._settle_stream(out, comment=not out or meter.ended)
        else:
            self._respond.write(out + meter.held)
        self._respond.finish(passed_trailers(self._exchange.trailers))

    # --- a compressed stream: read along on a copy -----------------------------------------------

    def _take_packed(self, piece: bytes) -> bool:
        meter, decoder, respond = cast(StreamMeter, self._meter), self._decoder, self._respond
        if decoder is not None:
            try:
                meter.feed(decoder.feed(piece))
            except Undecodable as error:
                meter.reading.unreadable = f"a stream that is {error}"
                self._decoder = None
            meter.held = b""
            if meter.ended and self._attempt.receipt is None:
                self._attempt.charge(meter.reading)
        respond.write(piece)
        return respond.paused

    async def _finish_packed(self) -> None:
        meter = cast(StreamMeter, self._meter)
        meter.flush()
        if self._attempt.receipt is None:
            await self._recount.count(self._attempt, self._facts, cut=False, unread=False)
            self._attempt.charge(meter.reading)
        self._respond.finish(passed_trailers(self._exchange.trailers))

    # --- unread: flows through, charged at its reservation ---------------------------------------

    def _flow(self, reason: str) -> None:
        attempt, respond = self._attempt, self._respond
        receipt = attempt.receipt or attempt.charge_reserved(reason, "final")
        self._headers += cost_headers(receipt, attempt.usage.total_llm_tokens)
        self._take, self._finish = self._take_unread, self._finish_unread
        respond.start(attempt.status, self._headers, self._exchange.reason)
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            respond.write(chunk)

    def _take_unread(self, piece: bytes) -> bool:
        self._respond.write(piece)
        return self._respond.paused

    async def _finish_unread(self) -> None:
        self._respond.finish(passed_trailers(self._exchange.trailers))
