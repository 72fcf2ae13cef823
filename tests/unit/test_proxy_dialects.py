"""Anthropic and Gemini on the data path: whose credential goes where, and when the cost is told."""

import json
from typing import Any

import pytest

from tests.fakes.desk import KEY
from tests.fakes.sidecar_bench import Bench
from tests.fakes.wire import delivered

ANTHROPIC = {"name": "anthropic", "kind": "anthropic", "base_url": "http://provider.test"}
GEMINI = {"name": "gemini", "kind": "gemini", "base_url": "http://provider.test"}
MESSAGE: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}
CONTENT: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}
GENERATE = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


def event(body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), json.dumps(body).encode())


START = event(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude-haiku-4-5",
            "usage": {"input_tokens": 10, "output_tokens": 1},
        },
    }
)
STOPPED = event(
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 20},
    }
)
END = event({"type": "message_stop"})
HAIKU_NANOS = 10 * 1_000 + 20 * 5_000
FLASH_NANOS = 10 * 300 + 20 * 2_500


def chunk(**fields: Any) -> bytes:
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 30}
    candidate = {"content": {"parts": [{"text": "four"}]}, "index": 0, **fields}
    body = {
        "candidates": [candidate],
        "usageMetadata": counts,
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r-1",
    }
    return json.dumps(body).encode()


@pytest.mark.parametrize("shown", ["x_api_key", "authorization"])
async def test_anthropic_gets_the_operators_credential_and_the_apps_headers(shown: str) -> None:
    bench = Bench(upstream=ANTHROPIC)
    key = KEY if shown == "x_api_key" else f"Bearer {KEY}"
    bench.app.post(
        "/v1/messages?beta=true",
        json.dumps(MESSAGE).encode(),
        {
            shown.replace("_", "-"): key,
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "context-1m-2025-08-07",
        },
    )
    call = await bench.provider.request()
    assert call.targets == ["/v1/messages?beta=true"]
    [head] = call.heads
    assert head["x-api-key"] == "sk-upstream"
    assert "authorization" not in head
    assert head["anthropic-version"] == "2023-06-01"
    assert head["anthropic-beta"] == "context-1m-2025-08-07"
    assert KEY not in str(head)
    assert json.loads(call.requests[0]) == MESSAGE


@pytest.mark.parametrize("shown", ["header", "query"])
async def test_gemini_gets_the_operators_credential_and_no_key_in_the_address(shown: str) -> None:
    bench = Bench(upstream=GEMINI)
    query = f"?key={KEY}" if shown == "query" else ""
    headers = {"x-goog-api-key": KEY} if shown == "header" else {}
    bench.app.post(GENERATE + query, json.dumps(CONTENT).encode(), headers)
    call = await bench.provider.request()
    assert call.targets == [GENERATE]
    [head] = call.heads
    assert head["x-goog-api-key"] == "sk-upstream"
    assert KEY not in str(head)


async def test_the_cost_of_a_streamed_message_is_told_before_its_last_event() -> None:
    bench = Bench(upstream=ANTHROPIC)
    bench.post({**MESSAGE, "stream": True}, "/v1/messages")
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(START)
    call.send_chunk(STOPPED)
    await delivered()
    assert not bench.desk.outcomes
    call.send_chunk(END)
    outcome = await bench.settled()
    assert outcome.cost_nanos == HAIKU_NANOS
    call.send_chunk(b"")
    body = (await bench.answered()).body
    comment = body.removeprefix(START + STOPPED).removesuffix(END)
    assert comment.startswith(b': bursar {"cost":')
    assert comment.endswith(b"}\n\n")


async def test_a_gemini_stream_is_settled_at_its_end_and_flows_as_it_came() -> None:
    bench = Bench(upstream=GEMINI)
    bench.post(CONTENT, STREAM)
    call = await bench.provider.request()
    call.start_stream()
    last = b"data: " + chunk(finishReason="STOP") + b"\r\n\r\n"
    call.send_chunk(last)
    await delivered()
    assert not bench.desk.outcomes
    call.send_chunk(b"")
    outcome = await bench.settled()
    assert outcome.cost_nanos == FLASH_NANOS
    assert outcome.provider_request_id == "r-1"
    answer = await bench.answered()
    assert answer.body == last
    assert answer.headers["x-bursar-charge-id"]


