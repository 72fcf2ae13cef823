"""The Gemini dialect: requests read and changed, paths, errors, and what streams say."""

import base64
import json
from typing import Any

import pytest

from bursar.usage import Usage, read_stream
from bursar_sidecar.app_headers import key_of
from bursar_sidecar.dialects.dialect import Listed, Refused
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.gemini import (
    BATCH_EMBED,
    COUNT,
    DIALECT,
    EMBED,
    GENERATE,
    MODELS,
    STREAM,
)
from bursar_sidecar.dialects.gemini.reading import GenerateStreamReading
from bursar_sidecar.dialects.images import ImagePart
from bursar_sidecar.dialects.kinds import KINDS, Server
from bursar_sidecar.dialects.registry import find
from bursar_sidecar.http_messages import Request
from bursar_sidecar.meter import count
from tests.fakes.pictures import png_base64

SERVER = Server(kind=KINDS["gemini"], limit_field="", asks_usage=False)
MODEL = "gemini-2.5-flash"
TEXT: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}


def request(body: dict[str, Any], target: bytes = b"/v1beta/models/x:y") -> Request:
    return Request(b"POST", target, [], json.dumps(body, separators=(",", ":")).encode())


def facts_of(*, named: str = MODEL, **fields: Any) -> Facts:
    return GENERATE.read(request({**TEXT, **fields}), named)


def refused(**fields: Any) -> DialectError:
    with pytest.raises(DialectError) as caught:
        facts_of(**fields)
    return caught.value


def edited(
    body: dict[str, Any], *, model: str = MODEL, output_limit: int | None = None
) -> dict[str, Any]:
    asked = request(body)
    facts = GENERATE.read(asked, MODEL)
    sent = GENERATE.edited(facts, asked.body, model=model, server=SERVER, output_limit=output_limit)
    changed: dict[str, Any] = json.loads(sent)
    return changed


def parts(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"parts": list(content)}]


def test_a_path_names_the_model_and_the_method() -> None:
    for path, endpoint, named in [
        (b"/v1beta/models/gemini-2.5-flash:generateContent", GENERATE, MODEL),
        (b"/v1/models/gemini-2.5-flash:generateContent", GENERATE, MODEL),
        (b"/v1beta/models/a%2Fb:streamGenerateContent", STREAM, "a/b"),
        (b"/v1beta/models/e:embedContent", EMBED, "e"),
        (b"/v1beta/models/e:batchEmbedContents", BATCH_EMBED, "e"),
        (b"/v1/models/e:countTokens", COUNT, "e"),
        (b"/v1beta/models", MODELS, ""),
        (b"/v1beta/models/gemini-2.5-flash", MODELS, MODEL),
    ]:
        found = find(Request(b"POST", path, [], b""))
        assert found is not None, path
        assert (found.endpoint, found.named) == (endpoint, named)
    for path in (
        b"/v1beta/models/m:predictLongRunning",
        b"/v1beta/files",
        b"/v1beta/cachedContents",
    ):
        assert find(Request(b"POST", path, [], b"")) is None


def test_the_key_is_found_wherever_it_may_stand_and_goes_no_further() -> None:
    in_header = Request(b"POST", b"/", [(b"x-goog-api-key", b"bk-1")], b"")
    assert key_of(in_header, DIALECT) == "bk-1"
    in_query = request(TEXT, b"/v1/models/m:streamGenerateContent?alt=sse&key=bk%2D2&x=1")
    assert key_of(in_query, DIALECT) == "bk-2"
    assert STREAM.target(in_query, "m", SERVER) == (
        b"/v1/models/m:streamGenerateContent?alt=sse&x=1"
    )
    alone = request(TEXT, b"/v1beta/models/m:generateContent?key=bk-2")
    assert GENERATE.target(alone, "n x", SERVER) == b"/v1beta/models/n%20x:generateContent"
    listing = find(Request(b"GET", b"/v1/models?key=bk-2", [], b""))
    assert listing is not None
    assert listing.endpoint is MODELS


def test_the_facts_of_a_plain_request() -> None:
    config = {"maxOutputTokens": 7, "candidateCount": 2}
    asked = request({**TEXT, "generationConfig": config, "serviceTier": "FLEX"})
    facts = GENERATE.read(asked, MODEL)
    assert (facts.model, facts.output_limit, facts.choices) == (MODEL, 7, 2)
    assert (facts.stream, facts.service_tier, facts.body_bytes) == (False, "flex", len(asked.body))
    assert facts.text_only
    assert (facts.unbounded_input, facts.unbounded_tools) == ("", "")
    assert STREAM.read(asked, MODEL).stream


