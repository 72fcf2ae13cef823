"""How a call ends that was sent: its answer is brought back, or breaks off, or the app hangs up.

The same whoever carries the call: the proxy over its own connections, or an Envoy that shows us
what flows. Owns: that each way out has settled the attempt, and what the app is told.
"""

from collections.abc import Callable

from bursar_sidecar.app_headers import cost_headers
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import HUNG_UP
from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.dialect import Dialect, Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.exchange import Broken, Exchange, NeverSent
from bursar_sidecar.http_messages import Headers, Responder
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.progressive_answering import answering_of
from bursar_sidecar.recount import Recount
from bursar_sidecar.refusals import render
from bursar_sidecar.settings import Settings


class Endings:
    """Ends calls. `settings` gives those in force."""

    def __init__(
        self, settings: Callable[[], Settings], metrics: Metrics, recount: Recount
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._recount = recount

    async def bring_back(
        self,
        endpoint: Endpoint,
        server: Server,
        facts: Facts,
        attempt: Attempt,
        exchange: Exchange,
        respond: Responder,
        *,
        may_resend: bool = False,
        may_outlive: bool = True,
    ) -> bool:
        """Bring the answer back; the attempt is settled when it returns True.

        False: it is proven that the provider did not take the call, and `may_resend` said that it
        may be sent again; nothing is settled or told. `may_outlive`: a plain answer may come to its
        end for a while after the app hung up, as the settings say.
        """
        respond.on_hang_up(
            lambda: self._hang_up(attempt, exchange, at_once=facts.stream or not may_outlive)
        )
        try:
            answering = answering_of(
                endpoint, server, facts, attempt, exchange, respond, self._recount
            )
            await answering.bring_back()
        except Broken as broken:
            if broken.untaken and may_resend:
                return False
            await self._broke(endpoint.dialect, attempt, broken, facts, respond)
        finally:
            respond.on_hang_up(None)
            exchange.close()
        return True

    def never_sent(
        self, dialect: Dialect, attempt: Attempt, never: NeverSent, respond: Responder
    ) -> None:
        """It is proven that not a byte of the call reached the provider."""
        attempt.sent = False
        attempt.release()
        attempt.fault = "provider_timeout" if never.timed_out else "provider_unreachable"
        refusal = Refusal(attempt.fault, f"{_sentence(never)} Nothing was charged.")
        self.tell(respond, dialect, refusal)

    def tell(
        self,
        respond: Responder,
        dialect: Dialect,
        refusal: Refusal,
        extra: Headers | None = None,
    ) -> None:
        """Tell the app why there is no answer, and count it."""
        self._metrics.refused(refusal.reason)
        exhausted_status = self._settings().exhausted_status
        status, headers, body = render(refusal, dialect, exhausted_status=exhausted_status)
        respond.send(status, headers + (extra or []), body)

    def _hang_up(self, attempt: Attempt, exchange: Exchange, *, at_once: bool) -> None:
        if attempt.flow is not None:
            attempt.flow.close()
        grace_s = self._settings().finish_after_hang_up_s
        if at_once or not grace_s:
            exchange.abort("the app hung up")
        else:
            exchange.shorten(grace_s)

    async def _broke(
        self,
        dialect: Dialect,
        attempt: Attempt,
        broken: Broken,
        facts: Facts,
        respond: Responder,
    ) -> None:
        hung_up = respond.gone
        attempt.fault = "provider_timeout" if broken.timed_out else "provider_broke"
        if hung_up:
            attempt.fault = HUNG_UP
        reason = "the app hung up" if hung_up else broken.reason
        if respond.started and not hung_up:
            respond.cut()
        if attempt.receipt is None:
            waiting = facts.stream and hung_up and attempt.status == 0
            if attempt.reading is not None or waiting:
                await self._recount.count(attempt, facts, cut=True, unread=broken.unread)
            attempt.cut(reason, nothing_produced=waiting, hung_up=not broken.by_provider)
        if hung_up or respond.started:
            return
        charged = {
            "provider_error": "Nothing was charged.",
            "unknown": "What was reserved is charged until it is known what it cost.",
        }.get(str(attempt.kind), "What it produced is charged.")
        refusal = Refusal(attempt.fault, f"{_sentence(broken)} {charged}")
        headers: Headers = []
        if attempt.receipt is not None:
            headers = cost_headers(attempt.receipt, attempt.usage.total_llm_tokens)
        self.tell(respond, dialect, refusal, extra=headers)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
