"""Azure's paths: deployments by name, two versions of the API, and the models behind them."""

import json
from typing import Any

import pytest

from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.sidecar_bench import CHAT, Bench, chat_answer, error_of

AZURE = {
    "name": "azure-eu",
    "kind": "azure",
    "base_url": "http://provider.test",
    "deployments": (("chat-prod", "gpt-4o-mini"), ("thinker", "o3")),
}


def azure(**upstream: Any) -> Bench:
    return Bench(upstream={**AZURE, **upstream})


async def sent(bench: Bench, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where a call went, and with what."""
    bench.post(body, path)
    call = await bench.provider.request()
    call.send_json(chat_answer(model="gpt-4o-mini-2024-07-18"))
    assert (await bench.answered()).status == 200
    assert call.heads[0]["api-key"] == "sk-upstream"
    assert "authorization" not in call.heads[0]
    return call.targets[0], json.loads(call.requests[0])


DEPLOYMENT = "/openai/deployments/chat-prod/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (DEPLOYMENT, DEPLOYMENT),
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/v1/chat/completions", "/openai/v1/chat/completions"),
        (
            "/openai/v1/chat/completions?api-version=preview",
            "/openai/v1/chat/completions?api-version=preview",
        ),
    ],
)
async def test_a_path_of_azure_stays_what_it_is(asked: str, expected: str) -> None:
    bench = azure()
    assert await sent(bench, asked, {**CHAT, "model": "chat-prod"}) == (
        expected,
        {**CHAT, "model": "chat-prod"},
    )


async def test_an_api_version_of_the_settings_takes_calls_of_other_apps_there() -> None:
    bench = azure(api_version="2024-10-21")
    target, _ = await sent(bench, "/v1/chat/completions", {**CHAT, "model": "chat-prod"})
    assert target == DEPLOYMENT


async def test_the_path_names_the_deployment_and_the_body_need_not() -> None:
    bench = azure()
    unnamed = {name: value for name, value in CHAT.items() if name != "model"}
    _, body = await sent(bench, DEPLOYMENT, unnamed)
    assert body["model"] == "chat-prod"


async def test_a_deployment_is_priced_and_budgeted_as_its_model() -> None:
    bench = azure()
    await sent(bench, DEPLOYMENT, CHAT)
    (call,) = bench.desk.calls
    assert (call.provider, call.model, call.requested_model) == (
        "azure-eu",
        "gpt-4o-mini",
        "chat-prod",
    )
    outcome = await bench.settled()
    assert outcome.priced_as.startswith("azure/gpt-4o-mini")
    assert outcome.cost_nanos > 0


async def test_a_key_may_call_the_models_behind_deployments_not_their_names() -> None:
    desk = FakeDesk(spenders={KEY: spender(allowed_models=("gpt-4o*",))})
    bench = Bench(desk, upstream={**AZURE, "deployments": (("gpt-4o-x", "o3"),)})
    bench.post({**CHAT, "model": "gpt-4o-x"})
    answer = await bench.answered()
    assert error_of(answer)["code"] == "model_not_allowed"


async def test_an_app_of_azure_may_be_served_by_another_server() -> None:
    bench = Bench()
    bench.post(CHAT, "/openai/deployments/gpt-4o-mini/chat/completions?api-version=1&x=2")
    call = await bench.provider.request()
    assert call.targets == ["/v1/chat/completions?x=2"]
    assert call.heads[0]["authorization"] == "Bearer sk-upstream"


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/chat-prod",
        "/openai/deployments//chat/completions",
        "/openai/deployments/chat-prod/chat/completions/x",
        "/openai/deployments/chat-prod/models",
        "/openai/chat/completions",
    ],
)
async def test_there_is_no_way_round_by_paths_like_azures(path: str) -> None:
    bench = azure()
    bench.post(CHAT, path)
    assert error_of(await bench.answered())["code"] == "unknown_path"
    assert not bench.provider.connections
