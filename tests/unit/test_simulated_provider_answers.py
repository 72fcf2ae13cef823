"""What the simulated provider plans, writes and bills, without a connection."""

import base64
import json
from array import array

import pytest

from bursar_cli.simulated_provider.answers import (
    chat_body,
    chat_events,
    embeddings_body,
    plan_chat,
    usage_json,
)
from bursar_cli.simulated_provider.behaviour import (
    Behaviour,
    BehaviourError,
    behaviour_from,
    behaviour_from_header,
)
from bursar_cli.simulated_provider.dialect import StreamPart
from bursar_cli.simulated_provider.requests import (
    ChatRequest,
    ProviderError,
    chat_request,
    embeddings_request,
)


def chat(content: str = "How much is left?", **fields: object) -> ChatRequest:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **fields}
    return chat_request(json.dumps(body).encode())


def test_the_same_request_gives_the_same_plan_and_another_prompt_another() -> None:
    first = plan_chat(chat(), Behaviour())
    assert first == plan_chat(chat(), Behaviour())
    others = {plan_chat(chat(f"prompt {n}"), Behaviour()).output_per_choice for n in range(20)}
    assert len(others) > 10


def test_the_requests_limit_bounds_the_output_and_shows_in_the_finish_reason() -> None:
    plan = plan_chat(chat(max_tokens=3), Behaviour())
    assert (plan.output_per_choice, plan.finish_reason) == (3, "length")
    plan = plan_chat(chat(max_completion_tokens=100_000), Behaviour())
    assert plan.output_per_choice <= 256
    assert plan.finish_reason == "stop"


def test_set_counts_are_kept_within_each_other() -> None:
    behaviour = Behaviour(
        input_llm_tokens=10,
        output_llm_tokens=20,
        cached_input_llm_tokens=50,
        reasoning_llm_tokens=90,
    )
    billed = plan_chat(chat(n=2), behaviour).billed()
    assert (billed.input, billed.cached_input) == (10, 10)
    assert (billed.output, billed.reasoning) == (40, 40)


def test_the_limit_is_exceeded_only_when_told_to() -> None:
    behaviour = Behaviour(output_llm_tokens=20, exceed_output_limit=True)
    assert plan_chat(chat(max_tokens=5), behaviour).output_per_choice == 20


def test_after_a_cancel_no_more_is_billed_than_the_whole_answer() -> None:
    plan = plan_chat(chat(), Behaviour(output_llm_tokens=20))
    assert plan.billed(5, after_cancel=4).output == 9
    late = plan.billed(18, after_cancel=4)
    assert (late.output, late.after_cancel) == (20, 2)


def test_the_input_never_exceeds_the_bytes_of_the_prompt_plus_its_framing() -> None:
    for text in ("", "a", "naïve café", "好" * 50, "x" * 10_001):
        assert chat(text).input_llm_tokens <= len(text.encode()) + 6


def test_a_whole_answer_has_its_usage_and_as_many_words_as_it_bills() -> None:
    behaviour = Behaviour(output_llm_tokens=12, reasoning_llm_tokens=2)
    plan = plan_chat(chat(), behaviour)
    body = json.loads(
        chat_body(
            plan,
            usage_json(plan.billed(), behaviour),
            response_id="chatcmpl-1",
            model="gpt-4o",
            tier="default",
            created_s=1,
        )
    )
    assert len(body["choices"][0]["message"]["content"].split()) == 10
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def events(request: ChatRequest, behaviour: Behaviour) -> list[bytes]:
    plan = plan_chat(request, behaviour)
    return [
        event.data
        for event in chat_events(
            plan,
            usage_json(plan.billed(), behaviour),
            include_usage=request.include_usage,
            chunk_llm_tokens=behaviour.chunk_llm_tokens,
            response_id="chatcmpl-1",
            model=request.model,
            tier="default",
            created_s=1,
        )
    ]


def test_the_usage_chunk_comes_only_where_it_was_asked_for() -> None:
    behaviour = Behaviour(output_llm_tokens=6)
    plain = events(chat(stream=True), behaviour)
    assert not any(b'"usage"' in event for event in plain)
    asked = events(chat(stream=True, stream_options={"include_usage": True}), behaviour)
    assert len(asked) == len(plain) + 1
    assert asked[-1] == b"data: [DONE]\n\n"
    usage_chunk = json.loads(asked[-2].removeprefix(b"data: "))
    assert usage_chunk["choices"] == []
    assert usage_chunk["usage"]["completion_tokens"] == 6
    assert all(b'"usage":null' in event for event in asked[:-2])


