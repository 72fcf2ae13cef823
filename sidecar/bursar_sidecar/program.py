"""One serving process: its parts, its signals, its life; alone, or as a worker of a supervisor."""

import asyncio
import contextlib
import functools
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bursar_sidecar.admin import Admin
from bursar_sidecar.allowances import Book
from bursar_sidecar.amendments import Amendments
from bursar_sidecar.build import VERSION
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.channel import dialer
from bursar_sidecar.clock import SystemClock
from bursar_sidecar.counting.counter import SharedCounter, StartedProcess
from bursar_sidecar.credential_files import CredentialFile, CredentialFiles
from bursar_sidecar.doors import Doors, Given
from bursar_sidecar.draining import Draining
from bursar_sidecar.envoy.life import EnvoyServices
from bursar_sidecar.envoy.origins import of_envoy
from bursar_sidecar.holdings import Holdings
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal, JournalError, machine_boot_id
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.local_grpc.life import LocalGrpc
from bursar_sidecar.logs import set_level
from bursar_sidecar.money_metrics import MoneyMetrics
from bursar_sidecar.operations_metrics import OperationsMetrics
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.reloading import Reloading
from bursar_sidecar.session import Session
from bursar_sidecar.settings import Settings
from bursar_sidecar.workers.adoption import adopt
from bursar_sidecar.workers.link import Link

# At shutdown, how long the control plane may take to acknowledge the last charges. What it does
# not acknowledge is in the journal.
CLOSE_TIMEOUT_S: Final = 5.0
# After the proxy has ended its calls (its own deadline is `drain_s`), settling takes no time.
SETTLE_TIMEOUT_S: Final = 1.0


