"""Chat, completions, responses, embeddings and moderations, called by OpenAI's own library.

What the simulated provider billed is compared with what the sidecar charged, call by call.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from bursar.pricing import charge, snapshot
from bursar.usage import Usage
from bursar_cli.simulated_provider.served_calls import ServedCall
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.live_sidecar import LiveSidecar, live_sidecar

MODEL = "gpt-4o-mini"
ASKED: Any = [{"role": "user", "content": "How much is left?"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def sidecar() -> Iterator[LiveSidecar]:
    with live_sidecar() as serving:
        yield serving


@pytest.fixture
def app(sidecar: LiveSidecar) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{sidecar.address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def bill(call: ServedCall, model: str = MODEL, provider: str = "openai") -> int:
    """What the provider's own count of a call comes to, nanos."""
    price = snapshot().lookup(model, provider)
    assert price is not None
    billed = call.billed
    usage = Usage(
        input=billed.input - billed.cached_input,
        cached_input=billed.cached_input,
        output=billed.output,
        reasoning=billed.reasoning,
    )
    return charge(price, usage).cost_nanos


def exact(sidecar: LiveSidecar, model: str = MODEL, provider: str = "openai") -> ServedCall:
    """The one call, of which the charge is what was billed."""
    ((call, outcome),) = sidecar.settled()
    assert (outcome.kind, outcome.usage.is_exact) == ("final", True)
    assert outcome.cost_nanos == bill(call, model, provider) > 0
    assert outcome.cost_nanos <= sidecar.desk.calls[0].ceiling_nanos
    return call


def simulated(**behaviour: Any) -> dict[str, str]:
    return {"x-simulate": json.dumps(behaviour)}


def test_a_chat_with_everything_that_a_request_can_ask(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    question: Any = {"type": "text", "text": "What is it?"}
    answer = app.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[*ASKED, {"role": "user", "content": [question, picture]}],
        n=3,
        logprobs=True,
        top_logprobs=2,
        tools=[TOOL],
        response_format={"type": "json_object"},
        extra_headers=simulated(cached_input_llm_tokens=4),
    )
    parsed = answer.parse()
    assert len(parsed.choices) == 3
    assert Decimal(answer.headers["x-bursar-cost"]) > 0
    call = exact(sidecar)
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens == call.billed.output


class Count(BaseModel):
    number: int


def test_a_structured_output_is_asked_for_as_the_library_asks(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    # The simulated words are no JSON of that shape: what matters is the request, and the charge.
    with pytest.raises(ValueError, match="Invalid JSON"):
        app.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Count)
    exact(sidecar)


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_chat_stream_shows_its_usage_to_those_who_asked(
    app: openai.OpenAI, sidecar: LiveSidecar, include_usage: bool
) -> None:
    asked: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(
        app.chat.completions.create(model=MODEL, messages=ASKED, stream=True, n=2, **asked)
    )
    told = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(told) == include_usage
    exact(sidecar)


def test_a_model_that_reasons(app: openai.OpenAI, sidecar: LiveSidecar) -> None:
    app.chat.completions.create(
        model="o4-mini",
        messages=ASKED,
        reasoning_effort="high",
        extra_headers=simulated(output_llm_tokens=50, reasoning_llm_tokens=40),
    )
    assert exact(sidecar, "o4-mini").billed.reasoning == 40


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Once upon a time", {"n": 2}),
        (["Once", "Twice"], {"n": 2, "best_of": 3}),
        ([12, 13, 14], {}),
        ([[12, 13], [14]], {"stream": True}),
        ("Once", {"stream": True}),
    ],
)
def test_a_completion_of_every_kind_of_prompt(
    app: openai.OpenAI, sidecar: LiveSidecar, prompt: Any, asked: dict[str, Any]
) -> None:
    answer: Any = app.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=prompt, max_tokens=9, **asked
    )
    if asked.get("stream"):
        assert "".join(choice.text for chunk in answer for choice in chunk.choices)
    else:
        assert answer.choices[0].text
    exact(sidecar, "gpt-3.5-turbo-instruct")


