"""The desk over a control plane in memory: who is admitted, who waits, who is refused and why."""

import asyncio
from pathlib import Path

import pytest

from bursar.usage import Usage
from bursar.v1 import allowances_pb2, charges_pb2
from bursar_sidecar import cashier
from bursar_sidecar.desk import Outcome, Refusal
from bursar_sidecar.journal_limits import JournalLimits
from tests.fakes.control_plane import (
    ORGANIZATION_ID,
    PLATFORM_ID,
    SOFT,
    FakeControlPlane,
    Stream,
)
from tests.fakes.control_plane import Session as FakeSession
from tests.fakes.counter import KEY, Counter, serving


async def refusal_of(counter: Counter, ceiling_nanos: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await counter.cashier.reserve(await counter.call(ceiling_nanos))
    return caught.value


async def test_a_call_is_admitted_settled_and_posted_once(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await counter.call(100)
    reservation = await counter.cashier.reserve(call)
    epoch = plane.live().epoch
    assert (reservation.charge_id, reservation.ceiling_nanos) == (f"{epoch}-1", 100)
    receipt = counter.cashier.settle(reservation, counter.outcome(30))
    assert receipt.cost_nanos == 30
    assert receipt.currency == "USD"
    assert receipt.budget_remaining_nanos == 970
    await plane.until(lambda: plane.ledger, "the settlement is posted")
    settlement = plane.ledger[epoch, 1]
    assert settlement.kind == charges_pb2.SETTLEMENT_KIND_FINAL
    assert list(settlement.budget_window_ids) == [10]
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (100, 30)
    assert (settlement.key_id, settlement.customer, settlement.run) == (7, "ada", "r1")
    assert (settlement.usage.input_llm_tokens, settlement.usage.output_llm_tokens) == (8, 68)
    assert settlement.admit_time.ToNanoseconds() == call.started_at
    priced = (settlement.service_tier, settlement.region, settlement.priced_as)
    assert priced == ("flex", "eu", "openai/gpt-4o-mini")


async def test_admission_from_held_money_does_not_suspend(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    await counter.spend(100, 30)
    call = await counter.call(100)
    reserving = counter.cashier.reserve(call)
    with pytest.raises(StopIteration) as done:
        reserving.send(None)
    assert done.value.value.ceiling_nanos == 100


async def test_the_spender_is_who_the_key_says(counter: Counter) -> None:
    spender = await counter.identify()
    assert spender.organization == "organizations/acme"
    assert (spender.organization_id, spender.key, spender.key_id) == (
        ORGANIZATION_ID,
        "keys/k-7",
        7,
    )
    assert (spender.team_id, spender.team, spender.tags) == (3, "teams/search", ("t:1",))


async def test_an_unknown_key_is_asked_about_once(
    plane: FakeControlPlane, counter: Counter
) -> None:
    for _ in range(3):
        with pytest.raises(Refusal) as caught:
            await counter.identify("bk-nobody")
        assert caught.value.reason == "key_unknown"
    assert sum(len(frame.resolve_keys) for frame in plane.frames) == 1


async def test_who_asked_first_and_gave_up_takes_no_other_along(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counter.identify()
    plane.add_key("bk-late", 8)
    answer, asks = plane._answer_key, []

    def lose_the_first(stream: Stream, session: FakeSession, key_hash: bytes) -> None:
        asks.append(key_hash)
        if len(asks) > 1:
            answer(stream, session, key_hash)

    monkeypatch.setattr(plane, "_answer_key", lose_the_first)
    monkeypatch.setattr(cashier, "RESOLVE_WAIT_S", 0.5)
    first = asyncio.create_task(counter.identify("bk-late"))
    await plane.until(lambda: asks, "the key is asked about")
    monkeypatch.setattr(cashier, "RESOLVE_WAIT_S", 60)
    second = asyncio.create_task(counter.identify("bk-late"))
    with pytest.raises(Refusal) as caught:
        await first
    assert caught.value.reason == "no_allowance"
    assert (await second).key_id == 8
    assert len(asks) == 2


@pytest.mark.parametrize("api_key", ["", "k" * 513])
async def test_what_can_be_no_key_is_not_asked_about(
    plane: FakeControlPlane, counter: Counter, api_key: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await counter.identify(api_key)
    assert caught.value.reason == "key_unknown"
    assert not any(frame.resolve_keys for frame in plane.frames)


async def test_a_revoked_key_stops_also_where_it_was_identified_before(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await counter.call(10)
    plane.revoke(KEY)
    plane.say(policy=allowances_pb2.PolicyDelta(policy_version=4))
    await plane.until(
        lambda: any(f.policy_ack.policy_version == 4 for f in plane.frames), "it was heard"
    )
    with pytest.raises(Refusal) as caught:
        await counter.cashier.reserve(call)
    assert caught.value.reason == "key_revoked"


async def test_a_key_revoked_while_its_call_waits_is_refused(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.judging = False
    waiting = asyncio.create_task(refusal_of(counter, 100))
    await plane.until(lambda: plane.waiting, "the need arrived")
    plane.revoke(KEY)
    assert (await waiting).reason == "key_revoked"
    await plane.until(lambda: not plane.waiting, "the need was withdrawn")


async def test_an_exhausted_budget_refuses_with_its_standing(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(800, 800)
    await plane.until(lambda: plane.settled(1) == 800, "the settlement is posted")
    refusal = await refusal_of(counter, 300)
    assert refusal.reason == "budget_exhausted"
    assert refusal.retry_after_s == 60
    (standing,) = refusal.budgets
    assert (standing.name, standing.scope) == ("budgets/b-1", "organizations/acme")
    assert (standing.limit_nanos, standing.settled_nanos) == (1_000, 800)
    assert standing.currency == "USD"


async def test_a_refusal_is_remembered_for_equal_and_larger_calls_alone(
    plane: FakeControlPlane, counter: Counter
) -> None:
    refusals = [await refusal_of(counter, 1_001)]
    needs = sum(len(frame.needs) for frame in plane.frames)
    refusals.append(await refusal_of(counter, 1_001))
    refusals.append(await refusal_of(counter, 5_000))
    assert [r.reason for r in refusals] == ["budget_exhausted"] * 3
    assert refusals[0].budgets == refusals[1].budgets
    assert sum(len(frame.needs) for frame in plane.frames) == needs
    await counter.spend(1_000, 1)


async def test_a_raised_limit_ends_the_memory(plane: FakeControlPlane, counter: Counter) -> None:
    assert (await refusal_of(counter, 2_000)).reason == "budget_exhausted"
    policy = plane.add_budget(1, 5_000)
    plane.say(policy=allowances_pb2.PolicyDelta(policy_version=5, budgets=[policy]))
    await plane.until(
        lambda: any(f.policy_ack.policy_version == 5 for f in plane.frames), "it was heard"
    )
    await counter.spend(2_000, 1)


async def test_a_call_waits_for_money_in_flight(plane: FakeControlPlane, counter: Counter) -> None:
    running = await counter.cashier.reserve(await counter.call(700))
    waiting = asyncio.create_task(counter.spend(600, 1))
    await plane.until(lambda: plane.waiting, "the need arrived")
    counter.cashier.settle(running, counter.outcome(100))
    await waiting
    assert counter.book.waiters == {}


async def test_money_that_stays_in_flight_refuses_as_reserved(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=250)) as counter:
        await counter.cashier.reserve(await counter.call(700))
        waiting = asyncio.create_task(refusal_of(counter, 600))
        await plane.until(lambda: plane.waiting, "the need arrived")
        plane.contend()
        refusal = await waiting
    assert (refusal.reason, refusal.retry_after_s) == ("budget_reserved", 1.5)
    assert refusal.budgets[0].reserved_nanos == 700


async def test_without_any_answer_the_wait_ends_all_the_same(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.judging = False
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=100)) as counter:
        refusal = await refusal_of(counter, 600)
        assert refusal.reason == "budget_reserved"
        assert counter.book.waiters == {}
        plane.accepting = False
        plane.cut()
        await plane.until(lambda: plane.turned_away, "the stream is gone")
        refusal = await refusal_of(counter, 600)
    assert refusal.reason == "no_allowance"


async def test_a_cancelled_wait_leaves_nothing_reserved(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.judging = False
    waiting = asyncio.create_task(counter.spend(600, 1))
    await plane.until(lambda: plane.waiting, "the need arrived")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert counter.book.waiters == {}
    assert counter.journal.open_calls == 0
    await plane.until(lambda: not plane.waiting, "the need was withdrawn")


async def test_cancelled_between_admission_and_its_news_a_call_is_released(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.identify()
    plane.judging = False
    waiting = asyncio.create_task(counter.spend(600, 1))
    await plane.until(lambda: plane.waiting, "the need arrived")
    admitted = counter.cashier.admitted

    def admit_and_cancel(waiter: object) -> None:
        admitted(waiter)  # type: ignore[arg-type]  # passed through
        waiting.cancel()

    counter.cashier.admitted = admit_and_cancel  # type: ignore[method-assign]  # a probe
    plane.judging = True
    plane.judge()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await plane.until(lambda: plane.ledger, "it was posted")
    (settlement,) = plane.ledger.values()
    assert settlement.kind == charges_pb2.SETTLEMENT_KIND_RELEASED
    assert settlement.cost_nanos == 0


async def test_a_removed_budget_stops_holding_calls(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.add_budget(2, 10)
    plane.tell_policy()
    plane.judging = False
    waiting = asyncio.create_task(counter.spend(600, 1))
    await plane.until(lambda: plane.waiting, "the need arrived")
    plane.remove_budget(2)
    plane.judging = True
    await waiting


async def test_a_soft_budget_is_named_and_never_refuses(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.add_budget(2, 10, hard=SOFT)
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        await counter.spend(300, 300)
        await plane.until(lambda: plane.ledger, "it was posted")
        (settlement,) = plane.ledger.values()
        assert list(settlement.budget_window_ids) == [10, 20]


async def test_only_matching_budgets_apply(plane: FakeControlPlane, tmp_path: Path) -> None:
    plane.add_budget(2, 0, models=("claude-*",))
    plane.add_budget(3, 0, providers=("azure",))
    team = allowances_pb2.SCOPE_KIND_TEAM
    plane.add_budget(4, 500, scope_kind=team, scope_id=3)
    plane.add_budget(5, 0, scope_kind=team, scope_id=4)
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        spender = await counter.identify()
        assert counter.cashier.is_budgeted(spender, "openai", "gpt-4o-mini")
        await counter.spend(300, 300)
        await plane.until(lambda: plane.ledger, "it was posted")
        (settlement,) = plane.ledger.values()
        assert list(settlement.budget_window_ids) == [10, 40]


async def test_platform_budgets_take_a_second_reservation(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.add_budget(9, 400, scope_kind=allowances_pb2.SCOPE_KIND_PLATFORM, scope_id=PLATFORM_ID)
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        await counter.spend(300, 200)
        await plane.until(lambda: len(plane.ledger) == 2, "both were posted")
        windows = {
            plane.sessions[epoch].organization_id: list(settlement.budget_window_ids)
            for (epoch, _n), settlement in plane.ledger.items()
        }
        assert windows == {ORGANIZATION_ID: [10], PLATFORM_ID: [90]}
        refusal = await refusal_of(counter, 300)
        assert [b.name for b in refusal.budgets] == ["budgets/b-9"]


async def test_a_platform_budget_in_another_currency_is_not_passed_by(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.platform_currency = "EUR"
    plane.add_budget(9, 400, scope_kind=allowances_pb2.SCOPE_KIND_PLATFORM, scope_id=PLATFORM_ID)
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        refusal = await refusal_of(counter, 300)
        assert refusal.reason == "no_allowance"
        assert "in EUR, the organization's books are in USD" in refusal.message


async def test_a_call_under_no_budget_is_admitted_and_posted(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.budgets.clear()
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        spender = await counter.identify()
        assert not counter.cashier.is_budgeted(spender, "openai", "gpt-4o-mini")
        reservation = await counter.cashier.reserve(await counter.call(10**30))
        assert reservation.ceiling_nanos == 10**18
        receipt = counter.cashier.settle(reservation, counter.outcome(5))
        assert receipt.budget_remaining_nanos is None
        await plane.until(lambda: plane.ledger, "it was posted")


@pytest.mark.parametrize(
    ("kind", "posted", "cost", "reason"),
    [
        ("final", charges_pb2.SETTLEMENT_KIND_FINAL, 40, ""),
        ("aborted", charges_pb2.SETTLEMENT_KIND_FINAL, 40, "aborted"),
        ("unknown", charges_pb2.SETTLEMENT_KIND_PROVISIONAL, 40, ""),
        ("provider_error", charges_pb2.SETTLEMENT_KIND_FINAL, 0, ""),
        ("released", charges_pb2.SETTLEMENT_KIND_RELEASED, 0, ""),
    ],
)
async def test_each_way_to_end_is_posted_as_what_it_is(
    plane: FakeControlPlane, counter: Counter, kind: str, posted: int, cost: int, reason: str
) -> None:
    reservation = await counter.cashier.reserve(await counter.call(100))
    outcome = Outcome(kind=kind, usage=Usage(input=8, output=2), cost_nanos=40)  # type: ignore[arg-type]  # of the list above
    assert counter.cashier.settle(reservation, outcome).cost_nanos == cost
    await plane.until(lambda: plane.ledger, "it was posted")
    (settlement,) = plane.ledger.values()
    assert (settlement.kind, settlement.cost_nanos) == (posted, cost)
    assert settlement.usage.estimate_reason == reason


async def test_a_second_settlement_is_a_fault(counter: Counter) -> None:
    reservation = await counter.cashier.reserve(await counter.call(100))
    with pytest.raises(ValueError, match="cost_nanos is -1"):
        counter.cashier.settle(reservation, counter.outcome(-1))
    counter.cashier.settle(reservation, counter.outcome(1))
    with pytest.raises(ValueError, match="settled already"):
        counter.cashier.settle(reservation, counter.outcome(1))


async def test_labels_no_database_stores_are_made_storable(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await counter.call(100)
    odd = type(call)(
        **{
            **{name: getattr(call, name) for name in call.__struct_fields__},
            "customer": "a\x00b\ud800" + "c" * 300,
            "tags": tuple(f"n:{n}" for n in range(80)),
        }
    )
    reservation = await counter.cashier.reserve(odd)
    counter.cashier.settle(reservation, counter.outcome(1))
    await plane.until(lambda: plane.ledger, "it was posted")
    (settlement,) = plane.ledger.values()
    assert settlement.customer == ("a\N{REPLACEMENT CHARACTER}b?" + "c" * 300)[:256]
    assert len(settlement.tags) == 64


async def test_a_full_journal_stops_admission(plane: FakeControlPlane, tmp_path: Path) -> None:
    limits = JournalLimits(open_calls=1)
    async with serving(Counter(plane.dial, tmp_path, limits=limits)) as counter:
        plane.extra_nanos = 500
        running = await counter.cashier.reserve(await counter.call(100))
        refusal = await refusal_of(counter, 100)
        assert (refusal.reason, refusal.message[:12]) == ("overloaded", "journal_full")
        counter.cashier.settle(running, counter.outcome(1))
        again = await counter.cashier.reserve(await counter.call(100))
        assert again.charge_id.endswith("-2")


async def test_an_overrun_is_settled_in_full(plane: FakeControlPlane, counter: Counter) -> None:
    await counter.spend(100, 150)
    assert counter.cashier.overrun_count == 1
    await plane.until(lambda: plane.settled(1) == 150, "all of it was posted")
    await counter.spend(100, 10)


async def test_while_it_shuts_down_nothing_is_admitted(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await counter.call(100)
    plane.judging = False
    waiting = asyncio.create_task(refusal_of(counter, 100))
    await plane.until(lambda: plane.waiting, "the need arrived")
    draining = asyncio.create_task(counter.cashier.drain(1, 5))
    assert (await waiting).reason == "overloaded"
    assert await draining
    with pytest.raises(Refusal) as caught:
        await counter.cashier.reserve(call)
    assert caught.value.reason == "overloaded"
    assert counter.cashier.readiness() == "draining"


async def test_more_budgets_than_can_be_counted_are_not_left_out(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    for budget_id in range(2, 66):
        plane.add_budget(budget_id, 1_000)
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        refusal = await refusal_of(counter, 10)
        assert refusal.reason == "no_allowance"
        assert "65 budgets apply" in refusal.message
