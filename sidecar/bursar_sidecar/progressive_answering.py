"""Bringing back the answer of a call that grows: it flows as far as it is paid, and ends there.

Owns: that no event flows which the reservation does not cover, and what the app is told where the
money ends. A plain answer that is run as a stream is collected, and given to the app whole.

    flowing --(an event is beyond what is covered)--> held back --(grown, counted)--> flowing
                                                      held back --(no more to be had)--> cut
    cut: the provider is hung up on; what fits flows; the charge; the dialect's own clean ending
    the app reads too slowly: the provider's pace can't be watched, so all of the worst case is
    reserved, or it is cut
"""

from typing import Final, cast

from msgspec import structs

from bursar_sidecar.answering import MAX_PLAIN_ANSWER_BYTES, Answering
from bursar_sidecar.app_headers import cost_headers
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.dialects.dialect import Assembler, Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.exchange import Broken, Exchange, Take
from bursar_sidecar.flow import Flow
from bursar_sidecar.growth import NEVER
from bursar_sidecar.http_messages import Headers, Responder
from bursar_sidecar.meter import StreamMeter, cost_comment, fitting, payloads
from bursar_sidecar.passed_headers import without_length
from bursar_sidecar.recount import Recount

CUT: Final = "budget"
"""Why a stream ended early, as the app is told."""
CUT_REASON: Final = "the budget ended"
"""The same, as the usage's estimate says it."""


class _Over(Exception):
    """The answer was cut and told to the app; nothing follows."""


class ProgressiveAnswering(Answering):
    """A stream that grows as it flows, or is cut."""

    __slots__ = ("_back", "_flow_of", "_growth", "_lags")

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
        super().__init__(endpoint, server, facts, attempt, exchange, respond, recount)
        self._flow_of = cast(Flow, attempt.flow)
        self._growth = self._flow_of.growth
        self._back: bytes | None = None
        """Whole events that are not covered yet."""
        self._lags = False
        """Something may have come that was not seen yet."""

    async def bring_back(self) -> None:
        try:
            await super().bring_back()
        except _Over:
            return

    def _begin(self) -> Take:
        take = super()._begin()
        if self._attempt.receipt is None and self._coding:
            raise Broken("the provider compressed a stream that has to be watched")
        return take

    def _flow(self, reason: str) -> None:
        if self._attempt.receipt is None:
            raise Broken(f"{reason}, which can't be watched as it must be")
        super()._flow(reason)

    def _stream(self) -> None:
        super()._stream()
        self._begin_flow()

    def _begin_flow(self) -> None:
        recount, attempt, facts = self._recount, self._attempt, self._facts
        self._flow_of.begin(
            lambda within_s: recount.so_far(attempt, facts, within_s),
            cast(StreamMeter, self._meter).reading.input_told,
        )

    def _take_stream(self, piece: bytes) -> bool:
        meter: StreamMeter = self._meter  # type: ignore[assignment]  # there, once it is a stream
        out = meter.feed(piece)
        reading = meter.reading
        if reading.produced_bytes >= self._growth.ask_at or reading.unreadable or self._lags:
            if self._is_short():
                self._back = out
                return True
            if self._lags and not self._exchange.backlog:
                self._lags = False
                self._flow_of.caught_up()
        return self._pass(out)

    def _is_short(self) -> bool:
        """Grow; whether what is seen is beyond what is covered all the same."""
        produced = self._seen()
        if not produced:
            return False
        if produced < NEVER:
            self._flow_of.ask(produced)
        return produced > self._growth.cut_at

    def _seen(self) -> int:
        """Bytes that have to be covered; 0 once nothing more can be produced."""
        reading = cast(StreamMeter, self._meter).reading
        if self._attempt.receipt is not None or reading.is_complete(self._facts.choices):
            return 0
        # What can't be read may be anything.
        return NEVER if reading.unreadable else reading.produced_bytes

    async def _covered(self) -> bool:
        produced = self._seen()
        if produced == NEVER:
            return await self._flow_of.whole()
        return (
            not produced or produced <= self._growth.cut_at or await self._flow_of.covers(produced)
        )

    async def _catch_up(self) -> None:
        self._lags = True
        if self._back is not None:
            out, self._back = self._back, None
            if not await self._covered():
                await self._cut(out)
                raise _Over
            self._pass(out)
        if self._respond.paused:
            await self._wait_for_app()
        await super()._catch_up()

    async def _wait_for_app(self) -> None:
        if await self._flow_of.wait_for(self._respond.drain()):
            return
        if self._seen() and not await self._flow_of.whole():
            await self._cut(b"")
            raise _Over

    async def _end_stream(self, out: bytes) -> None:
        if not await self._covered():
            await self._cut(out)
            return
        await super()._end_stream(out)

    async def _cut(self, out: bytes) -> None:
        """The money ended: hang up, let flow what fits, charge, and end in the dialect's way."""
        attempt, respond = self._attempt, self._respond
        reading = cast(StreamMeter, self._meter).reading
        self._hang_up()
        fits = self._fitting(out)
        respond.write(fits)
        ending, last = await self._charge_cut(out[len(fits) :])
        if self._endpoint.dialect.comments_in_streams and attempt.receipt is not None:
            ending += cost_comment(attempt.receipt, CUT)
        respond.write(ending + last)
        respond.finish()
        reading.kept = None

    def _hang_up(self) -> None:
        """On the provider. Raises Broken where the app did so before."""
        if self._respond.gone:
            raise Broken("the app hung up")
        self._exchange.close()

    def _fitting(self, out: bytes) -> bytes:
        """Of some whole events those that are covered."""
        produced = cast(StreamMeter, self._meter).reading.produced_bytes
        held_back, own = (self._endpoint.stream_reading(self._facts, self._server) for _ in "12")
        for payload in payloads(out):
            held_back.note(payload)
        flowed = produced - held_back.produced_bytes
        return fitting(out, own, self._growth.cut_at - flowed)

    async def _charge_cut(self, rest: bytes) -> tuple[bytes, bytes]:
        """Settle a cut call whose last events, `rest`, do not flow; what ends its stream."""
        attempt = self._attempt
        reading = cast(StreamMeter, self._meter).reading
        for payload in payloads(rest):
            reading.unflow(payload)
        self._flow_of.close()
        await self._recount.count(
            attempt, self._facts, cut=True, unread=False, goes_on=self._respond.ends_provider
        )
        attempt.was_cut = True
        attempt.cut(CUT_REASON)
        return self._endpoint.cut_events(reading, attempt.usage)


