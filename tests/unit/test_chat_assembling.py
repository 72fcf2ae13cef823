"""Plain chat completions made of streamed ones: as the provider's plain answer would have been."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from bursar.usage import Usage
from bursar_cli.simulated_provider import answers
from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.plans import AnswerPlan
from bursar_sidecar.dialects.openai.chat_assembling import ChatAssembler

HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 17, "model": "gpt-4o-mini"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


def part(index: int = 0, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def assembled(*choices: dict[str, Any], cut: Usage | None = None, **fields: Any) -> dict[str, Any]:
    assembler = ChatAssembler()
    for choice in choices:
        assembler.feed(json.dumps({**HEAD, **fields, "choices": [choice]}).encode())
    assembler.feed(json.dumps({**HEAD, "choices": [], "usage": USAGE}).encode())
    assembler.feed(b"[DONE]")
    body: dict[str, Any] = json.loads(assembler.body(cut))
    ChatCompletion.model_validate(body, strict=True)
    return body


def planned(choices: int, **behaviour: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The simulated provider's plain answer, and the one made of its stream."""
    set_so = Behaviour(**behaviour)
    plan = AnswerPlan(
        input=7,
        cached_input=2,
        output_per_choice=set_so.output_llm_tokens or 0,
        reasoning_per_choice=0,
        choices=choices,
        finish_reason="stop",
        first_word=3,
    )
    told: dict[str, Any] = {"response_id": "c-9", "model": "gpt-4o-mini", "tier": "default"}
    told["created_s"] = 5
    usage = answers.usage_json(plan.billed(), set_so)
    plain = json.loads(answers.chat_body(plan, usage, **told))
    assembler = ChatAssembler()
    for event in answers.chat_events(plan, usage, include_usage=True, chunk_llm_tokens=3, **told):
        assembler.feed(event.data.removeprefix(b"data: ").strip())
    ours: dict[str, Any] = json.loads(assembler.body())
    return plain, ours


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("output", [0, 1, 50])
def test_it_is_the_plain_answer_of_the_same_content(choices: int, output: int) -> None:
    plain, made = planned(choices, output_llm_tokens=output)
    assert made == plain
    assert [*made] == [*plain]


def test_without_usage_there_is_none() -> None:
    plain, made = planned(1, output_llm_tokens=9, missing_usage=True)
    assert made == plain
    assert "usage" not in made


def test_calls_of_tools_are_joined_by_their_index() -> None:
    first = {"index": 0, "id": "call_1", "type": "function"}
    second = {"index": 1, "id": "call_2", "type": "function"}
    body = assembled(
        part(role="assistant", content=None, refusal=None),
        part(tool_calls=[{**first, "function": {"name": "weather", "arguments": ""}}]),
        part(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
        part(tool_calls=[{**second, "function": {"name": "time", "arguments": "{"}}]),
        part(tool_calls=[{"index": 0, "function": {"arguments": '"Bern"}'}}]),
        part(tool_calls=[{"index": 1, "function": {"arguments": "}"}}]),
        part(finish_reason="tool_calls"),
    )
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
        },
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]


def test_log_probabilities_refusals_and_unknown_fields_are_kept() -> None:
    def spoken(text: str) -> dict[str, Any]:
        scored = {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": []}
        logprobs = {"content": [scored], "refusal": None}
        return {**part(content=text), "logprobs": logprobs, "content_filter_results": {"a": 1}}

    body = assembled(
        part(role="assistant", content="", refusal=None),
        spoken("Hel"),
        spoken("lo"),
        part(refusal="No"),
        part(refusal="pe", finish_reason="stop"),
        system_fingerprint="fp_1",
        provider="somebody",
    )
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": "Nope"}
    assert [scored["token"] for scored in choice["logprobs"]["content"]] == ["Hel", "lo"]
    assert choice["content_filter_results"] == {"a": 1}
    assert (body["system_fingerprint"], body["provider"]) == ("fp_1", "somebody")


def test_a_cut_answer_is_as_long_as_it_could_be_and_has_the_usage_that_is_charged() -> None:
    body = assembled(
        part(role="assistant", content=""),
        part(content="Hel"),
        part(1, content="Two", finish_reason="stop"),
        cut=Usage(input=5, output=70),
    )
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "stop"]
    assert body["usage"]["completion_tokens"] == 70
    assert body["object"] == "chat.completion"


def test_nothing_at_all_is_an_answer_still() -> None:
    assembler = ChatAssembler()
    body = json.loads(assembler.body(Usage(input=5)))
    assert body["choices"][0]["finish_reason"] == "length"


def test_an_error_and_what_is_no_chunk_are_no_part_of_it() -> None:
    assembler = ChatAssembler()
    for payload in (b"{broken", b"[1]", b'{"choices": 5}', b'{"choices": [5]}'):
        assembler.feed(payload)
    assert assembler.error == b""
    assembler.feed(b'{"error": {"message": "overloaded"}}')
    assert json.loads(assembler.error)["error"]["message"] == "overloaded"
