"""What an entry of Envoy's log proves of a call, and what is charged for it."""

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from bursar_sidecar.desk import Outcome
from bursar_sidecar.envoy.logged_answers import ENDED, judge, settle
from bursar_sidecar.envoy.logged_calls import asked_of
from bursar_sidecar.settings import Provider
from tests.fakes.envoy_calls import ANTHROPIC, CHAT, OPENAI, EnvoyCalls
from tests.fakes.envoy_logs import BODY_BYTES, CHAT_ANSWER, CHAT_NANOS, HEADER_BYTES, SSE, entry

GEMINI = Provider("gemini", "http://gemini.test", kind="gemini", api_key="g")
COMPATIBLE = Provider("openai", "http://vllm.test/v1", kind="compatible")
GROQ = Provider("openai", "http://groq.test/v1", kind="groq")
CHAT_PATH = b"/v1/chat/completions"
STREAM = CHAT.replace(b"{", b'{"stream":true,"stream_options":{"include_usage":true},', 1)
MESSAGE = json.dumps(
    {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
    }
).encode()
CHAT_STREAM: Mapping[str, object] = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini",
    "usage": json.dumps({"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}),
}
MESSAGE_STREAM: Mapping[str, object] = {
    "type": "message_stop",
    "message.id": "msg_1",
    "message.model": "claude-haiku-4-5",
    "message.usage": json.dumps(
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "cache_creation": {"ephemeral_1h_input_tokens": 3},
            "cache_creation_input_tokens": 3,
            "output_tokens": 1,
        }
    ),
    "delta.stop_reason": "end_turn",
    "usage": json.dumps({"output_tokens": 20}),
}
RESPONSE_STREAM: Mapping[str, object] = {
    "type": "response.completed",
    "response.id": "resp_1",
    "response.model": "gpt-4o-mini",
    "response.usage": json.dumps({"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}),
}
CUT: Mapping[str, Any] = {
    "details": "downstream_remote_disconnect",
    "flags": frozenset({"DC"}),
    "content_type": SSE,
}


async def settled(
    path: bytes = CHAT_PATH,
    body: bytes = CHAT,
    providers: tuple[Provider, ...] = (OPENAI, ANTHROPIC, GEMINI),
    **fields: Any,
) -> tuple[str, Outcome, int]:
    """What the entry proves of such a call; how it is settled; what was reserved."""
    calls = EnvoyCalls(providers=providers)
    charge_id = await calls.admit("light", body, path)
    call = calls.held.held(charge_id)
    assert call is not None
    reserved = calls.desk.open[charge_id].ceiling_nanos
    said = entry(charge_id, **fields)
    verdict = judge(said, asked_of(call))
    settle(verdict, said, call.attempt, late=False)
    return verdict.proof, calls.desk.only_outcome, reserved


async def test_a_plain_chat_costs_what_the_provider_counted() -> None:
    proof, outcome, _ = await settled()
    assert (proof, outcome.kind, outcome.cost_nanos) == ("counted", "final", CHAT_NANOS)
    assert outcome.usage.is_exact
    assert outcome.provider_request_id == "chatcmpl-1"
    assert outcome.answered_model == "gpt-4o-mini"
    assert outcome.http_status == 200


async def test_details_of_a_plain_chat_are_read() -> None:
    answer = {
        **CHAT_ANSWER,
        "usage.prompt_tokens_details.cached_tokens": 4,
        "usage.completion_tokens_details.reasoning_tokens": 6,
        "service_tier": "default",
    }
    _, outcome, _ = await settled(answer=answer)
    assert (outcome.usage.input, outcome.usage.cached_input) == (6, 4)
    assert outcome.usage.reasoning == 6


async def test_a_stream_costs_what_the_provider_counted() -> None:
    answer = {**CHAT_STREAM, ENDED: True}
    proof, outcome, _ = await settled(body=STREAM, content_type=SSE, answer=answer)
    assert (proof, outcome.cost_nanos, outcome.usage.is_exact) == ("counted", CHAT_NANOS, True)


async def test_embeddings_cost_their_input() -> None:
    body = b'{"model":"text-embedding-3-small","input":"hi there"}'
    answer = {"model": "text-embedding-3-small", "usage.prompt_tokens": 2, "usage.total_tokens": 2}
    proof, outcome, _ = await settled(b"/v1/embeddings", body, answer=answer)
    assert (proof, outcome.usage.input, outcome.usage.output) == ("counted", 2, 0)
    assert outcome.cost_nanos == 40


async def test_a_plain_message_is_read_with_its_caches() -> None:
    answer = {
        "id": "msg_1",
        "model": "claude-haiku-4-5",
        "usage.input_tokens": 10,
        "usage.cache_read_input_tokens": 5,
        "usage.cache_creation_input_tokens": 3,
        "usage.cache_creation.ephemeral_5m_input_tokens": 0,
        "usage.cache_creation.ephemeral_1h_input_tokens": 3,
        "usage.output_tokens": 20,
        "usage.service_tier": "standard",
    }
    proof, outcome, _ = await settled(b"/v1/messages", MESSAGE, answer=answer, request_id="req_9")
    usage = outcome.usage
    assert proof == "counted"
    assert (usage.input, usage.cached_input, usage.cache_write_1h, usage.output) == (10, 5, 3, 20)
    assert usage.is_exact
    assert outcome.provider_request_id == "req_9"


async def test_a_streamed_message_is_read_from_its_start_and_its_end() -> None:
    body = MESSAGE.replace(b"{", b'{"stream":true,', 1)
    answer = {**MESSAGE_STREAM, ENDED: True}
    _, outcome, _ = await settled(b"/v1/messages", body, content_type=SSE, answer=answer)
    usage = outcome.usage
    assert (usage.input, usage.cached_input, usage.cache_write_1h, usage.output) == (10, 5, 3, 20)
    assert usage.is_exact


async def test_a_response_is_read_plain_and_streamed() -> None:
    body = b'{"model":"gpt-4o-mini","max_output_tokens":100,"input":"hi"}'
    plain = {
        "id": "resp_1",
        "model": "gpt-4o-mini",
        "usage.input_tokens": 10,
        "usage.output_tokens": 20,
        "usage.total_tokens": 30,
    }
    _, outcome, _ = await settled(b"/v1/responses", body, answer=plain)
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (CHAT_NANOS, True)
    streamed = {**RESPONSE_STREAM, ENDED: True}
    body = body.replace(b"{", b'{"stream":true,', 1)
    _, outcome, _ = await settled(b"/v1/responses", body, content_type=SSE, answer=streamed)
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (CHAT_NANOS, True)
    assert outcome.provider_request_id == "resp_1"


async def test_gemini_is_read_plain_and_streamed() -> None:
    body = b'{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":100}}'
    path = b"/v1beta/models/gemini-2.5-flash"
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 15, "thoughtsTokenCount": 5}
    plain = {f"usageMetadata.{name}": count for name, count in counts.items()}
    plain |= {"usageMetadata.totalTokenCount": 30}
    _, outcome, _ = await settled(path + b":generateContent", body, answer=plain)
    usage = outcome.usage
    assert (usage.input, usage.output, usage.reasoning, usage.is_exact) == (10, 20, 5, True)
    streamed = {"usageMetadata": json.dumps({**counts, "totalTokenCount": 30}), ENDED: True}
    _, again, _ = await settled(
        path + b":streamGenerateContent", body, content_type=SSE, answer=streamed
    )
    assert again.usage == usage
    _, cut, reserved = await settled(path + b":streamGenerateContent", body, answer=streamed, **CUT)
    assert cut.cost_nanos == reserved


@pytest.mark.parametrize("flag", ["UF", "UH", "NR", "UO", "UAEX", "RL", "NC", "DF"])
async def test_what_was_never_sent_is_released(flag: str) -> None:
    proof, outcome, _ = await settled(
        status=503, details="why_not", flags=frozenset({flag}), sent_bytes=0, answer={}
    )
    assert (proof, outcome.kind, outcome.cost_nanos) == ("never_sent", "released", 0)


async def test_what_a_later_filter_answered_is_released() -> None:
    proof, _, _ = await settled(
        status=403, details="rbac_access_denied", sent_bytes=0, has_upstream=False, answer={}
    )
    assert proof == "never_sent"


@pytest.mark.parametrize(
    "fields",
    [
        # Seen from a real Envoy: the first of three attempts was sent, the last found nobody.
        {"flags": frozenset({"URX", "UF"}), "attempts": 3},
        {"flags": frozenset({"UF"}), "sent_bytes": None},
        {"flags": frozenset({"UC"})},
        {"flags": frozenset({"UT"}), "status": 504},
        {"flags": frozenset({"DC"}), "sent_bytes": 0, "status": 0},
        {"status": 500, "details": "response_payload_too_large"},
    ],
)
async def test_what_may_have_been_sent_is_charged_as_reserved(fields: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"status": 503, "details": "upstream_reset", "answer": {}}
    proof, outcome, reserved = await settled(**{**usual, **fields})
    assert (proof, outcome.kind, outcome.cost_nanos) == ("cut", "unknown", reserved)
    assert not outcome.usage.is_exact
    assert outcome.http_status == 0


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
async def test_an_error_of_the_provider_costs_nothing(status: int) -> None:
    proof, outcome, _ = await settled(status=status, answer={})
    assert (proof, outcome.kind, outcome.cost_nanos) == ("refused", "provider_error", 0)
    assert outcome.http_status == status


async def test_a_call_that_envoy_sent_again_is_charged_as_reserved() -> None:
    again: dict[str, Any] = {"attempts": 2, "sent_bytes": 2 * (HEADER_BYTES + BODY_BYTES + 22)}
    for status in (200, 503):
        proof, outcome, reserved = await settled(
            status=status, sent_header_bytes=2 * HEADER_BYTES, **again
        )
        assert (proof, outcome.cost_nanos) == ("cut", reserved)


async def test_attempts_that_found_no_connection_do_not_count() -> None:
    proof, outcome, _ = await settled(attempts=3)
    assert (proof, outcome.cost_nanos) == ("counted", CHAT_NANOS)


async def test_a_stream_that_is_hung_up_on_is_charged_as_reserved() -> None:
    answer = {"id": "chatcmpl-1", "model": "gpt-4o-mini"}
    proof, outcome, reserved = await settled(body=STREAM, answer=answer, **CUT)
    assert (proof, outcome.kind, outcome.cost_nanos) == ("cut", "unknown", reserved)
    assert "downstream_remote_disconnect; DC" in outcome.usage.estimate_reason


async def test_a_stream_that_is_hung_up_on_after_its_counts_is_counted() -> None:
    proof, outcome, _ = await settled(body=STREAM, answer=CHAT_STREAM, **CUT)
    assert (proof, outcome.cost_nanos) == ("counted", CHAT_NANOS)
    body = MESSAGE.replace(b"{", b'{"stream":true,', 1)
    proof, outcome, _ = await settled(b"/v1/messages", body, answer=MESSAGE_STREAM, **CUT)
    assert (proof, outcome.usage.output, outcome.usage.is_exact) == ("counted", 20, True)


async def test_a_server_that_counts_on_the_way_is_not_believed_when_cut() -> None:
    proof, outcome, reserved = await settled(
        body=STREAM, providers=(COMPATIBLE,), answer=CHAT_STREAM, **CUT
    )
    assert (proof, outcome.cost_nanos) == ("cut", reserved)


async def test_a_message_that_only_began_is_charged_as_reserved() -> None:
    body = MESSAGE.replace(b"{", b'{"stream":true,', 1)
    answer = {**MESSAGE_STREAM, "type": "content_block_delta"}
    del answer["usage"], answer["delta.stop_reason"]
    proof, outcome, reserved = await settled(b"/v1/messages", body, answer=answer, **CUT)
    assert (proof, outcome.cost_nanos) == ("cut", reserved)
    proof, outcome, reserved = await settled(
        b"/v1/messages", body, content_type=SSE, answer={**answer, ENDED: True}
    )
    assert (proof, outcome.kind, outcome.cost_nanos) == ("untold", "final", reserved)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"answer": {}}, "no usage"),
        ({"answer": {"id": "x", "model": "gpt-4o-mini"}}, "no usage"),
        ({"answer": {"usage": "text"}}, "no usage"),
        ({"content_encoding": "gzip"}, "compressed"),
        ({"body": STREAM, "content_type": SSE, "answer": {ENDED: True}}, "no usage"),
        (
            {"body": STREAM, "content_type": SSE, "answer": {"usage": '{"prompt', ENDED: True}},
            "no usage",
        ),
    ],
)
async def test_an_answer_without_usage_is_charged_as_reserved(
    fields: dict[str, Any], why: str
) -> None:
    proof, outcome, reserved = await settled(**fields)
    assert (proof, outcome.kind, outcome.cost_nanos) == ("untold", "final", reserved)
    assert why in outcome.usage.estimate_reason


