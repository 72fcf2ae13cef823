"""Admission: whether a call may start and with how much, the same for every way in.

The proxy, and whoever admits calls that others carry, ask here: read, label, route, price, reserve.
What follows (who sends the call, who brings its answer back) is theirs; that each admitted call
ends, is counted and logged, is told here too.
"""

from collections.abc import Callable
from typing import NamedTuple

import structlog

from bursar.pricing import PriceBook
from bursar_sidecar.app_headers import labels_of, user_agent_of
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import HUNG_UP, CallLog
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Call, Clock, Desk, Refusal, Spender
from bursar_sidecar.dialects.dialect import Endpoint, Found
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.http_messages import Request
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.progressive import Start, start_of
from bursar_sidecar.routing import Route
from bursar_sidecar.serving import Serving
from bursar_sidecar.terms import Terms, agree, clamp

log = structlog.get_logger("bursar.proxy")


class Admitted(NamedTuple):
    """A call that may start: money is set aside for it."""

    attempt: Attempt
    facts: Facts
    """As it is to be sent."""
    spender: Spender
    started: float
    """When it was asked, on the clock that never goes back, in seconds."""


class Admission:
    """Admits calls, and counts how they end."""

    def __init__(self, desk: Desk, clock: Clock, metrics: Metrics, call_log: CallLog) -> None:
        self._desk = desk
        self._clock = clock
        self._metrics = metrics
        self._call_log = call_log

    async def admit(
        self,
        serving: Serving,
        spender: Spender,
        started: float,
        found: Found,
        request: Request,
        *,
        edits: bool = True,
        naming: Callable[[Facts, Route], str] | None = None,
    ) -> Admitted:
        """Read, price and reserve. Raises Refusal (with `ceiling_nanos` where money was short) and
        DialectError; then nothing is reserved.

        `edits`: who carries the call can edit its request and cut its answer. Without it the call
        is admitted with its worst case as it stands, or not at all. `naming` names the call for the
        journal, where evidence of it may outlive this process.
        """
        endpoint, settings = found.endpoint, serving.settings
        facts = endpoint.read(request, found.named)
        tags, customer, run = labels_of(request, facts, spender)
        when_short = serving.shortages.way_of(spender)
        book, started_at = self._desk.prices(), self._clock.wall_ns()
        route = _route(serving, endpoint, facts, request, book, spender)
        budgeted = self._desk.is_budgeted(spender, route.provider.name, route.listed)
        terms = agree(
            facts,
            route,
            budgeted=budgeted,
            rates=CallRates(self._desk.exchange_rates(), spender.currency, started_at),
            default_max_output=settings.default_max_output,
            may_clamp=edits and when_short in ("assemble", "clamp"),
            free=endpoint.name in route.provider.spoken.free,
            most_nanos=serving.most_nanos(endpoint.name, route.listed),
        )
        start = None
        if edits and budgeted:
            assembles = when_short == "assemble"
            start = _start(serving, endpoint, facts, route, terms, assembles=assembles)
        exchanged = terms.conversion
        call = Call(
            spender=spender,
            provider=route.provider.name,
            model=route.listed,
            requested_model=facts.model,
            ceiling_nanos=terms.ceiling_nanos,
            least_nanos=terms.least_nanos,
            begin_nanos=start.begin_nanos if start is not None else 0,
            may_wait=when_short != "refuse",
            tags=tags,
            customer=customer,
            app=user_agent_of(request),
            run=run,
            request_id="" if naming is None else naming(facts, route),
            stream=facts.stream,
            price_version=terms.price.price_version if terms.price is not None else "unpriced",
            price_currency=exchanged.base if exchanged is not None else "",
            exchange_rate=exchanged.text if exchanged is not None else "",
            started_at=started_at,
        )
        try:
            reservation = await self._desk.reserve(call)
        except Refusal as refusal:
            refusal.ceiling_nanos, refusal.model = terms.ceiling_nanos, route.model
            raise
        attempt = Attempt(self._desk, self._clock, book, reservation, route, terms)
        if facts.flat_price and endpoint.rule == "metered":
            _log_unmetered(request, attempt, facts)
        try:
            if start is not None and reservation.grows:
                facts = attempt.grow(self._desk, start, facts)
            elif reservation.ceiling_nanos < terms.ceiling_nanos:
                attempt.terms = clamp(terms, reservation.ceiling_nanos)
                self._metrics.clamped.inc()
        except BaseException:
            attempt.abandon()
            raise
        self._metrics.in_flight.value += 1
        return Admitted(attempt, facts, spender, started)

    def over(self, admitted: Admitted) -> None:
        """Whoever carried the call has done with it: what is still open is closed, refunding
        nothing; counted and logged, once for each that was admitted."""
        attempt = admitted.attempt
        attempt.abandon()
        self._metrics.in_flight.value -= 1
        if attempt.receipt is None or attempt.kind is None:
            return
        stream = admitted.facts.stream
        took_s = self._clock.monotonic() - admitted.started
        provider = attempt.route.provider.name
        self._metrics.ended(
            provider,
            attempt.kind,
            attempt.usage.certainty,
            attempt.receipt,
            took_s,
            stream=stream,
        )
        if attempt.fault not in ("", HUNG_UP) or attempt.status >= 400:
            self._metrics.upstream_failed(provider, attempt.fault, attempt.status)
        self._call_log.ended(attempt, admitted.spender, took_s, stream=stream)
        if attempt.assembles:
            self._metrics.assembled.inc()
        if attempt.was_cut:
            self._metrics.cut.inc()
        if not attempt.usage.is_exact:
            log.info(
                "usage estimated",
                charge_id=attempt.charge_id,
                reason=attempt.usage.estimate_reason,
                outcome=attempt.kind,
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
        named = f"{facts.provider}/{facts.model}" if facts.provider else facts.model
        route = router.route(named, endpoint.dialect.name, book, spender)
        return route if facts.media is None else router.variant(route, facts.media.variants, book)
    if facts.any_model and spender.allowed_models:
        raise Refusal(
            "model_not_allowed",
            "This key may call some models alone, and what is asked for may run any.",
        )
    named = request.header(b"x-bursar-provider").decode("latin-1")
    return router.unnamed(facts.provider or named, endpoint.dialect.name, facts.model)


def _start(
    serving: Serving,
    endpoint: Endpoint,
    facts: Facts,
    route: Route,
    terms: Terms,
    *,
    assembles: bool,
) -> Start | None:
    """With what a call under a hard budget begins if it is to grow; None where it may not.
    `assembles`: a plain call may be run as a stream."""
    if not endpoint.progressive:
        return None
    if not facts.stream and not (assembles and endpoint.assembles):
        return None
    return start_of(facts, terms, serving.pairs.find(route.provider.name, route.listed))
