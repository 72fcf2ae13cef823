"""The data path: the life of a call, from the app's request to its settlement.

Owns: the order of things (identify, read, route, price, reserve, forward, meter, settle, answer)
and what each way to fail costs. Refuses: every path it does not know, so that there is no way
round a budget. Money and identity are the desk's affair.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from bursar_sidecar.app_headers import (
    check_encoding,
    cost_headers,
    key_of,
    labels_of,
    user_agent_of,
)
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.counting.counter import LlmTokenCounter
from bursar_sidecar.desk import Call, Clock, Desk, Refusal
from bursar_sidecar.dialects import openai
from bursar_sidecar.dialects.openai import DialectError, Facts
from bursar_sidecar.http_messages import JSON_HEADERS, Headers, Request, Responder
from bursar_sidecar.http_server import HttpServer, Limits
from bursar_sidecar.meter import StreamMeter, cost_comment, read_plain
from bursar_sidecar.metrics import Admin, Metrics
from bursar_sidecar.provider_pool import HOP_BY_HOP, ProviderPool
from bursar_sidecar.recount import Recount
from bursar_sidecar.refusals import render
from bursar_sidecar.routing import Router
from bursar_sidecar.settings import Settings, split_address
from bursar_sidecar.terms import agree, clamp
from bursar_sidecar.upstream import Broken, Dial, Exchange, NeverSent, dial

log = structlog.get_logger("bursar.proxy")

MAX_PLAIN_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Plain answers are held whole, so that their cost is in the headers; a larger one flows through
unread, and is charged at its reservation."""
_ENDPOINTS: Final[dict[bytes, tuple[openai.Endpoint, bytes]]] = {
    b"/v1/chat/completions": ("chat", b"/chat/completions"),
    b"/v1/embeddings": ("embeddings", b"/embeddings"),
}
_SERVED: Final = "/v1/chat/completions, /v1/embeddings and /v1/models"


