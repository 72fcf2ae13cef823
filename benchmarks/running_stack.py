"""A whole Bursar for a benchmark: its real processes, a key under four hard budgets."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.stack import Stack, running

PLENTY = "1000000"
"""Units of money: no benchmark comes near it."""


def make_key(stack: Stack) -> str:
    """The secret of a key under the organization's, two of its team's and its own hard budget."""
    make_roomy(stack)
    _cli(
        stack, "budget", "create", "--scope", "team/search", "--limit", PLENTY, "--window", "daily",
        "--model", "gpt-*",
    )  # fmt: skip
    return key_with_budget(stack, PLENTY, "1d")


def make_roomy(stack: Stack) -> None:
    """Let the budgets of the organization and of the team never bind."""
    for budget in ("b-acme-monthly", "b-search-monthly"):
        _cli(stack, "budget", "update", budget, "--limit", PLENTY)


def key_with_budget(stack: Stack, limit: str, window: str = "lifetime") -> str:
    """The secret of a key with a hard budget of its own."""
    created = _cli(
        stack, "key", "create", "--team", "search",
        "--max-budget", limit, "--window", window, "-o", "json",
    )  # fmt: skip
    secret: str = json.loads(created)["key"]
    return secret


def _cli(stack: Stack, *arguments: str) -> str:
    done = stack.cli(*arguments)
    if done.returncode:
        raise RuntimeError(f"bursar {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def running_stack(sidecars: int = 1) -> Iterator[Stack]:
    """`bursar up` in a temporary directory."""
    with (
        tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as directory,
        running(Path(directory), "--sidecars", str(sidecars)) as stack,
    ):
        yield stack
