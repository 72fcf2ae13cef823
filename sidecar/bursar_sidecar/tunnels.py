"""All tunnels of one process: how a websocket is opened, what it costs, and how it ends.

Owns: the opening (admission, the provider's answer to it), the money of a connection that lasts,
the time limits, the farewell at shutdown. What becomes of each way to fail:

    the provider can't be reached, breaks off, or answers something else than 101: costs nothing; an
        error of its passes to the app, and an answer of 2xx costs as if it had been a connection
    the app is gone when the connection is open: its flat price and one minute
    it ends, whoever ends it: its flat price and the minutes begun, settled once

Refuses: more of them than MAX_TUNNELS; bytes behind the offer before it is taken up.
"""

import asyncio
from typing import Any, Final, cast

import structlog
from prometheus_client import CollectorRegistry, Counter

from bursar.money import format_nanos
from bursar.usage import Usage
from bursar_sidecar.admission import Admission, Admitted
from bursar_sidecar.app_headers import key_of
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import HUNG_UP
from bursar_sidecar.desk import Clock, Desk, OutcomeKind, Refusal, Spender
from bursar_sidecar.dialects.dialect import Dialect, Found
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.endings import Endings
from bursar_sidecar.http_messages import Request, Responder
from bursar_sidecar.passed_headers import answer_headers
from bursar_sidecar.progressive_answering import answering_of
from bursar_sidecar.recount import Recount
from bursar_sidecar.refusals import REASONS, told
from bursar_sidecar.serving import Serving
from bursar_sidecar.tallies import Level
from bursar_sidecar.tunnel import CLOSE_GRACE_S, HIGH_WATER_BYTES, Tunnel
from bursar_sidecar.tunnel_ends import AppEnd, ProviderEnd
from bursar_sidecar.tunnel_minutes import Minutes
from bursar_sidecar.tunnel_purse import Purse
from bursar_sidecar.upstream import Broken, Exchange, NeverSent, Pool
from bursar_sidecar.websocket_endpoint import WebsocketEndpoint
from bursar_sidecar.websocket_frames import FAILED, GOING_AWAY, LATER, NOT_ALLOWED
from bursar_sidecar.websocket_handshake import accepted, switching

log = structlog.get_logger("bursar.tunnels")

MAX_TUNNELS: Final = 1_000
"""Open at one time: each holds two connections and up to four times HIGH_WATER_BYTES."""
HANDSHAKE_S: Final = 30.0
"""For the provider's answer to the offer, all of it."""
TICK_S: Final = 1.0
"""How often money and time are looked at; what they are about is seconds ahead."""
MAX_SHOWN: Final = 200
"""Rows on the debug page."""
_SWITCHED: Final = 101


class _Open:
    """One that is open."""

    __slots__ = ("admitted", "idle_s", "longest_s", "purse", "request", "tunnel")

    def __init__(
        self,
        tunnel: Tunnel,
        purse: Purse,
        admitted: Admitted,
        request: Request,
        serving: Serving,
        endpoint: WebsocketEndpoint,
    ) -> None:
        settings = serving.settings
        self.tunnel = tunnel
        self.purse = purse
        self.admitted = admitted
        self.request = request
        self.idle_s = float(settings.stall_timeout_s)
        self.longest_s = _longest_s(serving, endpoint)

    def sweep(self, now: float) -> None:
        """Enforce what is due."""
        tunnel = self.tunnel
        tunnel.sweep(now)
        if tunnel.ended_at is not None:
            return
        full_since = tunnel.full_since()
        if tunnel.lasted_s >= self.longest_s:
            tunnel.close(GOING_AWAY, "longest_s: the longest that a connection may last", "longest")
        elif now - tunnel.last_bytes_at >= self.idle_s:
            tunnel.close(GOING_AWAY, "stall_timeout_s: nothing was sent for so long", "idle")
        elif full_since is not None and now - full_since >= self.idle_s:
            tunnel.close(GOING_AWAY, "stall_timeout_s: nothing was read for so long", "stalled")
        elif (refusal := self.purse.look(tunnel.lasted_s)) is not None:
            code = _code_of(refusal, self.purse.minutes)
            tunnel.close(code, f"{refusal.reason}: {told(refusal)}", refusal.reason)

    def described(self) -> dict[str, Any]:
        """For people."""
        tunnel, attempt = self.tunnel, self.admitted.attempt
        return {
            "charge": attempt.charge_id,
            "key": self.admitted.spender.key,
            "provider": attempt.route.provider.name,
            "model": attempt.route.listed,
            "path": self.request.path.decode("latin-1"),
            "open_for_s": round(tunnel.now() - tunnel.opened_at, 1),
            "paid_minutes": self.purse.minutes.paid,
            "reserved": format_nanos(self.purse.minutes.reserved_nanos),
            "bytes_from_app": tunnel.app.bytes,
            "bytes_from_provider": tunnel.provider.bytes,
            "ending_because": tunnel.ended_by,
        }


