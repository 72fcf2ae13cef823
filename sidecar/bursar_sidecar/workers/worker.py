"""One worker as its supervisor sees it: a process, a channel, and how often it died."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bursar_sidecar.settings import Settings
from bursar_sidecar.workers.adoption import worker_directory
from bursar_sidecar.workers.channel import Channel, opened
from bursar_sidecar.workers.sockets import Sockets

log = structlog.get_logger("bursar.workers")

ANSWER_TIMEOUT_S: Final = 5.0
"""For a question to a worker, whose loop is never busy for so long."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
SOUND_AFTER_S: Final = 10.0
"""A worker that lived so long was sound: when it dies it is started again at once."""


def pause_after(lived_s: float, last_pause_s: float) -> float:
    """How long to wait before a worker that died is started again, in seconds."""
    if lived_s >= SOUND_AFTER_S:
        return 0.0
    return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * last_pause_s))


def worker_command(fd: int) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "bursar_sidecar", "--worker-channel", str(fd)]


class Worker:
    """Keeps one worker alive."""

    def __init__(
        self,
        number: int,
        sockets: Sockets,
        settings: Callable[[], Settings],
        command: Callable[[int], Sequence[str]] = worker_command,
    ) -> None:
        """`settings` are those in force, whenever it is started."""
        self.number = number
        self.restart_count = 0
        self.served = asyncio.Event()
        """Set once it has served for the first time."""
        self._sockets = sockets
        self._settings = settings
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._asked = 0
        self._awaited: asyncio.Future[Any] | None = None
        self._turn = asyncio.Lock()
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process, while it serves."""
        return self._process.pid if self._process is not None and self._channel else None

    async def run(self) -> int:
        """Start it, and again whenever it dies. Returns its exit code when it ended while it was
        to stop, or before it ever served."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            began = loop.time()
            code = await self._live()
            if self._stopping or not self.served.is_set():
                return code
            pause_s = pause_after(loop.time() - began, pause_s)
            self.restart_count += 1
            log.error("worker_died", worker=self.number, exit_code=code, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            if self._stopping:
                return 0

    async def stop(self) -> None:
        """Let it drain and end, for good."""
        self._stopping = True
        if self._channel is None:  # it is just starting, or being started again
            self._signal(signal.SIGTERM)
            return
        # Not by a signal: a second one, and whoever stops a whole group of processes sends the
        # first, ends it at once.
        with contextlib.suppress(OSError):
            await self._channel.send({"stop": True})

    def kill(self) -> None:
        """End it at once; its journal holds the rest."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def ask(self, question: str) -> Any:
        """Its answer; None when it does not run, or does not answer in time."""
        async with self._turn:
            if self._channel is None:
                return None
            self._asked += 1
            self._awaited = asyncio.get_running_loop().create_future()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._channel.send({"ask": question, "id": self._asked})
                    return await self._awaited
            return None

    async def tell(self, settings: Settings) -> None:
        """New settings; a worker that is just starting has them already, or is told again."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                await self._channel.send({"settings": self._own(settings)})

    def _own(self, settings: Settings) -> Any:
        home = worker_directory(Path(settings.data_dir), self.number)
        return msgspec.to_builtins(
            msgspec.structs.replace(settings, data_dir=str(home), admin_address="", workers=1)
        )

    async def _live(self) -> int:
        """One life; returns the exit code, negative for a signal."""
        ours, theirs = socket.socketpair()
        given: dict[str, socket.socket] = {}
        try:
            given = self._sockets.for_one_life()
            fds = {address: each.fileno() for address, each in given.items()}
            self._process = await asyncio.create_subprocess_exec(
                *self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *fds.values()),
                # A Ctrl-C on the terminal is the supervisor's to hand on.
                start_new_session=True,
                env=dict(os.environ),
            )
        except OSError as error:
            ours.close()
            log.error("worker_not_started", worker=self.number, fault=str(error))
            return 1
        finally:
            theirs.close()
            self._sockets.release(given)
        channel = await opened(ours)
        settings = self._settings()
        try:
            with contextlib.suppress(OSError):
                await channel.send(
                    {
                        "worker": self.number,
                        "settings": self._own(settings),
                        "sockets": fds,
                        "shared_dir": settings.data_dir,
                    }
                )
            await self._listen(channel, settings)
            return await self._process.wait()
        finally:
            self._channel = None
            self._answered(None)
            channel.close()

    async def _listen(self, channel: Channel, started_with: Settings) -> None:
        while (message := await channel.receive()) is not None:
            if message.get("event") == "serving":
                self._channel = channel
                if self._settings() is not started_with:  # they changed while it started
                    await self.tell(self._settings())
                self.served.set()
            elif message.get("id") == self._asked:  # else it came too late
                self._answered(message.get("answer"))

    def _answered(self, answer: Any) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(answer)
