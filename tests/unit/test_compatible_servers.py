"""Servers that speak like OpenAI: what differs between them follows from their kind alone."""

import json
from typing import Any

import pytest

from bursar.pricing import llm_token_price, snapshot
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import CHAT, DONE, USAGE, USAGE_CHUNK, Bench, chunk

PRICED = llm_token_price("server", "m", rates={"input": 1, "output": 2})
ASKED = {**CHAT, "model": "m", "stream": True}
COST_NANOS = 50_000  # 10 at 1 and 20 at 2 USD a million


def bench(kind: str, **upstream: Any) -> Bench:
    desk = FakeDesk(book=snapshot().with_overlay([PRICED], "v1"))
    return Bench(desk, upstream={"name": "server", "kind": kind, **upstream})


async def sent(bench: Bench, body: dict[str, Any]) -> dict[str, Any]:
    """What the provider was sent."""
    bench.post(body)
    call = await bench.provider.request()
    asked: dict[str, Any] = json.loads(call.requests[0])
    return asked


@pytest.mark.parametrize(
    ("kind", "asks"),
    [
        ("openai", True),
        ("vllm", True),
        ("ollama", True),
        ("deepseek", True),
        ("mistral", False),
        ("xai", False),
        ("groq", False),
        ("openrouter", False),
    ],
)
async def test_usage_is_asked_for_where_it_has_to_be(kind: str, asks: bool) -> None:
    assert ("stream_options" in await sent(bench(kind), ASKED)) is asks


async def test_a_setting_goes_before_the_kind() -> None:
    assert "stream_options" not in await sent(bench("vllm", include_usage=False), ASKED)
    assert "stream_options" in await sent(bench("mistral", include_usage=True), ASKED)


@pytest.mark.parametrize(
    ("upstream", "field"),
    [
        ({"kind": "mistral"}, "max_tokens"),
        ({"kind": "xai"}, "max_completion_tokens"),
        ({"kind": "mistral", "output_limit_field": "max_completion_tokens"},
         "max_completion_tokens"),
    ],
)  # fmt: skip
async def test_a_limit_is_set_by_the_field_that_the_server_knows(
    upstream: dict[str, Any], field: str
) -> None:
    unlimited = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    asked = await sent(bench(**upstream), {**unlimited, "model": "m"})
    assert asked[field] == 4096


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        # The usage of Mistral's streams is in the chunk that ends the choice.
        (
            "mistral",
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE},
        ),
        (
            "groq",
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"id": "r", "usage": USAGE},
            },
        ),
    ],
)
async def test_usage_is_found_where_the_server_tells_it(kind: str, last: dict[str, Any]) -> None:
    server = bench(kind)
    server.post(ASKED)
    call = await server.provider.request()
    call.start_stream()
    end = b"data: " + json.dumps({"id": "c-1", "model": "m", **last}).encode() + b"\n\n"
    for one in (chunk("a", model="m"), end, DONE, b""):
        call.send_chunk(one)
    answer = await server.answered()
    assert end in answer.body
    outcome = await server.settled()
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (COST_NANOS, True)


async def test_what_a_server_tells_unasked_is_not_withheld() -> None:
    server = bench("xai")
    server.post(ASKED)
    call = await server.provider.request()
    call.start_stream()
    for one in (chunk("a", model="m"), USAGE_CHUNK, DONE, b""):
        call.send_chunk(one)
    assert USAGE_CHUNK in (await server.answered()).body
    assert (await server.settled()).cost_nanos == COST_NANOS


async def test_a_plain_answer_is_read_as_its_server_writes_it() -> None:
    server = bench("deepseek")
    server.post({**CHAT, "model": "m"})
    call = await server.provider.request()
    usage = {**USAGE, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}
    call.send_json(json.dumps({"id": "c-1", "model": "m", "choices": [], "usage": usage}).encode())
    await server.answered()
    outcome = await server.settled()
    assert (outcome.usage.input, outcome.usage.cached_input) == (6, 4)


async def test_a_self_hosted_model_may_have_an_alias() -> None:
    server = bench("vllm", deployments=(("fast", "m"),))
    asked = await sent(server, {**CHAT, "model": "fast"})
    assert asked["model"] == "fast"
    (call,) = server.desk.calls
    assert (call.model, call.requested_model) == ("m", "fast")
    assert call.ceiling_nanos > 0
