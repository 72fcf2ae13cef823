"""Gemini's dialect, driven by the official SDK through a real sidecar, against the ledger."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors

from tests.fakes.dialect_apps import DialectApps
from tests.fakes.stack import Stack, running
from tests.fakes.until import DEADLINE_S

GEMINI = "gemini-2.5-flash"
EMBEDDING = "gemini-embedding-001"
PROMPT = "How much is left of the budget?"
FUNCTION: Any = {"function_declarations": [{"name": "lookup"}]}
CALL_IT: Any = {"function_calling_config": {"mode": "ANY"}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("gemini")) as stack:
        yield stack


@pytest.fixture
def apps(stack: Stack) -> DialectApps:
    return DialectApps(stack)


@pytest.fixture
def gemini(apps: DialectApps) -> genai.Client:
    return client(apps)


def client(apps: DialectApps) -> genai.Client:
    return genai.Client(api_key=apps.key, http_options={"base_url": apps.address})


def config(apps: DialectApps, behaviour: dict[str, Any], **fields: Any) -> Any:
    return {"http_options": {"headers": apps.headers(**behaviour)}, **fields}


def test_generated_content_costs_what_the_provider_bills(
    apps: DialectApps, gemini: genai.Client
) -> None:
    answer = gemini.models.generate_content(
        model=GEMINI,
        contents=PROMPT,
        config=config(
            apps,
            {"output_llm_tokens": 30, "reasoning_llm_tokens": 4, "cached_input_llm_tokens": 2},
            max_output_tokens=20,
            candidate_count=2,
        ),
    )
    assert answer.sdk_http_response is not None
    assert "x-bursar-cost" in (answer.sdk_http_response.headers or {})
    assert [one.finish_reason for one in answer.candidates or ()] == ["MAX_TOKENS"] * 2
    [entry] = apps.compare("gemini")
    assert entry.usage.output_llm_tokens == 40
    assert entry.usage.reasoning_llm_tokens == 8


def test_streamed_content_costs_what_the_provider_bills(
    apps: DialectApps, gemini: genai.Client
) -> None:
    chunks = list(
        gemini.models.generate_content_stream(
            model=GEMINI,
            contents=PROMPT,
            config=config(
                apps,
                {"output_llm_tokens": 50, "reasoning_llm_tokens": 10},
                thinking_config={"include_thoughts": True},
            ),
        )
    )
    assert len(chunks) == 11
    [entry] = apps.compare("gemini")
    assert entry.usage.output_llm_tokens == 50


def test_functions_and_searches_are_in_the_bill(apps: DialectApps, gemini: genai.Client) -> None:
    answer = gemini.models.generate_content(
        model=GEMINI,
        contents=PROMPT,
        config=config(
            apps,
            {"output_llm_tokens": 5, "searches": 3},
            tools=[FUNCTION, {"google_search": {}}],
            tool_config=CALL_IT,
        ),
    )
    assert [called.name for called in answer.function_calls or ()] == ["lookup"]
    apps.compare("gemini")


def test_embeddings_cost_their_input(apps: DialectApps, gemini: genai.Client) -> None:
    answer = gemini.models.embed_content(
        model=EMBEDDING,
        contents=["one", "a longer one"],
        config=config(apps, {}, output_dimensionality=8),
    )
    assert [len(one.values or ()) for one in answer.embeddings or ()] == [8, 8]
    served, entries = apps.stack.served(), apps.posted()
    [call_id] = apps.calls
    assert entries[call_id].usage.input_llm_tokens == served[call_id].billed["input"] == 4
    assert entries[call_id].amount.nanos == 4 * 150


def test_counting_costs_nothing_and_models_are_listed(
    apps: DialectApps, gemini: genai.Client
) -> None:
    counted = gemini.models.count_tokens(model=GEMINI, contents=PROMPT, config=config(apps, {}))
    assert (counted.total_tokens or 0) > 0
    assert [entry.amount.nanos for entry in apps.posted().values()] == [0]
    assert f"models/{GEMINI}" in [model.name for model in gemini.models.list()]
    assert gemini.models.get(model=GEMINI).name == f"models/{GEMINI}"


def test_an_exhausted_budget_refuses_as_the_sdk_knows_it(stack: Stack) -> None:
    apps = DialectApps(stack, budget="0.000001")
    gemini = client(apps)
    with pytest.raises(errors.ClientError) as refused:
        gemini.models.generate_content(model=GEMINI, contents=PROMPT, config=config(apps, {}))
    with pytest.raises(errors.ClientError) as refused_stream:
        list(
            gemini.models.generate_content_stream(
                model=GEMINI, contents=PROMPT, config=config(apps, {})
            )
        )
    for told in (refused.value, refused_stream.value):
        assert told.code == 402
        assert told.status == "FAILED_PRECONDITION"
        reason, budgets = told.details["error"]["details"]
        assert reason["reason"] == "budget_exhausted"
        assert budgets["budgets"][0]["limit"] == "0.000001"
    apps.not_served()


def test_other_refusals_are_the_sdks_own_errors(apps: DialectApps, gemini: genai.Client) -> None:
    def refused(code: int, named: str, *, model: str = GEMINI, **fields: Any) -> None:
        with pytest.raises(errors.ClientError, match=named) as told:
            gemini.models.generate_content(
                model=model, contents=PROMPT, config=config(apps, {}, **fields)
            )
        assert told.value.code == code

    refused(400, "maxOutputTokens", max_output_tokens=-5)
    refused(404, "nobody-knows", model="nobody-knows")
    refused(403, "codeExecution", tools=[{"code_execution": {}}])
    stranger = genai.Client(api_key="bk-unknown", http_options={"base_url": apps.address})
    with pytest.raises(errors.ClientError, match="UNAUTHENTICATED"):
        stranger.models.generate_content(model=GEMINI, contents=PROMPT)
    apps.not_served()


@pytest.mark.parametrize(
    "behaviour", [{"abort_rate": 1}, {"stream_error_rate": 1}, {"missing_usage": True}]
)
def test_a_broken_stream_is_charged_no_less_than_the_bill(
    apps: DialectApps, gemini: genai.Client, behaviour: dict[str, Any]
) -> None:
    try:
        list(
            gemini.models.generate_content_stream(
                model=GEMINI,
                contents=PROMPT,
                config=config(apps, {"output_llm_tokens": 300, **behaviour}, max_output_tokens=400),
            )
        )
    except (errors.APIError, httpx2.HTTPError):
        assert "missing_usage" not in behaviour
    apps.compare_bound("gemini")


def test_a_key_in_the_address_works_and_never_reaches_the_provider(apps: DialectApps) -> None:
    """As plain HTTP clients call it; the stream without `alt=sse` is one array."""
    for query in (f"key={apps.key}", f"alt=sse&key={apps.key}"):
        request = urllib.request.Request(
            f"{apps.address}/v1beta/models/{GEMINI}:streamGenerateContent?{query}",
            data=json.dumps({"contents": {"parts": {"text": PROMPT}}}).encode(),
            headers={
                "content-type": "application/json",
                **apps.headers(output_llm_tokens=10, reasoning_llm_tokens=2),
            },
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            body = answer.read()
        assert body.startswith(b"data: {" if "alt" in query else b"[{")
    apps.compare("gemini")


def test_the_other_spelling_of_a_limit_is_the_same_limit(apps: DialectApps) -> None:
    def post(configuration: dict[str, Any]) -> int:
        request = urllib.request.Request(
            f"{apps.address}/v1beta/models/{GEMINI}:generateContent",
            data=json.dumps(
                {"contents": [{"parts": [{"text": PROMPT}]}], **configuration}
            ).encode(),
            headers={"x-goog-api-key": apps.key, "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert post({"generation_config": {"max_output_tokens": -1}}) == 400
    assert post({"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 6}}) == 400
    assert post({"generationConfig": {}, "generation_config": {}}) == 400
