"""One program that is kept running: started, watched, started again when it dies, stopped."""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST_RESTART_DELAY_S = 0.1  # soon, for whatever killed it; calls are waiting
MAX_RESTART_DELAY_S = 5.0  # a program that can't start is tried again without heating the machine
STEADY_S = 30.0  # a life this long ends the doubling of the delay
FIRST_START_ATTEMPTS = 3  # then whoever asked is told, instead of waiting for ever
READY_S = 90.0  # for the first start; the longest is a database that recovers from a crash
READY_POLL_S = 0.03
MAX_LOG_BYTES = 10_000_000  # at a start, a longer log becomes NAME.log.1
LOG_TAIL_LINES = 12  # told when a first start fails

StopSteps = Sequence[tuple[signal.Signals, float]]
"""Signals in order, each with the seconds it is given to work."""


class PartError(RuntimeError):
    """A part that could not be brought up; the text says which, why and where its log is."""


class LaunchError(RuntimeError):
    """A part that can't be started just now; the text says why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line and the whole environment it runs in."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Part:
    """A supervised program. Make and use it in one event loop, in the main thread.

    `launch` is asked anew before each start, in a thread, and may take its time; it raises
    LaunchError. `is_ready` says whether the program serves. `spawned` is called when there is a new
    process, `changed` when it came to serve, and `said` with a line for people when it died.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        is_ready: Callable[[], Awaitable[bool]],
        *,
        log: Path,
        stop_steps: StopSteps,
        spawned: Callable[[], None],
        changed: Callable[[], None],
        said: Callable[[str], None],
    ) -> None:
        self.name = name
        self.log = log
        self.pid: int | None = None
        self._launch = launch
        self._is_ready = is_ready
        self._stop_steps = stop_steps
        self._spawned = spawned
        self._changed = changed
        self._said = said
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._first_ready: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it serves for the first time. Raises PartError."""
        self._first_ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_running(), name=f"keep {self.name}")
        try:
            await asyncio.wait_for(asyncio.shield(self._first_ready), READY_S)
        except TimeoutError:
            raise self._error(f"did not serve within {READY_S:g} s") from None

    async def stop(self) -> None:
        """Stop it and keep it stopped."""
        self._stopping.set()
        while self._task is not None and not self._task.done():
            # Again and again: a start that was under way may yet bring a process.
            if self._process is not None and self._process.returncode is None:
                await self._stop_process(self._process)
            await asyncio.wait({self._task}, timeout=READY_POLL_S)

    async def _stop_process(self, process: asyncio.subprocess.Process) -> None:
        for number, seconds in self._stop_steps:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            if await self._ends_within(process, seconds):
                return

    def hurry(self) -> None:
        """Give each step of a stop no more time."""
        self._hurry.set()

    async def _ends_within(self, process: asyncio.subprocess.Process, seconds: float) -> bool:
        ended = asyncio.ensure_future(process.wait())
        hurried = asyncio.ensure_future(self._hurry.wait())
        # In a hurry the first signal is not even waited for; the last one always is.
        wait_for = {ended} if self._hurry.is_set() else {ended, hurried}
        timeout = READY_POLL_S if self._hurry.is_set() else seconds
        await asyncio.wait(wait_for, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            ended.cancel()
        return process.returncode is not None

    async def _keep_running(self) -> None:
        delay = FIRST_RESTART_DELAY_S
        attempts = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            ending = await self._live()
            if self._stopping.is_set():
                return
            attempts += 1
            if self._first_ready is not None and not self._first_ready.done():
                if attempts >= FIRST_START_ATTEMPTS:
                    self._first_ready.set_exception(self._error(ending))
                    return
            else:
                self._said(f"{self.name} {ending}; starting it again")
            if time.monotonic() - born >= STEADY_S:
                delay = FIRST_RESTART_DELAY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, MAX_RESTART_DELAY_S)

    async def _live(self) -> str:
        """One life of the program; returns how it ended, for people."""
        try:
            launch = await asyncio.to_thread(self._launch)
        except LaunchError as error:
            return str(error)
        if self._stopping.is_set():
            return "was not started"
        self._roll_log()
        try:
            with self.log.open("ab") as log:
                # From the main thread: the kernel ends the program when the thread that started
                # it ends. A session of its own, so that Ctrl-C reaches the supervisor alone.
                process = await asyncio.create_subprocess_exec(
                    *launch.command,
                    env=dict(launch.environment),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            return f"could not be started: {error}"
        self._process = process
        self.pid = process.pid
        self._spawned()
        await self._watch_until_ready(process)
        code = await process.wait()
        self.pid = None
        return f"ended with signal {-code}" if code < 0 else f"ended with code {code}"

    async def _watch_until_ready(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None and not self._stopping.is_set():
            if await self._is_ready() and process.returncode is None:
                if self._first_ready is not None and not self._first_ready.done():
                    self._first_ready.set_result(None)
                self._changed()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), READY_POLL_S)

    def _roll_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(self.log.with_name(f"{self.log.name}.1"))

    def _error(self, what: str) -> PartError:
        try:
            with self.log.open(errors="replace") as file:
                lines = deque(file, LOG_TAIL_LINES)
        except FileNotFoundError:
            lines = deque()
        tail = "".join(f"\n  {line.rstrip()}" for line in lines)
        return PartError(f"{self.name} {what}; {self.log} ends:{tail}" if tail else what)
