"""Deadlines, growth, late evidence, refusals and lives of reservations over local gRPC."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from bursar.v1 import charges_pb2, spend_pb2
from bursar_sidecar.amendments import Late
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.spending import (
    MOST_NANOS,
    USD,
    Refused,
    Spending,
    counted,
    opened,
    spending,
    usd,
)

S = spend_pb2
USAGE = charges_pb2.Usage(input_llm_tokens=100, output_llm_tokens=200)
COST_NANOS = 135_000


@pytest.fixture
async def app() -> AsyncIterator[Spending]:
    async with spending() as made:
        yield made


async def test_at_its_deadline_it_is_charged_at_what_was_reserved_and_marked(
    app: Spending,
) -> None:
    reservation = await app.reserve(hold_ms=5_000)
    app.clock.skip(4.999)
    assert app.till.sweep() == 0
    app.clock.skip(0.001)
    assert app.till.sweep() == 1
    outcome = app.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", MOST_NANOS)
    assert outcome.usage.estimate_reason == "reservation_expired"
    shown = await app.reserve(hold_ms=5_000)
    assert (shown.state, shown.reserved) == (S.RESERVATION_STATE_EXPIRED, usd(MOST_NANOS))
    with pytest.raises(Refused) as caught:
        await app.extend(reservation.name, hold_ms=1_000)
    assert caught.value.reason == "RESERVATION_EXPIRED"


async def test_the_deadline_comes_by_itself(app: Spending) -> None:
    """Without a sweep by hand: the service's own clock finds it due."""
    await app.reserve(hold_ms=1)
    app.clock.skip(1)
    await app.reserve("two", hold_ms=60_000)  # whatever changes, time is looked at
    while not app.desk.outcomes:  # noqa: ASYNC110  # nobody tells a test of it
        await asyncio.sleep(0)
    assert app.desk.outcomes[0].usage.estimate_reason == "reservation_expired"


async def test_late_evidence_adjusts_what_was_charged(app: Spending) -> None:
    reservation = await app.reserve(hold_ms=1)
    app.clock.skip(1)
    app.till.sweep()
    receipt = await app.settle(reservation.name, usage=USAGE)
    assert (receipt.cost, receipt.adjusted) == (usd(COST_NANOS), True)
    assert receipt.state == S.RESERVATION_STATE_SETTLED
    assert app.evidence.adjusted["7-1"].cost_nanos == COST_NANOS
    assert await app.settle(reservation.name, usage=USAGE) == receipt
    with pytest.raises(Refused) as caught:
        await app.settle(reservation.name, cost=usd(1))
    assert caught.value.reason == "RESERVATION_SETTLED"
    assert len(app.desk.outcomes) == 1


async def test_a_late_release_adjusts_to_nothing(app: Spending) -> None:
    reservation = await app.reserve(hold_ms=1)
    app.clock.skip(1)
    app.till.sweep()
    receipt = await app.release(reservation.name)
    assert (receipt.cost, receipt.adjusted) == (usd(0), True)
    assert receipt.usage.estimate_reason == "never sent, told after it was charged"
    assert app.evidence.adjusted["7-1"].kind == "final"


async def test_evidence_that_nobody_takes_any_more_leaves_the_charge(app: Spending) -> None:
    reservation = await app.reserve(hold_ms=1)
    app.clock.skip(1)
    app.till.sweep()
    app.evidence.taking = False
    with pytest.raises(Refused) as caught:
        await app.settle(reservation.name, usage=USAGE)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.reason == "EVIDENCE_TOO_LATE"
    app.evidence.taking = True
    assert (await app.settle(reservation.name, usage=USAGE)).adjusted


async def test_an_unknown_outcome_is_charged_provisionally_until_evidence(app: Spending) -> None:
    reservation = await app.reserve()
    unknown = S.UnknownOutcome(reason="the connection broke")
    receipt = await app.settle(reservation.name, unknown=unknown)
    assert (receipt.cost, receipt.provisional) == (usd(MOST_NANOS), True)
    assert receipt.usage.estimate_reason == "the connection broke"
    assert await app.settle(reservation.name, unknown=S.UnknownOutcome()) == receipt
    adjusted = await app.settle(reservation.name, usage=USAGE)
    assert (adjusted.cost, adjusted.adjusted) == (usd(COST_NANOS), True)