@pytest.mark.parametrize(
    "count", [-1, 1e300, float("nan"), float("inf"), 2.5, "12", True, 10**19, 2**53]
)
async def test_a_count_that_makes_no_sense_refunds_nothing(count: object) -> None:
    answer = {**CHAT_ANSWER, "usage.completion_tokens": count}
    _, outcome, reserved = await settled(answer=answer)
    assert not outcome.usage.is_exact
    assert 0 < outcome.cost_nanos <= reserved
    # A hundred LLM tokens of output may have been made, whatever is told of them.
    assert outcome.cost_nanos >= 100 * 600


async def test_what_is_billed_by_lists_is_charged_as_reserved() -> None:
    search = b'{"type":"web_search_20250305","name":"web_search","max_uses":2}'
    body = MESSAGE.replace(b"{", b'{"tools":[%b],' % search, 1).replace(b"haiku", b"sonnet")
    answer = {"usage.input_tokens": 10, "usage.output_tokens": 20}
    proof, outcome, reserved = await settled(b"/v1/messages", body, answer=answer)
    assert (proof, outcome.cost_nanos) == ("untold", reserved)
    body = MESSAGE.replace(b"{", b'{"context_management":{"edits":[]},', 1)
    proof, outcome, reserved = await settled(b"/v1/messages", body, answer=answer)
    assert (proof, outcome.cost_nanos) == ("untold", reserved)