class AssemblingAnswering(ProgressiveAnswering):
    """The plain answer of a call that is run as a stream, so that it can be cut."""

    __slots__ = ("_assembler",)

    def _stream(self) -> None:
        self._assembler: Assembler = self._endpoint.assembler()
        # The usage is asked for, and belongs into the answer.
        self._facts = structs.replace(self._facts, usage_asked=True)
        self._meter_stream()
        self._begin_flow()
        self._take, self._finish = self._take_stream, self._finish_stream

    def _pass(self, out: bytes) -> bool:
        self._size += len(out)
        if self._size > MAX_PLAIN_ANSWER_BYTES:
            raise Broken("an answer too large to assemble")
        for payload in payloads(out):
            self._assembler.feed(payload)
        cast(StreamMeter, self._meter).held = b""
        return False

    def _settle_stream(self, out: bytes, *, comment: bool) -> None:
        """It is settled when it is whole."""

    async def _end_stream(self, out: bytes) -> None:
        if not await self._covered():
            await self._cut(out)
            return
        self._pass(out)
        attempt, meter = self._attempt, cast(StreamMeter, self._meter)
        await self._recount.count(attempt, self._facts, cut=False, unread=False)
        attempt.charge(meter.reading)
        self._answer(self._assembler.body())

    async def _cut(self, out: bytes) -> None:
        self._hang_up()
        fits = self._fitting(out)
        self._pass(fits)
        await self._charge_cut(out[len(fits) :])
        self._headers.append((b"x-bursar-cut", CUT.encode()))
        self._answer(self._assembler.body(self._attempt.usage))

    def _answer(self, body: bytes) -> None:
        attempt = self._attempt
        headers: Headers = [
            pair for pair in without_length(self._headers) if pair[0].lower() != b"content-type"
        ]
        headers.append((b"content-type", b"application/json"))
        headers.append((b"x-bursar-assembled", b"1"))
        if attempt.receipt is not None:
            headers += cost_headers(attempt.receipt, attempt.usage.total_llm_tokens)
        status, error = attempt.status, self._assembler.error
        if error:  # what a plain call would have been refused with, had it come in time
            status, body = 502, error
        self._respond.send(status, headers, body)


def answering_of(
    endpoint: Endpoint,
    server: Server,
    facts: Facts,
    attempt: Attempt,
    exchange: Exchange,
    respond: Responder,
    recount: Recount,
) -> Answering:
    """Brings the answer of an attempt back, in the way that it was admitted."""
    kind = Answering
    if attempt.flow is not None:
        kind = AssemblingAnswering if attempt.assembles else ProgressiveAnswering
    return kind(endpoint, server, facts, attempt, exchange, respond, recount)
