"""The demo as a new user meets it: up, a call with the demo key, and the same key after a kill."""

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from bursar_cli.up import leftovers
from tests.fakes.until import DEADLINE_S, until

ANY_PORTS = [
    argument
    for part in ("grpc", "http", "sidecar", "sidecar-grpc", "sidecar-admin", "provider")
    for argument in (f"--{part}-port", "0")
]


def start(data_dir: Path, ready_file: Path) -> "subprocess.Popen[str]":
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")
    }
    command = [sys.executable, "-m", "bursar_cli", "up", "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [*command, "--ready-file", str(ready_file), *ANY_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def ready(process: "subprocess.Popen[str]", ready_file: Path) -> dict[str, Any]:
    """What the ready file of this supervisor says."""

    def look() -> dict[str, Any] | None:
        assert process.poll() is None, process.communicate()[0]
        if not ready_file.exists():
            return None
        told: dict[str, Any] = json.loads(ready_file.read_text())
        return told if told["pids"]["supervisor"] == process.pid else None

    return until(look, "the ready file")


def call(told: dict[str, Any]) -> str:
    """Make a call with the demo key; returns what it cost."""
    with openai.OpenAI(base_url=f"{told['sidecar']}/v1", api_key=told["demo_key"]) as app:
        answer = app.chat.completions.with_raw_response.create(
            model="gpt-4o-mini",
            max_tokens=100,
            messages=[{"role": "user", "content": "Hello"}],
        )
    return answer.headers["x-bursar-cost"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_demo_key_works_and_works_again(tmp_path: Path, number: signal.Signals) -> None:
    first = start(tmp_path / "data", tmp_path / "ready.json")
    before = ready(first, tmp_path / "ready.json")
    cost = call(before)
    assert Decimal(cost) > 0
    first.send_signal(number)
    first.communicate(timeout=DEADLINE_S)
    second = start(tmp_path / "data", tmp_path / "ready.json")
    after = ready(second, tmp_path / "ready.json")
    assert {**after, "pids": {}} == {**before, "pids": {}}
    assert call(after) == cost
    second.send_signal(signal.SIGINT)
    output = second.communicate(timeout=DEADLINE_S)[0]
    assert second.returncode == 0, output
    assert before["demo_key"] in output
    assert not any(leftovers.command_line(pid) for pid in after["pids"].values())
