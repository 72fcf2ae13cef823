"""The OpenAI dialect: what is read out of a request, and what is changed in it."""

import json
from typing import Any

import pytest

from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart
from tests.fakes.dialect_requests import edited, read

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def body_of(**fields: Any) -> bytes:
    return json.dumps({**CHAT, **fields}, separators=(",", ":")).encode()


def facts_of(**fields: Any) -> Facts:
    return read("chat", body_of(**fields))


def refused(body: bytes, endpoint: str = "chat") -> DialectError:
    with pytest.raises(DialectError) as caught:
        read(endpoint, body)
    return caught.value


def test_the_facts_of_a_plain_request() -> None:
    body = body_of(max_tokens=7, n=2, user="u-1", service_tier="flex")
    facts = read("chat", body)
    assert facts.model == "gpt-4o-mini"
    assert (facts.output_limit, facts.choices, facts.messages) == (7, 2, 1)
    assert facts.body_bytes == len(body)
    assert (facts.customer, facts.service_tier, facts.stream) == ("u-1", "flex", False)
    assert facts.text_only
    assert not facts.unbounded_input


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 9, "max_completion_tokens": 6}, 9),
    ],
)
def test_the_larger_output_limit_counts(limits: dict[str, Any], expected: int | None) -> None:
    assert facts_of(**limits).output_limit == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "abc"),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 10**30),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_completion_tokens", [1]),
        ("n", 0),
        ("n", -3),
        ("n", 10**9),
        ("n", "2"),
        ("model", 3),
        ("model", ""),
        ("model", "x" * 1000),
        ("model", "a\nb"),
        ("messages", "hi"),
        ("messages", {"role": "user"}),
        ("messages", [1, 2]),
        ("messages", None),
        ("stream", "yes"),
        ("stream", 1),
        ("stream_options", [1]),
        ("user", 12),
        ("user", "x" * 1000),
        ("user", "a\x00b"),
        ("tags", "a"),
        ("tags", [1]),
        ("tags", ["x" * 300]),
        ("tags", [f"t{n}" for n in range(100)]),
        ("metadata", "x"),
        ("service_tier", 1),
        ("modalities", "audio"),
        ("tools", {"type": "function"}),
        ("reasoning_effort", 3),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_field(field: str, value: Any) -> None:
    stream = {"stream": True} if field == "stream_options" else {}
    assert refused(body_of(**{**stream, field: value})).param == field


def test_nested_fields_are_named_in_full() -> None:
    assert refused(body_of(metadata={"tags": [1]})).param == "metadata.tags"
    wrong = body_of(stream=True, stream_options={"include_usage": "yes"})
    assert refused(wrong).param == "stream_options.include_usage"


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    fields = {name: value for name, value in CHAT.items() if name != field}
    error = refused(json.dumps(fields).encode())
    assert (error.param, error.code) == (field, "missing_field")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model":"a",}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"model": NaN, "messages": []}',
        b'{"model":"a","messages":[]} trailing',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    error = refused(body)
    assert error.code == "invalid_json"
    assert len(error.message) < 300


def test_a_field_given_twice_is_refused_because_parsers_disagree() -> None:
    body = b'{"model":"a","messages":[],"max_tokens":1,"max_tokens":100000}'
    error = refused(body)
    assert (error.param, error.code) == ("max_tokens", "duplicate_field")
    read("chat", b'{ "model": "a",\n "messages": [{"role":"user","content":"x"}] }')


def test_parts_of_text_are_bounded_by_their_bytes() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    facts = facts_of(messages=[{"role": "user", "content": parts}])
    assert not facts.unbounded_input
    assert facts.messages == 3


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "something_new"},
        {},
    ],
)
def test_parts_that_refer_elsewhere_are_not_bounded(part: dict[str, Any]) -> None:
    facts = facts_of(messages=[{"role": "user", "content": [part]}])
    assert facts.unbounded_input
    assert not facts.text_only


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAyAAAAJYCAYAAACadoJwAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
)


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ({"url": "https://example.org/a.png"}, ImagePart(None)),
        ({"url": "https://example.org/a.png", "detail": "low"}, ImagePart(None, "low")),
        ({"url": f"data:image/png;base64,{PIXEL}"}, ImagePart((800, 600))),
        (f"data:image/png;base64,{PIXEL}", ImagePart((800, 600))),
        ({"url": "data:image/png;base64,AAAA"}, ImagePart(None)),
        ({"url": 7, "detail": 9}, ImagePart(None)),
        ("\u00e9", ImagePart(None)),
        (None, ImagePart(None)),
    ],
)
def test_images_are_told_by_their_size_and_detail(image: Any, part: ImagePart) -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": image}]
    facts = facts_of(messages=[{"role": "user", "content": parts}])
    assert facts.images == (part,)
    assert facts.image_bytes == len(json.dumps(image, separators=(",", ":")))
    assert not facts.unbounded_input
    assert not facts.text_only


def test_an_address_with_escaped_slashes_is_read_all_the_same() -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":[{"type":"image_url","image_url":'
    body += b'{"url":"data:image\\/png;base64,' + PIXEL.encode() + b'"}}]}]}'
    assert read("chat", body).images == (ImagePart((800, 600)),)


def test_images_beyond_the_most_that_are_looked_at_have_no_bound() -> None:
    part = {"type": "image_url", "image_url": "https://x"}
    facts = facts_of(messages=[{"role": "user", "content": [part] * (MAX_IMAGES + 1)}])
    assert len(facts.images) == MAX_IMAGES
    assert facts.unbounded_input