def test_both_spellings_of_a_name_mean_the_same_and_never_stand_together() -> None:
    other: Any = {"generation_config": {"max_output_tokens": 7, "candidate_count": 2}}
    facts = facts_of(**other)
    assert (facts.output_limit, facts.choices) == (7, 2)
    doubled: list[dict[str, Any]] = [
        {"generationConfig": {}, "generation_config": {}},
        {"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 50_000}},
        {"generationConfig": {"candidateCount": 1, "candidate_count": 8}},
        {"serviceTier": "flex", "service_tier": "priority"},
    ]
    for twice in doubled:
        assert refused(**twice).code == "duplicate_field"
    nested = b'{"contents":[],"generationConfig":{"maxOutputTokens":5,"maxOutputTokens":50000}}'
    with pytest.raises(DialectError, match="maxOutputTokens"):
        GENERATE.read(Request(b"POST", b"/", [], nested), MODEL)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"generationConfig": {"maxOutputTokens": 0}}, "maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": "5"}}, "maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 9}}, "generationConfig.candidateCount"),
        ({"generationConfig": []}, "generationConfig"),
        ({"contents": 5}, "contents"),
        ({"tools": {}}, "tools"),
        ({"model": "models/another"}, "model"),
    ],
)
def test_what_the_cost_depends_on_is_checked_by_name(fields: dict[str, Any], named: str) -> None:
    assert refused(**fields).param == named


@pytest.mark.parametrize(
    ("part", "bounded", "text_only"),
    [
        ({"text": "a"}, True, True),
        ({"functionCall": {"name": "f", "args": {}}}, True, True),
        ({"function_response": {"name": "f", "response": {}}}, True, True),
        ({"functionResponse": {"name": "f", "parts": [{}]}}, False, False),
        ({"inlineData": {"mimeType": "text/plain", "data": "YQ=="}}, True, True),
        ({"inlineData": {"mimeType": "audio/wav", "data": "YQ=="}}, False, False),
        ({"inline_data": {"mime_type": "application/pdf", "data": "YQ=="}}, False, False),
        ({"fileData": {"fileUri": "https://x.test/film"}}, False, False),
        ({"file_data": {"file_uri": "https://x.test/film"}}, False, False),
        ({"hologram": {}}, False, False),
    ],
)
def test_content_that_the_body_does_not_hold_is_not_bounded_by_it(
    part: dict[str, Any], bounded: bool, text_only: bool
) -> None:
    for facts in (
        facts_of(contents=parts(part)),
        facts_of(contents={"parts": part}),
        facts_of(systemInstruction={"parts": [part]}),
    ):
        assert (facts.unbounded_input == "") is bounded
        assert facts.text_only is text_only


def test_images_are_known_by_their_size() -> None:
    data = png_base64(640, 480)
    for part in (
        {"inlineData": {"mimeType": "image/png", "data": data}},
        {"inline_data": {"mime_type": "image/png", "data": data}},
    ):
        facts = facts_of(contents=parts(part))
        assert facts.images == (ImagePart((640, 480)),)
        assert facts.image_bytes == len(data) + 2
        assert not facts.unbounded_input
        assert not facts.text_only
    junk = base64.b64encode(b"no picture" * 10).decode()
    facts = facts_of(contents=parts({"inlineData": {"mimeType": "image/png", "data": junk}}))
    assert facts.images == (ImagePart(None),)


def test_cached_content_is_not_bounded_by_the_body() -> None:
    assert facts_of(cachedContent="cachedContents/1").unbounded_input
    assert facts_of(cached_content="cachedContents/1").unbounded_input


@pytest.mark.parametrize(
    ("model", "tool", "searches", "unbounded"),
    [
        (MODEL, {"functionDeclarations": []}, 0, ""),
        (MODEL, {"googleSearch": {}}, 1, ""),
        (MODEL, {"google_search": {}}, 1, ""),
        ("gemini-3-pro", {"googleSearch": {}}, 0, "googleSearch"),
        ("nano", {"googleSearch": {}}, 0, "googleSearch"),
        (MODEL, {"codeExecution": {}}, 0, "codeExecution"),
        (MODEL, {"url_context": {}}, 0, "urlContext"),
        (MODEL, {"googleSearch": {}, "googleMaps": {}}, 1, "googleMaps"),
    ],
)
def test_a_search_is_bounded_where_it_is_billed_by_prompt(
    model: str, tool: dict[str, Any], searches: int, unbounded: str
) -> None:
    facts = facts_of(named=model, tools=[tool])
    assert facts.provider_units == ({"search": searches} if searches else {})
    assert unbounded in facts.unbounded_tools
    assert bool(facts.unbounded_tools) == bool(unbounded)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, False),
        ({"thinkingConfig": {"thinkingBudget": 0}}, False),
        ({"thinkingConfig": {"thinkingBudget": 100}}, True),
        ({"thinkingConfig": {"include_thoughts": True}}, True),
        ({"thinking_config": {"thinking_budget": 0}}, False),
    ],
)
def test_thinking_that_is_asked_for_hides_output(config: dict[str, Any], expected: bool) -> None:
    assert facts_of(generationConfig=config).reasoning is expected


