"""The command line, and the money side of a sidecar, each against a fake control plane."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bursar_cli import waiting
from bursar_cli.__main__ import build_app
from tests.fakes.admin_server import ADMIN_KEY, AdminServer
from tests.fakes.admin_state import AdminState
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter, serving

Bursar = Callable[..., Any]


@pytest.fixture
def admin_server() -> Iterator[AdminServer]:
    """A control plane with the organization acme, in EUR."""
    with AdminServer() as running:
        running.state.add_organization("acme", "EUR")
        running.state.add_organization("platform")
        yield running


@pytest.fixture
def state(admin_server: AdminServer) -> AdminState:
    """What it keeps."""
    return admin_server.state


@pytest.fixture
def bursar(admin_server: AdminServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bursar:
    """Runs a command that is expected to succeed; gives what it wrote to standard output."""
    monkeypatch.setenv("BURSAR_ADDRESS", admin_server.address)
    monkeypatch.setenv("BURSAR_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(build_app(), list(arguments))
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}"
        assert "\x1b" not in result.output, "coloured, though no terminal reads it"
        if arguments[-2:] == ("-o", "json") and not code:
            return json.loads(result.stdout)
        return result.stdout

    return run


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes only where the command line pauses; what it paused."""
    paused: list[float] = []
    monkeypatch.setattr(waiting, "pause", paused.append)
    monkeypatch.setattr(waiting, "seconds", lambda: sum(paused))
    return paused


@pytest.fixture
def plane() -> FakeControlPlane:
    """A control plane for sidecars, with a key of a team and a budget of 1,000."""
    plane = FakeControlPlane()
    plane.add_key(KEY, 7, team_id=3, team="teams/search", tags=["t:1"])
    plane.add_budget(1, 1_000)
    return plane


@pytest.fixture
async def counter(plane: FakeControlPlane, tmp_path: Path) -> AsyncIterator[Counter]:
    """The money side of a sidecar of `plane`."""
    async with serving(Counter(plane.dial, tmp_path)) as life:
        yield life
