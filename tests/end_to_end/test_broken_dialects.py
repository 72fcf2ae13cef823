"""Answers that end badly, in Anthropic's and Gemini's dialects: never charged below the bill.

The apps speak plain HTTP, so that they can leave when they like.
"""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.dialect_apps import DialectApps
from tests.fakes.stack import Stack, running
from tests.fakes.until import DEADLINE_S, until

CLAUDE = "claude-haiku-4-5"
GEMINI = "gemini-2.5-flash"
TOOL: Any = {"name": "lookup", "input_schema": {"type": "object"}}
FUNCTION: Any = {"functionDeclarations": [{"name": "lookup"}]}
BODIES: dict[str, dict[str, Any]] = {
    "anthropic": {
        "model": CLAUDE,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "Tell me all of it. " * 20}],
    },
    "gemini": {
        "contents": [{"parts": [{"text": "Tell me all of it. " * 20}]}],
        "generationConfig": {"maxOutputTokens": 400},
    },
}
TOOLS: dict[str, dict[str, Any]] = {
    "anthropic": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "gemini": {
        "tools": [FUNCTION],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    },
}
PATHS = {
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": (
        f"/v1beta/models/{GEMINI}:generateContent",
        f"/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse",
    ),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("broken")) as stack:
        yield stack


def call(
    apps: DialectApps,
    dialect: str,
    behaviour: dict[str, Any],
    *,
    stream: bool = True,
    leaves: str = "",
    **fields: Any,
) -> None:
    """One call: read to its end, or left where `leaves` says."""
    body = {**BODIES[dialect], **fields}
    if stream and dialect == "anthropic":
        body["stream"] = True
    connection = http.client.HTTPConnection(
        apps.address.removeprefix("http://"), timeout=DEADLINE_S
    )
    connection.request(
        "POST",
        PATHS[dialect][stream],
        json.dumps(body),
        {
            "authorization": f"Bearer {apps.key}",
            "content-type": "application/json",
            "anthropic-version": "2023-06-01",
            **apps.headers(output_llm_tokens=300, **behaviour),
        },
    )
    try:
        if leaves == "before the first byte":
            until(lambda: in_flight(apps), "the provider has the call")
            return
        answer = connection.getresponse()
        if leaves:
            answer.read(200)
            return
        answer.read()
    except (OSError, http.client.HTTPException):
        assert {"abort_rate", "timeout_rate"} & behaviour.keys(), behaviour
    finally:
        connection.close()


def in_flight(apps: DialectApps) -> bool:
    connection = http.client.HTTPConnection(
        apps.stack.ready["provider"].removeprefix("http://"), timeout=DEADLINE_S
    )
    try:
        connection.request("GET", "/simulated/totals")
        return bool(json.loads(connection.getresponse().read())["in_flight"])
    finally:
        connection.close()


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    ("behaviour", "leaves"),
    [
        ({"latency_ms": 3_600_000}, "before the first byte"),
        ({"chunk_delay_ms": 30, "llm_tokens_billed_after_cancel": 8}, "in the stream"),
        ({"abort_rate": 1}, ""),
        ({"abort_rate": 1, "abort_after_chunks": 0}, ""),
        ({"stream_error_rate": 1}, ""),
        ({"missing_usage": True}, ""),
    ],
)
def test_a_stream_that_ends_badly_is_charged_no_less_than_the_bill(
    stack: Stack, dialect: str, behaviour: dict[str, Any], leaves: str
) -> None:
    apps = DialectApps(stack)
    call(apps, dialect, behaviour, leaves=leaves)
    apps.compare_bound(dialect)
    # Gemini calls a function in one piece: its counts may have come before the end.
    call(apps, dialect, behaviour, leaves=leaves, **TOOLS[dialect])
    apps.charged_enough(dialect)


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    "behaviour", [{"abort_rate": 1}, {"missing_usage": True}, {"timeout_rate": 1, "timeout_ms": 1}]
)
def test_a_plain_answer_that_ends_badly_is_charged_no_less_than_the_bill(
    stack: Stack, dialect: str, behaviour: dict[str, Any]
) -> None:
    apps = DialectApps(stack)
    call(apps, dialect, behaviour, stream=False)
    apps.charged_enough(dialect)


WRONG: dict[str, list[dict[str, Any]]] = {
    "anthropic": [
        {"input_tokens": -5, "output_tokens": 300},
        {"input_tokens": "many", "output_tokens": None},
        {"input_tokens": 1, "cache_creation_input_tokens": 3, "output_tokens": 2**70},
        {},
    ],
    "gemini": [
        {"promptTokenCount": 5, "candidatesTokenCount": 1, "totalTokenCount": 500},
        {"promptTokenCount": -5},
        {"promptTokenCount": "many", "candidatesTokenCount": []},
        {},
    ],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_counts_that_make_no_sense_are_no_reason_to_charge_less(
    stack: Stack, dialect: str, stream: bool
) -> None:
    apps = DialectApps(stack)
    for told in WRONG[dialect]:
        call(apps, dialect, {"reported_usage": told}, stream=stream)
    apps.compare_bound(dialect)
