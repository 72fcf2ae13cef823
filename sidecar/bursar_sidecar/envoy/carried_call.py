"""One call whose answer Envoy shows us: metered, grown, cut and told like one of the proxy.

    taken --> its request, with the body that is to be sent --> the provider's head --> its body
          --> settled
    taken --> its request --> Envoy answers by itself: given back where it is proven that nothing
          was sent, else charged as where the proxy's provider breaks off

Where Envoy ends the stream before the answer's end, the app hung up, the provider broke off, or
Envoy is gone. Which, it does not say; it is charged as if the app had.
"""

from collections.abc import Callable
from typing import Final

import structlog
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.endings import Endings
from bursar_sidecar.envoy import header_changes
from bursar_sidecar.envoy.carried_responder import CarriedResponder
from bursar_sidecar.envoy.conversation import Conversation
from bursar_sidecar.envoy.envoys_word import Word, word_of
from bursar_sidecar.envoy.held_calls import HeldCall
from bursar_sidecar.envoy.processing_metrics import ProcessingMetrics
from bursar_sidecar.exchange import Broken, Exchange, NeverSent, PoolLimits
from bursar_sidecar.http_messages import Headers

log = structlog.get_logger("bursar.envoy")

_REPLACED: Final = ext_proc.CommonResponse.CONTINUE_AND_REPLACE
UNSEEN: Final = "Envoy showed nothing of the answer"
"""Estimate reason of a call whose answer Envoy may have let flow by itself."""


class Clocked:
    """The time limits of a call, as an Exchange asks for them."""

    __slots__ = ("limits", "now")

    def __init__(self, limits: PoolLimits, now: Callable[[], float]) -> None:
        """`now` in seconds, on a clock that never goes back."""
        self.limits = limits
        self.now = now


class _Reading:
    """The line of an Exchange: Envoy's stream, of which more is read or not."""

    alive = True

    def __init__(self, flow: Callable[[bool], None]) -> None:
        self._flow = flow

    def write(self, pieces: tuple[bytes, ...]) -> None:
        raise RuntimeError(f"{len(pieces)} pieces of a request that Envoy sends")

    def flow(self, *, reading: bool) -> None:
        self._flow(reading)

    def abort(self) -> None:
        """What still comes is read and dropped: how the app's request ends, the responder says."""
        self._flow(True)


