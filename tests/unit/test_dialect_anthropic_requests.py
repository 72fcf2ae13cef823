"""The Anthropic dialect: what is read out of a request, and what is changed in it."""

import json
from typing import Any

import msgspec
import pytest

from bursar_sidecar.dialects.anthropic import COUNT, DIALECT, MESSAGES
from bursar_sidecar.dialects.anthropic.server_tools import INJECTED_BY_TOOL
from bursar_sidecar.dialects.dialect import Listed, Refused
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.images import ImagePart
from bursar_sidecar.dialects.kinds import KINDS, Server
from bursar_sidecar.dialects.registry import find
from bursar_sidecar.http_messages import Request
from tests.fakes.pictures import png_base64

SERVER = Server(kind=KINDS["anthropic"], limit_field="max_tokens", asks_usage=False)
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}


def request(**fields: Any) -> Request:
    given = {**BODY, **fields}
    body = {name: value for name, value in given.items() if value is not ...}
    return Request(b"POST", b"/v1/messages", [], json.dumps(body, separators=(",", ":")).encode())


def facts_of(**fields: Any) -> Facts:
    return MESSAGES.read(request(**fields), "")


def refused(**fields: Any) -> DialectError:
    with pytest.raises(DialectError) as caught:
        facts_of(**fields)
    return caught.value


def edited(output_limit: int | None = None, model: str = "", **fields: Any) -> dict[str, Any]:
    asked = request(**fields)
    facts = MESSAGES.read(asked, "")
    sent = MESSAGES.edited(
        facts, asked.body, model=model or facts.model, server=SERVER, output_limit=output_limit
    )
    body: dict[str, Any] = json.loads(sent)
    return body


def blocks(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def test_the_facts_of_a_plain_request() -> None:
    asked = request(metadata={"user_id": "u-1"}, tags=["a"])
    facts = MESSAGES.read(asked, "")
    assert (facts.model, facts.output_limit, facts.choices) == ("claude-haiku-4-5", 100, 1)
    assert (facts.customer, facts.tags, facts.stream) == ("u-1", ("a",), False)
    assert facts.body_bytes == len(asked.body)
    assert (facts.messages, facts.unbounded_input, facts.unbounded_tools) == (1, "", "")
    assert not facts.reasoning
    assert facts_of(stream=True).stream


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"model": ...}, "model"),
        ({"model": ""}, "model"),
        ({"messages": ...}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": blocks({"type": 5})}, "type"),
        ({"stream": "yes"}, "stream"),
        ({"tools": "all"}, "tools"),
        ({"tools": [{"type": "web_search_1", "max_uses": 0}]}, "tools"),
        ({"thinking": "on"}, "thinking"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"metadata": {"user_id": "u" * 300}}, "metadata.user_id"),
    ],
)
def test_what_the_cost_depends_on_is_checked_by_name(fields: dict[str, Any], named: str) -> None:
    assert refused(**fields).param == named


def test_a_field_that_is_given_twice_has_two_meanings() -> None:
    twice = b'{"model":"m","messages":[],"max_tokens":1,"max_tokens":99999}'
    with pytest.raises(DialectError, match="max_tokens"):
        MESSAGES.read(Request(b"POST", b"/v1/messages", [], twice), "")
    tool = '[{"type":"web_search_1","max_uses":1,"max_uses":900}]'
    raw = request().body.replace(b'"messages"', f'"tools":{tool},"messages"'.encode())
    with pytest.raises(DialectError, match="max_uses"):
        MESSAGES.read(Request(b"POST", b"/v1/messages", [], raw), "")


def test_a_limit_of_nothing_fills_a_cache_and_is_no_missing_limit() -> None:
    assert facts_of(max_tokens=0).output_limit == 0


