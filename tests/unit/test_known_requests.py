"""Requests that differ in their messages alone are read quickly, with the same facts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.json_fields import top_level
from bursar_sidecar.dialects.openai import chat
from bursar_sidecar.dialects.openai.chat import CHAT
from bursar_sidecar.http_messages import Request

MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda text: {"role": "user", "content": text}, st.text(max_size=20)),
        st.sampled_from(
            [
                {"role": "assistant", "content": None},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "user", "content": [{"type": "file", "file": {}}]},
                {"role": "assistant", "audio": {"id": "a"}},
                {"role": "user", "content": 5},
                "none",
            ]
        ),
    ),
    max_size=3,
)
OTHERS = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt-4o-mini", "m", "", 7])},
    optional={
        "messages": st.one_of(MESSAGES, st.none()),
        "stream": st.sampled_from([True, False, None, "yes"]),
        "stream_options": st.sampled_from([{"include_usage": True}, None, 3]),
        "max_tokens": st.sampled_from([1, 100, 0, "many"]),
        "max_completion_tokens": st.sampled_from([50, None]),
        "n": st.sampled_from([1, 2, 1_000]),
        "user": st.sampled_from(["ada", "bob", "\n"]),
        "service_tier": st.sampled_from(["flex", "auto"]),
        "reasoning_effort": st.sampled_from(["none", "high"]),
        "tools": st.sampled_from([[{"type": "function"}], [{"type": "web_search"}]]),
        "modalities": st.sampled_from([["text"], ["audio"]]),
        "metadata": st.sampled_from([{"tags": ["a"]}, {}]),
        "tags": st.sampled_from([["a", "b"], []]),
        "prediction": st.just({"type": "content", "content": "x"}),
        "temperature": st.floats(0, 1),
    },
)


def asked(body: bytes) -> Request:
    return Request(b"POST", b"/v1/chat/completions", [], body)


def read(body: bytes, named: str) -> Facts | str:
    try:
        return CHAT.read(asked(body), named)
    except DialectError as error:
        return repr((error.message, error.param, error.code))


def read_slowly(body: bytes, named: str) -> Facts | str:
    try:
        return CHAT._read(asked(body), top_level(body), named)
    except DialectError as error:
        return repr((error.message, error.param, error.code))


@given(st.lists(st.tuples(OTHERS, st.sampled_from(["", "named"])), min_size=1, max_size=6))
def test_a_known_request_has_the_facts_of_one_that_is_read(
    requests: list[tuple[dict[str, Any], str]],
) -> None:
    for body, named in [*requests, *requests]:
        data = json.dumps(body).encode()
        assert read(data, named) == read_slowly(data, named)


@pytest.mark.parametrize("texts", [["one"], ["two", "three"], []])
def test_only_messages_are_looked_at_again(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(messages: list[str]) -> bytes:
        said = [{"role": "user", "content": text} for text in messages]
        return json.dumps({"model": "known", "max_tokens": 9, "messages": said}).encode()

    monkeypatch.setattr(chat, "_known", {})
    CHAT.read(asked(body(["first"])), "")
    expected = read_slowly(body(texts), "")
    monkeypatch.setattr(chat.Chat, "_read", None)
    facts = CHAT.read(asked(body(texts)), "")
    assert facts == expected
    assert facts.messages == len(texts)


def test_what_is_known_holds_no_message_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[Any, Facts] = {}
    monkeypatch.setattr(chat, "_known", known)
    for number in range(chat.MAX_KNOWN + 3):
        body = {"model": f"m{number}", "messages": [{"role": "user", "content": "secret"}]}
        CHAT.read(asked(json.dumps(body).encode()), "")
    assert 0 < len(known) <= chat.MAX_KNOWN
    assert "secret" not in repr(known)
