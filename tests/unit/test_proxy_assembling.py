"""Plain calls that run as streams on the data path, and what is done where a call does not fit."""

import json
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from bursar.money import format_nanos
from bursar_sidecar.growth import LEAST_SLACK
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import (
    CHAT,
    COST_NANOS,
    DONE,
    USAGE,
    USAGE_CHUNK,
    Bench,
    chat_answer,
    chunk,
    error_of,
)
from tests.fakes.wire import ProviderCall, delivered

PLAIN: dict[str, Any] = {k: v for k, v in CHAT.items() if k != "max_tokens"}
OUTPUT_NANOS = 600
SHORT = 3_000 * OUTPUT_NANOS
"""Less than the worst case of 16,384 LLM tokens."""
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


async def sent(bench: Bench, **fields: Any) -> ProviderCall:
    bench.post({**PLAIN, **fields})
    return await bench.provider.request()


async def test_a_plain_call_that_does_not_fit_runs_as_a_stream_and_is_assembled() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    asked = json.loads(call.requests[0])
    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
    assert "max_completion_tokens" not in asked
    call.start_stream("x-request-id: r-1\r\n")
    call.send_chunk(chunk("fo") + chunk("ur"))
    call.send_chunk(chunk("", choices=[STOP]) + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    body = ChatCompletion.model_validate_json(answer.body, strict=True)
    assert body.choices[0].message.content == "four"
    assert body.choices[0].finish_reason == "stop"
    assert body.usage is not None
    assert body.usage.completion_tokens == USAGE["completion_tokens"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-bursar-assembled"] == "1"
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["x-bursar-cost"] == format_nanos(COST_NANOS)
    assert int(answer.headers["content-length"]) == len(answer.body)
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.kind) == (COST_NANOS, "final")
    assert not bench.desk.calls[0].stream


async def test_one_that_is_cut_says_so() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.start_stream()
    pieces = 0
    while not call.lost and pieces < 500:
        call.send_chunk(chunk("word" * 8))
        pieces += 1
        await delivered()
    answer = await bench.answered()
    body = ChatCompletion.model_validate_json(answer.body, strict=True)
    assert body.choices[0].finish_reason == "length"
    assert answer.headers["x-bursar-cut"] == "budget"
    outcome = await bench.settled()
    content = body.choices[0].message.content or ""
    assert 1_000 < len(content) < 3_000 - LEAST_SLACK
    assert len(content) // 4 * OUTPUT_NANOS < outcome.cost_nanos <= SHORT
    assert body.usage is not None
    assert body.usage.completion_tokens == outcome.usage.output


async def test_an_error_in_its_stream_is_an_error() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.start_stream()
    call.send_chunk(chunk("fo") + b'data: {"error": {"message": "overloaded"}}\n\n')
    call.send_chunk(b"")
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["message"]) == (502, "overloaded")
    assert (await bench.settled()).cost_nanos > 0


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_refusal_of_the_provider_goes_as_it_came(status: int) -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.send_json(b'{"error": {"message": "no"}}', status)
    answer = await bench.answered()
    assert (answer.status, answer.body) == (status, b'{"error": {"message": "no"}}')
    assert (await bench.settled()).cost_nanos == 0


async def test_a_provider_that_answers_plainly_all_the_same_is_believed() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.send_json(chat_answer())
    answer = await bench.answered()
    assert answer.body == chat_answer()
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_one_that_breaks_off_is_told_and_charged_for_what_it_produced() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.start_stream()
    call.send_chunk(chunk("four"))
    await delivered()
    call.reset()
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (502, "provider_broke")
    assert 0 < (await bench.settled()).cost_nanos < SHORT


async def test_an_app_that_hangs_up_cuts_it() -> None:
    bench = Bench(FakeDesk(SHORT))
    call = await sent(bench)
    call.start_stream()
    call.send_chunk(chunk("four"))
    await delivered()
    bench.app.hang_up()
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert call.lost


