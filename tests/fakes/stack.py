"""A whole Bursar in a temporary directory: `bursar up`, its parts real processes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bursar.client import BursarClient
from tests.fakes.until import until

STOP_S = 60.0
"""More than the parts' own deadlines for stopping."""


class ServedCall(msgspec.Struct):
    """One call as the simulated provider counted it."""

    sequence: int
    call_id: str
    response_id: str
    model: str
    stream: bool
    ended: str
    billed: dict[str, int]


def served_by(provider: str) -> dict[str, ServedCall]:
    """Every call that a simulated provider served, by call id, once none is in flight."""

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"{provider}{path}") as answer:
            content: bytes = answer.read()
            return content

    until(
        lambda: json.loads(get("/simulated/totals"))["in_flight"] == 0,
        "the provider is done with every call",
    )
    calls: dict[str, ServedCall] = {}
    after = ""
    while True:
        lines = get(f"/simulated/calls?format=jsonl&page_size=1000&page_token={after}").splitlines()
        if not lines:
            return calls
        for line in lines:
            call = msgspec.json.decode(line, type=ServedCall)
            assert call.call_id not in calls, "a call was served twice"
            calls[call.call_id] = call
            after = str(call.sequence)


class Stack:
    """One running `bursar up`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ready_file = directory / "ready.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "up.log"

    def start(self, *arguments: str) -> None:
        """Start it and wait until all is serving."""
        self.ready_file.unlink(missing_ok=True)
        ports = (
            *("grpc", "http", "provider", "postgres"),
            *("sidecar", "sidecar-grpc", "sidecar-admin"),
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "bursar_cli", "up",
                    "--data-dir", self.directory / "data", "--ready-file", self.ready_file,
                    *(word for port in ports for word in (f"--{port}-port", "0")),
                    *arguments,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip
        until(self._is_ready, f"everything serves; see {self._log}:\n{self.log()}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"bursar up ended:\n{self.log()}"
        return self.ready_file.exists()

    def log(self) -> str:
        """What `bursar up` printed, and the ends of its parts' logs."""
        texts = [self._log.read_text()] if self._log.exists() else []
        for log in sorted((self.directory / "data" / "logs").glob("*.log")):
            texts.append(f"--- {log.name}\n{log.read_text()[-3000:]}")
        return "\n".join(texts)

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file."""
        content: dict[str, Any] = json.loads(self.ready_file.read_text())
        return content

    def pid(self, part: str) -> int:
        """The process of "server", "sidecar-1", "postgres" ..."""
        return int(self.ready["pids"][part])

    def kill(self, part: str) -> int:
        """`kill -9`; returns the pid that was."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        return pid

    def back(self, part: str, killed: int) -> None:
        """Wait until the part serves again as another process."""
        until(lambda: self.pid(part) != killed, f"{part} is started again")

    def admin(self) -> BursarClient:
        """A client with the admin key."""
        return BursarClient(self.ready["grpc"], self.ready["admin_key"])

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `bursar ...` against it."""
        environment = {
            **os.environ,
            "BURSAR_ADDRESS": self.ready["grpc"],
            "BURSAR_ADMIN_KEY": self.ready["admin_key"],
        }
        return subprocess.run(
            [sys.executable, "-m", "bursar_cli", *arguments],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip

    def database_url(self) -> str:
        """The embedded Postgres, for a test that looks behind the services."""
        kept = json.loads((self.directory / "data" / "postgres.json").read_text())
        return f"postgresql://bursar:{kept['password']}@127.0.0.1:{kept['port']}/bursar"

    def served(self) -> dict[str, ServedCall]:
        """Every call the provider served, by call id, once none is in flight."""
        return served_by(self.ready["provider"])

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait(STOP_S)

    def kill_all(self) -> None:
        """`kill -9` of the supervisor and of everything it started."""
        assert self._process is not None
        pids = {*self.ready["pids"].values(), self._process.pid}
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        self._process.wait(STOP_S)


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Stack]:
    """A stack for the length of a test; its logs are in the failure if it can't stop."""
    stack = Stack(directory)
    try:
        stack.start(*arguments)
        yield stack
    finally:
        code = stack.stop()
    assert code == 0, stack.log()
