"""Counting whole requests, against the figures of OpenAI's cookbook and inside the bound."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.llm_tokens import (
    LlmTokenError,
    count_request_llm_tokens,
    encoding,
    requests,
    tokenizer_of,
)
from bursar_sidecar.counting.work import strings_of
from bursar_sidecar.input_bounds import (
    LEAST_TIGHTENED_BYTES,
    countable,
    counted_bound,
    images_bound,
    request_bound,
    text_and_framing_bound,
)
from tests.fakes.dialect_requests import read

# "How to count tokens with tiktoken", OpenAI's cookbook: what its function and the API both count.
JARGON = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
        "for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client "
        "deliverable.",
    },
]
WEATHER = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can answer to questions about the weather.",
    },
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}


@pytest.mark.parametrize(("model", "count"), [("gpt-4-0613", 129), ("gpt-4o", 124)])
def test_messages_cost_what_the_cookbook_counts(model: str, count: int) -> None:
    found = count_request_llm_tokens({"model": model, "messages": JARGON})
    assert found.llm_tokens == count
    assert found.is_exact
    assert found.framing == 6 * 3 + 4 + 3
    assert found.reasons == ()


@pytest.mark.parametrize(("model", "count"), [("gpt-4", 105), ("gpt-4o", 101)])
def test_tools_cost_what_the_cookbook_counts(model: str, count: int) -> None:
    found = count_request_llm_tokens({"messages": WEATHER, "tools": [WEATHER_TOOL]}, model)
    assert found.llm_tokens == count
    assert not found.is_exact


def png_url(width: int, height: int, padding: int = 0) -> str:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height)
    return "data:image/png;base64," + base64.b64encode(head + bytes(padding)).decode()


def asked(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": list(parts)}], **fields}


HI = {"type": "text", "text": "hi"}


def image(url: str, detail: str = "auto") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def test_images_are_counted_by_the_formula_and_not_by_their_bytes() -> None:
    body = asked({"type": "text", "text": "what is it?"}, image(png_url(1024, 1024, 3_000_000)))
    found = count_request_llm_tokens(json.dumps(body))
    assert found.images == 765
    assert found.is_exact
    facts = read("chat", json.dumps(body).encode())
    bound = request_bound(facts, "gpt-4o")
    assert bound is not None
    assert found.llm_tokens <= bound < 2_000


def test_the_same_image_again_costs_again() -> None:
    twin = image(png_url(1024, 1024))
    facts = read("chat", json.dumps(asked(twin, twin, twin)).encode())
    once = images_bound(read("chat", json.dumps(asked(twin)).encode()), "gpt-4o")
    assert once is not None
    assert images_bound(facts, "gpt-4o") == 3 * once >= 3 * 765


def test_an_image_by_its_address_is_bounded_by_the_formula_s_most() -> None:
    body = asked(image("https://example.org/a.png", "high"))
    bound = request_bound(read("chat", json.dumps(body).encode()), "gpt-4o")
    assert bound is not None
    assert 85 + 8 * 170 <= bound < 2_000


def test_an_image_of_a_model_without_a_formula_has_no_bound() -> None:
    facts = read("chat", json.dumps(asked(image(png_url(8, 8)))).encode())
    assert images_bound(facts, "grok-4") is None
    assert request_bound(facts, "grok-4") is None


def test_a_model_whose_instructions_for_tools_are_its_own_has_room_for_them() -> None:
    plain = read("chat", json.dumps(asked(HI)).encode())
    tooled = read("chat", json.dumps(asked(HI, tools=[])).encode())
    more = text_and_framing_bound(tooled, "claude-x") - text_and_framing_bound(plain, "claude-x")
    assert more > 1_000
    assert text_and_framing_bound(tooled, "gpt-4o") - text_and_framing_bound(plain, "gpt-4o") < 50


def test_what_is_only_estimated_is_said() -> None:
    wav = base64.b64encode(
        b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(12) + struct.pack("<I", 16_000) + bytes(48_012)
    ).decode()
    body = asked(
        {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 99_999}},
        image("https://example.org/a.png"),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    )
    body["messages"].append(
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    )
    found = count_request_llm_tokens(body, "claude-opus-4-7")
    assert found.audio == 40
    assert found.files > 1_500
    assert found.images > 4_000
    assert len(found.reasons) >= 6
    parts = (found.text, found.framing, found.tools, found.images, found.audio, found.files)
    assert found.llm_tokens == sum(parts)


def test_anthropic_s_shape_is_counted_too() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": png_url(280, 280)[22:]}
    body = {
        "model": "claude-sonnet-4-5",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": source}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "name": "f", "input": {"a": 1}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "content": "seven"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {}}}}],
    }
    found = count_request_llm_tokens(body)
    assert found.images == 100
    assert found.text > 8
    assert found.tools > 12


def test_embeddings_count_texts_and_numbers() -> None:
    body = {"model": "text-embedding-3-small", "input": ["hello world", "hello world"]}
    assert count_request_llm_tokens(body).llm_tokens == 4
    assert count_request_llm_tokens({"model": "text-embedding-3-small", "input": [1, 2]}).is_exact
    numbers = count_request_llm_tokens({"model": "text-embedding-3-small", "input": [[1, 2], [3]]})
    assert numbers.llm_tokens == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "body is not valid JSON"),
        (b"[]", "body is a list"),
        (b"{}", "model is missing"),
        (b'{"model":"gpt-4o"}', "messages is missing"),
        (b'{"model":"gpt-4o","messages":{}}', "messages is a dict"),
        (b'{"model":"gpt-4o","messages":["x"]}', r"messages\[0\] is a str"),
        (b'{"model":"gpt-4o","input":7}', "input is a int"),
        (b'{"model":"gpt-4o","input":[null]}', "input holds a NoneType"),
    ],
)
def test_what_is_no_request_is_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(LlmTokenError, match=named):
        count_request_llm_tokens(body)


def test_a_body_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_TEXT_BYTES", 3)
    with pytest.raises(LlmTokenError, match="body has 4 bytes"):
        count_request_llm_tokens(b"null")


def test_contents_within_contents_end_somewhere() -> None:
    content: Any = "x"
    for _ in range(40):
        content = [{"type": "tool_result", "content": content}]
    with pytest.raises(LlmTokenError, match="nested deeper"):
        count_request_llm_tokens({"model": "gpt-4o", "messages": [{"content": content}]})


WORDS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["qzqz", "    " * 30, "1234567", "<|endoftext|>", "don't've", "", "the cat"]),
)
NAMES = st.text(alphabet="abcxyz_019", min_size=1, max_size=20)
PROPERTIES = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean"])},
        optional={"description": WORDS, "enum": st.lists(WORDS, max_size=4)},
    ),
    max_size=4,
)
TOOLS = st.lists(
    st.builds(
        lambda name, description, properties: {
            "type": "function",
            "function": {
                "name": name,
                "description": description,
                "parameters": {"type": "object", "properties": properties},
            },
        },
        NAMES,
        WORDS,
        PROPERTIES,
    ),
    max_size=3,
)
PARTS = st.one_of(
    WORDS.map(lambda text: {"type": "text", "text": text}),
    st.builds(
        lambda width, height, detail: image(png_url(width, height), detail),
        st.integers(1, 9_000),
        st.integers(1, 9_000),
        st.sampled_from(["low", "high", "auto", "original"]),
    ),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "developer"]),
            "content": st.one_of(WORDS, st.lists(PARTS, max_size=3)),
        },
        optional={"name": NAMES},
    ),
    max_size=4,
)


@settings(max_examples=250, deadline=None)
@given(
    MESSAGES,
    TOOLS,
    st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "gpt-5.4", "gpt-5-nano", "o3"]),
    st.booleans(),
    st.booleans(),
)
def test_no_request_has_more_llm_tokens_than_its_bound(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]],
    model: str,
    escaped: bool,
    long: bool,
) -> None:
    body: dict[str, Any] = {"model": model, "messages": messages}
    if long:  # then the text's own bound is used
        filler = {"role": "user", "content": "the words of the filler. " * 200}
        body["messages"] = [*messages, filler]
    if tools:
        body["tools"] = tools
    written = json.dumps(body, ensure_ascii=escaped, separators=(",", ":"))
    raw = written.encode("utf-8", "replace")
    facts = read("chat", raw)
    bound = request_bound(facts, model)
    assert bound is not None
    if long and not facts.images:
        assert len(raw) >= LEAST_TIGHTENED_BYTES
        assert bound < len(raw)
    truth = count_request_llm_tokens(raw).llm_tokens
    assert truth <= bound
    if countable(facts):
        encode = encoding(tokenizer_of(model).encoding).encode_ordinary
        strings = strings_of(bytes(facts.fields["messages"]))
        assert truth <= counted_bound(facts, sum(len(encode(text)) for text in strings))