async def test_extending_moves_the_deadline_and_no_further_than_the_longest_call() -> None:
    async with spending(longest_call_s=100) as app:
        reservation = await app.reserve(hold_ms=5_000)
        longer = await app.extend(reservation.name, hold_ms=50_000)
        assert (longer.expires_in_ms, longer.state) == (50_000, S.RESERVATION_STATE_EXTENDED)
        app.clock.skip(40)
        assert (await app.extend(reservation.name, hold_ms=100_000)).expires_in_ms == 60_000
        assert app.till.sweep() == 0
        with pytest.raises(Refused) as caught:
            await app.extend(reservation.name, hold_ms=100_001)
        assert list(caught.value.fields) == ["hold_ms"]


async def test_extending_sets_more_aside_before_it_flows(app: Spending) -> None:
    reservation = await app.reserve()
    more = await app.extend(reservation.name, output_llm_tokens=2_000)
    assert (more.reserved, more.output_llm_tokens) == (usd(1_350_000), 2_000)
    less = await app.extend(reservation.name, output_llm_tokens=10)
    assert (less.reserved, less.output_llm_tokens) == (usd(1_350_000), 2_000)
    amount = await app.extend(reservation.name, amount=usd(2_000_000))
    assert amount.reserved == usd(2_000_000)
    app.clock.skip(61)
    app.till.sweep()
    assert app.desk.only_outcome.cost_nanos == 2_000_000


async def test_an_answer_without_usage_is_charged_at_the_grown_bounds(app: Spending) -> None:
    reservation = await app.reserve()
    await app.extend(reservation.name, output_llm_tokens=2_000)
    answer = S.ProviderAnswer(dialect="openai_chat", body=b"{}")
    assert (await app.settle(reservation.name, answer=answer)).cost == usd(1_350_000)


async def test_growth_that_does_not_fit_leaves_all_as_it_was(app: Spending) -> None:
    app.desk.limit_nanos = MOST_NANOS
    reservation = await app.reserve()
    with pytest.raises(Refused) as caught:
        await app.extend(reservation.name, amount=usd(USD), hold_ms=100_000)
    assert caught.value.reason == "BUDGET_EXHAUSTED"
    again = await app.reserve()
    assert (again.reserved, again.expires_in_ms) == (usd(MOST_NANOS), 60_000)


async def test_less_may_be_reserved_where_less_is_worth_having(app: Spending) -> None:
    app.desk.limit_nanos = 450_000  # its input, and half of its output
    with pytest.raises(Refused):
        await app.reserve()
    reservation = await app.reserve(least_output_llm_tokens=100)
    assert (reservation.reserved, reservation.output_llm_tokens) == (usd(450_000), 500)


# -- refusals, lives -------------------------------------------------------------------------------


async def test_an_exhausted_budget_is_named_and_no_retry_is_offered(app: Spending) -> None:
    app.desk.limit_nanos = 10
    with pytest.raises(Refused) as caught:
        await app.reserve()
    refused = caught.value
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.reason, refused.retry_ms) == ("BUDGET_EXHAUSTED", None)
    assert refused.budgets == ["budgets/b-1"]
    assert refused.metadata["budget"] == "budgets/b-1"
    assert refused.metadata["limit"] == "0.00000001"
    assert refused.metadata["call_ceiling"] == "0.00075"
    assert "0.00000001 of 0.00000001 USD left" in refused.message


async def test_a_reserved_budget_says_when_to_try_again(app: Spending) -> None:
    app.desk.limit_nanos = MOST_NANOS
    await app.reserve()
    with pytest.raises(Refused) as caught:
        await app.reserve("two")
    assert (caught.value.reason, caught.value.retry_ms) == ("BUDGET_RESERVED", 1_500)


async def test_only_so_many_reservations_may_be_open() -> None:
    async with spending(max_reservations=2) as app:
        first = await app.reserve("one")
        await app.reserve("two")
        with pytest.raises(Refused) as caught:
            await app.reserve("three")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert caught.value.reason == "OVERLOADED"
        assert caught.value.retry_ms == 1_000
        await app.release(first.name)
        await app.reserve("three")


