"""Envoy's ext_authz: may this call go on, and with which headers?

Identifies, reads, prices and reserves as the data path does. What it answers goes into effect at
once or never: between the reserving and the answer nothing is awaited, so that a Check which Envoy
gives up while it waits for money has reserved nothing. An answer that was given and never arrived
can't be told from one that did: its call is charged at its deadline.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import grpc
import msgspec
import structlog
from envoy.service.auth.v3 import external_auth_pb2

from bursar_sidecar.app_headers import key_of, unpack
from bursar_sidecar.content_coding import narrowed
from bursar_sidecar.desk import Refusal, Spender
from bursar_sidecar.dialects.dialect import Dialect, Found, refused_field
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.registry import DEFAULT_DIALECT, find, speaking
from bursar_sidecar.dialects.unmetered import UnmeteredEndpoint
from bursar_sidecar.envoy import metadata
from bursar_sidecar.envoy.answers import allowed, answered
from bursar_sidecar.envoy.asked import Asked, sent_as_text
from bursar_sidecar.envoy.earlier_calls import naming
from bursar_sidecar.envoy.held_calls import HeldCall
from bursar_sidecar.envoy.parts import Answering, Parts
from bursar_sidecar.envoy.route_settings import ANY_PROVIDER, RouteReader, RouteSettings
from bursar_sidecar.http_messages import JSON_HEADERS, Headers, Request
from bursar_sidecar.passed_headers import withheld
from bursar_sidecar.proxy import not_served
from bursar_sidecar.refusals import render
from bursar_sidecar.serving import Serving
from bursar_sidecar.websocket_handshake import is_offer

log = structlog.get_logger("bursar.envoy")

SERVICE: Final = "envoy.service.auth.v3.Authorization"
MOST_HELD_BYTES: Final = 256 * 1024 * 1024
"""Of bodies that are being judged at one time, as they came and unpacked: they are held while their
calls wait for money."""
COMPLAIN_EVERY_S: Final = 10.0
MOST_COMPLAINTS: Final = 64
"""Faults that are told apart; a configuration has a few."""
_ROUTERS_ORDERS: Final = b"x-envoy-"
"""Headers by which an app could have Envoy's router retry, hedge or shorten a call that is paid for
once (its documentation, "HTTP headers consumed from downstream")."""
_NO_RETRY: Final = {"x-envoy-max-retries": "0"}
"""Whatever the route's policy is: each attempt is paid for, and one is reserved. The router takes
it off again."""


class Checking(Answering):
    """The service."""

    name = SERVICE

    def __init__(self, parts: Parts) -> None:
        self._proxy = parts.proxy
        self._desk = parts.desk
        self._clock = parts.clock
        self._held = parts.held
        self._routes = RouteReader()
        self._held_bytes = 0
        self._complained: dict[str, float] = {}

    def methods(self) -> Mapping[str, Any]:
        """The one there is."""
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            external_auth_pb2.CheckRequest.FromString,
            external_auth_pb2.CheckResponse.SerializeToString,
        )
        return {"Check": check}

    async def _check(self, check: Any, context: Any) -> Any:
        dialect = DEFAULT_DIALECT
        try:
            settings = self._proxy.settings
            attributes = check.attributes
            route = self._routes.read(attributes.context_extensions, settings.envoy_tier)
            dialect = route.dialect or dialect
            asked = Asked(attributes.request.http, prefix=route.prefix, tags=route.tags)
            found = self._found(asked.request, route)
            if found is None:
                dialect = route.dialect or speaking(asked.request)
                return await self._pass(asked.request, route, dialect)
            dialect = found.endpoint.dialect
            return await self._judge(asked, found, route)
        except Refusal as refusal:
            return self._refused(refusal, dialect)
        except DialectError as error:
            self._count("invalid_request")
            return answered(400, JSON_HEADERS, dialect.error(refused_field(error)))
        except Exception:
            # Whatever Envoy is told to do where nobody answers, a fault of ours opens nothing.
            log.exception("check_failed")
            return self._refused(Refusal("internal_error"), dialect)

    def _found(self, request: Request, route: RouteSettings) -> Found | None:
        found = find(request) or self._proxy.servings.current.unmetered(request)
        if is_offer(request):
            raise Refusal(
                "unknown_path",
                "Websockets do not go on through Envoy, where nothing meters what flows in them; "
                "the sidecar serves those of [[websockets]] at its own http_address.",
            )
        if found is None or route.dialect is None:
            return found
        is_other = found.endpoint.dialect is not route.dialect
        if is_other and not isinstance(found.endpoint, UnmeteredEndpoint):
            raise Refusal(
                "unknown_path",
                f"This path is of the dialect {found.endpoint.dialect.name}, and Envoy's route "
                f"serves {route.dialect.name} (bursar.dialect).",
            )
        return found

    async def _judge(self, asked: Asked, found: Found, route: RouteSettings) -> Any:
        endpoint, request = found.endpoint, asked.request
        if request.method not in endpoint.methods:
            methods = sorted(method.decode() for method in endpoint.methods)
            refusal = Refusal("method_not_allowed", f"Only {' or '.join(methods)} is served here.")
            return self._refused(
                refusal, endpoint.dialect, extra=[(b"allow", ", ".join(methods).encode())]
            )
        started = self._clock.monotonic()
        spender = await self._desk.identify(key_of(request, endpoint.dialect))
        serving = self._proxy.servings.begin()
        held = False
        try:
            routed = _routed(serving, route)
            if endpoint.rule == "models":
                body = self._proxy.models(routed, spender, found)
                return answered(200, JSON_HEADERS, body)
            if not isinstance(endpoint, UnmeteredEndpoint):
                asked.check_whole(serving.settings.max_request_bytes)
            if asked.is_text and route.tier == "light":
                raise sent_as_text()
            answer = await self._admit(serving, routed, spender, started, found, asked, route)
            held = True
            return answer
        except Refusal as refusal:
            return self._refused(refusal, endpoint.dialect, spender)
        finally:
            if not held:
                self._proxy.servings.end(serving)

    async def _admit(
        self,
        serving: Serving,
        routed: Serving,
        spender: Spender,
        started: float,
        found: Found,
        asked: Asked,
        route: RouteSettings,
    ) -> Any:
        """Set money aside and say how the call goes on; raises, and nothing is set aside."""
        request, is_strict = asked.request, route.tier == "strict"
        admission = self._proxy.admission
        room = _Room(self)
        seat = self._held.seat()
        try:
            if not room.hold(len(request.body)):
                raise Refusal("overloaded", "Too many large requests at once; try again.")
            unpack(request, room, serving.settings.max_request_bytes)
            named = None if is_strict else naming(routed, found.endpoint, spender)
            admitted = await admission.admit(
                routed, spender, started, found, request, edits=is_strict, naming=named
            )
        except BaseException:
            self._held.give_up(seat)
            raise
        finally:
            room.leave()
        try:
            # From here to the answer nothing is awaited.
            call = HeldCall(admitted, found.endpoint, serving, request, route.tier)
            call.edited = _edited(call)
            if asked.is_text and call.edited is None:
                call.edited = request.body  # what was judged is what leaves
            answer = _answer(call, found, route)
        except BaseException:
            admitted.attempt.release()
            admission.over(admitted)
            self._held.give_up(seat)
            raise
        self._held.open(seat, call)
        self._proxy.metrics.held_up(self._clock.monotonic() - started)
        return answer

    async def _pass(self, request: Request, route: RouteSettings, dialect: Dialect) -> Any:
        """A path that no dialect knows, where the operator let such paths go on."""
        if not route.passes:
            raise Refusal(
                "unknown_path",
                f"{not_served(request)} Envoy's route can let such paths go on unpaid with "
                "bursar.pass.",
            )
        key = key_of(request, dialect)
        spender = await self._desk.identify(key)
        if _could_be_known(request):
            raise Refusal(
                "unknown_path",
                "A path that passes unpaid may not be written so that somebody could take it for "
                "one that is paid for.",
            )
        log.info(
            "envoy_passed",
            key=spender.key,
            method=request.method.decode(),
            path=request.path.decode("utf-8", "replace"),
        )
        shown = key.encode("latin-1")
        removed = [name for name, value in request.headers if shown in value]
        removed += [name for name in withheld(request.headers) if name.startswith(b"x-bursar-")]
        return allowed(
            written={},
            removed=dict.fromkeys(name.decode() for name in removed + _orders(request)),
            metadata=metadata.told(spender=spender.key),
            told=[],
        )

    def _refused(
        self,
        refusal: Refusal,
        dialect: Dialect,
        spender: Spender | None = None,
        extra: Headers | None = None,
    ) -> Any:
        self._count(refusal.reason, spender, refusal.model)
        if refusal.reason == "envoy_misconfigured":
            self._complain(refusal.message)
        exhausted_status = self._proxy.settings.exhausted_status
        status, headers, body = render(refusal, dialect, exhausted_status=exhausted_status)
        return answered(status, headers + (extra or []), body)

    def _complain(self, why: str) -> None:
        """Of a fault of Envoy's configuration, which every call would tell of."""
        now = self._clock.monotonic()
        if now - self._complained.get(why, -COMPLAIN_EVERY_S) < COMPLAIN_EVERY_S:
            return
        if len(self._complained) >= MOST_COMPLAINTS:
            self._complained.clear()
        self._complained[why] = now
        log.error("envoy_misconfigured", why=why)

    def _count(self, reason: str, spender: Spender | None = None, model: str = "") -> None:
        self._proxy.metrics.refused(reason)
        self._proxy.call_log.refused(reason, spender, model)

    def hold(self, size: int) -> bool:
        """Count bytes of bodies; False: there are too many."""
        if self._held_bytes + size > MOST_HELD_BYTES:
            return False
        self._held_bytes += size
        return True