@pytest.mark.parametrize(
    ("model", "thinking", "expected"),
    [
        ("claude-haiku-4-5", None, False),
        ("claude-haiku-4-5", {"type": "disabled"}, False),
        ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 1024}, True),
        ("claude-opus-4-6", {"type": "adaptive"}, True),
        ("claude-3-5-haiku-20241022", None, False),
        ("anthropic/claude-sonnet-4-5", None, False),
        ("claude-of-the-future-7", None, True),
        ("claude-of-the-future-7", {"type": "disabled"}, False),
    ],
)
def test_thinking_hides_output_where_it_may_be_on(
    model: str, thinking: dict[str, Any] | None, expected: bool
) -> None:
    assert facts_of(model=model, thinking=thinking).reasoning is expected


def test_images_are_known_by_their_size_and_documents_are_bounded_by_nothing() -> None:
    data = png_base64(640, 480)
    source = {"type": "base64", "media_type": "image/png", "data": data}
    facts = facts_of(messages=blocks({"type": "image", "source": source}))
    assert facts.images == (ImagePart((640, 480)),)
    assert facts.image_bytes == len(data) + 2
    assert not facts.unbounded_input
    for elsewhere in ({"type": "url", "url": "https://x.test/a.png"}, {"type": "file"}):
        facts = facts_of(messages=blocks({"type": "image", "source": elsewhere}))
        assert facts.images == (ImagePart(None),)
    in_result = {"type": "tool_result", "content": [{"type": "image", "source": source}]}
    assert facts_of(messages=blocks(in_result)).images == (ImagePart((640, 480)),)


@pytest.mark.parametrize(
    ("block", "bounded"),
    [
        ({"type": "text", "text": "a"}, True),
        ({"type": "tool_result", "content": "done"}, True),
        ({"type": "document", "source": {"type": "text", "data": "a"}}, True),
        ({"type": "document", "source": {"type": "content", "content": "a"}}, True),
        ({"type": "document", "source": {"type": "base64", "data": "a"}}, False),
        ({"type": "document", "source": {"type": "url"}}, False),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, False),
        ({"type": "container_upload", "file_id": "f"}, False),
        ({"type": "hologram"}, False),
        ({"type": "tool_result", "content": [{"type": "document", "source": {}}]}, False),
        ({"type": "image", "source": {"type": "hologram"}}, False),
    ],
)
def test_content_that_the_body_does_not_hold_is_not_bounded_by_it(
    block: dict[str, Any], bounded: bool
) -> None:
    assert (facts_of(messages=blocks(block)).unbounded_input == "") is bounded
    assert (facts_of(system=[block]).unbounded_input == "") is bounded


def test_nesting_without_end_is_not_followed() -> None:
    block: dict[str, Any] = {"type": "text", "text": "a"}
    for _ in range(50):
        block = {"type": "tool_result", "content": [block]}
    assert facts_of(messages=blocks(block)).unbounded_input


def test_an_earlier_thread_is_not_bounded_by_the_body() -> None:
    assert "thread" in facts_of(thread={"type": "continue", "id": "t"}).unbounded_input


@pytest.mark.parametrize(
    ("tool", "rounds", "searches", "unbounded"),
    [
        ({"name": "own", "input_schema": {}}, 1, 0, ""),
        ({"type": "custom", "name": "own"}, 1, 0, ""),
        ({"type": "bash_20250124", "name": "bash"}, 1, 0, ""),
        ({"type": "web_search_20250305", "max_uses": 3}, 4, 3, ""),
        ({"type": "web_fetch_20250910", "max_uses": 2}, 3, 0, ""),
        ({"type": "web_search_20250305"}, 1, 0, "web_search_20250305 without max_uses"),
        ({"type": "web_fetch_20250910"}, 1, 0, "web_fetch_20250910 without max_uses"),
        ({"type": "code_execution_20250825"}, 1, 0, "code_execution_20250825"),
        ({"type": "advisor_20260301"}, 1, 0, "advisor_20260301"),
    ],
)
def test_a_tool_that_the_provider_runs_is_bounded_by_its_uses_or_not_at_all(
    tool: dict[str, Any], rounds: int, searches: int, unbounded: str
) -> None:
    facts = facts_of(tools=[tool])
    assert facts.tools
    assert facts.rounds == rounds
    assert facts.provider_units == ({"search": searches} if searches else {})
    assert unbounded in facts.unbounded_tools
    assert bool(facts.unbounded_tools) == bool(unbounded)
    named_only = tool.get("type", "custom") != "custom" and not unbounded
    assert facts.injected == (INJECTED_BY_TOOL if named_only else 0)


