"""The Anthropic dialect: what streams say of themselves, how a cut one ends, and plain messages
made of them."""

import json
from typing import Any

import pytest

from bursar.usage import Usage
from bursar_sidecar.dialects.anthropic import MESSAGES
from bursar_sidecar.dialects.anthropic.assembling import MessageAssembler
from bursar_sidecar.dialects.anthropic.reading import MessageStreamReading
from bursar_sidecar.dialects.kinds import KINDS, Server
from bursar_sidecar.dialects.reading import LAST, PASS, Reading
from bursar_sidecar.http_messages import Request
from bursar_sidecar.meter import count
from bursar_sidecar.produced import CUT_SLACK_LLM_TOKENS

REQUEST = Request(b"POST", b"/", [], b'{"model":"m","max_tokens":1,"messages":[]}')
SERVER = Server(kind=KINDS["anthropic"], limit_field="", asks_usage=False)
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 12, "cache_read_input_tokens": 3, "output_tokens": 1},
    },
}
STOPPED = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 9},
}
END = {"type": "message_stop"}
PING = {"type": "ping"}


def opened(index: int, **block: Any) -> dict[str, Any]:
    content = {"type": "text", "text": "", **block}
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def text(index: int, words: str) -> dict[str, Any]:
    return delta(index, type="text_delta", text=words)


