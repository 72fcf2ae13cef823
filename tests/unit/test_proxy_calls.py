"""Calls that end with an answer: forwarded, metered, settled once, told their cost."""

import json
from decimal import Decimal

import pytest
from msgspec import structs

from bursar.pricing import llm_token_price, snapshot
from bursar_sidecar import answering
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import (
    CHAT,
    COST_NANOS,
    DONE,
    USAGE_CHUNK,
    Bench,
    chat_answer,
    chunk,
)


async def test_a_plain_call_is_forwarded_metered_settled_and_answered() -> None:
    bench = Bench()
    body = json.dumps(CHAT).encode()
    bench.post(body, user_agent="app/1", x_bursar_run="r-1", x_bursar_tags="a:b, c:d")
    call = await bench.provider.request()
    call.send_json(chat_answer(), headers="x-request-id: req-7\r\nconnection: keep-alive\r\n")
    answer = await bench.answered()
    assert (answer.status, answer.body) == (200, chat_answer())
    assert answer.headers["x-bursar-cost"] == "0.0000135"
    assert answer.headers["x-litellm-response-cost"] == "0.0000135"
    assert answer.headers["x-litellm-response-tokens"] == "30"
    assert answer.headers["x-bursar-currency"] == "USD"
    assert answer.headers["x-bursar-charge-id"] == "7-1"
    assert answer.headers["x-bursar-budget-remaining"] == "999.9999865"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos, outcome.http_status) == ("final", COST_NANOS, 200)
    assert outcome.usage.is_exact
    assert (outcome.provider_request_id, outcome.answered_model) == ("req-7", "gpt-4o-mini")
    (asked,) = bench.desk.calls
    assert (asked.app, asked.run, asked.tags) == ("app/1", "r-1", ("a:b", "c:d"))
    assert asked.price_version == snapshot().version
    assert call.requests == [body]


async def test_only_what_concerns_the_provider_goes_to_it() -> None:
    bench = Bench(upstream={"headers": (("openai-organization", "org-ours"),)})
    bench.post(
        {**CHAT, "tags": ["t"], "user": "u-1"},
        path="/v1/chat/completions?x=1",
        x_bursar_customer="c-1",
        x_litellm_tags="z",
        x_api_key="bk-other",
        accept_encoding="gzip, br",
        cookie="c=1",
        openai_organization="org-theirs",
        x_stainless_lang="python",
        connection="keep-alive, x-custom",
        te="trailers",
    )
    call = await bench.provider.request()
    head = call.heads[0]
    assert call.targets == ["/v1/chat/completions?x=1"]
    assert head["authorization"] == "Bearer sk-upstream"
    assert head["accept-encoding"] == "gzip"
    assert head["host"] == "provider.test"
    assert head["openai-organization"] == "org-ours"
    assert head["x-stainless-lang"] == "python"
    assert head["te"] == "trailers"
    assert not {"x-bursar-customer", "x-litellm-tags", "x-api-key", "cookie"} & set(head)
    assert "tags" not in json.loads(call.requests[0])
    call.send_json(chat_answer())
    await bench.answered()
    (asked,) = bench.desk.calls
    assert (asked.customer, asked.tags) == ("c-1", ("t", "z"))


async def test_a_stream_is_settled_before_its_last_event() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["stream_options"] == {"include_usage": True}
    call.start_stream()
    call.send_chunk(chunk("fo") + chunk("ur")[:10])
    call.send_chunk(chunk("ur")[10:] + USAGE_CHUNK)
    await bench.app.until(lambda: chunk("ur") in bench.app.body_so_far)
    assert not bench.desk.outcomes
    call.send_chunk(DONE)
    await bench.app.until(lambda: DONE in bench.app.body_so_far)
    outcome = bench.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("final", COST_NANOS)
    call.send_chunk(b"")
    answer = await bench.answered()
    told = json.dumps(
        {
            "cost": "0.0000135",
            "currency": "USD",
            "charge_id": "7-1",
            "budget_remaining": "999.9999865",
        },
        separators=(",", ":"),
    )
    assert answer.body == chunk("fo") + chunk("ur") + f": bursar {told}\n\n".encode() + DONE
    assert answer.headers["x-bursar-charge-id"] == "7-1"


async def test_a_usage_chunk_that_the_app_asked_for_is_passed_on() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("x") + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    assert USAGE_CHUNK in (await bench.answered()).body
    await bench.settled()


async def test_a_stream_without_done_is_settled_at_its_end() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("x") + USAGE_CHUNK)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert answer.body.startswith(chunk("x") + b": bursar {")
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_embeddings_are_served() -> None:
    bench = Bench()
    bench.post({"model": "text-embedding-3-small", "input": ["a", "b"]}, "/v1/embeddings")
    call = await bench.provider.request()
    usage = {"prompt_tokens": 50, "total_tokens": 50}
    call.send_json(json.dumps({"data": [], "model": "m", "usage": usage}).encode())
    answer = await bench.answered()
    assert answer.headers["x-bursar-cost"] == "0.000001"
    outcome = await bench.settled()
    assert (outcome.usage.input, outcome.usage.output) == (50, 0)
    assert call.targets == ["/v1/embeddings"]


