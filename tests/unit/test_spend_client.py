"""The Python client of the local gRPC service: blocks that release, settle, or leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bursar.spend import AsyncSpendClient, BursarError, SpendClient, call_of, usd
from bursar.usage import Usage
from bursar.v1 import spend_pb2
from tests.fakes.desk import KEY
from tests.fakes.spending import MODEL, MOST_NANOS, Spending, spending
from tests.fakes.spending import usd as usd_nanos

USAGE = Usage(input=100, output=200)
COST_NANOS = 135_000
COUNTS: dict[str, Any] = {
    "input_llm_tokens": 1_000,
    "output_llm_tokens": 1_000,
    "text_only": True,
}
ANSWER = {"id": "c-1", "usage": {"prompt_tokens": 100, "completion_tokens": 200}}


@pytest.fixture
async def app() -> AsyncIterator[Spending]:
    async with spending() as made:
        yield made


@pytest.fixture
async def client(app: Spending) -> AsyncIterator[AsyncSpendClient]:
    async with AsyncSpendClient(app.local.address, KEY) as made:
        yield made


class ProviderDownError(Exception):
    """What an app's own call may end in."""


async def test_a_block_that_settles(app: Spending, client: AsyncSpendClient) -> None:
    assert (await client.quote(MODEL, **COUNTS)).most.nanos == MOST_NANOS
    async with client.reserve(MODEL, **COUNTS, tags=["a:b"], customer="ada") as held:
        assert held.reserved.nanos == MOST_NANOS
        assert (held.name, held.charge_id) == ("reservations/7-1", "7-1")
        assert held.output_llm_tokens == 1_000
        held.dispatched()
        receipt = await held.settle(USAGE, provider_request_id="c-1")
    assert receipt.cost.nanos == COST_NANOS
    assert held.receipt == receipt
    assert app.desk.only_outcome.provider_request_id == "c-1"
    assert (app.desk.calls[0].tags, app.desk.calls[0].customer) == (("a:b",), "ada")


async def test_a_block_that_fails_before_it_sent_anything_releases(
    app: Spending, client: AsyncSpendClient
) -> None:
    with pytest.raises(ProviderDownError):
        async with client.reserve(MODEL, **COUNTS):
            raise ProviderDownError
    assert app.desk.only_outcome.kind == "released"


async def test_a_block_that_does_nothing_releases(app: Spending, client: AsyncSpendClient) -> None:
    async with client.reserve(MODEL, **COUNTS):
        pass
    assert app.desk.only_outcome.kind == "released"


async def test_a_block_that_fails_after_it_sent_leaves_it_to_its_deadline(
    app: Spending, client: AsyncSpendClient
) -> None:
    with contextlib.suppress(ProviderDownError):
        async with client.reserve(MODEL, **COUNTS) as held:
            held.dispatched()
            raise ProviderDownError
    assert list(app.desk.open) == ["7-1"]
    app.clock.skip(61)
    app.till.sweep()
    assert app.desk.only_outcome.kind == "unknown"
    receipt = await held.settle(USAGE)
    assert (receipt.adjusted, receipt.cost.nanos) == (True, COST_NANOS)


async def test_a_release_that_fails_does_not_hide_why_the_block_did(
    app: Spending, client: AsyncSpendClient
) -> None:
    async def settle_elsewhere_and_fail() -> None:
        async with client.reserve(MODEL, **COUNTS) as held:
            await app.settle(held.name, cost=usd_nanos(5))
            raise ProviderDownError

    with pytest.raises(ProviderDownError) as caught:
        await settle_elsewhere_and_fail()
    assert "RESERVATION_SETTLED" in caught.value.__notes__[0]


async def test_a_refused_reserve_tells_why(app: Spending, client: AsyncSpendClient) -> None:
    app.desk.limit_nanos = 10
    with pytest.raises(BursarError) as caught:
        async with client.reserve(MODEL, **COUNTS):
            pytest.fail("nothing was reserved")
    assert caught.value.reason == "BUDGET_EXHAUSTED"
    assert caught.value.metadata["budget"] == "budgets/b-1"


