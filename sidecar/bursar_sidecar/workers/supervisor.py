"""The supervisor of several workers: opens, starts, watches, hands on, answers for all, ends."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from bursar_sidecar.admin import Admin
from bursar_sidecar.credential_files import CredentialFiles
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.listening import bound, inode_of, removed
from bursar_sidecar.logs import set_level
from bursar_sidecar.operations_metrics import OperationsMetrics
from bursar_sidecar.reloading import Reloading
from bursar_sidecar.setting_checks import UNIX, split_address
from bursar_sidecar.settings import Settings
from bursar_sidecar.workers.adoption import adopt
from bursar_sidecar.workers.merging import (
    SUPERVISOR,
    merged_metrics,
    merged_readiness,
    worker_metrics,
)
from bursar_sidecar.workers.sockets import Sockets
from bursar_sidecar.workers.worker import Worker

log = structlog.get_logger("bursar.workers")

STOP_MARGIN_S: Final = 20.0
"""Beyond `drain_s`, how long workers may take to settle, close their sessions and end."""


class Supervisor:
    """Runs `settings.workers` workers until it is told to stop."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        """`load` reads the settings again, for SIGHUP."""
        self._reloading = Reloading(load, self._apply, settings)
        self._sockets = Sockets(settings)
        self._workers = [
            Worker(number, self._sockets, lambda: self._reloading.settings)
            for number in range(settings.workers)
        ]
        self._admin = HttpServer(Admin(self, lambda: self._reloading.settings).handle)
        self._registry = CollectorRegistry()
        self._registry.register(
            OperationsMetrics(self._reloading, CredentialFiles(time.monotonic, 1))
        )
        self._stopped = asyncio.Event()
        self._draining = False
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until stopped. Returns the exit code: 0 drained, else a worker's."""
        settings = self._reloading.settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.reload)
        try:
            inode = await self._open_admin(settings)
        except OSError as error:
            print(f"bursar sidecar: cannot listen: {error}", file=sys.stderr)
            self._sockets.close()
            return 1
        lives = [asyncio.create_task(worker.run()) for worker in self._workers]
        ended = asyncio.create_task(_first(lives))
        stopped = asyncio.create_task(self._stopped.wait())
        serving = asyncio.gather(*(worker.served.wait() for worker in self._workers))
        await asyncio.wait((ended, stopped, serving), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and not stopped.done():
            self._say_serving(settings)
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        codes = await self._end(lives)
        removed(settings.admin_address, inode)
        await self._admin.drain(0)
        self._sockets.close()
        for task in (ended, stopped):
            task.cancel()
        await asyncio.gather(ended, stopped, serving, return_exceptions=True)
        log.info("stopped")
        # One that was still starting has no other way to stop than by the signal.
        return max((abs(code) for code in codes if code != -signal.SIGTERM), default=0)

    # -- what the admin endpoints show ---------------------------------------------------------

    async def metrics(self) -> bytes:
        """All workers' metrics, each sample labelled with its worker."""
        answers = await asyncio.gather(*(worker.ask("metrics") for worker in self._workers))
        texts = {
            str(worker.number): text
            for worker, text in zip(self._workers, answers, strict=True)
            if text is not None
        }
        own = worker_metrics(
            {worker.number: str(worker.number) in texts for worker in self._workers},
            {worker.number: worker.restart_count for worker in self._workers},
        )
        texts[SUPERVISOR] = generate_latest(self._registry).decode()
        return (own + merged_metrics(texts)).encode()

    async def readiness(self) -> str:
        """Why no calls should be sent here; "" when those workers that run are ready."""
        if self._draining:
            return "draining"
        answers = await asyncio.gather(*(worker.ask("readiness") for worker in self._workers))
        reasons = {}
        for worker, answer in zip(self._workers, answers, strict=True):
            is_silent = answer is None and worker.pid is not None
            reasons[worker.number] = "it does not answer" if is_silent else answer
        return merged_readiness(reasons)

    async def held(self) -> list[dict[str, Any]]:
        """What each worker holds."""
        answers = await asyncio.gather(*(worker.ask("held") for worker in self._workers))
        about = []
        for worker, answer in zip(self._workers, answers, strict=True):
            own = {"worker": worker.number, "pid": worker.pid, "restarts": worker.restart_count}
            about.append({**own, **(answer or {"fault": "it does not run, or does not answer"})})
        return about

    # -- life ----------------------------------------------------------------------------------

    async def _open_admin(self, settings: Settings) -> int:
        address = settings.admin_address
        if address.startswith(UNIX):
            await self._admin.listen(bound(address, mode=settings.socket_mode), address)
        else:
            await self._admin.start(*split_address(address))
        return inode_of(address)

    def _say_serving(self, settings: Settings) -> None:
        said: dict[str, Any] = {
            "event": "serving",
            "http": self._sockets.where(settings.http_address),
            "admin": self._admin.address,
            "workers": [worker.pid for worker in self._workers],
        }
        if settings.grpc_address and not settings.grpc_address.endswith(":0"):
            # Of the first worker, which alone knows which free port it took.
            said["grpc"] = settings.grpc_address
        if settings.envoy_address and not settings.envoy_address.endswith(":0"):
            said["envoy"] = settings.envoy_address
        if settings.listeners:
            said["listeners"] = [self._sockets.where(one.address) for one in settings.listeners]
        print(json.dumps(said), flush=True)

    def _apply(self, settings: Settings) -> None:
        set_level(settings.log_level)
        for worker in self._workers:
            task = asyncio.create_task(worker.tell(settings))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    def _stop(self) -> None:
        if self._stopped.is_set():  # a second time: at once
            for worker in self._workers:
                worker.kill()
        self._stopped.set()

    async def _end(self, lives: list["asyncio.Task[int]"]) -> list[int]:
        """Let all workers drain, all at one time; who takes too long is killed."""
        self._draining = True
        self._sockets.stop_listening()
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        within_s = self._reloading.settings.drain_s + STOP_MARGIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return list(await asyncio.shield(asyncio.gather(*lives)))
        log.error("workers_killed", within_s=within_s, effect="their journals hold the rest")
        for worker in self._workers:
            worker.kill()
        return list(await asyncio.gather(*lives))


async def _first(lives: list["asyncio.Task[int]"]) -> None:
    await asyncio.wait(lives, return_when=asyncio.FIRST_COMPLETED)


async def supervise(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run several workers until stopped. Returns the exit code."""
    try:
        adopt(Path(settings.data_dir), settings.workers)
        supervisor = Supervisor(settings, load)
    except OSError as error:
        print(f"bursar sidecar: cannot listen: {error}", file=sys.stderr)
        return 1
    return await supervisor.run()