async def test_a_stream_where_there_are_none_is_read_whole_and_charged_by_its_bounds() -> None:
    bench = Bench()
    bench.post({"model": "text-embedding-3-small", "input": ["a", "b"]}, "/v1/embeddings")
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(b'data: {"object": "list"}\n\n')
    call.send_chunk(b"")
    answer = await bench.answered()
    assert (answer.status, answer.body) == (200, b'data: {"object": "list"}\n\n')
    outcome = await bench.settled()
    assert outcome.kind == "final"
    assert not outcome.usage.is_exact
    assert outcome.usage.input >= 2


async def test_a_connection_is_used_again_for_the_next_call() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.post(CHAT)
        (await bench.provider.request(number)).send_json(chat_answer())
        await bench.answered(number)
    assert len(bench.provider.connections) == 1
    assert len(bench.desk.outcomes) == 2


# --- calls without usage, and other surprises of providers ------------------------------------


async def test_missing_usage_is_estimated_and_clipped_to_the_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(usage=None))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.kind == "final"
    assert not outcome.usage.is_exact
    assert 0 < outcome.cost_nanos <= bench.desk.calls[0].ceiling_nanos


async def test_a_stream_without_usage_is_estimated_from_what_was_produced() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("12345") + DONE)
    call.send_chunk(b"")
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.usage.output == 5
    assert outcome.usage.estimate_reason == "usage is missing"


async def test_more_than_was_reserved_is_charged_in_full() -> None:
    bench = Bench()
    bench.post(CHAT)
    usage = {"prompt_tokens": 10**6, "completion_tokens": 10**6, "total_tokens": 2 * 10**6}
    (await bench.provider.request()).send_json(chat_answer(usage=usage))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.cost_nanos == 750_000_000
    assert outcome.cost_nanos > bench.desk.calls[0].ceiling_nanos


async def test_the_price_follows_the_model_that_answered() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="gpt-4o-2024-11-20"))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.answered_model == "gpt-4o-2024-11-20"
    assert outcome.cost_nanos == 225_000  # 10 at 2.50 and 20 at 10 USD a million
    assert (outcome.priced_as, outcome.service_tier) == ("openai/gpt-4o-2024-11-20", "default")


async def test_a_settlement_says_what_tier_it_was_priced_at() -> None:
    bench = Bench()
    bench.post(CHAT | {"model": "gpt-4o"})
    answer = chat_answer(model="gpt-4o", service_tier="priority")
    (await bench.provider.request()).send_json(answer)
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.priced_as, outcome.service_tier) == ("openai/gpt-4o", "priority")
    assert outcome.cost_nanos == 382_500  # 10 at 4.25 and 20 at 17 USD a million


async def test_the_region_of_the_account_is_charged_and_kept() -> None:
    own = llm_token_price("openai", "gpt-4o-mini", rates={"input": "1", "output": "1"})
    dearer = structs.replace(own, multipliers={"region/eu": Decimal("1.1")})
    bench = Bench(
        FakeDesk(book=snapshot().with_overlay([dearer], "own-1")), upstream={"region": "eu"}
    )
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.region) == (33_000, "eu")


async def test_a_price_set_for_an_alias_holds_for_its_dated_names() -> None:
    own = llm_token_price("openai", "gpt-4o-mini", rates={"input": "1", "output": "1"})
    bench = Bench(FakeDesk(book=snapshot().with_overlay([own], "own-1")))
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="gpt-4o-mini-2024-07-18"))
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.price_version) == (30_000, "own-1")


async def test_an_unknown_answering_model_is_charged_as_the_one_asked_for() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="mystery"))
    await bench.answered()
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_a_compressed_answer_is_charged_at_its_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(b"\x1f\x8b...", headers="content-encoding: gzip\r\n")
    answer = await bench.answered()
    assert answer.body == b"\x1f\x8b..."
    assert answer.headers["content-encoding"] == "gzip"
    outcome = await bench.settled()
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    assert not outcome.usage.is_exact


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_providers_error_costs_nothing_and_passes_untouched(status: int) -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    body = b'{"error": {"message": "no"}}'
    (await bench.provider.request()).send_json(body, status, "retry-after: 3\r\n")
    answer = await bench.answered()
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-bursar-cost"] == "0.00"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("provider_error", 0)
    assert outcome.http_status == status


async def test_an_answer_too_large_to_hold_flows_through_at_its_reservation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering, "MAX_PLAIN_ANSWER_BYTES", 100)
    bench = Bench()
    bench.post(CHAT)
    call = await bench.provider.request()
    call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"a" * 150)
    await bench.app.until(lambda: len(bench.app.body_so_far) == 150)
    call.send(b"b" * 150)
    answer = await bench.answered()
    assert answer.body == b"a" * 150 + b"b" * 150
    assert answer.headers["x-bursar-charge-id"] == "7-1"
    outcome = await bench.settled()
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    assert outcome.usage.estimate_reason == "an answer too large to read"


async def test_control_characters_of_a_provider_do_not_reach_the_ledger() -> None:
    bench = Bench()
    bench.post(CHAT)
    odd = chat_answer(id="c\x00", model="m\x00")
    (await bench.provider.request()).send_json(odd)
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.provider_request_id, outcome.answered_model) == ("", "")