class CarriedCall:
    """One of them, from the moment it is taken."""

    __slots__ = (
        "_call",
        "_conversation",
        "_endings",
        "_exchange",
        "_limits",
        "_metrics",
        "_overrides",
        "_passes",
        "_respond",
        "_skips_body",
    )

    def __init__(
        self,
        call: HeldCall,
        conversation: Conversation,
        endings: Endings,
        metrics: ProcessingMetrics,
        limits: Clocked,
        flow: Callable[[bool], None],
        *,
        overrides: bool,
    ) -> None:
        """`overrides`: Envoy's settings name no body of the answer, so that it has to be asked
        for with each call; `flow` reads on, or not."""
        self._call = call
        self._conversation = conversation
        self._endings = endings
        self._metrics = metrics
        self._limits = limits
        self._overrides = overrides
        self._passes = False
        facts = call.facts
        self._skips_body = overrides and call.endpoint.known_before and not facts.stream
        self._exchange = Exchange(limits, _Reading(flow))
        self._exchange.sent = True
        self._exchange.chunked = True  # trailers may follow, and Envoy does the framing
        self._respond = CarriedResponder(conversation, call.request, skips_body=self._skips_body)

    @property
    def finished(self) -> bool:
        """The app's answer is said to its end."""
        return self._respond.finished

    @property
    def passes(self) -> bool:
        """What follows is Envoy's own answer, and goes on as it comes."""
        return self._passes

    def sweep(self, now: float) -> None:
        """Enforce its time limits as of `now`."""
        self._exchange.sweep(now)

    async def run(self) -> None:
        """To its end; the attempt is settled when it returns."""
        call, attempt = self._call, self._call.attempt
        dialect = call.endpoint.dialect
        whole = await self._endings.bring_back(
            call.endpoint,
            call.upstream.server,
            call.facts,
            attempt,
            self._exchange,
            self._respond,
            may_resend=True,  # that is: it is known that it was not taken
            may_outlive=False,  # Envoy has ended the request by then
        )
        if whole:
            return
        if self._passes:
            attempt.sent = False
            attempt.release()
        else:
            never = NeverSent("Envoy could not reach the provider")
            self._endings.never_sent(dialect, attempt, never, self._respond)

    # -- what Envoy tells ------------------------------------------------------------------------

    def let_go(self) -> None:
        """The request may be sent, as it was admitted; its headers Check has seen to.

        An edited body goes in the same message, so that Envoy need not show us again what Check has
        read. Envoy takes the content-length off then; its filter "buffer" behind ours sets the new.
        """
        call = self._call
        message = ext_proc.ProcessingResponse()
        answer = message.request_headers.response
        answer.SetInParent()
        if call.edited is not None:
            answer.status = _REPLACED
            answer.body_mutation.body = call.edited
        if self._overrides:
            self._ask_for_answer(message.mode_override)
        self._conversation.say(message)

    def _ask_for_answer(self, mode: modes.ProcessingMode) -> None:
        mode.response_header_mode = modes.ProcessingMode.SEND
        if not self._skips_body:
            mode.response_body_mode = modes.ProcessingMode.FULL_DUPLEX_STREAMED
            mode.response_trailer_mode = modes.ProcessingMode.SEND

    def got_head(self, message: ext_proc.ProcessingRequest) -> None:
        """The head of an answer, Envoy's own or the provider's."""
        self._heard()
        told = message.response_headers
        headers = header_changes.read(told.headers)
        status = int(next((value for name, value in headers if name == b":status"), b"0"))
        self._respond.head_is_here(headers, bodiless=told.end_of_stream)
        word = word_of(message.attributes, status, headers)
        if word.attempts > 1:
            self._metrics.resent.inc()
            log.warning(
                "envoy_sent_a_call_again",
                charge_id=self._call.attempt.charge_id,
                attempts=word.attempts,
                effect="one of them is metered; take the retry policy off the route",
            )
        if not word.by_provider:
            self._answered_by_envoy(word, status)
            return
        passed: Headers = [pair for pair in headers if not pair[0].startswith(b":")]
        names = [name for name, _ in passed]
        self._exchange.got_head(status, b"", passed, names)
        if told.end_of_stream or self._skips_body:
            self._exchange.got_end([])

    def got_body(self, told: ext_proc.HttpBody) -> None:
        """A part of the answer's body."""
        self._heard()
        if told.body:
            self._exchange.got_data(told.body)
        if told.end_of_stream:
            self._exchange.got_end([])

    def got_trailers(self, told: ext_proc.HttpTrailers) -> None:
        """The trailers, behind all of the body."""
        self._heard()
        trailers = header_changes.read(told.trailers)
        self._respond.trailers_are_here(trailers)
        self._exchange.got_end(trailers)

    def lost(self) -> None:
        """Envoy has ended the stream; nothing that is said arrives."""
        attempt = self._call.attempt
        if self._overrides and not attempt.status and attempt.receipt is None:
            # Where `allow_mode_override` is missing, the answer has flown by.
            attempt.charge_reserved(UNSEEN)
        self._respond.lost()

    def _answered_by_envoy(self, word: Word, status: int) -> None:
        attempt = self._call.attempt
        self._metrics.unanswered(attempt.route.provider.name, word)
        self._passes = word.never_sent and not word.by_router
        reason = f"Envoy answered {status} itself"
        if word.details:
            reason += f" ({word.details[:200]})"
        self._exchange.fail(Broken(reason, timed_out=word.timed_out, untaken=word.never_sent))

    def _heard(self) -> None:
        self._exchange.stall_at = self._limits.now() + self._limits.limits.stall_s