async def test_endpoints_that_the_rules_do_not_cover_are_charged_as_reserved() -> None:
    body = b'{"model":"gpt-image-1","prompt":"a cat","size":"1024x1024","quality":"low"}'
    proof, outcome, reserved = await settled(b"/v1/images/generations", body, answer={})
    assert (proof, outcome.cost_nanos) == ("untold", reserved)


async def test_a_server_that_says_more_than_the_rules_take_is_charged_as_reserved() -> None:
    proof, outcome, reserved = await settled(providers=(GROQ,))
    assert (proof, outcome.cost_nanos) == ("untold", reserved)


async def test_what_the_request_alone_decides_needs_no_usage() -> None:
    body = b'{"model":"tts-1","input":"hello","voice":"alloy"}'
    proof, outcome, _ = await settled(b"/v1/audio/speech", body, content_type="audio/mpeg")
    assert (proof, outcome.kind) == ("counted", "final")
    assert outcome.cost_nanos > 0


async def test_names_in_each_others_way_are_no_fault() -> None:
    answer = {**CHAT_ANSWER, "usage.prompt_tokens.x.y.z": 3, "a.b.c.d.e.f": 1, "": 2, ".": 3}
    proof, _, _ = await settled(answer=answer)
    assert proof == "counted"


NAMES = (
    *CHAT_ANSWER,
    *MESSAGE_STREAM,
    *RESPONSE_STREAM,
    "usageMetadata",
    "usage",
    ENDED,
    "",
    "a.b",
)
VALUES = (
    *(
        0,
        1,
        -1,
        7.5,
        10**18,
        1e308,
        float("nan"),
        float("inf"),
        True,
        False,
        "",
        "x",
        "message_stop",
    ),
    *(
        "{}",
        "[]",
        "null",
        '{"prompt_tokens":1e999}',
        '{"output_tokens":[1]}',
        "{" * 5_000,
    ),
)