async def test_a_field_that_is_wrong_is_named(client: AsyncSpendClient) -> None:
    with pytest.raises(BursarError) as caught:
        await client.quote(MODEL, input_llm_tokens=-1)
    (violation,) = caught.value.field_violations
    assert violation.field == "call.usage.input_llm_tokens"


async def test_the_other_ways_to_say_how_it_ended(app: Spending, client: AsyncSpendClient) -> None:
    async with client.reserve(MODEL, **COUNTS) as held:
        assert (await held.settle_answer("openai_chat", ANSWER)).cost.nanos == COST_NANOS
    async with client.reserve(MODEL, **COUNTS) as held:
        failed = await held.settle_failure(503)
    assert failed.cost.nanos == 0
    async with client.reserve(MODEL, **COUNTS) as held:
        unknown = await held.settle_unknown("the connection broke")
    assert (unknown.provisional, unknown.cost.nanos) == (True, MOST_NANOS)
    async with client.reserve(MODEL, amount=usd("0.25")) as held:
        assert held.reserved.nanos == 250_000_000
        assert (await held.settle(usd("0.1"))).cost.nanos == 100_000_000
    body = {"model": MODEL, "messages": [], "max_tokens": 10}
    async with client.reserve(path="/v1/chat/completions", body=body) as held:
        assert held.output_llm_tokens == 10
        stream = [b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}']
        told = await held.settle_answer("openai_chat", stream, broken_off=True)
    assert told.cost.nanos == 750
    assert app.desk.outcomes[-1].kind == "aborted"


async def test_an_attempt_with_an_id_may_be_repeated(
    app: Spending, client: AsyncSpendClient
) -> None:
    first = await client.reserve(MODEL, **COUNTS, request_id="attempt-7").open()
    again = await client.reserve(MODEL, **COUNTS, request_id="attempt-7").open()
    assert (first.name, first.request_id) == (again.name, "attempt-7")
    longer = await again.extend(120, output_llm_tokens=2_000)
    assert (longer.expires_in_ms, longer.reserved.nanos) == (120_000, 1_350_000)
    assert again.state == longer
    await first.release()
    assert app.desk.only_outcome.kind == "released"


async def test_the_waiting_client_does_the_same(app: Spending) -> None:
    def work() -> int:
        with SpendClient(app.local.address, KEY) as client:
            assert client.quote(MODEL, **COUNTS).most.nanos == MOST_NANOS
            with client.reserve(MODEL, **COUNTS) as held:
                held.extend(90)
                held.dispatched()
                receipt = held.settle_answer("openai_chat", ANSWER)
            with client.reserve(MODEL, **COUNTS) as unsent:
                pass
            assert unsent.receipt is not None
            assert unsent.receipt.state == spend_pb2.RESERVATION_STATE_RELEASED
            with (
                contextlib.suppress(ProviderDownError),
                client.reserve(MODEL, **COUNTS) as left,
            ):
                left.dispatched()
                raise ProviderDownError
            assert left.settle_unknown().provisional
            assert left.settle_failure(500).adjusted
            with client.reserve(MODEL, amount=usd("1")) as dear:
                dear.extend(amount=usd("2"))
                assert dear.release().cost.nanos == 0
            return receipt.cost.nanos

    assert await asyncio.to_thread(work) == COST_NANOS


@pytest.mark.parametrize(
    "ways", [{}, {"input_llm_tokens": 1, "amount": usd("1")}, {"body": {}, "amount": usd("1")}]
)
def test_a_call_is_bounded_in_one_way(ways: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one of them"):
        call_of(MODEL, **ways)


async def test_before_it_is_reserved_it_has_no_name(client: AsyncSpendClient) -> None:
    with pytest.raises(RuntimeError, match="nothing is reserved yet"):
        _ = client.reserve(MODEL, **COUNTS).name