async def test_an_unpriced_model_is_refused_under_a_budget_and_free_without() -> None:
    call = counted(provider="mine", model="my-model", amount=usd(USD))
    async with spending() as app:
        with pytest.raises(Refused) as caught:
            await app.reserve(call=call)
        assert caught.value.reason == "MODEL_UNPRICED"
    async with spending(FakeDesk(None)) as app:
        reservation = await app.reserve(call=call)
        receipt = await app.settle(reservation.name, usage=USAGE)
        assert receipt.cost == usd(USD), "what nobody can price is charged as it was reserved"


async def test_a_key_may_call_only_its_models() -> None:
    async with spending(FakeDesk(spenders={KEY: spender(allowed_models=("gpt-4o",))})) as app:
        with pytest.raises(Refused) as caught:
            await app.reserve()
        assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.reason == "MODEL_NOT_ALLOWED"


async def test_what_an_earlier_life_left_can_be_settled_late() -> None:
    desk = FakeDesk(spenders={KEY: spender(), "bk-other": spender()})
    left = {"3-9": Late("3-9", opened("old-attempt", MOST_NANOS))}
    async with spending(desk, recovered=left) as app:
        with pytest.raises(Refused) as caught:
            await app.reserve("old-attempt")
        assert caught.value.reason == "RESERVATION_INTERRUPTED"
        assert caught.value.metadata == {"reservation": "reservations/3-9"}
        receipt = await app.settle("reservations/3-9", usage=USAGE)
        assert (receipt.cost, receipt.adjusted) == (usd(COST_NANOS), True)
        assert receipt.reserved == usd(MOST_NANOS)
        assert app.evidence.adjusted["3-9"].cost_nanos == COST_NANOS
        assert await app.settle("reservations/3-9", usage=USAGE) == receipt
        with pytest.raises(Refused) as caught:
            await app.settle("reservations/3-8", usage=USAGE)
        assert caught.value.reason == "RESERVATION_NOT_FOUND"


async def test_only_the_key_that_reserved_finds_what_an_earlier_life_left() -> None:
    left = {"3-9": Late("3-9", opened("old-attempt", MOST_NANOS, key_id=99))}
    async with spending(recovered=left) as app:
        with pytest.raises(Refused) as caught:
            await app.settle("reservations/3-9", usage=USAGE)
        assert caught.value.reason == "RESERVATION_NOT_FOUND"


async def test_what_is_open_at_the_end_is_charged_and_marked() -> None:
    desk = FakeDesk()
    async with spending(desk) as app:
        await app.reserve()
    outcome = desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", MOST_NANOS)
    assert outcome.usage.estimate_reason == "sidecar_stopped"


async def test_a_drain_refuses_new_ones_and_waits_for_last_words() -> None:
    async with spending(drain_s=60) as app:
        reservation = await app.reserve()
        draining = asyncio.create_task(app.till.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as caught:
            await app.reserve("two")
        assert caught.value.reason == "DRAINING"
        assert not draining.done()
        await app.settle(reservation.name, usage=USAGE)
        await draining
    assert app.desk.only_outcome.cost_nanos == COST_NANOS


async def test_what_happened_is_counted(app: Spending) -> None:
    one, two = await app.reserve("one"), await app.reserve("two", hold_ms=1)
    three = await app.reserve("three")
    await app.settle(one.name, usage=USAGE)
    app.clock.skip(1)
    app.till.sweep()
    await app.settle(two.name, usage=USAGE)

    def value(name: str, **labels: str) -> float | None:
        return app.registry.get_sample_value(name, labels)

    assert value("bursar_sidecar_reservations_open") == 1
    assert value("bursar_sidecar_reservations_ended_total", state="expired") == 1
    assert value("bursar_sidecar_reservations_ended_total", state="adjusted") == 1
    assert value("bursar_sidecar_spend_commands_total", verb="settle", outcome="ok") == 2
    await app.release(three.name)
    assert value("bursar_sidecar_reservations_open") == 0
