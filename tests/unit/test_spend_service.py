"""The verbs of the local gRPC service, over a desk in memory and a real gRPC connection."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bursar.v1 import charges_pb2, spend_pb2
from bursar_sidecar.settings import Provider
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.spending import (
    MODEL,
    MOST_NANOS,
    USD,
    Refused,
    Spending,
    counted,
    spending,
    usd,
)

S = spend_pb2
USAGE = charges_pb2.Usage(input_llm_tokens=100, output_llm_tokens=200)
COST_NANOS = 135_000
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 100,
    "user": "ada",
    "tags": ["a:b"],
}
ANSWER = {
    "id": "c-1",
    "model": MODEL,
    "usage": {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300},
}


@pytest.fixture
async def app() -> AsyncIterator[Spending]:
    async with spending() as made:
        yield made


def requested(body: dict[str, Any] | bytes = CHAT, **fields: Any) -> spend_pb2.SpendCall:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = fields.pop("path", "/v1/chat/completions")
    return S.SpendCall(request=S.ProviderRequest(path=path, body=data), **fields)


async def test_a_call_is_reserved_and_settled_at_its_cost(app: Spending) -> None:
    reservation = await app.reserve()
    assert (reservation.name, reservation.charge_id) == ("reservations/7-1", "7-1")
    assert reservation.state == S.RESERVATION_STATE_RESERVED
    assert reservation.reserved == usd(MOST_NANOS)
    assert (reservation.expires_in_ms, reservation.output_llm_tokens) == (60_000, 1_000)
    deadline_ns = app.clock.wall_ns() + 60_000_000_000
    assert reservation.expire_time.ToNanoseconds() == deadline_ns
    receipt = await app.settle(reservation.name, usage=USAGE, provider_request_id="c-1")
    assert receipt.cost == usd(COST_NANOS)
    assert receipt.reserved == usd(MOST_NANOS)
    assert receipt.state == S.RESERVATION_STATE_SETTLED
    assert (receipt.provisional, receipt.adjusted, receipt.usage) == (False, False, USAGE)
    assert receipt.budget_remaining == usd(10**12 - COST_NANOS)
    outcome = app.desk.only_outcome
    assert (outcome.kind, outcome.provider_request_id) == ("final", "c-1")
    assert outcome.priced_as == f"openai/{MODEL}"


async def test_a_quote_is_what_would_be_reserved_and_changes_nothing(app: Spending) -> None:
    quote = await app.quote()
    assert quote.most == usd(MOST_NANOS)
    assert (quote.provider, quote.model, quote.budgeted) == ("openai", MODEL, True)
    assert (quote.input_llm_tokens, quote.output_llm_tokens) == (1_000, 1_000)
    assert not app.desk.calls
    assert (await app.reserve()).reserved == quote.most


async def test_labels_and_identity_travel_with_the_call() -> None:
    desk = FakeDesk(spenders={KEY: spender(tags=("t:1",))})
    async with spending(desk) as app:
        call = counted(tags=["a:b"], customer="ada", run="r1", app="batch/1", stream=True)
        await app.reserve(call=call)
    (made,) = desk.calls
    assert made.tags == ("t:1", "a:b")
    assert (made.customer, made.run, made.app, made.stream) == ("ada", "r1", "batch/1", True)
    assert made.request_id == "attempt-1"
    assert made.requested_model == MODEL


async def test_a_request_is_read_as_if_it_were_forwarded(app: Spending) -> None:
    quote = await app.quote(requested())
    assert quote.output_llm_tokens == 100
    reservation = await app.reserve(call=requested(tags=["c:d"], customer="bob"))
    assert reservation.output_llm_tokens == 100
    (made,) = app.desk.calls
    assert (made.tags, made.customer) == (("a:b", "c:d"), "bob")
    assert made.app.startswith("grpc-python")


async def test_embeddings_are_reserved_by_their_input(app: Spending) -> None:
    body = {"model": "text-embedding-3-small", "input": "x" * 1_000}
    quote = await app.quote(requested(body, path="/v1/embeddings"))
    assert quote.output_llm_tokens == 0
    assert quote.most.nanos > 0


async def test_an_amount_is_reserved_as_it_is_said(app: Spending) -> None:
    reservation = await app.reserve(call=counted(amount=usd(2 * USD)))
    assert reservation.reserved == usd(2 * USD)
    receipt = await app.settle(reservation.name, cost=usd(USD))
    assert receipt.cost == usd(USD)
    assert receipt.usage.estimate_reason == "cost told by the app"


async def test_a_model_of_an_unconfigured_provider_is_priced_by_the_list(app: Spending) -> None:
    call = counted(provider="anthropic", model="claude-haiku-4-5")
    quote = await app.quote(call)
    assert (quote.provider, quote.most.nanos > MOST_NANOS) == ("anthropic", True)
    named = await app.quote(counted(model="anthropic/claude-haiku-4-5"))
    assert (named.provider, named.most) == ("anthropic", quote.most)


async def test_a_request_in_a_providers_words_is_bought_from_it(app: Spending) -> None:
    body: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}
    call = requested(body, path="/v1beta/models/gemini-2.5-flash:generateContent")
    assert (await app.quote(call)).provider == "gemini"
    message = [{"role": "user", "content": "hi"}]
    body = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": message}
    quote = await app.quote(requested(body, path="/v1/messages"))
    assert (quote.provider, quote.output_llm_tokens) == ("anthropic", 100)
    google = Provider("google", "http://provider.test/v1beta", kind="gemini")
    async with spending(providers=(google,)) as other:
        assert (await other.quote(call)).provider == "google"


async def test_the_providers_answer_is_read_by_us(app: Spending) -> None:
    reservation = await app.reserve()
    answer = S.ProviderAnswer(dialect="openai_chat", body=json.dumps(ANSWER).encode())
    receipt = await app.settle(reservation.name, answer=answer)
    assert receipt.cost == usd(COST_NANOS)
    assert app.desk.only_outcome.provider_request_id == "c-1"


async def test_the_events_of_a_stream_are_read_by_us(app: Spending) -> None:
    reservation = await app.reserve()
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    events = [
        json.dumps({"id": "c-1", "model": MODEL, "choices": [choice]}).encode(),
        json.dumps({**ANSWER, "choices": []}).encode(),
        b"[DONE]",
    ]
    answer = S.ProviderAnswer(dialect="openai_chat", events=events)
    receipt = await app.settle(reservation.name, answer=answer)
    assert (receipt.cost, receipt.usage.estimate_reason) == (usd(COST_NANOS), "")


async def test_an_answer_without_usage_is_charged_at_its_bounds(app: Spending) -> None:
    reservation = await app.reserve()
    answer = S.ProviderAnswer(dialect="openai_chat", body=b"{}")
    receipt = await app.settle(reservation.name, answer=answer)
    assert receipt.cost == usd(MOST_NANOS)
    assert receipt.usage.estimate_reason
    amount = await app.reserve("two", counted(amount=usd(USD)))
    receipt = await app.settle(amount.name, answer=answer)
    assert receipt.cost == usd(USD), "without bounds an estimate is worth the whole amount"
    assert not receipt.provisional


async def test_a_cost_above_the_reservation_posts_in_full(app: Spending) -> None:
    one = await app.reserve("one")
    usage = charges_pb2.Usage(input_llm_tokens=10**6, output_llm_tokens=10**6)
    assert (await app.settle(one.name, usage=usage)).cost == usd(750_000_000)
    two = await app.reserve("two")
    assert (await app.settle(two.name, cost=usd(5 * USD))).cost == usd(5 * USD)


async def test_an_estimate_refunds_no_more_than_was_reserved(app: Spending) -> None:
    reservation = await app.reserve()
    usage = charges_pb2.Usage(output_llm_tokens=10**6, estimate_reason="counted by hand")
    receipt = await app.settle(reservation.name, usage=usage)
    assert receipt.cost == usd(MOST_NANOS)


async def test_a_call_that_broke_off_is_marked(app: Spending) -> None:
    reservation = await app.reserve()
    await app.settle(reservation.name, usage=USAGE, broken_off=True)
    assert app.desk.only_outcome.kind == "aborted"


async def test_the_price_follows_the_model_that_answered(app: Spending) -> None:
    reservation = await app.reserve()
    receipt = await app.settle(reservation.name, usage=USAGE, answered_model="gpt-4o")
    assert receipt.cost == usd(2_250_000)


async def test_a_failed_call_costs_nothing(app: Spending) -> None:
    reservation = await app.reserve()
    failure = S.ProviderFailure(http_status=503)
    receipt = await app.settle(reservation.name, failure=failure)
    assert (receipt.cost, receipt.state) == (usd(0), S.RESERVATION_STATE_SETTLED)
    outcome = app.desk.only_outcome
    assert (outcome.kind, outcome.http_status) == ("provider_error", 503)


async def test_a_call_that_was_never_sent_costs_nothing(app: Spending) -> None:
    reservation = await app.reserve()
    receipt = await app.release(reservation.name)
    assert (receipt.cost, receipt.state) == (usd(0), S.RESERVATION_STATE_RELEASED)
    assert app.desk.only_outcome.kind == "released"
    assert await app.release(reservation.name) == receipt


# -- idempotency ---------------------------------------------------------------------------------


async def test_a_repeated_reserve_is_the_same_reservation(app: Spending) -> None:
    first = await app.reserve()
    assert await app.reserve() == first
    assert len(app.desk.calls) == 1
    await app.settle(first.name, usage=USAGE)
    again = await app.reserve()
    assert (again.name, again.state) == (first.name, S.RESERVATION_STATE_SETTLED)
    assert len(app.desk.calls) == 1


async def test_an_id_with_another_content_is_refused(app: Spending) -> None:
    await app.reserve()
    with pytest.raises(Refused) as caught:
        await app.reserve(call=counted(customer="somebody else"))
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert caught.value.reason == "REQUEST_ID_REUSED"


class SlowDesk(FakeDesk):
    """Reserves when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        self.left = asyncio.Event()

    async def reserve(self, call: Any) -> Any:
        self.asked.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await super().reserve(call)


