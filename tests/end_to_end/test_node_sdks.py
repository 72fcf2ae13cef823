"""OpenAI's and Anthropic's official libraries for JavaScript through a real sidecar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import node_apps
from tests.fakes.dialect_apps import DialectApps
from tests.fakes.stack import Stack, running

GPT = "gpt-4o-mini"
CLAUDE = "claude-haiku-4-5"
MESSAGES = [{"role": "user", "content": "How much is left of the budget?"}]
PROVIDERS = {"chat": "openai", "message": "anthropic"}
BODIES: dict[str, Any] = {
    "chat": {"model": GPT, "messages": MESSAGES, "max_tokens": 60},
    "message": {"model": CLAUDE, "messages": MESSAGES, "max_tokens": 60},
}
BEHAVIOUR = {"output_llm_tokens": 50, "cached_input_llm_tokens": 3}


@pytest.fixture(scope="module")
def libraries() -> Path:
    return node_apps.installed()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("node")) as stack:
        yield stack


def call(libraries: Path, apps: DialectApps, kind: str, way: str, **fields: Any) -> dict[str, Any]:
    return node_apps.run(
        libraries,
        call=f"{kind} {way}",
        address=apps.address,
        key=apps.key,
        headers=apps.headers(**BEHAVIOUR),
        body={**BODIES[kind], **fields},
    )


@pytest.mark.parametrize("kind", ["chat", "message"])
def test_plain_and_streamed_answers_are_whole_and_cost_what_the_provider_bills(
    libraries: Path, stack: Stack, kind: str
) -> None:
    apps = DialectApps(stack)
    plain = call(libraries, apps, kind, "plain")["answer"]
    streamed = call(libraries, apps, kind, "stream")["answer"]
    assert len(plain["text"].split()) == 50
    assert streamed["text"] == plain["text"]
    assert (
        plain["finished"] == streamed["finished"] == {"chat": "stop", "message": "end_turn"}[kind]
    )
    assert plain["output"] == 50
    assert plain["cost"]
    if kind == "message":
        assert streamed["output"] == 50
        assert streamed["events"][0] == "message_start"
        assert streamed["events"][-1] == "message_stop"
    else:
        # The app did not ask for the usage, and does not see the chunk that tells it to us.
        assert streamed["output"] == 0
    apps.compare(PROVIDERS[kind])


def test_an_app_that_asks_for_the_usage_of_a_stream_gets_it(libraries: Path, stack: Stack) -> None:
    apps = DialectApps(stack)
    told = call(libraries, apps, "chat", "stream", stream_options={"include_usage": True})
    assert told["answer"]["output"] == 50
    apps.compare("openai")


@pytest.mark.parametrize("way", ["plain", "stream"])
@pytest.mark.parametrize("kind", ["chat", "message"])
def test_an_exhausted_budget_refuses_as_the_library_knows_it(
    libraries: Path, stack: Stack, kind: str, way: str
) -> None:
    apps = DialectApps(stack, budget="0.000001")
    error = call(libraries, apps, kind, way)["error"]
    assert error["status"] == 402
    assert "0.000001 USD left" in error["message"]
    told = error["body"]["error"] if kind == "message" else error["body"]
    assert told["code"] == "budget_exhausted"
    assert told["budgets"][0]["limit"] == "0.000001"
    apps.not_served()


@pytest.mark.parametrize("kind", ["chat", "message"])
def test_an_unknown_key_is_the_librarys_own_error(libraries: Path, stack: Stack, kind: str) -> None:
    apps = DialectApps(stack)
    apps.key = "bk-unknown"
    error = call(libraries, apps, kind, "plain")["error"]
    assert (error["name"], error["status"]) == ("AuthenticationError", 401)