class _Room:
    """The bytes that one Check holds."""

    def __init__(self, checking: Checking) -> None:
        self._checking = checking
        self._size = 0

    def hold(self, size: int) -> bool:
        if not self._checking.hold(size):
            return False
        self._size += size
        return True

    def leave(self) -> None:
        self._checking.hold(-self._size)
        self._size = 0


def service(parts: Parts) -> Checking:
    """The service of one process."""
    return Checking(parts)


def _routed(serving: Serving, route: RouteSettings) -> Serving:
    """With the providers that Envoy's route leads to. Raises Refusal envoy_misconfigured."""
    name = route.provider
    if name == ANY_PROVIDER:
        return serving
    providers = serving.settings.providers
    if not name and len(providers) == 1:
        return serving
    configured = ", ".join(sorted(one.name for one in providers)) or "none"
    if not name:
        raise Refusal(
            "envoy_misconfigured",
            "Envoy's route does not say which provider it leads to; set bursar.provider in its "
            f"context_extensions. Configured are: {configured}.",
        )
    found = serving.of_one(name)
    if found is None:
        raise Refusal(
            "envoy_misconfigured",
            f"Envoy's context_extensions: bursar.provider is {name[:80]!r}; configured are: "
            f"{configured}.",
        )
    return found


def _edited(call: HeldCall) -> bytes | None:
    """The body to send; None: as it came. Raises Refusal where it would have to be another one,
    and nobody can edit it."""
    attempt, facts, body = call.attempt, call.facts, call.request.body
    terms, server = attempt.terms, call.upstream.server
    is_strict = call.tier == "strict"
    limit = terms.clamped_output or terms.set_output_limit
    if not is_strict:
        server = msgspec.structs.replace(server, asks_usage=False)
    edited = call.endpoint.edited(
        facts, body, model=attempt.route.model, server=server, output_limit=limit
    )
    if edited is body or edited == body:
        return None
    if is_strict:
        return edited
    if limit is not None:
        why = "set an output limit: neither the call nor the price list has one"
    elif facts.names_model and facts.model != attempt.route.model:
        why = f"name the model as the provider does, {attempt.route.model!r}"
    else:
        why = "leave out the fields that are Bursar's: send them as headers"
    raise Refusal(
        "not_as_it_is",
        f"In the light tier a body goes on as the app sent it. The call has to {why}.",
    )


