"""The life of one call at the simulated provider: its fate, its latency, its answer, its record."""

import asyncio
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

import msgspec

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.dialect import (
    Answer,
    Endpoint,
    Named,
    StreamEvent,
    StreamPart,
)
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import (
    NOTHING_BILLED,
    BilledUsage,
    Ended,
    ServedCalls,
)

FLUSH_BYTES = 65_536  # of a stream without delays, handed to the network at once
NANOS_PER_SECOND = 1_000_000_000
_JSON_TYPE = b"application/json"


_SERVER_ERROR = ProviderError(
    500,
    "The server had an error while processing the request (simulated).",
    kind="server_error",
)


class Fate(StrEnum):
    """What was drawn for a call."""

    ANSWER = "answer"
    ERROR_429 = "429"
    ERROR_500 = "500"
    TIMEOUT = "timeout"
    ABORT = "abort"
    STALL = "stall"
    STREAM_ERROR = "stream error"


_BROKEN = (Fate.ABORT, Fate.STALL, Fate.STREAM_ERROR)
"""Fates of an answer that begins, and does not come to its end."""


def fate_of(draw: float, behaviour: Behaviour) -> Fate:
    """The fate that `draw` (0 <= draw < 1) picks among the behaviour's rates."""
    for fate, rate in (
        (Fate.ERROR_429, behaviour.error_429_rate),
        (Fate.ERROR_500, behaviour.error_500_rate),
        (Fate.TIMEOUT, behaviour.timeout_rate),
        (Fate.ABORT, behaviour.abort_rate),
        (Fate.STALL, behaviour.stall_rate),
        (Fate.STREAM_ERROR, behaviour.stream_error_rate),
    ):
        if draw < rate:
            return fate
        draw -= rate
    return Fate.ANSWER


class Answering(Protocol):
    """The connection, as a call sees it."""

    def send(
        self, status: int, body: bytes, headers: bytes = ..., *, cut: int | None = None
    ) -> None:
        """A whole answer, or with `cut` only the first so many bytes of its body."""

    def send_stream_head(self, headers: bytes) -> None: ...
    def send_stream_data(self, data: bytes) -> None: ...
    def send_stream_end(self) -> None: ...
    def close(self) -> None:
        """Close once what was sent has left."""

    def is_paused(self) -> bool:
        """Whether the network takes no more for now; `resume` of the call follows."""

    def finished(self) -> None:
        """The call is over and the next one may start."""