def test_a_response_and_its_stream_cost_what_was_billed(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    answer = app.responses.with_raw_response.create(model=MODEL, input="How much is left?")
    assert answer.parse().output_text
    assert Decimal(answer.headers["x-bursar-cost"]) > 0
    with app.responses.stream(model=MODEL, input=ASKED, tools=[]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.usage is not None
    (first, one), (second, two) = sidecar.settled(2)
    assert one.cost_nanos == bill(first)
    assert two.cost_nanos == bill(second)
    assert final.usage.output_tokens == second.billed.output


def test_a_response_as_long_as_it_may_be_is_incomplete(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    answer = app.responses.create(
        model=MODEL,
        input="Tell all",
        max_output_tokens=20,
        previous_response_id="resp_0",
        store=True,
        extra_headers=simulated(output_llm_tokens=100),
    )
    assert answer.status == "incomplete"
    exact(sidecar)


def test_what_a_response_cannot_tell_the_cost_of_is_refused(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        app.responses.create(model=MODEL, input="x", background=True)
    assert caught.value.code == "untold_cost"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        app.responses.create(model=MODEL, input="x", tools=[{"type": "web_search"}])
    assert caught.value.code == "unbounded_tools"
    assert not sidecar.desk.calls


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2, 3]])
def test_embeddings(app: openai.OpenAI, sidecar: LiveSidecar, given: Any) -> None:
    answer = app.embeddings.create(model="text-embedding-3-small", input=given)
    assert len(answer.data[0].embedding) == 1536
    ((call, outcome),) = sidecar.settled()
    assert (outcome.usage.is_exact, outcome.usage.input) == (True, call.billed.input)


def test_a_moderation_is_free_even_where_no_money_is_left() -> None:
    with live_sidecar(FakeDesk(limit_nanos=0)) as sidecar:
        app = openai.OpenAI(base_url=f"{sidecar.address}/v1", api_key=KEY, max_retries=0)
        with app:
            answer = app.moderations.with_raw_response.create(input=["a", "b"])
            assert len(answer.parse().results) == 2
            assert answer.headers["x-bursar-cost"] == "0.00"
            with pytest.raises(openai.APIStatusError) as caught:
                app.chat.completions.create(model=MODEL, messages=ASKED)
            assert caught.value.status_code == 402
        ((_, outcome),) = sidecar.settled()
        assert (outcome.kind, outcome.cost_nanos) == ("final", 0)


def test_models_are_those_of_the_key(app: openai.OpenAI) -> None:
    named = [model.id for model in app.models.list()]
    assert MODEL in named
    assert app.models.retrieve(MODEL).owned_by == "openai"


@pytest.mark.parametrize("versioned", [True, False])
def test_the_same_by_azures_library(versioned: bool) -> None:
    azure = {"name": "azure", "kind": "azure", "deployments": (("chat-prod", MODEL),)}
    with live_sidecar(upstream=azure) as sidecar:
        app: openai.OpenAI
        if versioned:
            app = openai.AzureOpenAI(
                azure_endpoint=sidecar.address,
                api_key=KEY,
                api_version="2024-10-21",
                max_retries=0,
            )
        else:
            app = openai.OpenAI(base_url=f"{sidecar.address}/openai/v1", api_key=KEY, max_retries=0)
        with app:
            app.chat.completions.create(model="chat-prod", messages=ASKED)
            list(app.chat.completions.create(model="chat-prod", messages=ASKED, stream=True))
            app.responses.create(model="chat-prod", input="x")
            with pytest.raises(openai.NotFoundError) as caught:
                app.chat.completions.create(model="other", messages=ASKED)
            assert caught.value.code == "model_not_found"
        for call, outcome in sidecar.settled(3):
            assert call.model == "chat-prod"
            assert outcome.cost_nanos == bill(call, MODEL, "azure")
            assert outcome.usage.is_exact