def test_answers_that_are_no_text_have_rates_of_their_own() -> None:
    assert not facts_of(generationConfig={"responseModalities": ["TEXT", "IMAGE"]}).text_only
    assert not facts_of(generationConfig={"speechConfig": {}}).text_only
    assert facts_of(generationConfig={"response_modalities": ["TEXT"]}).text_only


def test_a_limit_is_set_lowered_and_never_raised() -> None:
    assert edited(TEXT, output_limit=5)["generationConfig"] == {"maxOutputTokens": 5}
    high = {**TEXT, "generation_config": {"max_output_tokens": 50, "temperature": 1}}
    assert edited(high, output_limit=5) == {
        **TEXT,
        "generation_config": {"max_output_tokens": 5, "temperature": 1},
    }
    low = {**TEXT, "generationConfig": {"maxOutputTokens": 3}}
    assert edited(low, output_limit=5) == low


def test_a_body_that_repeats_the_model_is_told_the_providers_name_for_it() -> None:
    assert edited(TEXT, model="another") == TEXT
    assert (
        edited({**TEXT, "model": f"models/{MODEL}"}, model="another")["model"] == "models/another"
    )
    content = {"parts": [{"text": "a"}]}
    batch = {"requests": [{"model": "models/e", "content": content}, {"content": content}]}
    asked = request(batch)
    facts = BATCH_EMBED.read(asked, "e")
    assert BATCH_EMBED.edited(facts, asked.body, model="e", server=SERVER) is asked.body
    sent = json.loads(BATCH_EMBED.edited(facts, asked.body, model="f", server=SERVER))
    assert [one["model"] for one in sent["requests"]] == ["models/f"] * 2
    with pytest.raises(DialectError, match=r"requests\[0\]"):
        BATCH_EMBED.read(asked, "g")


def test_embeddings_are_input_alone_and_counting_is_free() -> None:
    content = {"parts": [{"text": "a"}]}
    for endpoint, body in (
        (EMBED, {"content": content}),
        (BATCH_EMBED, {"requests": [{"content": content}, {"content": content}]}),
    ):
        facts = endpoint.read(request(body), "e")
        assert not facts.generates
        assert not facts.free
        with pytest.raises(DialectError):
            endpoint.read(request({}), "e")
    assert COUNT.read(request(TEXT), "m").free


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (402, "FAILED_PRECONDITION"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (503, "UNAVAILABLE"),
    ],
)
def test_an_error_has_the_shape_of_the_dialect(status: int, word: str) -> None:
    told = Refused(status, "some_reason", "x", "No.", "field", {"budgets": []})
    error = json.loads(DIALECT.error(told))["error"]
    assert (error["code"], error["status"], error["message"]) == (status, word, "No.")
    info, budgets = error["details"]
    assert (info["reason"], info["domain"]) == ("some_reason", "bursar")
    assert info["metadata"] == {"field": "field"}
    assert budgets == {"budgets": []}


def test_models_are_listed_as_the_provider_lists_them() -> None:
    [one] = json.loads(DIALECT.models([Listed("a", "p")]))["models"]
    assert one["name"] == "models/a"
    assert "generateContent" in one["supportedGenerationMethods"]


def chunk(
    text: str, output: int | None, *, finished: str | None = None, index: int = 0, **fields: Any
) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}]}, "index": index, **fields}
    if finished:
        candidate["finishReason"] = finished
    told: dict[str, Any] = {
        "candidates": [candidate],
        "modelVersion": MODEL,
        "responseId": "r-1",
    }
    if output is not None:
        told["usageMetadata"] = {
            "promptTokenCount": 4,
            "candidatesTokenCount": output,
            "totalTokenCount": 4 + output,
        }
    return json.dumps(told).encode()


COUNTS_ALONE = (
    b'{"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":2,"totalTokenCount":6}}'
)


def test_a_stream_is_read_to_its_last_counts() -> None:
    reading = GenerateStreamReading()
    reading.note(chunk("one", 1))
    assert not reading.usage_is_final
    assert reading.open_candidates == {0}
    reading.note(chunk(" two", 2, finished="STOP"))
    assert reading.usage_is_final
    assert (reading.model, reading.request_id) == (MODEL, "r-1")
    assert reading.produced_bytes == len("one two")
    usage = reading.counted(100, 100)
    assert (usage.is_exact, usage.input, usage.output) == (True, 4, 2)


