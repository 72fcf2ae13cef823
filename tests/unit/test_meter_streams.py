"""The meter: streams in any chunking, and the estimates of answers without usage."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.desk import Receipt
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.openai import EMBEDDINGS
from bursar_sidecar.dialects.openai.chat_reading import ChatReading, content_bytes
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.meter import (
    MAX_EVENT_BYTES,
    StreamMeter,
    cost_comment,
    count,
)
from bursar_sidecar.produced import CUT_SLACK_LLM_TOKENS
from tests.fakes.dialect_requests import OPENAI

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


def event(payload: Any, end: str = "\n") -> bytes:
    return f"data: {json.dumps(payload)}{end}{end}".encode()


def content(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c-1", "model": "gpt-4o-mini", "choices": [choice], "usage": None}


def usage_chunk() -> dict[str, Any]:
    return {"id": "c-1", "model": "gpt-4o-mini", "choices": [], "usage": USAGE}


def fed(meter: StreamMeter, pieces: list[bytes]) -> bytes:
    return b"".join(meter.feed(piece) for piece in pieces) + meter.flush()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stream_flows_through_unchanged_but_for_the_usage_chunk(end: str) -> None:
    blank = f"{end}{end}".encode()
    parts = [
        f": ping{end}{end}".encode(),
        event(content("hel"), end),
        event(content("lo", "stop"), end),
        event(usage_chunk(), end),
    ]
    done = b"data: [DONE]" + blank
    meter = StreamMeter(ChatReading(withhold_usage=True))
    out = fed(meter, [b"".join(parts) + done])
    assert out == b"".join(parts[:3])
    assert meter.ended
    assert meter.held == done
    assert meter.reading.usage == USAGE
    assert meter.reading.produced_bytes == 5
    assert (meter.reading.request_id, meter.reading.model) == ("c-1", "gpt-4o-mini")


def test_an_app_that_asked_for_usage_gets_its_chunk() -> None:
    stream = event(content("x")) + event(usage_chunk())
    meter = StreamMeter(ChatReading())
    assert fed(meter, [stream]) == stream
    assert meter.reading.usage == USAGE


STREAM_LINES = [
    b": comment\n\n",
    event(content("h\u00e9llo")),
    event(content("crlf"), "\r\n"),
    b"event: message\nid: 7\ndata: " + json.dumps(content("x")).encode() + b"\n\n",
    b'data: {"choices":\ndata: [{"delta": {"content": "two lines"}}]}\n\n',
    event(usage_chunk()),
    b"data: [DONE]\n\n",
]


@given(cuts=st.lists(st.integers(0, sum(map(len, STREAM_LINES))), max_size=40))
def test_where_the_chunks_break_makes_no_difference(cuts: list[int]) -> None:
    stream = b"".join(STREAM_LINES)
    edges = [0, *sorted(cuts), len(stream)]
    meter = StreamMeter(ChatReading(withhold_usage=True))
    out = fed(meter, [stream[a:b] for a, b in itertools.pairwise(edges)])
    assert out == b"".join(STREAM_LINES[:5])
    assert meter.held == STREAM_LINES[-1]
    assert meter.reading.usage == USAGE
    assert meter.reading.produced_bytes == len("h\u00e9llo".encode()) + 4 + 1 + 9


def test_whole_events_flow_at_once_and_only_an_unfinished_one_waits() -> None:
    meter = StreamMeter(ChatReading(withhold_usage=True))
    whole = event(content("a"))
    assert meter.feed(whole + b"data: {") == whole
    assert meter.feed(b'"choices": []}\n') == b""
    assert meter.feed(b"\n") == b'data: {"choices": []}\n\n'


def test_what_is_not_json_flows_and_counts_as_produced() -> None:
    meter = StreamMeter(ChatReading(withhold_usage=True))
    assert meter.feed(b"data: oops\n\n") == b"data: oops\n\n"
    assert meter.reading.produced_bytes == 4
    assert meter.reading.unreadable


def test_fields_of_a_wrong_type_still_give_their_usage() -> None:
    meter = StreamMeter(ChatReading(withhold_usage=True))
    odd = {"id": 3, "model": "m", "choices": [{"delta": "text"}], "usage": USAGE}
    assert meter.feed(event(odd)) == event(odd)
    assert (meter.reading.usage, meter.reading.model, meter.reading.request_id) == (USAGE, "m", "")
    assert meter.reading.produced_bytes > 0


def test_an_event_too_large_to_hold_flows_through_and_is_marked() -> None:
    meter = StreamMeter(ChatReading(withhold_usage=True))
    huge = b"data: " + b"x" * (MAX_EVENT_BYTES + 1)
    assert meter.feed(huge) == huge
    assert meter.reading.unreadable


def test_all_that_is_produced_is_counted() -> None:
    produced = {
        "role": "assistant",
        "content": "h\u00e9",
        "refusal": "no",
        "reasoning_content": "hmm",
        "tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}],
        "audio": None,
    }
    assert content_bytes(produced) >= 3 + 2 + 3 + 7
    assert content_bytes({"role": "assistant", "content": ""}) == 0
    assert content_bytes(None) == 0


def test_a_plain_answer_is_read_whole() -> None:
    answer = {
        "id": "c-9",
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "choices": [{"message": {"role": "assistant", "content": "four"}}],
        "usage": USAGE,
    }
    reading = ChatReading()
    reading.whole(json.dumps(answer).encode())
    assert (reading.request_id, reading.model) == ("c-9", "gpt-4o-2024-08-06")
    assert (reading.service_tier, reading.produced_bytes) == ("default", 4)
    usage = count(reading, input_bound=100, output_bound=100)
    assert usage.is_exact
    assert (usage.input, usage.output) == (11, 5)


def test_an_embedding_answer_is_read_without_its_vectors() -> None:
    answer = {"model": "e", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 4}}
    reading = EMBEDDINGS.reading(Facts(model="m"), OPENAI)
    reading.whole(json.dumps(answer).encode())
    usage = count(reading, input_bound=100, output_bound=0)
    assert usage.is_exact
    assert (usage.input, usage.output) == (4, 0)


def reading_of(produced_bytes: int, usage: object = None, *, final: bool = False) -> Reading:
    reading = Reading()
    reading.produced_bytes = produced_bytes
    reading.usage = usage
    reading.usage_is_final = final
    return reading


def test_an_answer_without_usage_is_estimated_from_its_bytes() -> None:
    usage = count(reading_of(40), input_bound=300, output_bound=1_000)
    assert not usage.is_exact
    assert (usage.input, usage.output) == (300, 40)
    assert usage.estimate_reason == "usage is missing"


def test_a_cut_answer_is_estimated_with_slack_up_to_the_limit() -> None:
    usage = count(reading_of(40), input_bound=300, output_bound=1_000, cut="the app hung up")
    assert usage.output == 40 + CUT_SLACK_LLM_TOKENS
    assert usage.estimate_reason == "the app hung up"
    clipped = count(reading_of(40), input_bound=300, output_bound=10, cut="the app hung up")
    assert clipped.output == 10


def test_hidden_output_is_estimated_at_its_limit() -> None:
    usage = count(
        reading_of(40), input_bound=300, output_bound=1_000, cut="cut", hidden_output=True
    )
    assert usage.output == 1_000


def test_usage_told_before_the_cut_counts_only_when_nothing_followed_it() -> None:
    running = count(reading_of(40, USAGE), input_bound=300, output_bound=1_000, cut="cut")
    assert not running.is_exact
    final = count(reading_of(40, USAGE, final=True), input_bound=300, output_bound=99, cut="cut")
    assert final.is_exact


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        [1, 2],
        "usage",
    ],
)
def test_nonsense_usage_is_estimated_and_never_zero(usage: object) -> None:
    counted = count(reading_of(1, usage, final=True), input_bound=300, output_bound=50)
    assert not counted.is_exact
    assert counted.input == 300


def test_the_cost_comment_is_invisible_to_parsers() -> None:
    comment = cost_comment(Receipt("7-1", 15_000, "USD", None))
    assert comment.startswith(b": bursar {")
    assert comment.endswith(b"}\n\n")
    assert json.loads(comment[len(b": bursar ") :]) == {
        "cost": "0.000015",
        "currency": "USD",
        "charge_id": "7-1",
        "budget_remaining": None,
    }


def partly(completion: int, prompt: int = 11) -> dict[str, Any]:
    """Counts of a stream so far."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {**counts, "total_tokens": prompt + completion}


