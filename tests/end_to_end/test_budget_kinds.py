"""Shadow budgets and temporary raises, against real processes with the official SDK."""

import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.test_features import WITHIN_S, App, command
from tests.fakes.stack import Stack, running
from tests.fakes.until import until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("kinds")) as stack:
        yield stack


def budget(stack: Stack, *arguments: str) -> Any:
    return command(stack, "budget", arguments[0], "--org", "acme", *arguments[1:])


def test_a_shadow_budget_counts_what_it_would_have_refused(stack: Stack) -> None:
    app = App(stack)
    made = budget(
        stack, "create", "--scope", app.scope, "--limit", "0", "--window", "daily", "--shadow"
    )
    assert [app.refused() for _ in range(3)] == [(200, "")] * 3

    def counted() -> Any:
        standing = budget(stack, "show", made["name"])["standing"]
        return standing if standing and standing["wouldRefuseCount"] == "3" else None

    standing = until(counted, "three calls are counted", WITHIN_S)
    assert standing["wouldRefuse"] == standing["settled"]
    assert int(standing["settled"]["nanos"]) > 0
    events = command(stack, "alert", "list", "--org", "acme")
    mine = [event["kind"] for event in events if event["budget"] == made["name"]]
    assert mine == ["EVENT_KIND_SHADOW_REFUSAL"]
    with urllib.request.urlopen(f"{stack.ready['http']}/metrics") as answer:
        assert b"bursar_shadow_refusals_total 3.0" in answer.read()
    assert command(stack, "ledger", "verify")["ok"]


def test_a_temporary_raise_lets_calls_through_and_its_end_stops_them(stack: Stack) -> None:
    app = App(stack, "--max-budget", "0", "--window", "lifetime")
    assert app.refused() == (402, "budget_exhausted")
    made = budget(stack, "raise", app.budget, "--by", "1", "--for", "1h", "--reason", "a test")
    assert made["state"] == "RAISE_STATE_RUNNING"
    until(lambda: app.refused() == (200, ""), "the raise lets calls through", WITHIN_S)
    budget(stack, "cancel", made["name"], "--reason", "it is over")
    until(lambda: app.refused()[0] == 402, "its end stops them", WITHIN_S)

    made = budget(stack, "raise", app.budget, "--by", "1", "--for", "2s", "--reason", "a test")

    def ended() -> bool:
        (found,) = (r for r in budget(stack, "raises", app.budget) if r["name"] == made["name"])
        return bool(found["steps"][-1]["kind"] == "RAISE_STEP_KIND_ENDED")

    until(ended, "time ends the raise", 2 + WITHIN_S)
    until(lambda: app.refused()[0] == 402, "and stops the calls", WITHIN_S)
    assert command(stack, "ledger", "verify")["ok"]
