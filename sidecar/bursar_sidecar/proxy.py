"""The data path: the life of a call, from the app's request to its settlement.

Owns: the order of things (identify, read, route, price, reserve, forward, answer) and what each way
to fail costs. Refuses: every path that no dialect knows, so that there is no way round a budget.
Money and identity are the desk's affair; what a request or an answer says is its dialect's.
"""

from collections.abc import Callable
from typing import Final

import structlog

from bursar.pricing import PriceBook
from bursar_sidecar.app_headers import (
    cost_headers,
    key_of,
    labels_of,
    unpack,
    user_agent_of,
)
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import HUNG_UP, CallLog
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.counting.counter import LlmTokenCounter
from bursar_sidecar.desk import Call, Clock, Desk, Refusal, Spender
from bursar_sidecar.dialects.dialect import Dialect, Endpoint, Found, Listed, refused_field
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.registry import find, served, speaking
from bursar_sidecar.http_messages import JSON_HEADERS, Headers, Request, Responder
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.progressive import Start, start_of
from bursar_sidecar.progressive_answering import answering_of
from bursar_sidecar.provider_pool import ProviderPool
from bursar_sidecar.recount import Recount
from bursar_sidecar.refusals import render
from bursar_sidecar.routing import Route
from bursar_sidecar.serving import Serving, Servings
from bursar_sidecar.settings import Settings
from bursar_sidecar.terms import Terms, agree, clamp
from bursar_sidecar.upstream import Broken, Dial, Exchange, NeverSent, dial

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
        self._servings = Servings(settings, dial)
        self.metrics = Metrics()
        self._call_log = CallLog(clock.monotonic, access=settings.access_log)
        self._recount = Recount(counter, self.metrics)

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._servings.current.settings

    def readiness(self) -> str:
        """Why no calls can be served now; "" when they can."""
        return self._readiness()

    def start(self) -> None:
        """Begin to keep pools; needs a running loop."""
        self._servings.start()

    def apply(self, settings: Settings) -> None:
        """Serve what begins from now on with these. Raises OSError, and has changed nothing."""
        self._servings.apply(settings)
        self._call_log.access = settings.access_log

    def rekey(self, provider: str, api_key: str) -> None:
        """A provider's credential has rotated."""
        self._servings.rekey(provider, api_key)

    def close(self) -> None:
        """Once no call is in flight."""
        self._recount.close()
        self._servings.close()

    def described(self) -> list[dict[str, object]]:
        """The providers and their pools, for people."""
        return self._servings.described()

    async def handle(self, request: Request, respond: Responder) -> None:
        """One request of an app."""
        found = find(request) or self._servings.current.unmetered(request)
        dialect = speaking(request) if found is None else found.endpoint.dialect
        try:
            if found is not None:
                await self._serve(found, request, respond)
            elif request.path == b"/healthz":  # says nothing of money: for whoever routes to us
                respond.send(200, JSON_HEADERS, b"{}")
            else:
                raise Refusal("unknown_path", _not_served(request))
        except Refusal as refusal:
            self._refuse(respond, dialect, refusal)
        except DialectError as error:
            self.metrics.refused("invalid_request")
            self._call_log.refused("invalid_request")
            respond.send(400, JSON_HEADERS, dialect.error(refused_field(error)))

    async def _serve(self, found: Found, request: Request, respond: Responder) -> None:
        endpoint = found.endpoint
        if request.method not in endpoint.methods:
            methods = sorted(method.decode() for method in endpoint.methods)
            allow = (b"allow", ", ".join(methods).encode())
            refusal = Refusal("method_not_allowed", f"Only {' or '.join(methods)} is served here.")
            self._call_log.refused(refusal.reason)
            self._tell(respond, endpoint.dialect, refusal, extra=[allow])
            return
        started = self._clock.monotonic()
        spender = await self._desk.identify(key_of(request, endpoint.dialect))
        serving = self._servings.begin()
        try:
            if endpoint.rule == "models":
                self._models(serving, spender, found, respond)
            else:
                await self._call(serving, spender, started, found, request, respond)
        except Refusal as refusal:
            self._refuse(respond, endpoint.dialect, refusal, spender=spender)
        finally:
            self._servings.end(serving)

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
        endpoint, settings = found.endpoint, serving.settings
        unpack(request, respond, settings.max_request_bytes)
        facts = endpoint.read(request, found.named)
        tags, customer, run = labels_of(request, facts, spender)
        book, started_at = self._desk.prices(), self._clock.wall_ns()
        route = _route(serving, endpoint, facts, request, book, spender)
        budgeted = self._desk.is_budgeted(spender, route.provider.name, route.listed)
        terms = agree(
            facts,
            route,
            budgeted=budgeted,
            rates=CallRates(self._desk.exchange_rates(), spender.currency, started_at),
            default_max_output=settings.default_max_output,
            may_clamp=settings.when_short in ("assemble", "clamp"),
            free=endpoint.name in route.provider.spoken.free,
            most_nanos=serving.most_nanos(endpoint.name, route.listed),
        )
        start = _start(serving, endpoint, facts, route, terms) if budgeted else None
        exchanged = terms.conversion
        call = Call(
            spender=spender,
            provider=route.provider.name,
            model=route.listed,
            requested_model=facts.model,
            ceiling_nanos=terms.ceiling_nanos,
            least_nanos=terms.least_nanos,
            begin_nanos=start.begin_nanos if start is not None else 0,
            may_wait=settings.when_short != "refuse",
            tags=tags,
            customer=customer,
            app=user_agent_of(request),
            run=run,
            stream=facts.stream,
            price_version=terms.price.price_version if terms.price is not None else "unpriced",
            price_currency=exchanged.base if exchanged is not None else "",
            exchange_rate=exchanged.text if exchanged is not None else "",
            started_at=started_at,
        )
        upstream = serving.upstreams[route.provider.name]
        try:
            reservation = await self._desk.reserve(call)
        except Refusal as refusal:
            self._refuse(
                respond,
                endpoint.dialect,
                refusal,
                terms.ceiling_nanos,
                spender=spender,
                model=route.model,
            )
            return
        attempt = Attempt(self._desk, self._clock, book, reservation, route, terms)
        if facts.flat_price:
            _log_unmetered(request, attempt, facts)
        self.metrics.in_flight.value += 1
        try:
            if start is not None and reservation.grows:
                facts = attempt.grow(self._desk, start, facts)
            elif reservation.ceiling_nanos < terms.ceiling_nanos:
                attempt.terms = clamp(terms, reservation.ceiling_nanos)
                self.metrics.clamped.inc()
            wire = _wire(endpoint, upstream, attempt, facts, request)
            self.metrics.held_up(self._clock.monotonic() - started)
            await self._forward(endpoint, attempt, facts, upstream, wire, respond)
        finally:
            attempt.abandon()
            self.metrics.in_flight.value -= 1
            self._count(attempt, spender, started, stream=facts.stream)

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
            attempt.sent = False
            attempt.release()
            attempt.fault = "provider_timeout" if never.timed_out else "provider_unreachable"
            refusal = Refusal(attempt.fault, f"{_sentence(never)} Nothing was charged.")
            self._tell(respond, endpoint.dialect, refusal)
            return
        respond.on_hang_up(lambda: self._hang_up(attempt, exchange, stream=facts.stream))
        try:
            answering = answering_of(
                endpoint, upstream.server, facts, attempt, exchange, respond, self._recount
            )
            await answering.bring_back()
            return
        except Broken as broken:
            if not (broken.untaken and resends):
                await self._broke(endpoint.dialect, attempt, broken, facts, respond)
                return
        finally:
            respond.on_hang_up(None)
            exchange.close()
        attempt.sent = False  # proven not to have been taken
        log.info("call sent again", charge_id=attempt.charge_id, host=upstream.pool.host)
        await self._forward(endpoint, attempt, facts, upstream, wire, respond, resends - 1)

    def _hang_up(self, attempt: Attempt, exchange: Exchange, *, stream: bool) -> None:
        if attempt.flow is not None:
            attempt.flow.close()
        grace_s = self.settings.finish_after_hang_up_s
        if stream or not grace_s:
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
        self._tell(respond, dialect, refusal, extra=headers)

    def _refuse(
        self,
        respond: Responder,
        dialect: Dialect,
        refusal: Refusal,
        ceiling_nanos: int = 0,
        *,
        spender: Spender | None = None,
        model: str = "",
    ) -> None:
        """Tell a call that was not sent why."""
        self._call_log.refused(refusal.reason, spender, model)
        self._tell(respond, dialect, refusal, ceiling_nanos)

    def _tell(
        self,
        respond: Responder,
        dialect: Dialect,
        refusal: Refusal,
        ceiling_nanos: int = 0,
        extra: Headers | None = None,
    ) -> None:
        self.metrics.refused(refusal.reason)
        status, headers, body = render(
            refusal,
            dialect,
            exhausted_status=self.settings.exhausted_status,
            ceiling_nanos=ceiling_nanos,
        )
        respond.send(status, headers + (extra or []), body)

    def _count(self, attempt: Attempt, spender: Spender, started: float, *, stream: bool) -> None:
        if attempt.receipt is None or attempt.kind is None:
            return
        took_s = self._clock.monotonic() - started
        provider = attempt.route.provider.name
        self.metrics.ended(
            provider,
            attempt.kind,
            attempt.usage.certainty,
            attempt.receipt,
            took_s,
            stream=stream,
        )
        if attempt.fault not in ("", HUNG_UP) or attempt.status >= 400:
            self.metrics.upstream_failed(provider, attempt.fault, attempt.status)
        self._call_log.ended(attempt, spender, took_s, stream=stream)
        if attempt.assembles:
            self.metrics.assembled.inc()
        if attempt.was_cut:
            self.metrics.cut.inc()
        if not attempt.usage.is_exact:
            log.info(
                "usage estimated",
                charge_id=attempt.charge_id,
                reason=attempt.usage.estimate_reason,
                outcome=attempt.kind,
            )

    def _models(self, serving: Serving, spender: Spender, found: Found, respond: Responder) -> None:
        dialect = found.endpoint.dialect
        listed = [
            Listed(model, provider)
            for model, provider in serving.router.listed(dialect.name, self._desk.prices(), spender)
        ]
        if not found.named:
            respond.send(200, JSON_HEADERS, dialect.models(listed))
            return
        for one in listed:
            if one.model == found.named:
                respond.send(200, JSON_HEADERS, dialect.model(one))
                return
        raise Refusal(
            "model_not_found", f"Model {found.named[:80]!r} is not among those of this key."
        )