def test_an_escaped_part_type_does_not_hide() -> None:
    body = (
        b'{"model":"a","messages":[{"role":"user","content":'
        b'[{"type":"image\\u005furl","image_url":{"url":"https://x"}}]}]}'
    )
    facts = read("chat", body)
    assert facts.images == (ImagePart(None),)
    assert not facts.text_only


def test_a_reference_to_earlier_audio_is_not_bounded() -> None:
    facts = facts_of(messages=[{"role": "assistant", "audio": {"id": "audio-1"}}])
    assert facts.unbounded_input
    assert not facts_of(messages=[{"role": "assistant", "audio": None}]).unbounded_input


def test_audio_asked_for_is_not_text_only() -> None:
    facts = facts_of(modalities=["text", "audio"])
    assert not facts.text_only
    assert not facts.unbounded_input


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "web_search"}]}, "tools: web_search"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"web_search_options": None}, ""),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, ""),
        ({"tools": None}, ""),
    ],
)
def test_tools_that_the_provider_bills_are_noticed(fields: dict[str, Any], named: str) -> None:
    assert facts_of(**fields).unbounded_tools == named


def test_predicted_output_widens_the_bound() -> None:
    prediction = {"type": "content", "content": "x" * 100}
    assert facts_of(prediction=prediction).predicted_bytes > 100


def test_tags_come_from_both_places_once_each() -> None:
    facts = facts_of(tags=["a", "b"], metadata={"tags": ["b", "c"], "other": "kept"})
    assert facts.tags == ("a", "b", "c")


@pytest.mark.parametrize(
    ("value", "inputs"),
    [("one text", 1), (["a", "b", "c"], 3), ([1, 2, 3], 3), ([[1, 2], [3]], 2), ([], 0)],
)
def test_inputs_of_embeddings_are_counted(value: Any, inputs: int) -> None:
    body = json.dumps({"model": "text-embedding-3-small", "input": value}).encode()
    facts = read("embeddings", body)
    assert (facts.messages, facts.output_limit) == (inputs, None)


@pytest.mark.parametrize("value", [3, {"a": 1}, True])
def test_inputs_of_embeddings_of_a_wrong_type_are_refused(value: Any) -> None:
    body = json.dumps({"model": "m", "input": value}).encode()
    assert refused(body, "embeddings").param == "input"
    assert refused(b'{"model":"m"}', "embeddings").param == "input"


def test_a_body_that_needs_no_change_goes_as_it_came() -> None:
    body = b'{ "model": "gpt-4o-mini", "messages": [ ], "temperature": 1.00 }'
    assert edited(read("chat", body), body, model="gpt-4o-mini") is body


def test_a_changed_body_keeps_the_bytes_of_all_other_values() -> None:
    body = (
        b'{"model":"openai/gpt-4o-mini","messages":[{"role":"user", "content":"\\u00e9 1.0"}],'
        b'"temperature":1.00,"seed":12345678901234567890123,"tags":["t"],'
        b'"metadata":{"tags":["u"],"other":"\\u00fc"},"logit_bias":{"50256": -100}}'
    )
    out = edited(read("chat", body), body, model="gpt-4o-mini")
    assert out == (
        b'{"model":"gpt-4o-mini","messages":[{"role":"user", "content":"\\u00e9 1.0"}],'
        b'"temperature":1.00,"seed":12345678901234567890123,'
        b'"metadata":{"other":"\\u00fc"},"logit_bias":{"50256": -100}}'
    )


def test_metadata_that_held_only_our_tags_is_taken_off() -> None:
    body = body_of(metadata={"tags": ["u"]})
    assert json.loads(edited(read("chat", body), body, model="gpt-4o-mini")) == CHAT


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
    ],
)
def test_usage_is_asked_for_where_the_app_did_not(
    options: dict[str, Any] | None, sent: dict[str, Any]
) -> None:
    body = body_of(stream=True, stream_options=options)
    facts = read("chat", body)
    assert not facts.usage_asked
    assert json.loads(edited(facts, body, model="gpt-4o-mini"))["stream_options"] == sent


def test_an_app_that_asks_for_usage_itself_is_left_alone() -> None:
    body = body_of(stream=True, stream_options={"include_usage": True})
    facts = read("chat", body)
    assert facts.usage_asked
    assert edited(facts, body, model="gpt-4o-mini") is body


def test_an_output_limit_is_set_in_the_field_that_the_provider_knows() -> None:
    body = body_of()
    facts = read("chat", body)
    sent = json.loads(edited(facts, body, model="gpt-4o-mini", output_limit=4096))
    assert sent["max_completion_tokens"] == 4096
    older = edited(facts, body, model="gpt-4o-mini", output_limit=9, limit_field="max_tokens")
    assert json.loads(older)["max_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 900}, {"max_tokens": 300}),
        ({"max_completion_tokens": 900}, {"max_completion_tokens": 300}),
        ({"max_tokens": 100, "max_completion_tokens": 900}, {"max_completion_tokens": 300}),
        ({"max_tokens": None}, {"max_completion_tokens": 300}),
        ({}, {"max_completion_tokens": 300}),
    ],
)
def test_a_higher_limit_is_lowered_where_the_app_wrote_it(
    fields: dict[str, Any], expected: dict[str, int]
) -> None:
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    sent = json.loads(edited(read("chat", body), body, model="m", output_limit=300))
    assert sent == {"model": "m", "messages": [], **fields, **expected}


def test_a_lower_limit_of_the_app_stays_and_its_body_too() -> None:
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 100}).encode()
    assert edited(read("chat", body), body, model="m", output_limit=300) == body