def test_a_missing_usage_is_missing_even_when_asked_for() -> None:
    behaviour = Behaviour(output_llm_tokens=6, missing_usage=True)
    asked = events(chat(stream=True, stream_options={"include_usage": True}), behaviour)
    assert not any(b'"total_tokens"' in event for event in asked)


def test_a_wrong_usage_is_told_word_for_word_and_the_bill_stays_true() -> None:
    behaviour = Behaviour(output_llm_tokens=6, reported_usage={"prompt_tokens": "many"})
    plan = plan_chat(chat(), behaviour)
    assert usage_json(plan.billed(), behaviour) == b'{"prompt_tokens":"many"}'
    assert plan.billed().output == 6


def test_chunks_hold_the_llm_tokens_set_and_produced_counts_up_to_all() -> None:
    behaviour = Behaviour(output_llm_tokens=10, reasoning_llm_tokens=3, chunk_llm_tokens=3)
    plan = plan_chat(chat(stream=True), behaviour)
    stream = list(
        chat_events(
            plan,
            None,
            include_usage=False,
            chunk_llm_tokens=3,
            response_id="x",
            model="m",
            tier="default",
            created_s=1,
        )
    )
    output = [event.output_llm_tokens for event in stream if event.part is StreamPart.OUTPUT]
    assert output == [6, 9, 10]
    assert stream[0].output_llm_tokens == 3


def test_embeddings_are_unit_vectors_the_same_in_both_encodings() -> None:
    def vector(encoding: str) -> list[float]:
        asked = {"model": "e", "input": "hi", "dimensions": 8, "encoding_format": encoding}
        request = embeddings_request(json.dumps(asked).encode())
        found = json.loads(embeddings_body(request, Behaviour(), 1))["data"][0]["embedding"]
        return array("f", base64.b64decode(found)).tolist() if encoding == "base64" else found

    assert vector("base64") == vector("float")
    assert sum(component**2 for component in vector("float")) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[]", "object"),
        (b"{}", "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":[{"role":"king"}]}', "messages[0].role"),
        (b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user"}],"tags":["a"]}', "tags"),
        (b'{"model":"m","messages":[{"role":"user"}],"metadata":{"tags":["a"]}}', "metadata"),
        (b'{"model":"m","messages":[{"role":"user"}],"max_tokens":0}', "max_tokens"),
        (b'{"model":"m","messages":[{"role":"user"}],"max_tokens":1e99}', "max_tokens"),
        (b'{"model":"m","messages":[{"role":"user"}],"n":129}', "'n'"),
        (b'{"model":"m","messages":[{"role":"user"}],"stream":"yes"}', "stream"),
        (
            b'{"model":"m","messages":[{"role":"user"}],"stream_options":{"include_usage":true}}',
            "stream_options",
        ),
        (b'{"tools":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ],
)
def test_malformed_requests_are_refused_by_the_name_of_the_fault(body: bytes, named: str) -> None:
    with pytest.raises(ProviderError) as refused:
        chat_request(body)
    assert refused.value.status == 400
    assert named in refused.value.message


@pytest.mark.parametrize("given", ["", [], [""], [1, "a"], [[]], 5, [1.5], [1, None]])
def test_malformed_embedding_inputs_are_refused(given: object) -> None:
    with pytest.raises(ProviderError, match="input"):
        embeddings_request(json.dumps({"model": "e", "input": given}).encode())


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"{", "JSON"),
        (b"3", "object"),
        (b'{"latency":1}', "latency"),
        (b'{"latency_ms":-1}', "latency_ms"),
        (b'{"latency_ms":"1"}', "latency_ms"),
        (b'{"error_429_rate":1.5}', "error_429_rate"),
        (b'{"error_429_rate":0.6,"abort_rate":0.6}', "together"),
        (b'{"output_llm_tokens":99999999}', "output_llm_tokens"),
        (b" " * 5_000, "bytes"),
    ],
)
def test_a_behaviour_that_cannot_be_had_is_refused_by_name(header: bytes, named: str) -> None:
    with pytest.raises(BehaviourError, match=named):
        behaviour_from_header(header, Behaviour())


def test_a_header_changes_only_what_it_names() -> None:
    base = behaviour_from({"latency_ms": 5, "missing_usage": True}, Behaviour(), origin="test")
    found = behaviour_from_header(b'{"latency_ms":7}', base)
    assert (found.latency_ms, found.missing_usage) == (7, True)