async def test_a_region_that_the_answer_names_has_its_price() -> None:
    bench = Bench(upstream=ANTHROPIC)
    model = "claude-opus-4-6"
    bench.post({**MESSAGE, "model": model, "inference_geo": "us"}, "/v1/messages")
    call = await bench.provider.request()
    usage = {"input_tokens": 10, "output_tokens": 20, "inference_geo": "us"}
    call.send_json(json.dumps({"id": "m", "model": model, "usage": usage}).encode())
    outcome = await bench.settled()
    assert outcome.region == "us"
    assert outcome.cost_nanos == (10 * 5_000 + 20 * 25_000) * 11 // 10


async def test_counting_costs_nothing_even_when_nothing_is_left() -> None:
    bench = Bench(upstream=ANTHROPIC)
    bench.desk.limit_nanos = 0
    bench.post(MESSAGE, "/v1/messages/count_tokens")
    call = await bench.provider.request()
    call.send_json(b'{"input_tokens":12}')
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.usage.total_llm_tokens) == (0, 0)
    assert (await bench.answered()).body == b'{"input_tokens":12}'


@pytest.mark.parametrize(
    ("path", "upstream", "shape"),
    [
        ("/v1/messages", GEMINI, {"type": "error"}),
        (GENERATE, ANTHROPIC, {}),
    ],
)
async def test_a_provider_of_another_dialect_is_never_called(
    path: str, upstream: dict[str, str], shape: dict[str, str]
) -> None:
    bench = Bench(upstream=upstream)
    bench.post(MESSAGE if path == "/v1/messages" else CONTENT, path)
    answer = await bench.answered()
    assert answer.status == 404
    told = json.loads(answer.body)
    assert shape.items() <= told.items()
    assert "error" in told


async def test_searches_reserve_the_window_once_for_each_use_and_once_more() -> None:
    bench = Bench(upstream=ANTHROPIC)
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    bench.post({**MESSAGE, "model": "claude-opus-4-5", "tools": [tool]}, "/v1/messages")
    await bench.provider.request()
    [call] = bench.desk.calls
    input_nanos = 3 * 200_000 * 10_000  # written to the cache for an hour, at the dearest
    output_nanos = 3 * 100 * 25_000
    assert call.ceiling_nanos == input_nanos + output_nanos + 2 * 10_000_000


async def test_what_the_provider_runs_without_a_bound_is_refused_only_under_a_hard_budget() -> None:
    tool = {"type": "code_execution_20250825", "name": "code_execution"}
    bench = Bench(upstream=ANTHROPIC)
    bench.post({**MESSAGE, "tools": [tool]}, "/v1/messages")
    answer = await bench.answered()
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["code"] == "unbounded_tools"
    bench.desk.limit_nanos = None
    bench.post({**MESSAGE, "tools": [tool]}, "/v1/messages")
    assert json.loads((await bench.provider.request()).requests[0])["tools"] == [tool]


async def test_documents_reserve_the_models_context_window() -> None:
    bench = Bench(upstream=ANTHROPIC)
    document = {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}}
    bench.post({**MESSAGE, "messages": [{"role": "user", "content": [document]}]}, "/v1/messages")
    await bench.provider.request()
    [call] = bench.desk.calls
    assert call.ceiling_nanos == 200_000 * 2_000 + 100 * 5_000


@pytest.mark.parametrize(
    ("path", "headers", "told"),
    [
        ("/v1/messages/batches", {"anthropic_version": "2023-06-01"}, "not_found_error"),
        ("/v1beta/models/m:predict", {}, "NOT_FOUND"),
        ("/v1/nowhere", {}, "unknown_path"),
    ],
)
async def test_a_path_that_nobody_serves_is_refused_in_the_apps_own_dialect(
    path: str, headers: dict[str, str], told: str
) -> None:
    bench = Bench(upstream=ANTHROPIC)
    bench.post({}, path, **headers)
    answer = await bench.answered()
    assert answer.status == 404
    error = json.loads(answer.body)["error"]
    assert told in (error.get("type"), error.get("status"), error.get("code"))


@pytest.mark.parametrize(("model", "status"), [("claude-opus-4-8", 0), ("claude-opus-4-6", 403)])
async def test_a_dearer_speed_is_served_where_it_has_a_price(model: str, status: int) -> None:
    bench = Bench(upstream=ANTHROPIC)
    bench.post({**MESSAGE, "model": model, "speed": "fast"}, "/v1/messages")
    if not status:
        await bench.provider.request()
        standard = Bench(upstream=ANTHROPIC)
        standard.post({**MESSAGE, "model": model}, "/v1/messages")
        await standard.provider.request()
        assert bench.desk.calls[0].ceiling_nanos > standard.desk.calls[0].ceiling_nanos
        return
    answer = await bench.answered()
    assert answer.status == status
    error = json.loads(answer.body)["error"]
    assert (error["code"], "'fast'" in error["message"]) == ("model_unpriced", True)
