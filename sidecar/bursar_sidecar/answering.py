"""Bringing an answer back: plain, as a stream, or unread; each settles the call on its way.

Owns: what of an answer is held until the call is settled, and where the app is told the cost.
Refuses: to let the last byte of an answer go before its charge is written.
"""

from typing import Final

from bursar_sidecar.app_headers import cost_headers
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.http_messages import Headers, Responder
from bursar_sidecar.meter import StreamMeter, cost_comment
from bursar_sidecar.produced import Produced
from bursar_sidecar.provider_pool import HOP_BY_HOP
from bursar_sidecar.recount import Recount
from bursar_sidecar.upstream import Exchange

MAX_PLAIN_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Plain answers are held whole, so that their cost is in the headers; a larger one flows through
unread, and is charged at its reservation."""


class Answering:
    """The answer of one call on its way to the app. Raises Broken when the provider breaks off."""

    __slots__ = ("_attempt", "_endpoint", "_exchange", "_facts", "_recount", "_respond")

    def __init__(
        self,
        endpoint: Endpoint,
        facts: Facts,
        attempt: Attempt,
        exchange: Exchange,
        respond: Responder,
        recount: Recount,
    ) -> None:
        self._endpoint = endpoint
        self._facts = facts
        self._attempt = attempt
        self._exchange = exchange
        self._respond = respond
        self._recount = recount

    async def bring_back(self) -> None:
        """All of it, once its head is there."""
        attempt = self._attempt
        content_type = encoding = b""
        headers: Headers = []
        ids = self._endpoint.dialect.request_id_headers
        for name, value in self._exchange.headers:
            if name not in HOP_BY_HOP:
                headers.append((name, value))
                if name == b"content-type":
                    content_type = value.lower()
                elif name == b"content-encoding":
                    encoding = value.lower()
                elif name in ids:
                    attempt.request_id = value.decode("latin-1")
        if attempt.terms.set_output_limit is not None:
            headers.append((b"x-bursar-max-output", b"%d" % attempt.terms.set_output_limit))
        if attempt.terms.clamped_output is not None:
            headers.append((b"x-bursar-clamped-output", b"%d" % attempt.terms.clamped_output))
        if attempt.status >= 300:
            attempt.fail()
            await self._plain(headers)
        elif encoding not in (b"", b"identity"):
            reason = "the provider compressed an answer that it was asked not to"
            await self._unread(headers, [], reason)
        elif content_type.startswith(b"text/event-stream"):
            await self._stream(headers)
        else:
            await self._plain(headers)

    async def _plain(self, headers: Headers) -> None:
        """A plain answer is held whole: it is settled before its first byte goes out."""
        attempt, exchange = self._attempt, self._exchange
        chunks: list[bytes] = []
        size = 0
        while chunk := await exchange.read():
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_PLAIN_ANSWER_BYTES:
                await self._unread(headers, chunks, "an answer too large to read")
                return
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        receipt = attempt.receipt
        if receipt is None:
            reading = self._endpoint.reading(self._facts)
            reading.whole(body)
            receipt = attempt.charge(reading)
        headers += cost_headers(receipt, attempt.usage.total_llm_tokens)
        self._respond.send(attempt.status, headers, body)

    async def _stream(self, headers: Headers) -> None:
        """A stream flows through event by event; it is settled before its last one goes out."""
        attempt, exchange, respond = self._attempt, self._exchange, self._respond
        reading = self._endpoint.stream_reading(self._facts)
        if self._recount.keeps_text(attempt, self._facts):
            reading.kept = Produced()
        meter = StreamMeter(reading)
        tells_cost = self._endpoint.dialect.comments_in_streams
        attempt.streams(reading)
        headers.append((b"x-bursar-charge-id", attempt.charge_id.encode()))
        respond.start(attempt.status, headers)
        while True:
            chunk = await exchange.read()
            out = meter.feed(chunk) if chunk else meter.flush()
            if attempt.receipt is None and (meter.ended or not chunk):
                await self._recount.count(attempt, self._facts, cut=False, unread=False)
                receipt = attempt.charge(reading)
                # Never inside an event without its end.
                if tells_cost and (chunk or not out or meter.ended):
                    out += cost_comment(receipt)
            if meter.held:
                out += meter.held
                meter.held = b""
            respond.write(out)
            if not chunk:
                respond.finish()
                return
            if respond.paused:
                await respond.drain()

    async def _unread(self, headers: Headers, chunks: list[bytes], reason: str) -> None:
        """An answer that cannot be metered flows through, charged at its reservation."""
        attempt, exchange, respond = self._attempt, self._exchange, self._respond
        receipt = attempt.receipt or attempt.charge_reserved(reason, "final")
        headers += cost_headers(receipt, attempt.usage.total_llm_tokens)
        respond.start(attempt.status, headers)
        for chunk in chunks:
            respond.write(chunk)
        while chunk := await exchange.read():
            respond.write(chunk)
            if respond.paused:
                await respond.drain()
        respond.finish()
