"""Responses: what is read of a request, what its answers say, and how a cut stream ends."""

import json
from typing import Any

import pytest

from bursar.usage import Usage
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.images import ImagePart
from bursar_sidecar.dialects.openai import RESPONSES
from bursar_sidecar.dialects.openai.responses_reading import (
    ResponsesReading,
    WholeResponseReading,
)
from bursar_sidecar.dialects.reading import LAST, PASS
from bursar_sidecar.meter import count
from bursar_sidecar.produced import Produced
from tests.fakes.desk import FakeDesk
from tests.fakes.dialect_requests import OPENAI, read
from tests.fakes.sidecar_bench import Bench, error_of
from tests.fakes.wire import delivered

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "input": "hi", "max_output_tokens": 50}
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 30,
}
COST_NANOS = 13_200  # gpt-4o-mini: 6 at 0.15, 4 at 0.075 and 20 at 0.60 USD a million


def facts_of(**fields: Any) -> Facts:
    return read("responses", json.dumps({**ASKED, **fields}).encode())


def response(**fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-4o-mini",
        "status": "completed",
        "output": [],
        "usage": USAGE,
        **fields,
    }


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


STREAM = [
    event(
        "response.created",
        sequence_number=0,
        response=response(status="in_progress", usage=None, service_tier="auto"),
    ),
    event("response.output_text.delta", sequence_number=1, output_index=0, delta="héllo"),
    event("response.function_call_arguments.delta", sequence_number=2, delta="{}"),
    event("response.output_item.done", sequence_number=3, item={"type": "message", "id": "m"}),
    event("response.completed", sequence_number=4, response=response()),
]


def payload(one: bytes) -> bytes:
    return one.partition(b"data: ")[2].strip()


def test_the_facts_of_a_plain_request() -> None:
    facts = facts_of(instructions="be kind", tools=[{"type": "function", "name": "f"}])
    assert (facts.model, facts.output_limit, facts.choices) == ("gpt-4o-mini", 50, 1)
    assert facts.text_only
    assert facts.tools
    assert not facts.unbounded_input
    assert not facts.unbounded_tools
    assert not facts.untold_cost


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_0"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        {"input": [{"type": "reasoning", "id": "r", "encrypted_content": "x"}]},
        {"input": [{"role": 1}, {"type": ["odd"]}]},
    ],
)
def test_input_that_lies_elsewhere_is_not_bounded_by_the_request(fields: dict[str, Any]) -> None:
    assert facts_of(**fields).unbounded_input


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function"}, {"type": "mcp", "server_url": "x"}]},
        {"prompt": {"id": "pmpt_1"}},
        {"context_management": [{"type": "compaction"}]},
    ],
)
def test_what_the_provider_runs_is_named(fields: dict[str, Any]) -> None:
    assert facts_of(**fields).unbounded_tools


def test_a_search_is_bounded_by_how_many_calls_of_tools_there_may_be() -> None:
    search = {"type": "web_search_preview"}
    facts = facts_of(tools=[search], max_tool_calls=3)
    assert not facts.unbounded_tools
    assert (facts.rounds, facts.provider_units) == (4, {"search": 3})
    assert facts_of(tools=[search, {"type": "mcp"}], max_tool_calls=3).unbounded_tools
    assert facts_of(tools=[{"type": "function"}], max_tool_calls=3).rounds == 1


async def test_searches_are_reserved_and_charged() -> None:
    bench = Bench()
    bench.post({**ASKED, "tools": [{"type": "web_search"}], "max_tool_calls": 2}, "/v1/responses")
    call = await bench.provider.request()
    searched = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}
    call.send_json(json.dumps(response(output=[searched])).encode())
    assert (await bench.answered()).status == 200
    (asked,) = bench.desk.calls
    # gpt-4o-mini: a search is 0.025 USD; its window is read three times.
    assert asked.ceiling_nanos >= 2 * 25_000_000 + 3 * 128_000 * 150
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (COST_NANOS + 25_000_000, True)


