"""The admin endpoints: `/metrics`, `/healthz`, `/readyz` and `/debug`."""

import ipaddress
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bursar_sidecar.http_messages import Headers, Request, Responder, error_body
from bursar_sidecar.settings import Settings, effective

_METRICS: Final[Headers] = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
_PLAIN: Final[Headers] = [(b"content-type", b"text/plain; charset=utf-8")]
_JSON: Final[Headers] = [(b"content-type", b"application/json")]
_PAGE: Final[Headers] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"cache-control", b"no-store"),
]


class Source(Protocol):
    """What the endpoints show: of one process, or of several."""

    async def metrics(self) -> bytes:
        """In the text format of Prometheus."""
        ...

    async def readiness(self) -> str:
        """Why no calls should be sent here; "" when ready."""
        ...

    async def held(self) -> list[dict[str, Any]]:
        """What each process holds."""
        ...


class Admin:
    """Answers admin requests."""

    def __init__(self, source: Source, settings: Callable[[], Settings]) -> None:
        """`settings`: those in force."""
        self._source = source
        self._settings = settings

    async def handle(self, request: Request, respond: Responder) -> None:
        """Answer one admin request."""
        if request.method not in (b"GET", b"HEAD"):
            body = error_body("method_not_allowed", "Only GET is served here.")
            respond.send(405, _JSON, body)
        elif request.path == b"/metrics":
            respond.send(200, _METRICS, await self._source.metrics())
        elif request.path == b"/healthz":
            respond.send(200, _PLAIN, b"ok\n")
        elif request.path == b"/readyz":
            reason = await self._source.readiness()
            body = msgspec.json.encode({"ready": not reason, "reason": reason})
            respond.send(503 if reason else 200, _JSON, body)
        elif request.path in (b"/debug", b"/debug.json"):
            await self._debug(request, respond)
        else:
            served = "Served are /metrics, /healthz, /readyz, /debug and /debug.json."
            respond.send(404, _JSON, error_body("unknown_path", served))

    async def _debug(self, request: Request, respond: Responder) -> None:
        settings = self._settings()
        if settings.debug_page == "off":
            respond.send(404, _JSON, error_body("unknown_path", "debug_page is off."))
            return
        if settings.debug_page == "loopback" and not _is_from_here(request, respond.peer):
            words = "Only callers on this machine may see it; see the setting debug_page."
            respond.send(403, _JSON, error_body("forbidden", words))
            return
        state = {
            "ready": await self._source.readiness() or True,
            "processes": await self._source.held(),
            "settings": effective(settings),
        }
        if request.path == b"/debug.json":
            respond.send(200, [*_JSON, (b"cache-control", b"no-store")], msgspec.json.encode(state))
        else:
            # Few ever look: what the page takes is loaded when somebody does.
            from bursar_sidecar.debug_page import rendered  # noqa: PLC0415  (see above)

            respond.send(200, _PAGE, rendered(state).encode())


def _is_from_here(request: Request, peer: str) -> bool:
    """Whether the caller is on this machine, and no browser that was led here by a foreign name."""
    if not peer:  # a unix socket
        return True
    host = request.header(b"host").decode("latin-1").rpartition("@")[2]
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return _is_loopback(peer) and _is_loopback(name.removeprefix("[").removesuffix("]"))


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