async def test_simultaneous_repeats_reserve_once() -> None:
    desk = SlowDesk()
    async with spending(desk) as app:
        asking = [asyncio.create_task(app.reserve()) for _ in range(5)]
        await desk.asked.wait()
        asking[0].cancel()
        desk.let.set()
        found = {(await each).name for each in asking[1:]}
    assert found == {"reservations/7-1"}
    assert len(desk.calls) == 1


async def test_one_of_several_who_leaves_takes_no_other_along() -> None:
    desk = SlowDesk()
    async with spending(desk) as app:
        request = S.ReserveRequest(request_id="attempt-1", call=counted())
        first = asyncio.create_task(app.till.reserve(KEY, "", request))
        await desk.asked.wait()
        second = asyncio.create_task(app.till.reserve(KEY, "", request))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        desk.let.set()
        assert (await second).name == "reservations/7-1"
    assert not desk.left.is_set()


async def test_who_leaves_while_it_waits_for_money_reserves_nothing() -> None:
    desk = SlowDesk()
    async with spending(desk) as app:
        asking = asyncio.create_task(app.reserve())
        await desk.asked.wait()
        asking.cancel()
        await desk.left.wait()
        desk.let.set()
        reservation = await app.reserve()
        assert reservation.state == S.RESERVATION_STATE_RESERVED
    assert len(desk.calls) == 1