class Process:
    """All parts of one process."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        *,
        given: Given | None = None,
        shared_dir: str = "",
        first: bool = True,
    ) -> None:
        """`load` reads the settings again. `given`: sockets that a supervisor bound; `shared_dir`:
        what its workers share; `first`: of several workers; what is reserved by gRPC is known to
        the process that reserved it, so that this one alone is asked. Raises OSError or
        JournalError."""
        self._log = structlog.get_logger("bursar.sidecar")
        clock = SystemClock()
        dial = dialer(settings)
        self._journal = Journal(
            Path(settings.data_dir), boot_id=machine_boot_id(), limits=JournalLimits()
        )
        self._book = Book(max_waiters=settings.max_waiters)
        identity = Identity()
        self._session = Session(
            dial,
            clock,
            self._book,
            identity,
            self._journal,
            build=f"bursar-sidecar/{VERSION}",
        )
        self._cashier = Cashier(
            clock,
            self._book,
            identity,
            self._journal,
            self._session,
            reserve_wait_ms=settings.reserve_wait_ms,
        )
        counter = None
        if settings.cut_streams == "count":  # its process is started by the first that needs it
            counting = StartedProcess(Path(shared_dir or settings.data_dir))
            counter = SharedCounter(counting.connect, clock.monotonic)
        self.proxy = build_proxy(
            settings, self._cashier, clock, readiness=self._cashier.readiness, counter=counter
        )
        self.reloading = Reloading(load, self._apply, settings)
        self.doors = Doors(
            settings, self.proxy.handle, Admin(self, lambda: self.reloading.settings).handle, given
        )
        self._draining = Draining(
            self._cashier, self._session, longest_call_s=settings.longest_call_s
        )
        self._files = CredentialFiles(clock.monotonic, settings.credential_check_s)
        self._watch(settings)
        registry = self.proxy.metrics.registry
        MoneyMetrics(self._book, self._journal, self._session, self._cashier, clock).register(
            registry
        )
        registry.register(OperationsMetrics(self.reloading, self._files))
        amendments = Amendments(self._session, clock)
        if not first:
            settings = msgspec.structs.replace(settings, grpc_address="", envoy_address="")
        recovered = amendments.recovered(self._journal.recovered)
        self.local_grpc = LocalGrpc(
            settings,
            self._cashier,
            clock,
            amendments,
            of_envoy(recovered, ours=False),
            registry,
        )
        self.envoy = EnvoyServices(
            settings, self.proxy, self._cashier, clock, amendments, registry, of_envoy(recovered)
        )
        self._holdings = Holdings(self._book, self._journal, self._session, identity, clock)
        self._holdings.more["providers"] = self.proxy.described
        self._holdings.more["envoy"] = self.envoy.described
        self._holdings.more["websockets"] = self.proxy.tunnels.described
        self._holdings.more["credential_files"] = self._files.described
        self._holdings.more["reloads"] = self.reloading.described
        self._tasks: list[asyncio.Task[Any]] = []

    # -- what the admin endpoints and a supervisor ask -----------------------------------------

    async def metrics(self) -> bytes:
        """In the text format of Prometheus."""
        return self.proxy.metrics.text()

    async def readiness(self) -> str:
        """Why no calls should be sent here; "" when ready."""
        return self.why_not_ready()

    async def held(self) -> list[dict[str, Any]]:
        """What this process holds."""
        return [self._holdings.held()]

    def why_not_ready(self) -> str:
        """Why no calls should be sent here; "" when ready."""
        return "draining" if self.doors.draining else self.proxy.readiness()

    def answers(self) -> dict[str, Callable[[], Any]]:
        """To a supervisor's questions."""
        return {
            "metrics": lambda: self.proxy.metrics.text().decode(),
            "readiness": self.why_not_ready,
            "held": self._holdings.held,
        }

    # -- settings ------------------------------------------------------------------------------

    def reload(self) -> None:
        """SIGHUP: credentials and settings, now.

        Credentials first: those that rotated are told so, also where the settings have a fault.
        """
        self._files.look(at_once=True)
        self.reloading.reload()

    def _apply(self, settings: Settings) -> None:
        """In one step. Raises OSError, and has changed nothing."""
        self.proxy.apply(settings)
        self.local_grpc.apply(settings)
        self.envoy.apply(settings)
        self.doors.apply(settings)
        self._book.max_waiters = settings.max_waiters
        self._cashier.reserve_wait_ms = settings.reserve_wait_ms
        self._draining.longest_call_s = settings.longest_call_s
        self._files.every_s = settings.credential_check_s
        self._watch(settings)
        set_level(settings.log_level)

    def _watch(self, settings: Settings) -> None:
        """Have the files looked at that credentials are from."""
        files = []
        for provider in settings.providers:
            if provider.api_key_file:
                name, path = f"providers.{provider.name}", provider.api_key_file
                use = functools.partial(self.proxy.rekey, provider.name)
                files.append(CredentialFile(name, path, provider.api_key, use))
        for i, door in enumerate(self.doors.doors):
            listener = door.listener
            if listener.api_key_file:
                name, path = f"listeners[{i}]", listener.api_key_file
                files.append(CredentialFile(name, path, listener.api_key, door.rekey))
        self._files.watch(files)

    # -- life ----------------------------------------------------------------------------------

    async def serve(self, link: Link | None) -> int:
        """Until it is told to stop. Returns the exit code."""
        session = self._start(self._session.run(), "session")
        stopped = _stop_signals()
        try:
            self.proxy.start()
            await self.doors.open()
            await self.local_grpc.start()
            await self.envoy.start()
        except OSError as error:
            print(f"bursar sidecar: cannot listen: {error}", file=sys.stderr)
            await self._end()
            return 1
        self._start(self._files.run(), "credential-files")
        settle_down()
        ends: list[asyncio.Task[Any]] = [session, self._start(stopped.wait(), "stop")]
        if link is None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
            self._say_serving()
        else:
            # A supervisor hands settings on; a hang-up of its terminal is its affair.
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
            await link.serving()
            self._start(link.run(self.answers()), "supervisor")
            ends.append(self._start(link.stopping.wait(), "told-to-stop"))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        failed = session.done()
        if failed:  # it never ends by itself: a fault of ours; say it and end in an orderly way
            self._log.critical("session_failed", exc_info=session.exception())
        await self._draining.stop()
        drain_s = self.reloading.settings.drain_s
        await asyncio.gather(
            self.doors.close(drain_s),
            self.local_grpc.drain(drain_s),
            self.envoy.drain(drain_s),
            self.proxy.tunnels.drain(drain_s),
        )
        self.proxy.close()
        self._session.stopping()
        if not await self._cashier.drain(SETTLE_TIMEOUT_S, CLOSE_TIMEOUT_S):
            self._log.warning(
                "not_all_acknowledged", effect="the journal holds the rest for the next start"
            )
        await self._end()
        self._log.info("stopped")
        return 1 if failed else 0

    def _start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.append(task)
        return task

    def _say_serving(self) -> None:
        said: dict[str, Any] = {
            "event": "serving",
            "http": self.doors.http_address,
            "admin": self.doors.admin_address,
        }
        if self.local_grpc.address:
            said["grpc"] = self.local_grpc.address
        if self.envoy.address:
            said["envoy"] = self.envoy.address
        if self.doors.doors:
            said["listeners"] = self.doors.listener_addresses
        print(json.dumps(said), flush=True)

    async def _end(self) -> None:
        await self.doors.close(0)
        await self.local_grpc.drain(0)
        await self.envoy.drain(0)
        await self.doors.close_admin()
        self._journal.close()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def run_alone(settings: Settings, load: Callable[[], Settings]) -> int:
    """The only process of a sidecar. Returns the exit code."""
    try:
        adopt(Path(settings.data_dir), 0)
        process = Process(settings, load)
    except (OSError, JournalError) as error:
        print(f"bursar sidecar: {error}", file=sys.stderr)
        return 1
    return await process.serve(None)


async def run_worker(channel_fd: int) -> int:
    """One of several, as its supervisor says over an inherited socket. Returns the exit code."""
    try:
        link, given = await Link.from_fd(channel_fd)
        structlog.contextvars.bind_contextvars(worker=given.number)
        set_level(given.settings.log_level)
        process = Process(
            given.settings,
            lambda: link.settings or given.settings,
            given=given.sockets,
            shared_dir=given.shared_dir,
            first=not given.number,
        )
    except (OSError, JournalError) as error:
        print(f"bursar sidecar: {error}", file=sys.stderr)
        return 1
    link.settings_told = process.reload
    return await process.serve(link)


def settle_down() -> None:
    """Set the garbage collector up for a process that serves."""
    # Everything made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # A call makes a few hundred objects and no cycles: look for them ten times less often than by
    # default.
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def _stop_signals() -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT; a second one ends the process at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            # The journal holds everything; the next start sorts it out.
            os._exit(1)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped
