"""Calls that may not start, and what bounds those that may."""

import json
from typing import Any

import pytest

from bursar.pricing import PriceBook, llm_token_price, snapshot
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.sidecar_bench import (
    CHAT,
    COST_NANOS,
    Bench,
    chat_answer,
    error_of,
)


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"authorization": ""}, "key_missing"), ({"authorization": "Bearer bk-x"}, "key_unknown")],
)
async def test_a_wrong_key_is_401(headers: dict[str, str], code: str) -> None:
    bench = Bench()
    bench.post(CHAT, **headers)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (401, code)
    assert not bench.desk.calls


async def test_a_key_may_come_as_x_api_key() -> None:
    bench = Bench()
    bench.post(CHAT, authorization="", x_api_key=KEY)
    (await bench.provider.request()).send_json(chat_answer())
    assert (await bench.answered()).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/realtime",
        "/v1/fine_tuning/jobs",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/",
    ],
)
async def test_there_is_no_way_round(path: str) -> None:
    bench = Bench()
    bench.post(CHAT, path)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (404, "unknown_path")
    assert not bench.provider.connections


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../chat/completions",
        "/v1/files/%2e%2e/chat/completions",
        "/v1/responses/r/../../x",
        "/v1/chat/completions/../../files",
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused_before_it_is_read(path: str) -> None:
    bench = Bench()
    bench.post(CHAT, path)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (400, "malformed_http")
    assert not bench.provider.connections


async def test_a_websocket_is_refused_by_its_name() -> None:
    bench = Bench()
    bench.app.send(
        b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer bk-test\r\n\r\n"
    )
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (404, "unknown_path")
    assert "Websockets are not served" in error_of(answer)["message"]
    assert not bench.provider.connections


async def test_an_exhausted_budget_is_402_and_nothing_is_sent() -> None:
    bench = Bench(FakeDesk(limit_nanos=10))
    bench.post(CHAT)
    answer = await bench.answered()
    error = error_of(answer)
    assert (answer.status, error["code"]) == (402, "budget_exhausted")
    assert "This call could cost up to" in error["message"]
    assert error["call_ceiling"] != "0.00"
    assert not bench.provider.connections


async def test_money_held_by_calls_in_flight_is_429() -> None:
    desk = FakeDesk()
    bench = Bench(desk)
    bench.post(CHAT)
    first = await bench.provider.request()
    desk.limit_nanos = desk.calls[0].ceiling_nanos
    other = bench.connect()
    other.post("/v1/chat/completions", json.dumps(CHAT).encode(), {"x-api-key": KEY})
    answer = await other.answer()
    assert (answer.status, error_of(answer)["code"]) == (429, "budget_reserved")
    assert answer.headers["retry-after"] == "2"
    first.send_json(chat_answer())
    await bench.answered()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "nope"}, 404, "model_not_found"),
        ({"model": "openai/unheard-of"}, 403, "model_unpriced"),
        ({"tools": [{"type": "web_search"}]}, 403, "unbounded_tools"),
        ({"max_tokens": "abc"}, 400, "invalid_value"),
        ({"user": "x" * 999}, 400, "invalid_value"),
    ],
)
async def test_calls_that_cannot_be_bounded_are_refused(
    change: dict[str, Any], status: int, code: str
) -> None:
    bench = Bench()
    bench.post({**CHAT, **change})
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (status, code)
    assert not bench.desk.calls


@pytest.mark.parametrize("header", ["x_bursar_customer", "x_bursar_run", "x_bursar_tags"])
async def test_an_absurd_label_is_refused_by_name(header: str) -> None:
    bench = Bench()
    bench.post(CHAT, **{header: "x" * 500})
    answer = await bench.answered()
    assert answer.status == 400
    assert error_of(answer)["param"] == header.replace("_", "-")


async def test_an_unpriced_model_may_be_called_where_no_budget_applies() -> None:
    bench = Bench(FakeDesk(limit_nanos=None))
    bench.post({**CHAT, "model": "openai/unheard-of"})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["model"] == "unheard-of"
    call.send_json(chat_answer(model="unheard-of"))
    answer = await bench.answered()
    assert "x-bursar-budget-remaining" not in answer.headers
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.price_version) == (0, "unpriced")
    assert outcome.usage.output == 20


def without_limits() -> PriceBook:
    own = llm_token_price("openai", "own", rates={"input": "1", "output": "2"})
    return snapshot().with_overlay([own], "v1")


async def test_an_output_limit_is_set_and_announced_where_nothing_bounds_the_output() -> None:
    bench = Bench(FakeDesk(book=without_limits()))
    bench.post({"model": "own", "messages": []})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["max_completion_tokens"] == 4096
    call.send_json(chat_answer(model="own"))
    assert (await bench.answered()).headers["x-bursar-max-output"] == "4096"


async def test_without_a_budget_no_limit_is_set() -> None:
    bench = Bench(FakeDesk(limit_nanos=None, book=without_limits()))
    body = b'{"model":"own", "messages":[]}'
    bench.post(body)
    call = await bench.provider.request()
    assert call.requests == [body]
    call.send_json(chat_answer(model="own"))
    assert "x-bursar-max-output" not in (await bench.answered()).headers


async def test_input_outside_the_request_is_bounded_by_the_context_window_or_refused() -> None:
    file = {"type": "file", "file": {"file_id": "file-1"}}
    messages = [{"role": "user", "content": [file]}]
    known = Bench()
    known.post({**CHAT, "messages": messages})
    (await known.provider.request()).send_json(chat_answer())
    await known.answered()
    assert known.desk.calls[0].ceiling_nanos > 128_000 * 150
    unknown = Bench(FakeDesk(book=without_limits()))
    unknown.post({"model": "own", "messages": messages})
    answer = await unknown.answered()
    assert (answer.status, error_of(answer)["code"]) == (403, "unbounded_input")


async def test_models_lists_what_the_key_may_call() -> None:
    key = spender(allowed_models=("gpt-4o-mini*",))
    bench = Bench(FakeDesk(spenders={KEY: key}))
    bench.app.send(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n".encode())
    listed = json.loads((await bench.answered()).body)
    names = {model["id"] for model in listed["data"]}
    assert "gpt-4o-mini" in names
    assert "gpt-4o" not in names
    one = f"GET /v1/models/gpt-4o HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n"
    bench.app.send(one.encode())
    assert (await bench.answered(2)).status == 404


async def test_nothing_of_a_refused_body_shows_the_key() -> None:
    bench = Bench()
    bench.post(b"{", authorization="Bearer bk-secret")
    assert b"bk-secret" not in (await bench.answered()).body


async def test_metrics_count_outcomes_and_refusals() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    bench.post({**CHAT, "model": "nope"})
    await bench.answered(2)
    registry = bench.proxy.metrics.registry
    labels = {"provider": "openai", "outcome": "final", "certainty": "exact"}
    assert registry.get_sample_value("bursar_sidecar_calls_total", labels) == 1
    settled = {"provider": "openai", "currency": "USD"}
    name = "bursar_sidecar_settled_nanos_total"
    assert registry.get_sample_value(name, settled) == COST_NANOS
    refused = {"reason": "model_not_found"}
    assert registry.get_sample_value("bursar_sidecar_refusals_total", refused) == 1
    assert registry.get_sample_value("bursar_sidecar_calls_in_flight") == 0
