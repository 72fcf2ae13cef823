"""The seam between the data path and the dialects: paths, errors, and streams that are cut."""

import json

import pytest

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import Refused
from bursar_sidecar.dialects.openai import CHAT, DIALECT, EMBEDDINGS, MODELS
from bursar_sidecar.dialects.openai.chat_reading import ChatReading
from bursar_sidecar.dialects.reading import LAST, PASS, WITHHOLD, MeteredReading
from bursar_sidecar.dialects.registry import DIALECTS, find, served
from bursar_sidecar.http_messages import Request
from tests.fakes.dialect_requests import OPENAI
from tests.fakes.sidecar_bench import USAGE, chunk


def _request(**fields: object) -> Request:
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return Request(b"POST", b"/", [], json.dumps(asked).encode())


def payload(event: bytes) -> bytes:
    return event.removeprefix(b"data: ").strip()


def test_a_path_is_one_endpoints_or_nobodys() -> None:
    for path, endpoint, named in [
        (b"/v1/chat/completions", CHAT, ""),
        (b"/v1/embeddings", EMBEDDINGS, ""),
        (b"/v1/models", MODELS, ""),
        (b"/v1/models/ft:gpt-4o:x/y", MODELS, "ft:gpt-4o:x/y"),
    ]:
        found = find(Request(b"POST", path, [], b""))
        assert found is not None
        assert (found.endpoint, found.named) == (endpoint, named)
    for path in (b"/v1/chat/completions/", b"/v1/chat", b"/", b"/v1/realtime", b"/v2/models/x"):
        assert find(Request(b"POST", path, [], b"")) is None
    assert "/v1/chat/completions" in served()
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS)


def test_a_file_meant_for_one_provider_does_not_go_to_another() -> None:
    assert find(Request(b"POST", b"/v1/files", [], b"")) is not None
    headers = [(b"anthropic-version", b"2023-06-01")]
    assert find(Request(b"POST", b"/v1/files", headers, b"")) is None


def test_an_error_has_the_shape_of_its_dialect() -> None:
    refused = Refused(402, "budget_exhausted", "insufficient_quota", "No more.", None, {"x": 1})
    body = {
        "error": {
            "message": "No more.",
            "type": "insufficient_quota",
            "param": None,
            "code": "budget_exhausted",
            "x": 1,
        }
    }
    assert json.loads(DIALECT.error(refused)) == body


def test_a_chat_stream_that_is_cut_ends_as_one_that_is_as_long_as_it_could_be() -> None:
    reading = CHAT.stream_reading(CHAT.read(_request(stream=True, n=2), ""), OPENAI)
    assert reading.note(payload(chunk("a", created=7))) == PASS
    other = {"index": 1, "delta": {"content": "b"}, "finish_reason": None}
    done = {"index": 2, "delta": {}, "finish_reason": "stop"}
    reading.note(payload(chunk("a", choices=[other, done])))
    ends, last = CHAT.cut_events(reading, Usage(input=3, output=2))
    said = [json.loads(payload(event)) for event in ends.split(b"\n\n") if event]
    assert [(one["id"], one["created"], one["model"]) for one in said] == [
        ("c-1", 7, "gpt-4o-mini")
    ] * 2
    assert [
        (choice["index"], choice["finish_reason"]) for one in said for choice in one["choices"]
    ] == [(0, "length"), (1, "length")]
    assert reading.note(payload(last)) == LAST


def test_an_app_that_asked_for_usage_gets_it_from_a_cut_stream_too() -> None:
    request = _request(stream=True, stream_options={"include_usage": True})
    reading = CHAT.stream_reading(CHAT.read(request, ""), OPENAI)
    reading.note(payload(chunk("a")))
    ends, _ = CHAT.cut_events(reading, Usage(input=3, output=2))
    told = json.loads(payload(ends.split(b"\n\n")[-2]))
    assert (told["choices"], told["usage"]["total_tokens"]) == ([], 5)


def test_usage_that_nobody_asked_for_is_withheld() -> None:
    told = json.dumps({"id": "c-1", "choices": [], "usage": USAGE}).encode()
    streamed = CHAT.read(_request(stream=True), "")
    assert CHAT.stream_reading(streamed, OPENAI).note(told) == WITHHOLD
    assert ChatReading().note(told) == PASS


@pytest.mark.parametrize("stream", [False, True])
def test_a_reading_by_the_library_knows_usage_and_bounds_what_it_lacks(stream: bool) -> None:
    told = {"id": "r-1", "model": "m", "choices": [], "usage": USAGE}
    reading = MeteredReading("openai_chat", stream=stream)
    if stream:
        reading.note(json.dumps(told).encode())
    else:
        reading.whole(json.dumps(told).encode())
    assert reading.counted(100, 200) == Usage(input=10, output=20)
    assert (reading.request_id, reading.model, reading.usage_is_final) == ("r-1", "m", True)
    silent = MeteredReading("openai_chat", stream=stream)
    if stream:
        silent.note(payload(chunk("abc")))
        assert silent.usage is None
        assert silent.produced_bytes >= 3
    else:
        silent.whole(b"{}")
    counted = silent.counted(100, 200)
    assert (counted.input, counted.output, counted.is_exact) == (100, 200, False)
