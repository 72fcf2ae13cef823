"""The simulated provider as a process of its own, and what it recorded."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fakes.until import DEADLINE_S, until


@contextmanager
def provider_process(directory: Path) -> Iterator[str]:
    """The address of one that runs, and demands an API key."""
    ready_file = directory / "ready.json"
    command = [sys.executable, "-m", "bursar_cli", "simulate-provider", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--ready-file", str(ready_file), "--require-api-key"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: ready_file.exists() or process.poll() is not None, "the ready file")
        assert process.poll() is None, process.communicate()[0]
        yield json.loads(ready_file.read_text())["provider"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()


def told(provider: str, path: str) -> dict[str, Any]:
    """What it says at `/simulated/PATH`."""
    with urllib.request.urlopen(f"{provider}/simulated/{path}", timeout=DEADLINE_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def recorded(provider: str, count: int) -> list[dict[str, Any]]:
    """Its record, once it has `count` calls."""
    until(lambda: told(provider, "totals")["calls"] >= count, f"{count} recorded calls")
    calls: list[dict[str, Any]] = told(provider, "calls")["calls"]
    return calls


def forget(provider: str) -> None:
    """Clear its record."""
    request = urllib.request.Request(f"{provider}/simulated/calls", method="DELETE")
    urllib.request.urlopen(request, timeout=DEADLINE_S).close()


def simulated(**behaviour: object) -> dict[str, str]:
    """The header that makes one call behave so."""
    return {"x-simulate": json.dumps(behaviour)}