@pytest.mark.parametrize("name", ["mcp_servers", "container", "fallbacks", "compaction"])
def test_what_the_provider_does_besides_has_no_bound(name: str) -> None:
    assert facts_of(**{name: [{}]}).unbounded_tools == name
    assert facts_of(**{name: None}).unbounded_tools == ""


def test_only_compactions_of_managed_context_have_no_bound() -> None:
    clearing = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    assert facts_of(context_management=clearing).unbounded_tools == ""
    compacting = {"edits": [{"type": "compact_20260112"}]}
    assert facts_of(context_management=compacting).unbounded_tools == "context_management"


def test_speed_and_tier_are_one_tier() -> None:
    assert facts_of().service_tier == ""
    assert facts_of(service_tier="auto").service_tier == "auto"
    assert facts_of(service_tier="standard_only").service_tier == "default"
    assert facts_of(speed="fast", service_tier="auto").service_tier == "fast"


def test_a_request_that_needs_no_change_goes_as_it_came() -> None:
    asked = request(metadata={"user_id": "u"})
    facts = MESSAGES.read(asked, "")
    sent = MESSAGES.edited(facts, asked.body, model=facts.model, server=SERVER, output_limit=200)
    assert sent is asked.body


def test_our_own_fields_are_taken_off_and_the_limit_is_lowered() -> None:
    body = edited(
        output_limit=7,
        model="claude-x",
        tags=["a"],
        metadata={"user_id": "u", "tags": ["b"]},
    )
    assert body == {**BODY, "model": "claude-x", "max_tokens": 7, "metadata": {"user_id": "u"}}
    assert "metadata" not in edited(metadata={"tags": ["b"]})


def test_a_plain_call_that_is_to_be_assembled_is_sent_as_a_stream() -> None:
    asked = request(stream=False)
    facts = MESSAGES.read(asked, "")
    streamed = msgspec.structs.replace(facts, stream=True)
    sent = MESSAGES.edited(streamed, asked.body, model=facts.model, server=SERVER)
    assert json.loads(sent)["stream"] is True


def test_counting_is_free_and_needs_no_limit() -> None:
    facts = COUNT.read(request(max_tokens=...), "")
    assert facts.free
    assert not facts.generates


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (405, "invalid_request_error"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_an_error_has_the_shape_of_the_dialect(status: int, kind: str) -> None:
    told = Refused(status, "some_reason", "x", "No.", "field", {"budgets": []})
    body = {
        "type": "error",
        "error": {
            "type": kind,
            "message": "No.",
            "code": "some_reason",
            "budgets": [],
            "param": "field",
        },
    }
    assert json.loads(DIALECT.error(told)) == body


def test_the_list_of_models_is_in_the_shape_that_was_asked_for() -> None:
    headers = [(b"anthropic-version", b"2023-06-01")]
    found = find(Request(b"GET", b"/v1/models", headers, b""))
    assert found is not None
    assert found.endpoint.dialect is DIALECT
    plain = find(Request(b"GET", b"/v1/models", [], b""))
    assert plain is not None
    assert plain.endpoint.dialect is not DIALECT
    listed = json.loads(DIALECT.models([Listed("a", "p"), Listed("b", "p")]))
    assert [one["id"] for one in listed["data"]] == ["a", "b"]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("a", "b", False)
    assert json.loads(DIALECT.models([]))["first_id"] is None
