"""The command line against a fake control plane."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bursar_cli import waiting
from bursar_cli.__main__ import build_app
from tests.fakes.admin_server import ADMIN_KEY, AdminServer
from tests.fakes.admin_state import AdminState

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