@pytest.mark.parametrize(
    ("when_short", "status", "code"),
    [("wait", 402, "budget_exhausted"), ("refuse", 402, "budget_exhausted")],
)
async def test_who_does_not_want_it_is_refused(when_short: str, status: int, code: str) -> None:
    bench = Bench(FakeDesk(SHORT), when_short=when_short)
    bench.post(PLAIN)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (status, code)


async def test_only_refusing_does_not_wait() -> None:
    for when_short, waits in (("refuse", False), ("wait", True), ("assemble", True)):
        bench = Bench(when_short=when_short)
        await sent(bench)
        assert bench.desk.calls[0].may_wait is waits


async def test_clamping_lowers_the_limit_of_a_plain_call_and_not_of_a_stream_that_grows() -> None:
    bench = Bench(FakeDesk(SHORT), when_short="clamp")
    call = await sent(bench)
    assert "stream" not in json.loads(call.requests[0])
    call.send_json(chat_answer())
    assert "x-bursar-clamped-output" in (await bench.answered()).headers
    bench = Bench(FakeDesk(SHORT), when_short="clamp")
    call = await sent(bench, stream=True)
    assert "max_completion_tokens" not in json.loads(call.requests[0])


async def test_what_can_not_be_assembled_is_clamped() -> None:
    bench = Bench(FakeDesk(SHORT))
    bench.post({"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}, "/v1/completions")
    call = await bench.provider.request()
    assert "stream" not in json.loads(call.requests[0])


MESSAGE: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 60_000,
    "messages": [{"role": "user", "content": "hi"}],
}
CLAUDE = {"name": "anthropic", "kind": "anthropic"}
CLAUDE_OUTPUT_NANOS = 15_000


def event(kind: str, **fields: Any) -> bytes:
    payload = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {payload}\n\n".encode()


async def flooded(bench: Bench, call: ProviderCall) -> None:
    """An answer of Anthropic's that would go on for long."""
    begun: dict[str, Any] = {
        "id": "m-1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
    }
    begun |= {"content": [], "stop_reason": None, "stop_sequence": None}
    usage = {"input_tokens": 9, "output_tokens": 1}
    call.start_stream()
    call.send_chunk(event("message_start", message={**begun, "usage": usage}))
    block = {"type": "text", "text": ""}
    call.send_chunk(event("content_block_start", index=0, content_block=block))
    for _ in range(500):
        if call.lost:
            return
        delta = {"type": "text_delta", "text": "word" * 8}
        call.send_chunk(event("content_block_delta", index=0, delta=delta))
        await delivered()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_message_is_cut_and_assembled_in_its_own_dialect(stream: bool) -> None:
    limit = 4_000 * CLAUDE_OUTPUT_NANOS
    bench = Bench(FakeDesk(limit), upstream=CLAUDE)
    bench.post({**MESSAGE, "stream": stream}, "/v1/messages")
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["stream"] is True
    await flooded(bench, call)
    answer = await bench.answered()
    outcome = await bench.settled()
    if stream:
        kinds = [line[7:] for line in answer.body.decode().splitlines() if line[:7] == "event: "]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert b'"stop_reason":"max_tokens"' in answer.body
    else:
        message = Message.model_validate_json(answer.body, strict=True)
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == outcome.usage.output
    text = answer.body.count(b"word") * 4
    assert 1_000 < text < 4_000 - LEAST_SLACK
    assert text // 4 * CLAUDE_OUTPUT_NANOS < outcome.cost_nanos <= limit


async def test_a_message_that_is_to_be_thought_about_reserves_its_worst_case() -> None:
    bench = Bench(upstream=CLAUDE)
    thinking = {"type": "enabled", "budget_tokens": 2_000}
    bench.post({**MESSAGE, "stream": True, "thinking": thinking}, "/v1/messages")
    await bench.provider.request()
    assert bench.desk.calls[0].begin_nanos == 0
