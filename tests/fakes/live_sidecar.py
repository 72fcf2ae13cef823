"""A sidecar's data path and the simulated provider on real sockets, without a control plane.

Both run in an event loop of their own thread, so that an SDK of any kind can call them. The desk is
the one in memory; the provider's own record is the truth that its outcomes are compared with.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.connection import Connection, Provider
from bursar_cli.simulated_provider.served_calls import ServedCall
from bursar_sidecar.desk import Outcome, SystemClock
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.provider_settings import Provider as Upstream
from bursar_sidecar.proxy import Proxy, build_proxy
from bursar_sidecar.settings import Settings
from tests.fakes.desk import FakeDesk
from tests.fakes.until import DEADLINE_S, until

DRAIN_S = 5.0


class LiveSidecar:
    """A sidecar that apps can call; `upstream` are fields of its provider's settings."""

    def __init__(self, desk: FakeDesk, upstream: dict[str, Any], settings: dict[str, Any]) -> None:
        self.desk = desk
        self.provider = Provider(Behaviour())
        self.address = ""
        self.provider_address = ""
        self._upstream = upstream
        self._settings = settings
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # told to whoever waits for the start
            self._failure = error
            raise
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: Connection(self.provider), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.provider_address = f"http://{host}:{port}"
        proxy = self._proxy()
        apps = HttpServer(proxy.handle)
        proxy.start()
        await self._started_beside(proxy)
        await apps.start("127.0.0.1", 0)
        self.address = f"http://{apps.address}"
        self._started.set()
        await self._stop.wait()
        await self._ended_beside()
        await asyncio.gather(apps.drain(DRAIN_S), proxy.tunnels.drain(DRAIN_S))
        proxy.close()
        server.close()
        for connection in list(self.provider.connections):
            connection.close()

    async def _started_beside(self, proxy: Proxy) -> None:
        """What else the sidecar serves."""

    async def _ended_beside(self) -> None:
        """It ends."""

    def _proxy(self) -> Proxy:
        version = "" if self._upstream.get("kind") == "azure" else "/v1"
        usual = {
            "name": "openai",
            "base_url": self.provider_address + version,
            "api_key": "sk-simulated",
        }
        settings = Settings(
            providers=(Upstream(**{**usual, **self._upstream}),),
            **self._settings,
        )
        return build_proxy(settings, self.desk, SystemClock())

    def start(self) -> None:
        """Serve; `address` is then where apps call, without a version."""
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        assert self._failure is None, self._failure

    def stop(self) -> None:
        """Let calls in flight end, and the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def desk_is_settled(self) -> None:
        """Wait until no call is open."""
        until(lambda: not self.desk.open, "every call is settled")

    def settled(self, calls: int = 1) -> list[tuple[ServedCall, Outcome]]:
        """What the provider served, and how the sidecar settled it, call by call, once there are
        so many and none is in flight."""
        until(
            lambda: len(self.desk.outcomes) == calls and not self.desk.open,
            f"{calls} calls are settled",
        )
        until(lambda: not self.provider.calls.totals().in_flight, "the provider is done")
        served = {call.response_id: call for call in self.provider.calls.after(0)}
        return [(served[outcome.provider_request_id], outcome) for outcome in self.desk.outcomes]


@contextmanager
def live_sidecar(
    desk: FakeDesk | None = None, upstream: dict[str, Any] | None = None, **settings: Any
) -> Iterator[LiveSidecar]:
    """A sidecar for the length of a test."""
    sidecar = LiveSidecar(desk or FakeDesk(), upstream or {}, settings)
    try:
        sidecar.start()
        yield sidecar
    finally:
        sidecar.stop()