class Tunnels:
    """Carries websockets."""

    def __init__(
        self,
        desk: Desk,
        clock: Clock,
        admission: Admission,
        endings: Endings,
        recount: Recount,
        registry: CollectorRegistry,
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._admission = admission
        self._endings = endings
        self._recount = recount
        self._open: dict[str, _Open] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._level = Level("bursar_sidecar_websockets_open", "Websockets that are open.")
        registry.register(self._level)
        self._ended = Counter(
            "bursar_sidecar_websockets",
            "Websockets that were open, by what ended them: app, provider, a refusal's reason, "
            "longest, idle, stalled, shutdown, cut.",
            ("ended_by",),
            registry=registry,
        )

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look at money and time; needs a running loop."""
        self.sweep(self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self.start)

    def stop(self) -> None:
        """Look at it no more."""
        if self._timer is not None:
            self._timer.cancel()

    def sweep(self, now: float) -> None:
        """Enforce everything as of `now`, in seconds."""
        for one in list(self._open.values()):
            one.sweep(now)

    async def drain(self, within_s: float) -> None:
        """The process ends in so many seconds: those still open shortly before are closed."""
        if not self._count:
            return
        self._idle.clear()
        try:
            async with asyncio.timeout(max(0.0, within_s - CLOSE_GRACE_S - TICK_S)):
                await self._idle.wait()
        except TimeoutError:
            for one in list(self._open.values()):
                one.tunnel.close(GOING_AWAY, "The sidecar is going down.", "shutdown")

    def described(self) -> dict[str, Any]:
        """For people."""
        shown = [one.described() for one in list(self._open.values())[:MAX_SHOWN]]
        return {"open": len(self._open), "most": MAX_TUNNELS, "connections": shown}

    # -- one of them ---------------------------------------------------------------------------

    async def carry(
        self,
        serving: Serving,
        spender: Spender,
        started: float,
        found: Found,
        request: Request,
        respond: Responder,
    ) -> None:
        """From the offer to the end. Raises Refusal and DialectError before anything is sent."""
        if not respond.may_switch:
            raise _too_early()
        if self._count >= MAX_TUNNELS:
            raise Refusal("overloaded", f"{MAX_TUNNELS} websockets are open; no more are served.")
        self._count += 1
        try:
            admitted = await self._admission.admit(serving, spender, started, found, request)
            try:
                await self._offer(serving, found, admitted, request, respond)
            finally:
                self._admission.over(admitted)
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def _offer(
        self,
        serving: Serving,
        found: Found,
        admitted: Admitted,
        request: Request,
        respond: Responder,
    ) -> None:
        """Hand the offer on; what is answered to it."""
        attempt, endpoint = admitted.attempt, found.endpoint
        upstream = serving.upstreams[attempt.route.provider.name]
        if respond.gone:
            attempt.release()
            return
        target = endpoint.target(request, attempt.route.model, upstream.server)
        ends: list[ProviderEnd] = []

        def make(pool: Pool) -> ProviderEnd:
            ends.append(ProviderEnd(pool))
            return ends[-1]

        try:
            exchange = await upstream.pool.open(make)
            exchange.shorten(HANDSHAKE_S)
            exchange.send(_offering(upstream.request(target, request, b"", stream=True)))
            attempt.sent = True
        except NeverSent as never:
            self._endings.never_sent(endpoint.dialect, attempt, never, respond)
            return
        respond.on_hang_up(lambda: exchange.abort("the app hung up"))
        try:
            attempt.status = await exchange.head()
            if attempt.status == _SWITCHED:
                respond.on_hang_up(None)
                await self._switch(serving, found, admitted, request, respond, exchange, ends[0])
            else:
                await answering_of(
                    endpoint,
                    upstream.server,
                    admitted.facts,
                    attempt,
                    exchange,
                    respond,
                    self._recount,
                ).bring_back()
        except Broken as broken:
            self._broke(endpoint.dialect, attempt, broken, respond)
        finally:
            respond.on_hang_up(None)
            exchange.close()

    def _broke(
        self, dialect: Dialect, attempt: Attempt, broken: Broken, respond: Responder
    ) -> None:
        """No connection came of it."""
        attempt.fault = "provider_timeout" if broken.timed_out else "provider_broke"
        if respond.gone:
            attempt.fault = HUNG_UP
        if attempt.receipt is None:
            attempt.fail()
        if respond.started:
            respond.cut()
        elif not respond.gone:
            why = f"{broken.reason[:1].upper()}{broken.reason[1:]}. Nothing was charged."
            self._endings.tell(respond, dialect, Refusal(attempt.fault, why))

    async def _switch(
        self,
        serving: Serving,
        found: Found,
        admitted: Admitted,
        request: Request,
        respond: Responder,
        exchange: Exchange,
        end: ProviderEnd,
    ) -> None:
        """The provider took the offer up. Raises Broken where it was another than this."""
        if not accepted(request.header(b"sec-websocket-key"), exchange.headers):
            raise Broken("the provider's answer takes another offer up than was made")
        attempt, endpoint = admitted.attempt, cast(WebsocketEndpoint, found.endpoint)
        ids = endpoint.dialect.request_id_headers
        named = [value for name, value in exchange.headers if name in ids]
        attempt.request_id = named[-1].decode("latin-1") if named else ""
        line, tunnel = endpoint.line, Tunnel(self._clock.monotonic)
        minutes = Minutes(line.flat_nanos, line.minute_nanos, _longest_s(serving, endpoint))
        passed = answer_headers(exchange.headers, exchange.names, trailers=False)
        headers = [*switching(passed), (b"x-bursar-charge-id", attempt.charge_id.encode())]
        app = respond.switch(headers, lambda before: AppEnd(before, tunnel.app))
        if app is None or end.transport is None:
            attempt.fault = HUNG_UP
            _settle(attempt, minutes, tunnel, "aborted")
            if not respond.gone:
                raise _too_early()
            return
        tunnel.app.transport, tunnel.provider.transport = app, end.transport
        end.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        purse = Purse(self._desk, attempt, key_of(request, endpoint.dialect), minutes)
        one = _Open(tunnel, purse, admitted, request, serving, endpoint)
        self._begin(one, endpoint)
        try:
            end.hand_over(tunnel.provider)
            await tunnel.over.wait()
        finally:
            tunnel.abort("cut")
            try:
                await purse.close()
            finally:
                self._finish(one)

    def _begin(self, one: _Open, endpoint: WebsocketEndpoint) -> None:
        attempt, line = one.admitted.attempt, endpoint.line
        self._open[attempt.charge_id] = one
        self._level.value += 1
        log.info(
            "websocket_opened",
            charge_id=attempt.charge_id,
            key=one.admitted.spender.key,
            path=one.request.path.decode("latin-1"),
            provider=line.provider,
            model=attempt.route.listed,
            flat_price=line.flat_price,
            price_per_minute=line.price_per_minute,
        )

    def _finish(self, one: _Open) -> None:
        tunnel, attempt = one.tunnel, one.admitted.attempt
        del self._open[attempt.charge_id]
        self._level.value -= 1
        self._ended.labels(tunnel.ended_by).inc()
        is_clean = tunnel.said_farewell and not tunnel.close_code
        if tunnel.ended_by == "app" and not is_clean:
            attempt.fault = HUNG_UP
        elif tunnel.ended_by == "provider" and not is_clean:
            attempt.fault = "provider_broke"
        cost_nanos = _settle(attempt, one.purse.minutes, tunnel, "final" if is_clean else "aborted")
        log.info(
            "websocket_closed",
            charge_id=attempt.charge_id,
            ended_by=tunnel.ended_by,
            close_code=tunnel.close_code,
            lasted_s=round(tunnel.lasted_s, 3),
            minutes=one.purse.minutes.begun(tunnel.lasted_s),
            cost=format_nanos(cost_nanos),
            bytes_from_app=tunnel.app.bytes,
            bytes_from_provider=tunnel.provider.bytes,
        )


def _settle(attempt: Attempt, minutes: Minutes, tunnel: Tunnel, kind: OutcomeKind) -> int:
    """Settle a connection that was open; its cost in nanos."""
    cost_nanos = minutes.cost_nanos(tunnel.lasted_s)
    usage = Usage(extra={"request": 1, "minute": minutes.begun(tunnel.lasted_s)})
    attempt.charge_cost(cost_nanos, usage, Reading(), kind)
    return cost_nanos


def _longest_s(serving: Serving, endpoint: WebsocketEndpoint) -> float:
    longest_call_s = serving.settings.longest_call_s
    return float(min(endpoint.line.longest_s or longest_call_s, longest_call_s))


def _offering(pieces: tuple[bytes, ...]) -> bytes:
    """The head of a request, which has no body, with what offers the upgrade."""
    head = b"".join(pieces).removesuffix(b"\r\n")
    return head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def _too_early() -> DialectError:
    return DialectError("Bytes came before the websocket was open.", None, "malformed_http")


def _code_of(refusal: Refusal, minutes: Minutes) -> int:
    """Whether an app may connect again: later, or not."""
    if refusal.reason == "internal_error":
        return FAILED
    for budget in refusal.budgets:
        # What this one holds does not come home: it is about to be charged.
        spent = budget.settled_nanos + budget.in_doubt_nanos + minutes.reserved_nanos
        if budget.limit_nanos - spent < minutes.first_nanos:
            return NOT_ALLOWED
    rule = REASONS.get(refusal.reason)
    return LATER if rule is not None and rule.retry else NOT_ALLOWED