class Call(msgspec.Struct, eq=False):
    """A call being served, up to its record. All work happens in the event loop's callbacks."""

    connection: Answering
    record: ServedCalls
    call_id: str
    response_id: str
    endpoint: Endpoint
    behaviour: Behaviour
    draw: float
    answer: Answer | None = None
    started_ns: int = msgspec.field(default_factory=time.time_ns)
    status: int = 0
    usage_reported: bool = False
    over: bool = False
    timer: asyncio.TimerHandle | None = None
    events: Iterator[StreamEvent] | None = None
    next_event: StreamEvent | None = None
    waited: bool = False
    produced: int = 0
    chunks_sent: int = 0
    fate: Fate = Fate.ANSWER

    def start(self, answer: Answer) -> None:
        """Wait the latency, then do what was drawn."""
        self.answer = answer
        self.fate = fate_of(self.draw, self.behaviour)
        self._after(self.behaviour.latency_ms, self._begin)

    def refuse(self, error: ProviderError, headers: bytes = b"") -> None:
        """Answer with an error of the provider; nothing is billed."""
        self.status = error.status
        body = self.endpoint.dialect.error_body(error, self.response_id)
        self.connection.send(error.status, body, headers + self._identity(_JSON_TYPE))
        self._end(Ended.ERROR, NOTHING_BILLED)

    def resume(self) -> None:
        """The network takes more again."""
        if self.events is not None and self.timer is None and not self.over:
            self._pump()

    def gone(self) -> None:
        """The app hung up. What was produced is billed, and what goes on being produced."""
        if self.over:
            return
        if self.timer is not None:
            self.timer.cancel()
        if self.fate is not Fate.ANSWER and self.fate not in _BROKEN:
            self._end(Ended.ERROR, NOTHING_BILLED)
            return
        more = self.behaviour.llm_tokens_billed_after_cancel
        self._end(Ended.CANCELLED, self._bill(self.produced, more))

    def _after(self, delay_ms: int, do: Callable[[], None]) -> None:
        if delay_ms:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(delay_ms / 1000, self._wake, do)
        else:
            do()

    def _wake(self, do: Callable[[], None]) -> None:
        self.timer = None
        do()

    def _begin(self) -> None:
        assert self.answer is not None
        fate = self.fate
        if fate is Fate.ERROR_429:
            error = ProviderError(
                429,
                "Rate limit reached for requests (simulated).",
                kind="requests",
                code="rate_limit_exceeded",
            )
            self.refuse(error, b"retry-after: %d\r\n" % self.behaviour.retry_after_s)
        elif fate is Fate.ERROR_500 or (fate is Fate.STREAM_ERROR and not self.answer.stream):
            self.refuse(_SERVER_ERROR)
        elif fate is Fate.TIMEOUT:
            self._after(self.behaviour.timeout_ms, self._never_answered)
        else:
            self._answer(self.answer)

    def _never_answered(self) -> None:
        self.connection.close()
        self._end(Ended.ERROR, NOTHING_BILLED)

    def _answer(self, answer: Answer) -> None:
        self.status = 200
        named = Named(self.response_id, self.started_ns // NANOS_PER_SECOND)
        if answer.stream:
            self.events = answer.events(named)
            self.usage_reported = answer.tells_usage
            self.connection.send_stream_head(self._identity(answer.content_type))
            self._pump()
            return
        body = answer.body(named)
        headers = self._identity(answer.content_type)
        if self.fate is Fate.ABORT:
            self.connection.send(200, body, headers, cut=len(body) // 2)
            self.connection.close()
            # The whole answer was made before any of it was sent.
            self._end(Ended.ABORTED, self._bill(None))
            return
        if self.fate is Fate.STALL:
            self.connection.send(200, body, headers, cut=0)
            self.produced = self._bill(None).output
            self._after(self.behaviour.timeout_ms, self._fell_silent)
            return
        self.usage_reported = answer.tells_usage
        self.connection.send(200, body, headers)
        self._end(Ended.COMPLETE, self._bill(None))

    def _pump(self) -> None:
        """Send events until one has to wait, the network is full, or the stream is over."""
        assert self.events is not None
        if self.connection.is_paused():
            return  # `resume` comes back here
        pending: list[bytes] = []
        size = 0
        while True:
            event = self.next_event or next(self.events, None)
            self.next_event = None
            if event is None:
                self._flush(pending)
                self.connection.send_stream_end()
                self._end(Ended.COMPLETE, self._bill(None))
                return
            if self._stops_before(event, pending):
                return
            pending.append(event.data)
            size += len(event.data)
            self.produced = event.output_llm_tokens
            self.chunks_sent += event.part is StreamPart.OUTPUT
            if size >= FLUSH_BYTES:
                self._flush(pending)
                size = 0
                if self.connection.is_paused():
                    return

    def _stops_before(self, event: StreamEvent, pending: list[bytes]) -> bool:
        """Whether the stream is cut before this event, or waits for its time."""
        if event.part is StreamPart.OPENING:
            return False
        is_output = event.part is StreamPart.OUTPUT
        enough = not is_output or self.chunks_sent >= self.behaviour.abort_after_chunks
        if enough and self.fate in _BROKEN:
            if self.fate is Fate.STALL:
                self._flush(pending)
                self.next_event = event
                self._after(self.behaviour.timeout_ms, self._fell_silent)
            else:
                self._break_off(pending)
            return True
        if is_output and self.behaviour.chunk_delay_ms and self.chunks_sent and not self.waited:
            self._flush(pending)
            self.next_event = event
            self.waited = True
            self._after(self.behaviour.chunk_delay_ms, self._pump)
            return True
        self.waited = False
        return False

    def _break_off(self, pending: list[bytes]) -> None:
        """End a stream before its time, as was drawn."""
        failed = self.fate is Fate.STREAM_ERROR
        if failed and self.answer is not None:
            pending.append(self.answer.error_event(_SERVER_ERROR))
        self._flush(pending)
        if failed:
            self.connection.send_stream_end()
        else:
            self.connection.close()
        self.usage_reported = False
        self._end(Ended.FAILED if failed else Ended.ABORTED, self._bill(self.produced))

    def _fell_silent(self) -> None:
        self.connection.close()
        self.usage_reported = False
        self._end(Ended.ABORTED, self._bill(self.produced))

    def _flush(self, pending: list[bytes]) -> None:
        data = b"".join(pending)
        pending.clear()
        if data:
            self.connection.send_stream_data(data)

    def _bill(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        return NOTHING_BILLED if self.answer is None else self.answer.billed(output, after_cancel)

    def _identity(self, content_type: bytes) -> bytes:
        return b"content-type: %s\r\n%s: %s\r\nx-simulate-call-id: %s\r\n" % (
            content_type,
            self.endpoint.dialect.request_id_header,
            self.response_id.encode(),
            self.call_id.encode("latin-1"),
        )

    def _end(self, ended: Ended, billed: BilledUsage) -> None:
        self.over = True
        self.record.ended(
            call_id=self.call_id,
            response_id=self.response_id,
            endpoint=self.endpoint.name,
            model="" if self.answer is None else self.answer.model,
            stream=self.answer is not None and self.answer.stream,
            ended=ended,
            http_status=self.status,
            billed=billed,
            usage_reported=self.usage_reported and ended is Ended.COMPLETE,
            started_ns=self.started_ns,
            ended_ns=time.time_ns(),
        )
        self.connection.finished()
