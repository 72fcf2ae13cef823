"""`bursar server` alone brings its own Postgres and takes it down again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar_cli.up import leftovers
from tests.fakes.until import DEADLINE_S, until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bursar-test-"))
    directory.chmod(0o711)
    yield directory / "data"
    shutil.rmtree(directory)


def start(data_dir: Path) -> "tuple[subprocess.Popen[str], list[dict[str, str]]]":
    """The process, and the events it told up to "serving"."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bursar_cli", "server", "--data-dir", str(data_dir)),
            *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "serving":
            return process, events
    raise AssertionError(f"the server ended: {events}")


def postgres_processes(data_dir: Path) -> list[int]:
    return leftovers.processes(lambda line: str(data_dir / "postgres") in line)


def children_of(pid: int) -> list[int]:
    """The control planes that process started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(pid) for pid in children if "bursar_server" in leftovers.command_line(int(pid))]


def test_it_serves_keeps_its_admin_key_and_stops_with_its_postgres(data_dir: Path) -> None:
    process, events = start(data_dir)
    assert [event["event"] for event in events] == ["admin_key_created", "serving"]
    with urllib.request.urlopen(f"{events[-1]['http']}/readyz", timeout=DEADLINE_S) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert postgres_processes(data_dir) == []
    process, events = start(data_dir)
    assert [event["event"] for event in events] == ["serving"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)


def test_killed_it_leaves_nothing_running(data_dir: Path) -> None:
    process, _ = start(data_dir)
    assert postgres_processes(data_dir)
    [server] = children_of(process.pid)
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    until(lambda: not postgres_processes(data_dir), "the end of Postgres")
    until(lambda: not leftovers.command_line(server), "the end of the server")
