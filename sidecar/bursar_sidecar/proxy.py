"""The data path: the life of a call, from the app's request to its settlement.

Owns: the order of things (identify, read, route, price, reserve, forward, answer) and what each way
to fail costs. Refuses: every path that no dialect knows, so that there is no way round a budget.
Money and identity are the desk's affair; what a request or an answer says is its dialect's.
"""

from collections.abc import Callable
from typing import Final

import structlog

from bursar_sidecar.admission import Admission
from bursar_sidecar.app_headers import key_of, unpack
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import CallLog
from bursar_sidecar.counting.counter import LlmTokenCounter
from bursar_sidecar.desk import Clock, Desk, Refusal, Spender
from bursar_sidecar.dialects.dialect import Dialect, Endpoint, Found, Listed, refused_field
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.registry import find, served, speaking
from bursar_sidecar.endings import Endings
from bursar_sidecar.http_messages import JSON_HEADERS, Request, Responder
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.provider_pool import ProviderPool
from bursar_sidecar.recount import Recount
from bursar_sidecar.serving import Serving, Servings
from bursar_sidecar.settings import Settings
from bursar_sidecar.tunnels import Tunnels
from bursar_sidecar.upstream import Dial, NeverSent, dial
from bursar_sidecar.websocket_handshake import read_offer

log = structlog.get_logger("bursar.proxy")

MAX_RESENDS: Final = 1
"""Of a call that is proven not to have been taken: two idle connections that close in the moment of
being used are no coincidence."""


class Proxy:
    """Serves the data path."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        clock: Clock,
        readiness: Callable[[], str],
        dial: Dial,
        counter: LlmTokenCounter | None,
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._readiness = readiness
        self.servings = Servings(settings, dial)
        self.metrics = Metrics()
        self.call_log = CallLog(clock.monotonic, access=settings.access_log)
        self.recount = Recount(counter, self.metrics)
        self.endings = Endings(lambda: self.settings, self.metrics, self.recount)
        self.admission = Admission(desk, clock, self.metrics, self.call_log)
        self.tunnels = Tunnels(
            desk, clock, self.admission, self.endings, self.recount, self.metrics.registry
        )

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.servings.current.settings

    def readiness(self) -> str:
        """Why no calls can be served now; "" when they can."""
        return self._readiness()

    def start(self) -> None:
        """Begin to keep pools and time; needs a running loop."""
        self.servings.start()
        self.tunnels.start()

    def apply(self, settings: Settings) -> None:
        """Serve what begins from now on with these. Raises OSError, and has changed nothing."""
        self.servings.apply(settings)
        self.call_log.access = settings.access_log

    def rekey(self, provider: str, api_key: str) -> None:
        """A provider's credential has rotated."""
        self.servings.rekey(provider, api_key)

    def close(self) -> None:
        """Once no call is in flight."""
        self.tunnels.stop()
        self.recount.close()
        self.servings.close()

    def described(self) -> list[dict[str, object]]:
        """The providers and their pools, for people."""
        return self.servings.described()

    async def handle(self, request: Request, respond: Responder) -> None:
        """One request of an app."""
        serving = self.servings.current
        websocket = serving.websocket(request)
        found = websocket or find(request) or serving.unmetered(request)
        dialect = speaking(request) if found is None else found.endpoint.dialect
        try:
            if websocket is not None:
                offer = read_offer(request)
                await self._serve(Found(websocket.endpoint, offer.model), offer.request, respond)
            elif found is not None:
                await self._serve(found, request, respond)
            elif request.path == b"/healthz":  # says nothing of money: for whoever routes to us
                respond.send(200, JSON_HEADERS, b"{}")
            else:
                raise Refusal("unknown_path", not_served(request))
        except Refusal as refusal:
            self._refuse(respond, dialect, refusal)
        except DialectError as error:
            self.metrics.refused("invalid_request")
            self.call_log.refused("invalid_request")
            respond.send(400, JSON_HEADERS, dialect.error(refused_field(error)))

    async def _serve(self, found: Found, request: Request, respond: Responder) -> None:
        endpoint = found.endpoint
        if request.method not in endpoint.methods:
            methods = sorted(method.decode() for method in endpoint.methods)
            allow = (b"allow", ", ".join(methods).encode())
            refusal = Refusal("method_not_allowed", f"Only {' or '.join(methods)} is served here.")
            self.call_log.refused(refusal.reason)
            self.endings.tell(respond, endpoint.dialect, refusal, extra=[allow])
            return
        started = self._clock.monotonic()
        spender = await self._desk.identify(key_of(request, endpoint.dialect))
        serving = self.servings.begin()
        try:
            if endpoint.rule == "models":
                respond.send(200, JSON_HEADERS, self.models(serving, spender, found))
            elif endpoint.rule == "tunnel":
                await self.tunnels.carry(serving, spender, started, found, request, respond)
            else:
                await self._call(serving, spender, started, found, request, respond)
        except Refusal as refusal:
            self._refuse(respond, endpoint.dialect, refusal, spender)
        finally:
            self.servings.end(serving)

    async def _call(
        self,
        serving: Serving,
        spender: Spender,
        started: float,
        found: Found,
        request: Request,
        respond: Responder,
    ) -> None:
        """The life of a call."""
        endpoint = found.endpoint
        unpack(request, respond, serving.settings.max_request_bytes)
        admitted = await self.admission.admit(serving, spender, started, found, request)
        attempt, facts = admitted.attempt, admitted.facts
        try:
            upstream = serving.upstreams[attempt.route.provider.name]
            wire = _wire(endpoint, upstream, attempt, facts, request)
            self.metrics.held_up(self._clock.monotonic() - started)
            await self._forward(endpoint, attempt, facts, upstream, wire, respond)
        finally:
            self.admission.over(admitted)

    async def _forward(
        self,
        endpoint: Endpoint,
        attempt: Attempt,
        facts: Facts,
        upstream: ProviderPool,
        wire: tuple[bytes, ...],
        respond: Responder,
        resends: int = MAX_RESENDS,
    ) -> None:
        """Send the call and bring its answer back; every way out has settled the attempt."""
        if respond.gone:  # hung up while the call waited for money
            attempt.release()
            return
        try:
            exchange = await upstream.pool.open()
            if respond.gone:
                exchange.close()
                attempt.release()
                return
            attempt.sent = True
            exchange.send(*wire)
        except NeverSent as never:
            self.endings.never_sent(endpoint.dialect, attempt, never, respond)
            return
        if await self.endings.bring_back(
            endpoint,
            upstream.server,
            facts,
            attempt,
            exchange,
            respond,
            may_resend=resends > 0,
        ):
            return
        attempt.sent = False  # proven not to have been taken
        log.info("call sent again", charge_id=attempt.charge_id, host=upstream.pool.host)
        await self._forward(endpoint, attempt, facts, upstream, wire, respond, resends - 1)

    def _refuse(
        self,
        respond: Responder,
        dialect: Dialect,
        refusal: Refusal,
        spender: Spender | None = None,
    ) -> None:
        """Tell a call that was not sent why."""
        self.call_log.refused(refusal.reason, spender, refusal.model)
        self.endings.tell(respond, dialect, refusal)

    def models(self, serving: Serving, spender: Spender, found: Found) -> bytes:
        """What the key may call: the answer of an endpoint of the rule "models". Raises Refusal."""
        dialect = found.endpoint.dialect
        listed = [
            Listed(model, provider)
            for model, provider in serving.router.listed(dialect.name, self._desk.prices(), spender)
        ]
        if not found.named:
            return dialect.models(listed)
        for one in listed:
            if one.model == found.named:
                return dialect.model(one)
        raise Refusal(
            "model_not_found", f"Model {found.named[:80]!r} is not among those of this key."
        )


