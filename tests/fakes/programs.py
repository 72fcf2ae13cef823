"""Real processes that a test starts, kills, stops for a while and starves of disk, one by one."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bursar_cli.up.assembly import dies_with_us
from bursar_cli.up.embedded_postgres import EmbeddedPostgres
from tests.fakes.until import until

STOP_S = 60.0
"""More than the parts' own deadlines for stopping."""
LOG_TAIL = 4_000


def limit_files(pids: Iterable[int], most_bytes: int | None) -> None:
    """Let these processes write no file beyond `most_bytes`, as on a full disk; None: room again.

    Only the soft limit moves, so that whoever set it may lift it.
    """
    for pid in pids:
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        soft = hard if most_bytes is None else most_bytes
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class Program:
    """One part of an installation: at most one process at a time."""

    def __init__(
        self, name: str, directory: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """`environment` is read at each start; the tests' own settings of Bursar are left out."""
        self.name = name
        self.said: dict[str, Any] = {}
        """The JSON line by which it said that it serves."""
        self._command = command
        self._environment = environment
        self._out = directory / f"{name}.out"
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def was_started(self) -> bool:
        """Whether there ever was a process."""
        return self._process is not None

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; `wait_until_serving` waits for it. From the main thread: the process
        ends when the thread that started it ends."""
        assert not self.is_running, f"{self.name} runs already"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")}
        with self._out.open("wb") as out, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dies_with_us(self._command),
                stdout=out,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**clean, **self._environment},
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Wait for the line that says so."""

        def look() -> dict[str, Any] | None:
            assert self.is_running, f"{self.name} ended:\n{self.log()}"
            for line in self._out.read_text().splitlines(keepends=True):
                if line.startswith("{") and line.endswith("}\n"):
                    told: dict[str, Any] = json.loads(line)
                    if told.get("event") == "serving":
                        return told
            return None

        self.said = until(look, f"{self.name} serves")

    def kill(self) -> None:
        """`kill -9`."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_S)

    def send(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.is_running:
            os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop and wait; returns the exit code."""
        self.send(signal.SIGCONT)
        self.send(number)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """Wait until it ended; returns the exit code."""
        assert self._process is not None
        return self._process.wait(STOP_S)

    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:] if self._log.exists() else ""

    def whole_log(self) -> str:
        """All that it has logged, in every life."""
        return self._log.read_text(errors="replace")

    def has_logged(self, text: str) -> bool:
        """Whether the text stands anywhere in its log."""
        return text in self.whole_log()


class PostgresProgram:
    """An embedded Postgres that keeps its port and its data through every death."""

    name = "postgres"

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.server = EmbeddedPostgres(directory, settings=settings)
        self._log = directory / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the database."""
        return self.server.url

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process. From the main thread."""
        assert not self.is_running, "Postgres runs already"
        self.server.prepare()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.server.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the process and wait until it takes connections."""
        self.launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Wait until it takes connections."""

        def look() -> bool:
            assert self.is_running, f"Postgres ended:\n{self.log()}"
            return self.server.is_ready()

        until(look, "Postgres takes connections")

    def kill(self) -> None:
        """`kill -9` of the server; its children see that and end."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait(STOP_S)

    def stop(self) -> None:
        """A clean stop, which keeps the data."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_S)

    def limit_files(self, most_bytes: int | None) -> None:
        """Starve the server and all its children of disk, or give them room again (None)."""
        if self._process is None or not self.is_running:
            return
        # The server first: children that it makes from now on inherit its limit.
        limit_files([self._process.pid], most_bytes)
        for pid in children_of(self._process.pid):
            try:
                limit_files([pid], most_bytes)
            except ProcessLookupError:
                continue  # it ended meanwhile

    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:] if self._log.exists() else ""


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def module(name: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours."""
    return [sys.executable, "-m", name, *arguments]