async def test_whatever_an_entry_says_a_call_is_settled_once_and_refunded_by_proof_alone() -> None:
    chance = random.Random(20_261_122)
    for n in range(300):
        path, body = chance.choice(
            ((CHAT_PATH, CHAT), (CHAT_PATH, STREAM), (b"/v1/messages", MESSAGE))
        )
        said: dict[str, Any] = {
            "answer": {name: chance.choice(VALUES) for name in chance.sample(NAMES, 6)},
            "status": chance.choice((0, 200, 200, 204, 302, 429, 503, 2**40)),
            "details": chance.choice(("via_upstream", "via_upstream", "", "response_timeout")),
            "flags": frozenset(chance.sample(("UF", "DC", "UC", "URX", "UT", "odd"), 2)),
            "sent_bytes": chance.choice((None, 0, 345, 10**12)),
            "attempts": chance.choice((0, 1, 1, 2, 9)),
            "content_type": chance.choice(("", SSE, "application/json", "text/html")),
            "has_upstream": chance.random() < 0.8,
        }
        proof, outcome, reserved = await settled(path, body, **said)
        if proof in ("never_sent", "refused"):
            assert outcome.cost_nanos == 0, (n, said)
        elif proof == "counted":
            assert outcome.cost_nanos > 0 or outcome.usage.is_exact, (n, said)
        else:
            assert outcome.cost_nanos == reserved, (n, said)