def _answer(call: HeldCall, found: Found, route: RouteSettings) -> Any:
    """How the call goes on."""
    attempt, request, pool = call.attempt, call.request, call.upstream
    provider = attempt.route.provider
    written = {name: value for name, value in pool.own_headers().items() if name != "host"}
    coding = b"identity"
    if call.tier == "strict" and not call.facts.stream:
        coding = narrowed(request.header(b"accept-encoding") or coding)
    written |= _NO_RETRY
    written["accept-encoding"] = coding.decode("latin-1")
    if route.rewrites_host:
        written[":authority"] = pool.own_headers().get("host") or pool.pool.authority.decode()
    target = _target(call, found, route)
    if target is not None:
        written[":path"] = target.decode()
    removed = withheld(request.headers) + _orders(request)
    if call.edited is not None and request.encoded is not None:
        removed.append(b"content-encoding")
    told: Headers = []
    if call.tier == "light":
        told.append((b"x-bursar-charge-id", attempt.charge_id.encode()))
    return allowed(
        written=written,
        removed=[name.decode() for name in removed],
        metadata=metadata.told(
            charge_id=attempt.charge_id,
            spender=call.admitted.spender.key,
            provider=provider.name,
            model=attempt.route.listed,
            tier=call.tier,
        ),
        told=told,
    )


def _target(call: HeldCall, found: Found, route: RouteSettings) -> bytes | None:
    """Path and query for the upstream; None: as they came. Raises Refusal."""
    attempt, request, endpoint = call.attempt, call.request, call.endpoint
    if route.rewrites_path:
        pool = call.upstream
        return pool.pool.path + endpoint.target(request, attempt.route.model, pool.server)
    if found.named and call.facts.names_model and call.facts.model != attempt.route.model:
        raise Refusal(
            "not_as_it_is",
            "The path names the model, and Envoy's route does not let it be written anew "
            f"(bursar.rewrite). The call has to name the model as the provider does, "
            f"{attempt.route.model!r}.",
        )
    query = endpoint.dialect.without_key(request.query)
    if query == request.query:
        return None
    path = route.prefix.encode() + request.path
    return path + b"?" + query if query else path


def _could_be_known(request: Request) -> bool:
    """Whether a server that is lax about paths could take this one for a dialect's own."""
    path = unquote_to_bytes(request.path)
    if b"%" in path or b";" in path:
        return True
    plain = re.sub(rb"[/\\]+", b"/", path).rstrip(b"/").lower()
    return find(Request(request.method, plain, [], b"")) is not None


def _orders(request: Request) -> list[bytes]:
    return [name for name, _ in request.headers if name.startswith(_ROUTERS_ORDERS)]