def closed(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def reading_of(*events: dict[str, Any]) -> MessageStreamReading:
    reading = MessageStreamReading()
    for event in events:
        reading.note(json.dumps(event).encode())
    return reading


def told_by(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """What ends a stream that was cut after these events."""
    before, last = MESSAGES.cut_events(reading_of(*events), Usage(input=12, output=5))
    return [parsed(event) for event in (before + last).split(b"\n\n") if event]


def parsed(event: bytes) -> dict[str, Any]:
    name, _, data = event.partition(b"\ndata: ")
    body: dict[str, Any] = json.loads(data)
    assert name == b"event: " + body["type"].encode()
    return body


def test_the_last_event_is_known_and_the_counts_with_it() -> None:
    reading = reading_of(START, PING, opened(0), text(0, "four"), closed(0), STOPPED)
    assert reading.usage_is_final
    assert (reading.model, reading.request_id) == ("claude-haiku-4-5", "msg_1")
    assert reading.note(json.dumps(END).encode()) == LAST
    usage = reading.counted(100, 100)
    assert usage.is_exact
    assert (usage.input, usage.cached_input, usage.output) == (12, 3, 9)


def test_what_is_shown_is_counted_in_bytes_and_nothing_else() -> None:
    assert reading_of(START, PING, opened(0), closed(0)).produced_bytes == 0
    shown = reading_of(START, opened(0), text(0, "Grüße"))
    assert shown.produced_bytes == len("Grüße".encode())
    thought = delta(0, type="thinking_delta", thinking="hm")
    signed = delta(0, type="signature_delta", signature="x" * 500)
    called = delta(0, type="input_json_delta", partial_json='{"a":')
    assert reading_of(START, opened(0), thought, signed, called).produced_bytes == 2 + 5


def test_an_error_within_a_stream_leaves_its_usage_open() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    reading = reading_of(START, opened(0), text(0, "four"), error)
    assert not reading.usage_is_final
    assert reading.usage is None


def test_an_event_that_cannot_be_read_counts_as_produced() -> None:
    reading = reading_of(START)
    odd = b'{"type":"content_block_delta","index":"first"}'
    assert reading.note(odd) == PASS
    assert reading.produced_bytes == len(odd)
    assert not reading.unreadable
    unknown = b'{"type":"something_new","of":"unknown size"}'
    before = reading.produced_bytes
    reading.note(unknown)
    assert reading.produced_bytes == before + len(unknown)
    reading.note(b'{"type":"content_block_delta",')
    assert reading.unreadable
    assert cut(reading).output == 100


def test_a_cut_stream_ends_as_one_that_is_as_long_as_it_could_be() -> None:
    block, stop, end = told_by(START, opened(0), closed(0), opened(1), text(1, "a"))
    assert block == closed(1)
    assert stop["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert stop["usage"]["output_tokens"] == 5
    assert end == END


@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        ((), ["message_start", "message_delta", "message_stop"]),
        ((START,), ["message_delta", "message_stop"]),
        ((START, opened(0), closed(0)), ["message_delta", "message_stop"]),
        ((START, opened(0), closed(0), STOPPED), ["message_stop"]),
    ],
)
def test_what_the_app_has_seen_already_is_not_told_again(
    events: tuple[dict[str, Any], ...], kinds: list[str]
) -> None:
    assert [event["type"] for event in told_by(*events)] == kinds


@pytest.mark.parametrize(
    ("flowed", "held_back", "open_block"),
    [
        ([START, opened(0)], [text(0, "a"), closed(0), opened(1)], 0),
        ([START], [opened(0), text(0, "a")], None),
        ([START, opened(0), closed(0)], [opened(1), text(1, "a"), closed(1), STOPPED], None),
        ([START, opened(0)], [closed(0), STOPPED], 0),
        ([START, opened(0)], [PING], 0),
        ([], [START, opened(0)], None),
    ],
)
def test_events_that_did_not_flow_were_never_seen(
    flowed: list[dict[str, Any]], held_back: list[dict[str, Any]], open_block: int | None
) -> None:
    reading = reading_of(*flowed, *held_back)
    for event in held_back:
        reading.unflow(json.dumps(event).encode())
    assert reading.open_block == open_block
    assert not reading.stopped
    assert reading.begun == bool(flowed)


def assembled(*events: dict[str, Any], cut: Usage | None = None) -> dict[str, Any]:
    assembler = MessageAssembler()
    for event in events:
        assembler.feed(json.dumps(event).encode())
    body: dict[str, Any] = json.loads(assembler.body(cut))
    return body


def test_a_plain_message_is_made_of_a_streamed_one() -> None:
    body = assembled(
        START,
        PING,
        opened(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="h"),
        delta(0, type="thinking_delta", thinking="m"),
        delta(0, type="signature_delta", signature="sig"),
        closed(0),
        opened(1),
        text(1, "fo"),
        text(1, "ur"),
        delta(1, type="citations_delta", citation={"at": 1}),
        delta(1, type="citations_delta", citation={"at": 2}),
        closed(1),
        opened(2, type="tool_use", id="t", name="lookup", input={}),
        delta(2, type="input_json_delta", partial_json='{"a":'),
        delta(2, type="input_json_delta", partial_json="[1]}"),
        closed(2),
        STOPPED,
        END,
    )
    thinking, words, tool = body["content"]
    assert (thinking["thinking"], thinking["signature"]) == ("hm", "sig")
    assert (words["text"], words["citations"]) == ("four", [{"at": 1}, {"at": 2}])
    assert tool["input"] == {"a": [1]}
    assert body["stop_reason"] == "end_turn"
    assert body["usage"] == {
        "input_tokens": 12,
        "cache_read_input_tokens": 3,
        "output_tokens": 9,
    }


def test_a_cut_message_says_so_and_makes_nothing_up() -> None:
    body = assembled(
        START,
        opened(0, type="tool_use", id="t", name="lookup", input={}),
        delta(0, type="input_json_delta", partial_json='{"a":'),
        cut=Usage(input=12, output=4),
    )
    assert body["stop_reason"] == "max_tokens"
    assert body["content"][0]["input"] == {}
    assert body["usage"]["output_tokens"] == 4


def test_an_error_of_the_provider_is_kept_as_it_came() -> None:
    assembler = MessageAssembler()
    error = b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'
    for payload in (json.dumps(START).encode(), b"not json", b"[1]", error):
        assembler.feed(payload)
    assert assembler.error == error


def cut(reading: Reading, *, hidden_output: bool = False) -> Usage:
    return count(
        reading,
        input_bound=1_000,
        output_bound=100,
        cut="the app hung up",
        hidden_output=hidden_output,
    )


def test_a_cut_stream_is_charged_the_input_that_the_provider_counted() -> None:
    reading = reading_of(START, opened(0), text(0, "four"))
    usage = cut(reading)
    assert (usage.input, usage.cached_input, usage.output) == (12, 3, 4 + CUT_SLACK_LLM_TOKENS)
    assert usage.estimate_reason == "the app hung up"
    assert cut(reading, hidden_output=True).output == 100


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"input_tokens": "12", "output_tokens": 1},
        {"input_tokens": 12, "cache_read_input_tokens": -3, "output_tokens": 1},
        {"output_tokens": 1},
    ],
)
def test_an_input_that_makes_no_sense_is_charged_at_its_bound(usage: object) -> None:
    message = {"id": "msg_1", "usage": usage}
    assert cut(reading_of({"type": "message_start", "message": message})).input == 1_000
    assert cut(MessageStreamReading()).input == 1_000


def test_an_input_that_may_still_grow_is_charged_at_its_bound() -> None:
    growing = MessageStreamReading(input_grows=True)
    growing.note(json.dumps(START).encode())
    assert cut(growing).input == 1_000


def test_counts_of_nothing_do_not_make_nothing_of_what_was_shown() -> None:
    nothing = {**STOPPED, "usage": {"output_tokens": 0}}
    start = {**START, "message": {**START["message"], "usage": {"input_tokens": 1}}}
    reading = reading_of(start, opened(0), text(0, "four"), closed(0), nothing)
    usage = count(reading, input_bound=1_000, output_bound=100)
    assert (usage.output, usage.is_exact) == (4, False)
    silent = reading_of(start, nothing)
    assert count(silent, input_bound=1_000, output_bound=100).is_exact
    plain = MESSAGES.reading(MESSAGES.read(REQUEST, ""), SERVER)
    plain.whole(
        b'{"content":[{"type":"text","text":"four"}],"usage":{"input_tokens":1,"output_tokens":0}}'
    )
    assert count(plain, input_bound=1_000, output_bound=100).output == 4