async def test_a_refused_reserve_may_be_tried_again(app: Spending) -> None:
    app.desk.limit_nanos = 10
    with pytest.raises(Refused):
        await app.reserve()
    app.desk.limit_nanos = 10**12
    assert (await app.reserve()).state == S.RESERVATION_STATE_RESERVED


async def test_the_same_last_word_is_answered_the_same_and_another_is_refused(
    app: Spending,
) -> None:
    reservation = await app.reserve()
    first = await app.settle(reservation.name, usage=USAGE)
    assert await app.settle(reservation.name, usage=USAGE) == first
    for another in (
        app.settle(reservation.name, cost=usd(1)),
        app.release(reservation.name),
        app.extend(reservation.name, hold_ms=10),
    ):
        with pytest.raises(Refused) as caught:
            await another
        assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.reason == "RESERVATION_SETTLED"
    assert app.desk.settled_nanos == COST_NANOS


async def test_after_a_release_nothing_is_charged(app: Spending) -> None:
    reservation = await app.reserve()
    await app.release(reservation.name)
    with pytest.raises(Refused) as caught:
        await app.settle(reservation.name, usage=USAGE)
    assert caught.value.reason == "RESERVATION_RELEASED"
    assert app.desk.settled_nanos == 0


async def test_another_key_can_say_nothing_about_it() -> None:
    desk = FakeDesk(spenders={KEY: spender(), "bk-other": spender()})
    async with spending(desk) as app:
        reservation = await app.reserve()
        with pytest.raises(Refused) as caught:
            await app.settle(reservation.name, key="bk-other", usage=USAGE)
        assert caught.value.code is grpc.StatusCode.NOT_FOUND
        assert caught.value.reason == "RESERVATION_NOT_FOUND"
        assert (await app.reserve(key="bk-other")).name != reservation.name


async def test_a_revoked_key_may_still_say_what_its_call_used(app: Spending) -> None:
    reservation = await app.reserve()
    del app.desk.spenders[KEY]
    with pytest.raises(Refused) as caught:
        await app.reserve("two")
    assert caught.value.reason == "KEY_UNKNOWN"
    assert (await app.settle(reservation.name, usage=USAGE)).cost == usd(COST_NANOS)