def test_a_chunk_that_cannot_be_read_counts_as_produced() -> None:
    reading = GenerateStreamReading()
    odd = b'{"candidates":"none"}'
    reading.note(odd)
    assert reading.produced_bytes == len(odd)
    assert not reading.unreadable
    reading.note(b'{"candidates":[')
    assert reading.unreadable


def test_a_stream_that_is_one_array_is_read_alike() -> None:
    reading = GenerateStreamReading()
    reading.whole(b"[" + chunk("one", 1) + b"\n,\r\n" + chunk("two", 2, finished="STOP") + b"]")
    assert reading.usage_is_final
    assert reading.counted(100, 100).output == 2
    broken = GenerateStreamReading()
    broken.whole(b'{"candidates":')
    assert broken.unreadable


GROUNDED: dict[str, Any] = {"webSearchQueries": ["a", "b"]}
STREAMS = {
    "one": [chunk("one", 1), chunk("two", 2), chunk("end", 3, finished="STOP")],
    "counts come last": [chunk("one", 1), chunk("end", None, finished="STOP"), COUNTS_ALONE],
    "counts fall": [chunk("a", 1), chunk("b", 50), chunk("c", 7), chunk("d", 9, finished="STOP")],
    "two candidates": [
        chunk("a", 1),
        chunk("b", 2, index=1),
        chunk("c", 3, finished="STOP"),
        chunk("d", 4, index=1),
        chunk("e", 5, index=1, finished="MAX_TOKENS"),
    ],
    "grounded on the way": [
        chunk("a", 1),
        chunk("b", 2, groundingMetadata=GROUNDED),
        chunk("c", 3),
        chunk("d", 4, finished="STOP"),
    ],
    "code on the way": [
        chunk("a", 1),
        chunk("b", 2, content={"parts": [{"executableCode": {"code": "1"}}]}),
        chunk("c", 3),
        chunk("d", 4, finished="STOP", groundingMetadata=GROUNDED),
    ],
    "blocked": [
        b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":4}}'
    ],
    "an error": [chunk("a", 1), chunk("b", 2), b'{"error":{"code":500,"status":"INTERNAL"}}'],
    "never ends": [chunk("a", 1), chunk("b", 2), chunk("c", 3)],
    "no counts": [chunk("a", None), chunk("b", None, finished="STOP")],
    "odd": [chunk("a", 1), b'{"candidates":7}', b"no json", chunk("b", 2, finished="STOP")],
}


@pytest.mark.parametrize("name", STREAMS)
def test_reading_only_what_tells_something_reads_the_same(name: str) -> None:
    full = read_stream("gemini_generate")
    reading = GenerateStreamReading()
    for payload in STREAMS[name]:
        full.feed(payload)
        reading.note(payload)
        assert reading.usage_is_final == full.is_final
    expected = full.metered(input_bound=100, output_bound=200)
    assert reading.counted(100, 200) == expected.usage
    assert reading.input_told() == full.counted()
    assert reading.model == expected.model


def test_a_cut_stream_ends_as_one_that_is_as_long_as_it_could_be() -> None:
    reading = GenerateStreamReading()
    reading.note(chunk("one", 1))
    reading.note(chunk("two", 1, index=1))
    reading.note(chunk("end", 2, index=1, finished="STOP"))
    before, last = STREAM.cut_events(reading, Usage(input=4, output=3, reasoning=1))
    assert before == b""
    told = json.loads(last.removeprefix(b"data: "))
    assert [(one["index"], one["finishReason"]) for one in told["candidates"]] == [
        (0, "MAX_TOKENS")
    ]
    assert told["usageMetadata"]["totalTokenCount"] == 7
    assert told["usageMetadata"]["candidatesTokenCount"] == 2


def test_a_cut_stream_is_charged_the_prompt_that_the_provider_counted() -> None:
    for grows, expected in ((False, 4), (True, 1_000)):
        reading = GenerateStreamReading(input_grows=grows)
        reading.note(chunk("one", 1))
        usage = count(reading, input_bound=1_000, output_bound=100, cut="the app hung up")
        assert usage.input == expected


def test_an_end_that_did_not_flow_was_never_seen() -> None:
    reading = GenerateStreamReading()
    reading.note(chunk("one", 1))
    last = chunk("end", 2, finished="STOP")
    reading.note(last)
    assert not reading.open_candidates
    reading.unflow(b"no json")
    reading.unflow(last)
    assert reading.open_candidates == {0}


def test_libraries_that_stumble_over_comments_are_sent_none() -> None:
    assert not DIALECT.comments_in_streams