class Proxy:
    """Serves the data path and the admin endpoints."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        clock: Clock,
        readiness: Callable[[], str],
        dial: Dial,
        counter: LlmTokenCounter | None,
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._clock = clock
        self._readiness = readiness
        self._router = Router({provider.name: provider for provider in settings.providers})
        self._upstreams = {p.name: ProviderPool(p, settings, dial) for p in settings.providers}
        self.metrics = Metrics()
        self._recount = Recount(counter, self.metrics)
        limits = Limits(max_body_bytes=settings.max_request_bytes)
        self._http = HttpServer(self.handle, limits)
        self._admin = HttpServer(Admin(self.metrics, self.readiness).handle)

    @property
    def http_address(self) -> str:
        """`host:port` where apps call, once started."""
        return self._http.address

    @property
    def admin_address(self) -> str:
        """`host:port` of the admin endpoints, once started."""
        return self._admin.address

    def readiness(self) -> str:
        """Why no calls should be sent here now; "" when ready."""
        return "draining" if self._http.draining else self._readiness()

    async def start(self) -> None:
        """Listen. Raises OSError when an address is taken."""
        for upstream in self._upstreams.values():
            upstream.pool.start()
        await self._admin.start(*split_address(self._settings.admin_address))
        await self._http.start(*split_address(self._settings.http_address))

    async def drain(self) -> None:
        """Take no new calls, let those in flight end (for `drain_s`), settle all, close."""
        await self._http.drain(self._settings.drain_s)
        self._recount.close()
        for upstream in self._upstreams.values():
            upstream.pool.close()
        await self._admin.drain(0)

    async def handle(self, request: Request, respond: Responder) -> None:
        """One request of an app."""
        try:
            endpoint = _ENDPOINTS.get(request.path)
            if endpoint is not None:
                if request.method != b"POST":
                    raise Refusal("method_not_allowed", "Only POST is served here.")
                await self._call(*endpoint, request, respond)
            elif request.path == b"/v1/models" or request.path.startswith(b"/v1/models/"):
                await self._models(request, respond)
            elif request.path == b"/healthz":  # says nothing of money: for whoever routes to us
                respond.send(200, JSON_HEADERS, b"{}")
            else:
                raise Refusal("unknown_path", f"This path is not served; served are {_SERVED}.")
        except Refusal as refusal:
            self._refuse(respond, refusal)
        except DialectError as error:
            self.metrics.refused("invalid_request")
            respond.send(400, JSON_HEADERS, _dialect_error(error))

    async def _call(
        self, endpoint: openai.Endpoint, path: bytes, request: Request, respond: Responder
    ) -> None:
        """The life of a call."""
        started = self._clock.monotonic()
        spender = await self._desk.identify(key_of(request))
        check_encoding(request)
        facts = openai.read(endpoint, request.body)
        tags, customer, run = labels_of(request, facts, spender)
        book, started_at = self._desk.prices(), self._clock.wall_ns()
        route = self._router.route(facts.model, book, spender)
        terms = agree(
            facts,
            route,
            budgeted=self._desk.is_budgeted(spender, route.provider.name, route.model),
            rates=CallRates(self._desk.exchange_rates(), spender.currency, started_at),
            default_max_output=self._settings.default_max_output,
            may_clamp=self._settings.when_short == "clamp",
        )
        exchanged = terms.conversion
        call = Call(
            spender=spender,
            provider=route.provider.name,
            model=route.model,
            requested_model=facts.model,
            ceiling_nanos=terms.ceiling_nanos,
            least_nanos=terms.least_nanos,
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
        upstream = self._upstreams[route.provider.name]
        try:
            reservation = await self._desk.reserve(call)
        except Refusal as refusal:
            self._refuse(respond, refusal, terms.ceiling_nanos)
            return
        attempt = Attempt(self._desk, self._clock, book, reservation, route, terms)
        self.metrics.in_flight.inc()
        try:
            if reservation.ceiling_nanos < terms.ceiling_nanos:
                attempt.terms = clamp(terms, reservation.ceiling_nanos)
                self.metrics.clamped.inc()
            body = openai.edited(
                facts,
                request.body,
                model=route.model,
                output_limit=attempt.terms.clamped_output or attempt.terms.set_output_limit,
                limit_field=route.provider.output_limit_field,
            )
            await self._forward(
                attempt, facts, upstream, upstream.request(path, request, body), respond
            )
        finally:
            attempt.abandon()
            self.metrics.in_flight.dec()
            self._count(attempt, started, stream=facts.stream)

    async def _forward(
        self,
        attempt: Attempt,
        facts: Facts,
        upstream: ProviderPool,
        wire: bytes,
        respond: Responder,
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
            exchange.send(wire)
        except NeverSent as never:
            attempt.sent = False
            attempt.release()
            reason = "provider_timeout" if never.timed_out else "provider_unreachable"
            self._refuse(respond, Refusal(reason, f"{_sentence(never)} Nothing was charged."))
            return
        respond.on_hang_up(lambda: self._hang_up(exchange, stream=facts.stream))
        try:
            attempt.status = await exchange.head()
            await self._answer(attempt, facts, exchange, respond)
        except Broken as broken:
            await self._broke(attempt, broken, facts, respond)
        finally:
            respond.on_hang_up(None)
            exchange.close()

    async def _answer(
        self, attempt: Attempt, facts: Facts, exchange: Exchange, respond: Responder
    ) -> None:
        content_type = encoding = b""
        headers: Headers = []
        for name, value in exchange.headers:
            if name not in HOP_BY_HOP:
                headers.append((name, value))
                if name == b"content-type":
                    content_type = value.lower()
                elif name == b"content-encoding":
                    encoding = value.lower()
                elif name == b"x-request-id":
                    attempt.request_id = value.decode("latin-1")
        if attempt.terms.set_output_limit is not None:
            headers.append((b"x-bursar-max-output", b"%d" % attempt.terms.set_output_limit))
        if attempt.terms.clamped_output is not None:
            headers.append((b"x-bursar-clamped-output", b"%d" % attempt.terms.clamped_output))
        if attempt.status >= 300:
            attempt.fail()
            await self._plain(attempt, facts, exchange, headers, respond)
        elif encoding not in (b"", b"identity"):
            reason = "the provider compressed an answer that it was asked not to"
            await self._unread(attempt, exchange, headers, respond, [], reason)
        elif content_type.startswith(b"text/event-stream"):
            await self._stream(attempt, facts, exchange, headers, respond)
        else:
            await self._plain(attempt, facts, exchange, headers, respond)

    async def _plain(
        self,
        attempt: Attempt,
        facts: Facts,
        exchange: Exchange,
        headers: Headers,
        respond: Responder,
    ) -> None:
        """A plain answer is held whole: it is settled before its first byte goes out."""
        chunks: list[bytes] = []
        size = 0
        while chunk := await exchange.read():
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_PLAIN_ANSWER_BYTES:
                reason = "an answer too large to read"
                await self._unread(attempt, exchange, headers, respond, chunks, reason)
                return
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        receipt = attempt.receipt
        if receipt is None:
            reading = read_plain(body, embeddings=facts.endpoint == "embeddings")
            receipt = attempt.charge(reading)
        headers += cost_headers(receipt, attempt.usage.total_llm_tokens)
        respond.send(attempt.status, headers, body)

    async def _stream(
        self,
        attempt: Attempt,
        facts: Facts,
        exchange: Exchange,
        headers: Headers,
        respond: Responder,
    ) -> None:
        """A stream flows through event by event; it is settled before its last one goes out."""
        meter = StreamMeter(
            withhold_usage=facts.stream and not facts.usage_asked,
            keep_text=self._recount.keeps_text(attempt, facts),
        )
        attempt.streams(meter)
        headers.append((b"x-bursar-charge-id", attempt.charge_id.encode()))
        respond.start(attempt.status, headers)
        while True:
            chunk = await exchange.read()
            out = meter.feed(chunk) if chunk else meter.flush()
            if attempt.receipt is None and (meter.ended or not chunk):
                await self._recount.count(attempt, facts, cut=False, unread=False)
                receipt = attempt.charge(meter)
                if chunk or not out or meter.ended:  # never inside an event without its end
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

    async def _unread(
        self,
        attempt: Attempt,
        exchange: Exchange,
        headers: Headers,
        respond: Responder,
        chunks: list[bytes],
        reason: str,
    ) -> None:
        """An answer that cannot be metered flows through, charged at its reservation."""
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

    def _hang_up(self, exchange: Exchange, *, stream: bool) -> None:
        grace_s = self._settings.finish_after_hang_up_s
        if stream or not grace_s:
            exchange.abort("the app hung up")
        else:
            exchange.shorten(grace_s)

    async def _broke(
        self, attempt: Attempt, broken: Broken, facts: Facts, respond: Responder
    ) -> None:
        hung_up = respond.gone
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
        refusal = Refusal(
            "provider_timeout" if broken.timed_out else "provider_broke",
            f"{_sentence(broken)} {charged}",
        )
        headers: Headers = []
        if attempt.receipt is not None:
            headers = cost_headers(attempt.receipt, attempt.usage.total_llm_tokens)
        self._refuse(respond, refusal, extra=headers)

    def _refuse(
        self,
        respond: Responder,
        refusal: Refusal,
        ceiling_nanos: int = 0,
        extra: Headers | None = None,
    ) -> None:
        self.metrics.refused(refusal.reason)
        status, headers, body = render(
            refusal,
            exhausted_status=self._settings.exhausted_status,
            ceiling_nanos=ceiling_nanos,
        )
        respond.send(status, headers + (extra or []), body)

    def _count(self, attempt: Attempt, started: float, *, stream: bool) -> None:
        if attempt.receipt is None or attempt.kind is None:
            return
        self.metrics.ended(
            attempt.route.provider.name,
            attempt.kind,
            attempt.usage.certainty,
            attempt.receipt,
            self._clock.monotonic() - started,
            stream=stream,
        )
        if not attempt.usage.is_exact:
            log.info(
                "usage estimated",
                charge_id=attempt.charge_id,
                reason=attempt.usage.estimate_reason,
                outcome=attempt.kind,
            )

    async def _models(self, request: Request, respond: Responder) -> None:
        if request.method not in (b"GET", b"HEAD"):
            raise Refusal("method_not_allowed", "Only GET is served here.")
        spender = await self._desk.identify(key_of(request))
        listed = [
            {"id": model, "object": "model", "created": 0, "owned_by": provider}
            for model, provider in self._router.listed(self._desk.prices(), spender)
        ]
        wanted = request.path[len(b"/v1/models/") :].decode("latin-1")
        if not wanted:
            body = msgspec.json.encode({"object": "list", "data": listed})
            respond.send(200, JSON_HEADERS, body)
            return
        for model in listed:
            if model["id"] == wanted:
                respond.send(200, JSON_HEADERS, msgspec.json.encode(model))
                return
        raise Refusal("model_not_found", f"Model {wanted[:80]!r} is not among those of this key.")


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

    `start()` listens, `drain()` ends; `http_address` and `admin_address` say where.
    """
    return Proxy(settings, desk, clock, readiness, dial, counter)


def _dialect_error(error: DialectError) -> bytes:
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": "invalid_request_error",
                "param": error.param,
                "code": error.code,
            }
        }
    )


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