def test_own_items_and_pictures_are_bounded() -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
    text = {"type": "input_text", "text": "what is it?"}
    facts = facts_of(
        input=[
            {"role": "user", "content": [text, image]},
            {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
            {"type": "function_call_output", "call_id": "1", "output": "4"},
        ]
    )
    assert not facts.unbounded_input
    assert facts.images == (ImagePart(None, "low"),)
    assert not facts.text_only


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": 4}, "input"),
        ({"tools": "all"}, "tools"),
        ({"max_tool_calls": 129}, "max_tool_calls"),
        ({"background": "yes"}, "background"),
    ],
)
def test_what_the_cost_depends_on_must_be_readable(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(DialectError) as caught:
        facts_of(**fields)
    assert caught.value.param == param


def test_only_a_higher_limit_is_lowered() -> None:
    body = json.dumps(ASKED).encode()
    facts = read("responses", body)
    same = RESPONSES.edited(facts, body, model="gpt-4o-mini", server=OPENAI, output_limit=60)
    assert same is body
    lower = RESPONSES.edited(facts, body, model="gpt-4o-mini", server=OPENAI, output_limit=40)
    assert json.loads(lower)["max_output_tokens"] == 40


def test_a_stream_is_read_event_by_event() -> None:
    reading = ResponsesReading("openai_responses")
    reading.kept = Produced()
    assert [reading.note(payload(one)) for one in STREAM] == [PASS] * 4 + [LAST]
    assert reading.produced_bytes == len("héllo".encode()) + 2
    assert reading.kept.size == len("héllo".encode())
    assert (reading.model, reading.request_id) == ("gpt-4o-mini", "resp_1")
    assert reading.counted(0, None) == Usage(input=6, cached_input=4, output=20)


def test_a_stream_that_is_cut_ends_incomplete_with_what_was_done() -> None:
    reading = ResponsesReading("openai_responses")
    for one in STREAM[:-1]:
        reading.note(payload(one))
    assert reading.usage is None
    before, last = RESPONSES.cut_events(reading, Usage(input=10, output=7))
    said = json.loads(payload(last))
    assert before == b""
    assert said["sequence_number"] == 4
    assert said["response"]["status"] == "incomplete"
    assert said["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert said["response"]["output"] == [{"type": "message", "id": "m"}]
    assert said["response"]["usage"]["total_tokens"] == 17
    assert reading.note(payload(last)) == LAST


def test_what_did_not_flow_is_not_told_of_in_the_end() -> None:
    reading = ResponsesReading("openai_responses")
    for one in STREAM[:-1]:
        reading.note(payload(one))
    for one in STREAM[2:-1]:
        reading.unflow(payload(one))
    _, last = RESPONSES.cut_events(reading, Usage(input=10, output=7))
    said = json.loads(payload(last))
    assert (said["sequence_number"], said["response"]["output"]) == (2, [])


async def test_a_stream_ends_incomplete_where_the_money_ends() -> None:
    limit = 3_000 * 600  # LLM tokens of gpt-4o-mini's output
    bench = Bench(FakeDesk(limit))
    unlimited = {name: value for name, value in ASKED.items() if name != "max_output_tokens"}
    bench.post({**unlimited, "stream": True}, "/v1/responses")
    call = await bench.provider.request()
    assert "max_output_tokens" not in json.loads(call.requests[0])
    call.start_stream()
    call.send_chunk(STREAM[0])
    piece = event("response.output_text.delta", sequence_number=1, output_index=0, delta="word" * 8)
    for _ in range(2_000):
        if call.lost:
            break
        call.send_chunk(piece)
        await delivered()
    assert call.lost
    answer = await bench.answered()
    last = answer.body.rstrip().rpartition(b"\n\n")[2]
    assert last.startswith(b"event: response.incomplete\n")
    assert b'"cut":"budget"' in answer.body
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert 0 < outcome.cost_nanos <= bench.desk.growths[-1] <= limit
    said = json.loads(payload(last + b"\n\n"))["response"]
    assert said["usage"]["output_tokens"] == outcome.usage.output


def test_nonsense_in_a_stream_counts_as_produced() -> None:
    reading = ResponsesReading("openai_responses")
    reading.note(b"oops")
    assert (reading.produced_bytes, bool(reading.unreadable)) == (4, True)


async def test_a_plain_response_is_charged_and_told() -> None:
    bench = Bench()
    bench.post(ASKED, "/v1/responses")
    call = await bench.provider.request()
    assert call.targets == ["/v1/responses"]
    call.send_json(json.dumps(response()).encode())
    answer = await bench.answered()
    assert answer.headers["x-bursar-cost"] == "0.0000132"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos, outcome.usage.is_exact) == ("final", COST_NANOS, True)


async def test_the_cost_is_told_before_the_last_event_of_a_stream() -> None:
    bench = Bench()
    bench.post({**ASKED, "stream": True}, "/v1/responses")
    call = await bench.provider.request()
    call.start_stream()
    for one in [*STREAM, b""]:
        call.send_chunk(one)
    answer = await bench.answered()
    before, comment, after = answer.body.partition(b": bursar ")
    assert before == b"".join(STREAM[:-1])
    assert json.loads(comment and after.partition(b"\n\n")[0])["cost"] == "0.0000132"
    assert after.partition(b"\n\n")[2] == STREAM[-1]
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_a_background_response_is_refused_under_a_hard_budget_alone() -> None:
    bench = Bench()
    bench.post({**ASKED, "background": True}, "/v1/responses")
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (403, "untold_cost")
    free = Bench(FakeDesk(limit_nanos=None))
    free.post({**ASKED, "background": True}, "/v1/responses")
    (await free.provider.request()).send_json(
        json.dumps(response(status="queued", usage=None)).encode()
    )
    assert (await free.answered()).status == 200
    assert not (await free.settled()).usage.is_exact


async def test_a_referenced_conversation_is_reserved_at_the_context_window() -> None:
    bench = Bench()
    bench.post({**ASKED, "previous_response_id": "resp_0"}, "/v1/responses")
    await bench.provider.request()
    (call,) = bench.desk.calls
    assert call.ceiling_nanos >= 128_000 * 150  # gpt-4o-mini: 0.15 USD a million


@pytest.mark.parametrize(
    ("output", "is_exact"),
    [
        ([], True),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}], True),
        ([{"type": "message", "content": [{"type": "output_text", "text": "four"}]}], False),
        ([{"type": "function_call", "name": "look", "arguments": '{"a":1}'}], False),
    ],
)
def test_a_response_that_counts_no_output_shows_whether_there_was_none(
    output: list[dict[str, Any]], is_exact: bool
) -> None:
    told = {"input_tokens": 7, "output_tokens": 0, "total_tokens": 7}
    reading = WholeResponseReading("openai_responses")
    reading.whole(json.dumps({"id": "resp_1", "output": output, "usage": told}).encode())
    usage = count(reading, input_bound=30, output_bound=400)
    assert usage.is_exact is is_exact
    assert bool(usage.output) is not is_exact