def read_of(*chunks: dict[str, Any]) -> ChatReading:
    reading = ChatReading()
    for each in chunks:
        reading.note(json.dumps(each).encode())
    return reading


def test_counts_told_on_the_way_are_not_those_of_a_stream_that_just_ends() -> None:
    begun = {**content("x"), "usage": partly(3)}
    for last in ({"error": {"message": "no"}}, content("more"), {**content("y"), "usage": None}):
        usage = count(read_of(begun, last), input_bound=300, output_bound=1_000)
        assert not usage.is_exact
        assert usage.input == 300
        assert usage.output >= 3


def test_the_last_of_several_counts_is_the_one_that_counts() -> None:
    finished = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    begun = {**content("x"), "usage": partly(1)}
    for last in (
        [{**content("y"), "usage": partly(5)}, finished],
        [content("y"), {**finished, "usage": partly(5)}],
        [content("y"), finished, {"choices": [], "usage": partly(5)}],
        [finished, {"choices": [], "usage": partly(5)}, {"choices": [], "usage": {}}],
    ):
        usage = count(read_of(begun, *last), input_bound=300, output_bound=1_000)
        assert usage.is_exact, last
        assert (usage.input, usage.output) == (11, 5)


@pytest.mark.parametrize("later", [partly(2), partly(90, prompt=1)])
def test_counts_that_went_down_are_a_contradiction(later: dict[str, Any]) -> None:
    begun = {**content("x"), "usage": partly(40)}
    usage = count(
        read_of(begun, {"choices": [], "usage": later}), input_bound=300, output_bound=1_000
    )
    assert usage.estimate_reason.endswith("fell within the stream")
    assert (usage.input, usage.output) == (300, 1_000)


def test_counts_of_one_choice_are_not_those_of_another_that_goes_on() -> None:
    ended = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": partly(2)}
    other = {"choices": [{"index": 1, "delta": {"content": "and more"}}]}
    assert not count(read_of(ended, other), input_bound=300, output_bound=50).is_exact
