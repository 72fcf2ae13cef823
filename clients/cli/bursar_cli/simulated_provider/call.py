"""The life of one call at the simulated provider: its fate, its latency, its answer, its record."""

import asyncio
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

import msgspec

from bursar_cli.simulated_provider import answers
from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.requests import (
    ChatRequest,
    EmbeddingsRequest,
    ProviderError,
)
from bursar_cli.simulated_provider.served_calls import (
    NOTHING_BILLED,
    BilledUsage,
    Ended,
    ServedCalls,
)

FLUSH_BYTES = 65_536  # of a stream without delays, handed to the network at once
NANOS_PER_SECOND = 1_000_000_000
_JSON_TYPE = b"content-type: application/json\r\n"


class Fate(StrEnum):
    """What was drawn for a call."""

    ANSWER = "answer"
    ERROR_429 = "429"
    ERROR_500 = "500"
    TIMEOUT = "timeout"
    ABORT = "abort"


def fate_of(draw: float, behaviour: Behaviour) -> Fate:
    """The fate that `draw` (0 <= draw < 1) picks among the behaviour's rates."""
    for fate, rate in (
        (Fate.ERROR_429, behaviour.error_429_rate),
        (Fate.ERROR_500, behaviour.error_500_rate),
        (Fate.TIMEOUT, behaviour.timeout_rate),
        (Fate.ABORT, behaviour.abort_rate),
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
    endpoint: str
    behaviour: Behaviour
    draw: float
    request: ChatRequest | EmbeddingsRequest | None = None
    started_ns: int = msgspec.field(default_factory=time.time_ns)
    status: int = 0
    usage_reported: bool = False
    over: bool = False
    timer: asyncio.TimerHandle | None = None
    plan: answers.ChatPlan | None = None
    events: Iterator[answers.StreamEvent] | None = None
    next_event: answers.StreamEvent | None = None
    waited: bool = False
    produced: int = 0
    chunks_sent: int = 0
    abort_after: int | None = None

    def start(self, request: ChatRequest | EmbeddingsRequest) -> None:
        """Wait the latency, then do what was drawn."""
        self.request = request
        if isinstance(request, ChatRequest):
            self.plan = answers.plan_chat(request, self.behaviour)
        self._after(self.behaviour.latency_ms, self._begin)

    def refuse(self, error: ProviderError, headers: bytes = b"") -> None:
        """Answer with an error of the provider; nothing is billed."""
        self.status = error.status
        self.connection.send(error.status, error.body(), headers + self._identity())
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
        if fate_of(self.draw, self.behaviour) not in (Fate.ANSWER, Fate.ABORT):
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
        fate = fate_of(self.draw, self.behaviour)
        if fate is Fate.ERROR_429:
            error = ProviderError(
                429,
                "Rate limit reached for requests (simulated).",
                kind="requests",
                code="rate_limit_exceeded",
            )
            self.refuse(error, b"retry-after: %d\r\n" % self.behaviour.retry_after_s)
        elif fate is Fate.ERROR_500:
            self.refuse(
                ProviderError(
                    500,
                    "The server had an error while processing the request (simulated).",
                    kind="server_error",
                )
            )
        elif fate is Fate.TIMEOUT:
            self._after(self.behaviour.timeout_ms, self._never_answered)
        else:
            self._answer(aborts=fate is Fate.ABORT)

    def _never_answered(self) -> None:
        self.connection.close()
        self._end(Ended.ERROR, NOTHING_BILLED)

    def _answer(self, *, aborts: bool) -> None:
        self.status = 200
        if isinstance(self.request, ChatRequest) and self.request.stream:
            self._open_stream(self.request, aborts=aborts)
            return
        body = self._whole_body()
        if aborts:
            self.connection.send(200, body, self._identity(), cut=len(body) // 2)
            self.connection.close()
            # The whole answer was made before any of it was sent.
            self._end(Ended.ABORTED, self._bill(None))
            return
        self.usage_reported = not self.behaviour.missing_usage
        self.connection.send(200, body, self._identity())
        self._end(Ended.COMPLETE, self._bill(None))

    def _whole_body(self) -> bytes:
        request = self.request
        if isinstance(request, ChatRequest) and self.plan is not None:
            return answers.chat_body(
                self.plan,
                answers.usage_json(self.plan.billed(), self.behaviour),
                response_id=self.response_id,
                model=self.behaviour.answered_model or request.model,
                tier=request.service_tier,
                created_s=self.started_ns // NANOS_PER_SECOND,
            )
        assert isinstance(request, EmbeddingsRequest)
        return answers.embeddings_body(request, self.behaviour, self._bill(None).input)

    def _open_stream(self, request: ChatRequest, *, aborts: bool) -> None:
        assert self.plan is not None
        usage = answers.usage_json(self.plan.billed(), self.behaviour)
        self.abort_after = self.behaviour.abort_after_chunks if aborts else None
        self.events = answers.chat_events(
            self.plan,
            usage,
            include_usage=request.include_usage,
            chunk_llm_tokens=self.behaviour.chunk_llm_tokens,
            response_id=self.response_id,
            model=self.behaviour.answered_model or request.model,
            tier=request.service_tier,
            created_s=self.started_ns // NANOS_PER_SECOND,
        )
        self.usage_reported = request.include_usage and usage is not None
        self.connection.send_stream_head(self._identity(json=False))
        self._pump()

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
            self.chunks_sent += event.part is answers.StreamPart.OUTPUT
            if size >= FLUSH_BYTES:
                self._flush(pending)
                size = 0
                if self.connection.is_paused():
                    return

    def _stops_before(self, event: answers.StreamEvent, pending: list[bytes]) -> bool:
        """Whether the stream is cut before this event, or waits for its time."""
        if event.part is answers.StreamPart.OPENING:
            return False
        is_output = event.part is answers.StreamPart.OUTPUT
        if self.abort_after is not None and (self.chunks_sent >= self.abort_after or not is_output):
            self._flush(pending)
            self.connection.close()
            self.usage_reported = False
            self._end(Ended.ABORTED, self._bill(self.produced))
            return True
        if is_output and self.behaviour.chunk_delay_ms and self.chunks_sent and not self.waited:
            self._flush(pending)
            self.next_event = event
            self.waited = True
            self._after(self.behaviour.chunk_delay_ms, self._pump)
            return True
        self.waited = False
        return False

    def _flush(self, pending: list[bytes]) -> None:
        if pending:
            self.connection.send_stream_data(b"".join(pending))
            pending.clear()

    def _bill(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        if self.plan is not None:
            return self.plan.billed(output, after_cancel)
        if not isinstance(self.request, EmbeddingsRequest):
            return NOTHING_BILLED
        given = self.behaviour.input_llm_tokens
        return BilledUsage(input=self.request.input_llm_tokens if given is None else given)

    def _identity(self, *, json: bool = True) -> bytes:
        return b"%sx-request-id: %s\r\nx-simulate-call-id: %s\r\n" % (
            _JSON_TYPE if json else b"",
            self.response_id.encode(),
            self.call_id.encode("latin-1"),
        )

    def _end(self, ended: Ended, billed: BilledUsage) -> None:
        self.over = True
        self.record.ended(
            call_id=self.call_id,
            response_id=self.response_id,
            endpoint=self.endpoint,
            model="" if self.request is None else self.request.model,
            stream=isinstance(self.request, ChatRequest) and self.request.stream,
            ended=ended,
            http_status=self.status,
            billed=billed,
            usage_reported=self.usage_reported and ended is Ended.COMPLETE,
            started_ns=self.started_ns,
            ended_ns=time.time_ns(),
        )
        self.connection.finished()