def _not_served(request: Request) -> str:
    if request.header(b"upgrade").strip().lower() == b"websocket":
        return "Websockets are not served: nothing meters what flows through them."
    return (
        "This path is not served, because nothing meters it; an operator can allow it at a flat "
        f"price with [[unmetered]] in the sidecar's settings. Served are {served()}."
    )


def _log_unmetered(request: Request, attempt: Attempt, facts: Facts) -> None:
    log.info(
        "unmetered_call",
        charge_id=attempt.charge_id,
        method=request.method.decode("latin-1"),
        path=request.path.decode("latin-1"),
        flat_price=facts.flat_price,
    )


def _route(
    serving: Serving,
    endpoint: Endpoint,
    facts: Facts,
    request: Request,
    book: PriceBook,
    spender: Spender,
) -> Route:
    router = serving.router
    if facts.names_model:
        route = router.route(facts.model, endpoint.dialect.name, book, spender)
        return route if facts.media is None else router.variant(route, facts.media.variants, book)
    if facts.any_model and spender.allowed_models:
        raise Refusal(
            "model_not_allowed",
            "This key may call some models alone, and what is asked for may run any.",
        )
    named = request.header(b"x-bursar-provider").decode("latin-1")
    return router.unnamed(facts.provider or named, endpoint.dialect.name, facts.model)


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


def _start(
    serving: Serving, endpoint: Endpoint, facts: Facts, route: Route, terms: Terms
) -> Start | None:
    """With what a call under a hard budget begins if it is to grow; None where it may not."""
    if not endpoint.progressive:
        return None
    if not facts.stream and not (serving.assembles and endpoint.assembles):
        return None
    return start_of(facts, terms, serving.pairs.find(route.provider.name, route.listed))


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


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
