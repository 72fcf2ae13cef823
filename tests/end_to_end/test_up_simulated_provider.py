"""The simulated provider as a process, with the official SDK as the app."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes.simulated_provider import provider_process, recorded
from tests.fakes.until import DEADLINE_S

PROMPT: Any = [{"role": "user", "content": "How much is left of the budget?"}]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    with provider_process(tmp_path) as address:
        yield address


@pytest.fixture
def app(provider: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{provider}/v1", api_key="sk-any", max_retries=0) as client:
        yield client


def test_the_sdk_reads_plain_answers_and_what_it_reads_is_what_was_billed(
    app: openai.OpenAI, provider: str
) -> None:
    answer = app.chat.completions.create(
        model="gpt-4o-mini",
        messages=PROMPT,
        max_tokens=20,
        extra_headers={"x-simulate-call-id": "call-1"},
    )
    [call] = recorded(provider, 1)
    assert answer.usage is not None
    assert answer._request_id == answer.id == call["response_id"]
    assert call["call_id"] == "call-1"
    assert call["billed"]["input"] == answer.usage.prompt_tokens
    assert call["billed"]["output"] == answer.usage.completion_tokens == 20


def test_the_sdk_reads_streams_with_and_without_usage(app: openai.OpenAI, provider: str) -> None:
    plain = list(
        app.chat.completions.create(
            model="gpt-4o-mini", messages=PROMPT, max_tokens=20, stream=True
        )
    )
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    with_usage = list(
        app.chat.completions.create(
            model="gpt-4o-mini",
            messages=PROMPT,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert with_usage[-1].choices == []
    assert with_usage[-1].usage is not None
    assert with_usage[-1].usage.completion_tokens == 20
    text = "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert len(text.split()) == 20
    assert [call["usage_reported"] for call in recorded(provider, 2)] == [False, True]


def test_the_sdk_reads_embeddings_and_models(app: openai.OpenAI) -> None:
    answer = app.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [1_536, 1_536]
    assert answer.usage.prompt_tokens == 2
    assert "gpt-4o-mini" in [model.id for model in app.models.list()]


@pytest.mark.parametrize(
    ("simulated", "error"),
    [
        ({"error_429_rate": 1}, openai.RateLimitError),
        ({"error_500_rate": 1}, openai.InternalServerError),
        ({"timeout_rate": 1, "timeout_ms": 1}, openai.APIConnectionError),
        ({"abort_rate": 1}, (openai.APIConnectionError, openai.APIError)),
        ({"nonsense": 1}, openai.BadRequestError),
    ],
)
def test_what_goes_wrong_is_the_sdks_own_error(
    app: openai.OpenAI, simulated: dict[str, Any], error: Any
) -> None:
    with pytest.raises(error):
        app.chat.completions.create(
            model="gpt-4o-mini",
            messages=PROMPT,
            extra_headers={"x-simulate": json.dumps(simulated)},
        )


def test_a_stream_that_the_app_leaves_is_billed_and_a_little_more(
    app: openai.OpenAI, provider: str
) -> None:
    simulated = {
        "output_llm_tokens": 100,
        "chunk_llm_tokens": 10,
        "chunk_delay_ms": 3_600_000,
        "llm_tokens_billed_after_cancel": 5,
    }
    stream = app.chat.completions.create(
        model="gpt-4o-mini",
        messages=PROMPT,
        stream=True,
        extra_headers={"x-simulate": json.dumps(simulated)},
    )
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    [call] = recorded(provider, 1)
    assert (call["ended"], call["billed"]["output"]) == ("cancelled", 15)


def test_a_stream_cut_by_the_provider_fails_in_the_app(app: openai.OpenAI, provider: str) -> None:
    stream = app.chat.completions.create(
        model="gpt-4o-mini",
        messages=PROMPT,
        stream=True,
        extra_headers={"x-simulate": '{"abort_rate": 1, "output_llm_tokens": 50}'},
    )
    with pytest.raises(openai.APIError):
        list(stream)
    [call] = recorded(provider, 1)
    assert (call["ended"], call["billed"]["output"]) == ("aborted", 8)


def test_a_call_without_a_key_is_refused(provider: str) -> None:
    request = urllib.request.Request(
        f"{provider}/v1/chat/completions", data=b"{}", headers={"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=DEADLINE_S)
