"""The small HTTP side: /healthz, /readyz and /metrics, for orchestrators and scrapers.

It owns nothing and changes nothing. No authentication: what is here tells counts, never names of
keys or their secrets.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bursar_server.errors import failed_precondition

log = structlog.get_logger(__name__)

# Probes and scrapers are few; more are answered 503 at once.
MOST_CONCURRENT_REQUESTS = 64
# Headers of a probe are some hundred bytes.
MOST_BYTES_OF_A_HEAD = 16 * 1024
KEEP_ALIVE_S = 5
BACKLOG = 128
# A probe that waits longer has its answer.
READY_TIMEOUT_S = 2.0
# Open requests at the end are probes, which come again.
SHUTDOWN_S = 1

Checks = Callable[[], Awaitable[Mapping[str, bool]]]
"""Tells, by name, what must be true for the server to be ready."""


Refresh = Callable[[], Awaitable[None]]
"""Brings up to date what is read only when it is scraped."""


def application(checks: Checks, refresh: Refresh) -> Starlette:
    """The three pages."""

    async def healthz(request: Request) -> Response:
        # The loop turns, or this would not answer: the process needs no restart.
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        try:
            found = await asyncio.wait_for(checks(), READY_TIMEOUT_S)
        except TimeoutError:
            found = {"answered in time": False}
        ready = all(found.values())
        return JSONResponse(
            {"status": "ready" if ready else "not ready", "checks": dict(found)},
            status_code=200 if ready else 503,
        )

    async def metrics(request: Request) -> Response:
        try:
            await asyncio.wait_for(refresh(), READY_TIMEOUT_S)
        except TimeoutError:
            log.warning("metrics_not_refreshed", waited_s=READY_TIMEOUT_S)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn, without its own idea of signals: the process has one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """Serves the application in the loop of its caller."""

    def __init__(self, address: str, checks: Checks, refresh: Refresh) -> None:
        """`address` is host:port; port 0 is any free one."""
        self._wanted = address
        config = uvicorn.Config(
            application(checks, refresh),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONCURRENT_REQUESTS,
            h11_max_incomplete_event_size=MOST_BYTES_OF_A_HEAD,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = _Server(config)
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""
        """Where, with the real port; empty before `bind`."""

    def bind(self) -> None:
        """Take the address, and answer nothing yet. Raises FAILED_PRECONDITION if it can't be."""
        self._listener = _listen(self._wanted)
        host, port = self._listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Serve; binds first where that was not done."""
        if self._listener is None:
            self.bind()
        assert self._listener is not None
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        log.info("http_serving", address=self.address)

    async def stop(self) -> None:
        """Stop listening and let open requests end."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
        elif self._listener is not None:
            self._listener.close()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    listener = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bare, int(port)))
        # What connects from now on waits until it is accepted.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise failed_precondition(
            "TRANSPORT_UNUSABLE", f"can't listen on {address} for HTTP: {error.strerror}"
        ) from error
    return listener
