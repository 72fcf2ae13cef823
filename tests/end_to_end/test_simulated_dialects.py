"""The simulated provider in the dialects of Anthropic and Gemini, read by their official SDKs."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from google import genai
from google.genai import errors

from tests.fakes.simulated_provider import forget, provider_process, recorded, simulated
from tests.fakes.until import DEADLINE_S

CLAUDE = "claude-haiku-4-5"
GEMINI = "gemini-2.5-flash"
PROMPT: Any = [{"role": "user", "content": "How much is left of the budget?"}]
CACHED: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "wide " * 100, "cache_control": {"type": "ephemeral"}}
        ],
    }
]
TOOL: Any = {"name": "lookup", "input_schema": {"type": "object"}}
WEB_SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
FUNCTION: Any = {"function_declarations": [{"name": "lookup"}]}
CALL_IT: Any = {"function_calling_config": {"mode": "ANY"}}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with provider_process(tmp_path_factory.mktemp("provider")) as address:
        yield address


@pytest.fixture
def provider(process: str) -> str:
    forget(process)
    return process


@pytest.fixture
def claude(provider: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider, api_key="sk-any", max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(provider: str) -> genai.Client:
    return genai.Client(api_key="any", http_options={"base_url": provider})


def gemini_config(behaviour: dict[str, Any], **config: Any) -> Any:
    return {"http_options": {"headers": simulated(**behaviour)}, **config}


def test_a_message_tells_what_was_billed_caches_and_searches_included(
    claude: anthropic.Anthropic, provider: str
) -> None:
    message = claude.messages.create(
        model=CLAUDE,
        max_tokens=50,
        messages=CACHED,
        tools=[WEB_SEARCH],
        extra_headers=simulated(
            cached_input_llm_tokens=5,
            cache_write_5m_llm_tokens=7,
            cache_write_1h_llm_tokens=9,
            searches=3,
        ),
    )
    [call] = recorded(provider, 1)
    usage, billed = message.usage, call["billed"]
    assert message.id == call["response_id"]
    assert usage.cache_creation is not None
    assert usage.server_tool_use is not None
    assert billed["cached_input"] == usage.cache_read_input_tokens == 5
    assert billed["cache_write_5m"] == usage.cache_creation.ephemeral_5m_input_tokens == 7
    assert billed["cache_write_1h"] == usage.cache_creation.ephemeral_1h_input_tokens == 9
    assert billed["input"] == usage.input_tokens + 5 + 7 + 9
    assert billed["output"] == usage.output_tokens == 50
    assert billed["searches"] == usage.server_tool_use.web_search_requests == 2
    assert message.stop_reason == "max_tokens"


def test_nothing_is_written_to_a_cache_unasked(claude: anthropic.Anthropic, provider: str) -> None:
    claude.messages.create(
        model=CLAUDE,
        max_tokens=5,
        messages=PROMPT,
        extra_headers=simulated(cache_write_5m_llm_tokens=7, searches=3),
    )
    [call] = recorded(provider, 1)
    assert (call["billed"]["cache_write_5m"], call["billed"]["searches"]) == (0, 0)


def test_a_streamed_message_comes_in_the_order_of_the_real_ones(
    claude: anthropic.Anthropic, provider: str
) -> None:
    events = claude.messages.create(
        model=CLAUDE,
        max_tokens=2_000,
        messages=PROMPT,
        thinking={"type": "enabled", "budget_tokens": 1_024},
        stream=True,
        extra_headers=simulated(output_llm_tokens=13, reasoning_llm_tokens=5),
    )
    kinds = [event.type for event in events]
    assert kinds == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta"),
        "content_block_stop",
        *("content_block_start", "content_block_delta", "content_block_delta"),
        "content_block_stop",
        *("message_delta", "message_stop"),
    ]
    [call] = recorded(provider, 1)
    assert (call["billed"]["output"], call["billed"]["reasoning"]) == (13, 5)


def test_plain_and_streamed_messages_are_the_same_tools_included(
    claude: anthropic.Anthropic,
) -> None:
    asked: Any = {
        "model": CLAUDE,
        "max_tokens": 50,
        "messages": PROMPT,
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "extra_headers": simulated(output_llm_tokens=9),
    }
    plain = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert plain.stop_reason == streamed.stop_reason == "tool_use"
    [block] = plain.content
    assert block.type == "tool_use"
    assert block.to_dict() == streamed.content[0].to_dict()
    assert len(str(block.input["text"]).split()) == 9
    assert streamed.usage.output_tokens == plain.usage.output_tokens == 9


def test_counting_is_free_and_models_are_listed(
    claude: anthropic.Anthropic, gemini: genai.Client, provider: str
) -> None:
    counted = claude.messages.count_tokens(model=CLAUDE, messages=PROMPT)
    assert counted.input_tokens > 0
    assert (gemini.models.count_tokens(model=GEMINI, contents="Hello").total_tokens or 0) > 0
    assert all(not any(call["billed"].values()) for call in recorded(provider, 2))
    assert CLAUDE in [model.id for model in claude.models.list()]
    assert f"models/{GEMINI}" in [model.name for model in gemini.models.list()]


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"error_429_rate": 1}, anthropic.RateLimitError),
        ({"error_500_rate": 1}, anthropic.InternalServerError),
        ({"timeout_rate": 1, "timeout_ms": 1}, anthropic.APIConnectionError),
        ({"abort_rate": 1}, httpx2.RemoteProtocolError),
        ({"stream_error_rate": 1}, anthropic.APIStatusError),
        ({"nonsense": 1}, anthropic.BadRequestError),
    ],
)
def test_what_goes_wrong_is_anthropics_own_error(
    claude: anthropic.Anthropic, behaviour: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        list(
            claude.messages.create(
                model=CLAUDE,
                max_tokens=50,
                messages=PROMPT,
                stream=True,
                extra_headers=simulated(**behaviour),
            )
        )


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"error_429_rate": 1}, errors.ClientError),
        ({"error_500_rate": 1}, errors.ServerError),
        ({"timeout_rate": 1, "timeout_ms": 1}, httpx2.RemoteProtocolError),
        ({"abort_rate": 1}, httpx2.RemoteProtocolError),
        ({"stream_error_rate": 1}, errors.ServerError),
        ({"nonsense": 1}, errors.ClientError),
    ],
)
def test_what_goes_wrong_is_geminis_own_error(
    gemini: genai.Client, behaviour: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        list(
            gemini.models.generate_content_stream(
                model=GEMINI, contents="Hello", config=gemini_config(behaviour)
            )
        )


def test_broken_streams_are_billed_for_what_they_produced(
    claude: anthropic.Anthropic, gemini: genai.Client, provider: str
) -> None:
    for behaviour in ({"abort_rate": 1}, {"stream_error_rate": 1}):
        with pytest.raises((httpx2.RemoteProtocolError, anthropic.APIError)):
            list(
                claude.messages.create(
                    model=CLAUDE,
                    max_tokens=50,
                    messages=PROMPT,
                    stream=True,
                    extra_headers=simulated(output_llm_tokens=40, **behaviour),
                )
            )
        with pytest.raises((httpx2.RemoteProtocolError, errors.APIError)):
            list(
                gemini.models.generate_content_stream(
                    model=GEMINI,
                    contents="Hello",
                    config=gemini_config({"output_llm_tokens": 40, **behaviour}),
                )
            )
    calls = recorded(provider, 4)
    assert [call["ended"] for call in calls] == ["aborted", "aborted", "failed", "failed"]
    assert [call["billed"]["output"] for call in calls] == [8] * 4


def test_generated_content_tells_what_was_billed(gemini: genai.Client, provider: str) -> None:
    behaviour = {"output_llm_tokens": 30, "reasoning_llm_tokens": 4, "cached_input_llm_tokens": 2}
    plain = gemini.models.generate_content(
        model=GEMINI,
        contents="Hello",
        config=gemini_config(behaviour, max_output_tokens=12, candidate_count=2),
    )
    *_, last = gemini.models.generate_content_stream(
        model=GEMINI, contents="Hello", config=gemini_config(behaviour)
    )
    plain_call, stream_call = recorded(provider, 2)
    for answer, call, choices in ((plain, plain_call, 2), (last, stream_call, 1)):
        usage, billed = answer.usage_metadata, call["billed"]
        assert usage is not None
        assert answer.response_id == call["response_id"]
        assert usage.prompt_token_count == billed["input"]
        assert usage.cached_content_token_count == billed["cached_input"] == 2
        assert usage.thoughts_token_count == billed["reasoning"] == 4 * choices
        assert (usage.candidates_token_count or 0) + 4 * choices == billed["output"]
        assert usage.total_token_count == billed["input"] + billed["output"]
    assert [candidate.finish_reason for candidate in plain.candidates or ()] == ["MAX_TOKENS"] * 2
    assert [candidate.finish_reason for candidate in last.candidates or ()] == ["STOP"]


def test_functions_are_called_and_searches_made_where_they_are_offered(
    gemini: genai.Client, provider: str
) -> None:
    answer = gemini.models.generate_content(
        model=GEMINI,
        contents="Hello",
        config=gemini_config(
            {"output_llm_tokens": 5, "searches": 3},
            tools=[FUNCTION, {"google_search": {}}],
            tool_config=CALL_IT,
        ),
    )
    [candidate] = answer.candidates or []
    [called] = answer.function_calls or []
    assert called.name == "lookup"
    assert len(str((called.args or {})["text"]).split()) == 5
    assert candidate.grounding_metadata is not None
    assert len(candidate.grounding_metadata.web_search_queries or ()) == 3
    [call] = recorded(provider, 1)
    assert call["billed"]["searches"] == 3


def test_gemini_embeds_one_text_or_many(gemini: genai.Client, provider: str) -> None:
    answer = gemini.models.embed_content(
        model="gemini-embedding-001",
        contents=["one", "a longer one"],
        config={"output_dimensionality": 8},
    )
    assert [len(one.values or ()) for one in answer.embeddings or ()] == [8, 8]
    assert answer.usage_metadata is not None
    [call] = recorded(provider, 1)
    assert call["billed"]["input"] == answer.usage_metadata.prompt_token_count == 4


def post(url: str, body: object, **headers: str) -> bytes:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"}
        | {name.replace("_", "-"): value for name, value in headers.items()},
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        content: bytes = answer.read()
    return content


def test_a_gemini_stream_without_sse_is_one_array(provider: str) -> None:
    url = f"{provider}/v1beta/models/{GEMINI}:streamGenerateContent?key=any"
    body = {"contents": {"parts": {"text": "Hello"}}}
    chunks = json.loads(post(url, body, x_simulate='{"output_llm_tokens": 10}'))
    assert [chunk["usageMetadata"]["candidatesTokenCount"] for chunk in chunks] == [4, 8, 10]
    failing = post(url, body, x_simulate='{"stream_error_rate": 1}')
    assert json.loads(failing)[-1]["error"]["status"] == "INTERNAL"


@pytest.mark.parametrize(
    ("path", "body", "headers", "named"),
    [
        ("/v1/messages", {"model": CLAUDE, "messages": PROMPT}, {}, "max_tokens"),
        ("/v1/messages", {"model": CLAUDE, "max_tokens": 5, "messages": []}, {}, "messages"),
        ("/v1/messages", {"model": CLAUDE, "max_tokens": 5, "messages": PROMPT, "n": 2}, {}, "n"),
        ("/v1/messages", {}, {"anthropic_version": ""}, "anthropic-version"),
        ("/v1/messages", {}, {"x_api_key": ""}, "x-api-key"),
        (f"/v1beta/models/{GEMINI}:generateContent", {}, {}, "contents"),
        (f"/v1beta/models/{GEMINI}:generateContent", {}, {"x_goog_api_key": ""}, "API Key"),
        (f"/v1beta/models/{GEMINI}:embedContent", {"content": 5}, {}, "content"),
        (f"/v1beta/models/{GEMINI}:nonsense", {}, {}, "Invalid URL"),
    ],
)
def test_what_a_provider_refuses_is_refused_by_name(
    provider: str, path: str, body: object, headers: dict[str, str], named: str
) -> None:
    keys = {"x_api_key": "any", "x_goog_api_key": "any", "anthropic_version": "2023-06-01"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(provider + path, body, **{**keys, **headers})
    assert named in json.load(refused.value)["error"]["message"]