def not_served(request: Request) -> str:
    """Why a path that no dialect knows is refused."""
    if request.header(b"upgrade").strip().lower() == b"websocket":
        return (
            "Websockets are not served here, because nothing meters what flows through them; an "
            "operator can allow a path at a flat price with [[websockets]] in the sidecar's "
            "settings."
        )
    return (
        "This path is not served, because nothing meters it; an operator can allow it at a flat "
        f"price with [[unmetered]] in the sidecar's settings. Served are {served()}."
    )


def _wire(
    endpoint: Endpoint, upstream: ProviderPool, attempt: Attempt, facts: Facts, request: Request
) -> tuple[bytes, ...]:
    """The call as it is sent."""
    model, terms = attempt.route.model, attempt.terms
    body = endpoint.edited(
        facts,
        request.body,
        model=model,
        server=upstream.server,
        output_limit=terms.clamped_output or terms.set_output_limit,
    )
    target = endpoint.target(request, model, upstream.server)
    return upstream.request(target, request, body, stream=facts.stream)


def _ready() -> str:
    return ""


def build_proxy(
    settings: Settings,
    desk: Desk,
    clock: Clock,
    *,
    readiness: Callable[[], str] = _ready,
    dial: Dial = dial,
    counter: LlmTokenCounter | None = None,
) -> Proxy:
    """The data path over a desk. `readiness` says why `/readyz` should fail, "" when it should not.
    `counter` counts streams without usage; None charges them by their bytes.

    `handle` serves a request; `start()` before the first, `close()` after the last.
    """
    return Proxy(settings, desk, clock, readiness, dial, counter)
