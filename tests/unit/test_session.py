"""The session: what is said again after a break, what a crash leaves, when validity lapses."""

import asyncio
from pathlib import Path

import pytest

from bursar.pricing import llm_token_price
from bursar.v1 import allowances_pb2, charges_pb2
from bursar.wire import price_to_proto
from bursar_sidecar import settlements
from bursar_sidecar.desk import Refusal
from tests.fakes.control_plane import ORGANIZATION_ID, PLATFORM_ID, FakeControlPlane
from tests.fakes.counter import KEY, Counter, serving


@pytest.fixture
def plane() -> FakeControlPlane:
    plane = FakeControlPlane()
    plane.add_key(KEY, 7)
    plane.add_budget(1, 1_000)
    return plane


async def heard(plane: FakeControlPlane) -> None:
    """Wait until everything said so far was heard: the acknowledgement of one more word."""
    version = 1_000 + len(plane.frames)
    plane.say(policy=allowances_pb2.PolicyDelta(policy_version=version))
    await plane.until(
        lambda: any(frame.policy_ack.policy_version == version for frame in plane.frames),
        "it was heard",
    )


async def reason_of(counter: Counter, ceiling_nanos: int = 1) -> str:
    """Why a call is refused; "" if it is not."""
    try:
        reservation = await counter.cashier.reserve(await counter.call(ceiling_nanos))
    except Refusal as refusal:
        return refusal.reason
    counter.cashier.settle(reservation, counter.outcome(0))
    return ""


async def test_hello_says_who_is_here(plane: FakeControlPlane, counter: Counter) -> None:
    await counter.identify()
    (hello,) = plane.hellos
    assert hello.build == "test/1"
    assert len(hello.boot_id) == 32
    assert hello.price_snapshot_version.startswith("builtin-")


async def test_what_was_not_applied_is_said_again_once(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    await counter.spend(100, 10)
    await plane.until(lambda: plane.ledger, "the first is posted")
    plane.applying = False
    for _ in range(3):
        await counter.spend(100, 10)
    epoch = plane.live().epoch
    await plane.until(
        lambda: plane.streams[-1].received[epoch] > plane.live().applied_seq, "more was sent"
    )
    plane.apply_again()
    await plane.until(lambda: len(plane.ledger) == 4, "all are posted")
    assert plane.live().epoch == epoch
    assert "repeat" not in plane.judgements
    assert [n for _epoch, n in plane.ledger] == [1, 2, 3, 4]


async def test_what_was_applied_without_our_knowing_is_not_said_again(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(100, 10)
    await plane.until(lambda: plane.ledger, "it is posted")
    plane.cut()
    await plane.until(lambda: len(plane.streams) == 2, "a new stream")
    await counter.spend(100, 10)
    await plane.until(lambda: len(plane.ledger) == 2, "the next is posted")
    assert "repeat" not in plane.judgements


async def test_calls_go_on_while_the_control_plane_is_away(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    await counter.spend(100, 10)
    plane.accepting = False
    plane.cut()
    await plane.until(lambda: plane.turned_away, "the stream is gone")
    for _ in range(5):
        await counter.spend(50, 10)
    assert counter.cashier.readiness() == ""
    plane.accepting = True
    await plane.until(lambda: len(plane.ledger) == 6, "all are posted")


async def test_silence_beyond_the_validity_stops_admission_until_it_is_renewed(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    await counter.spend(100, 10)
    plane.accepting = False
    plane.cut()
    await plane.until(lambda: plane.turned_away, "the stream is gone")
    call = await counter.call(10)
    counter.clock.skip(31)
    assert "silent too long" in counter.cashier.readiness()
    with pytest.raises(Refusal) as caught:
        await counter.cashier.reserve(call)
    assert caught.value.reason == "no_allowance"
    plane.accepting = True
    await plane.until(lambda: len(plane.streams) == 2, "a new stream")
    await plane.until(lambda: plane.frames[-1].policy_ack.policy_version, "policy was heard")
    assert await reason_of(counter) == ""


async def test_before_the_budgets_are_told_nothing_is_admitted(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.telling_policy = False
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=50)) as counter:
        with pytest.raises(Refusal) as caught:
            await counter.identify()
        assert caught.value.reason == "no_allowance"
        assert "not told the budgets" in counter.cashier.readiness()
        plane.tell_policy()
        await counter.session.began.wait()
        assert counter.cashier.readiness() == ""


async def test_without_a_control_plane_the_refusal_says_so(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.accepting = False
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=50)) as counter:
        with pytest.raises(Refusal, match="nobody is here"):
            await counter.identify()
        plane.accepting = True
        await counter.session.began.wait()
        await counter.spend(10, 1)


async def test_waiting_calls_ask_again_on_a_new_stream(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.judging = False
    waiting = asyncio.create_task(counter.spend(100, 1))
    await plane.until(lambda: plane.waiting, "the need arrived")
    plane.judging = True
    plane.cut()
    await waiting
    need_ids = [need.need_id for frame in plane.frames for need in frame.needs]
    assert need_ids == sorted(set(need_ids))


async def test_a_recall_takes_free_money_and_it_is_told(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 400
    running = await counter.cashier.reserve(await counter.call(100))
    plane.recall(1, 150)
    await plane.until(lambda: plane.live().returned.get(10) == 150, "a part came home")
    plane.recall(1)
    await plane.until(lambda: plane.live().returned.get(10) == 400, "all that is free came home")
    counter.cashier.settle(running, counter.outcome(100))
    await plane.until(lambda: plane.settled(1) == 100, "the call is posted")
    assert plane.outstanding(1) == 0


async def test_useless_free_money_goes_home_when_somebody_waits(
    plane: FakeControlPlane, counter: Counter
) -> None:
    """A call of 900 waits; 500 are held here and 500 there: only together they are enough."""
    plane.extra_nanos = 450
    await counter.spend(50, 0)
    assert plane.outstanding(1) == 500
    await counter.spend(900, 0)


async def test_a_renewal_is_asked_for_before_the_money_is_gone(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 150
    running = [await counter.cashier.reserve(await counter.call(100)) for _ in range(2)]
    await plane.until(
        lambda: 10 in plane.live().reports and plane.live().reports[10].free_nanos <= 50,
        "it is told how the pool stands",
    )
    report = plane.live().reports[10]
    assert report.want_nanos >= 300
    assert report.free_nanos * 100 < report.want_nanos * 40
    assert report.largest_call_nanos == 100
    for reservation in running:
        counter.cashier.settle(reservation, counter.outcome(1))


async def test_a_fence_ends_the_session_and_a_new_one_takes_its_debts(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 200
    old = await counter.cashier.reserve(await counter.call(100))
    first = plane.live().epoch
    plane.fence()
    await plane.until(lambda: len(plane.streams) == 2, "a new stream")
    second = plane.live().epoch
    assert second != first
    assert plane.hellos[0].boot_id != plane.hellos[1].boot_id
    named = {prior.session_epoch: prior for prior in plane.hellos[1].prior_sessions}
    assert named[first].last_n == 1
    assert named[first].journal == allowances_pb2.JOURNAL_STATE_COMPLETE
    new = await counter.spend(100, 10)
    assert new == f"{second}-1"
    counter.cashier.settle(old, counter.outcome(70))
    await plane.until(lambda: (first, 1) in plane.ledger, "the old call is posted")
    assert plane.ledger[first, 1].cost_nanos == 70
    await plane.until(lambda: plane.sessions[first].closed_at == 1, "the old session is closed")
    await heard(plane)
    plane.cut()
    await plane.until(lambda: len(plane.hellos) == 3, "another stream")
    assert list(plane.hellos[2].prior_sessions) == []


async def test_after_a_crash_charges_come_and_open_calls_are_provisional(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.extra_nanos = 500
    first = Counter(plane.dial, tmp_path)
    await first.spend(100, 10)
    await plane.until(lambda: plane.ledger, "the first is posted")
    plane.applying = False
    await first.spend(100, 20)
    lost = await first.cashier.reserve(await first.call(80))
    old = plane.live().epoch
    await first.crash()

    plane.applying = True
    async with serving(Counter(plane.dial, tmp_path)):
        await plane.until(lambda: len(plane.ledger) == 3, "all are posted")
        posted = {n: s for (epoch, n), s in plane.ledger.items() if epoch == old}
        assert {n: s.cost_nanos for n, s in posted.items()} == {1: 10, 2: 20, 3: 80}
        assert posted[3].kind == charges_pb2.SETTLEMENT_KIND_PROVISIONAL
        assert posted[3].usage.estimate_reason == settlements.CRASHED
        assert (posted[3].key_id, posted[3].model) == (7, "gpt-4o-mini")
        assert list(posted[3].budget_window_ids) == [10]
        await plane.until(lambda: plane.sessions[old].closed_at == 3, "the old one is closed")
        await heard(plane)
        assert lost.charge_id == f"{old}-3"
        named = {p.session_epoch: p for p in plane.hellos[-1].prior_sessions}
        assert named[old].journal == allowances_pb2.JOURNAL_STATE_COMPLETE
        assert {plane.sessions[epoch].organization_id for epoch in named} == {
            ORGANIZATION_ID,
            PLATFORM_ID,
        }
    third = Counter(plane.dial, tmp_path)
    async with serving(third):
        await third.identify()
        assert old not in {p.session_epoch for p in plane.hellos[-1].prior_sessions}


async def test_a_second_crash_before_anything_was_said_posts_the_same(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path)
    await first.cashier.reserve(await first.call(80))
    await first.crash()
    plane.accepting = False
    second = Counter(plane.dial, tmp_path)
    await plane.until(lambda: plane.turned_away, "it tried")
    await second.crash()
    plane.accepting = True
    async with serving(Counter(plane.dial, tmp_path)):
        await plane.until(lambda: plane.ledger, "it is posted")
        (settlement,) = plane.ledger.values()
        assert (settlement.n, settlement.cost_nanos) == (1, 80)


async def test_after_a_power_loss_the_journal_is_called_truncated(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path, boot_id="before")
    await first.spend(100, 10)
    await first.crash()
    second = Counter(plane.dial, tmp_path, boot_id="after")
    async with serving(second):
        await second.identify()
        states = {prior.journal for prior in plane.hellos[-1].prior_sessions}
        assert states == {allowances_pb2.JOURNAL_STATE_TRUNCATED}


async def test_a_call_left_open_in_a_truncated_journal_is_not_posted_on_a_guess(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path, boot_id="before")
    await first.spend(100, 10)
    await first.cashier.reserve(await first.call(100))
    await first.crash()
    second = Counter(plane.dial, tmp_path, boot_id="after")
    async with serving(second):
        await second.identify()
        (prior,) = {prior.last_n for prior in plane.hellos[-1].prior_sessions if prior.last_n}
        assert prior == 2
        await second.spend(100, 20)
        await plane.until(lambda: len(plane.ledger) == 2, "both ended calls are posted")
        assert sorted(s.cost_nanos for s in plane.ledger.values()) == [10, 20]


async def test_an_orderly_end_gives_everything_back_and_owes_nothing(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.extra_nanos = 500
    first = Counter(plane.dial, tmp_path)
    await first.spend(100, 10)
    session = plane.live()
    assert await first.stop()
    assert plane.outstanding(1) == 0
    assert (session.closed_at, session.returned[10]) == (1, 590)
    assert all(s.closed_at is not None for s in plane.sessions.values())
    second = Counter(plane.dial, tmp_path)
    async with serving(second):
        await second.identify()
        assert list(plane.hellos[-1].prior_sessions) == []


async def test_an_end_without_a_control_plane_leaves_the_rest_to_the_journal(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path)
    await first.identify()
    plane.applying = False
    running = asyncio.create_task(first.spend(100, 10))
    plane.applying = True
    await running
    plane.accepting = False
    plane.cut()
    await plane.until(lambda: plane.turned_away, "the stream is gone")
    assert not await first.cashier.drain(1, 0)
    await first.crash()
    plane.accepting = True
    async with serving(Counter(plane.dial, tmp_path)):
        await plane.until(lambda: plane.ledger, "it is posted")


async def test_keys_told_before_stay_usable_and_are_asked_again(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    await counter.spend(10, 1)
    asked = sum(len(frame.resolve_keys) for frame in plane.frames)
    plane.cut()
    await plane.until(lambda: len(plane.streams) == 2, "a new stream")
    await plane.until(
        lambda: sum(len(frame.resolve_keys) for frame in plane.frames) == asked + 1,
        "the key is asked about again",
    )


async def test_a_key_revoked_while_we_were_away_stops_after_the_reconnect(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await counter.call(10)
    plane.keys.clear()
    plane.cut()
    await plane.until(lambda: len(plane.streams) == 2, "a new stream")
    await plane.until(
        lambda: sum(len(frame.resolve_keys) for frame in plane.frames) == 2,
        "the key is asked about again",
    )
    await heard(plane)
    with pytest.raises(Refusal) as caught:
        await counter.cashier.reserve(call)
    assert caught.value.reason == "key_unknown"


async def test_prices_are_in_force_when_their_last_part_is_here(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    def part(number: int, model: str) -> allowances_pb2.PriceBook:
        price = llm_token_price("openai", model, rates={"input": "1", "output": "2"})
        return allowances_pb2.PriceBook(
            overlay_version=4, part=number, part_count=2, prices=[price_to_proto(price)]
        )

    plane.prices = [part(0, "ours-1")]
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        await counter.identify()
        assert counter.cashier.prices().lookup("ours-1") is None
        nonsense = part(1, "ours-2")
        nonsense.prices.add(provider="openai", model="odd", currency="???")
        plane.say(prices=nonsense)
        await heard(plane)
        book = counter.cashier.prices()
        assert book.lookup("ours-1")
        price = book.lookup("ours-2")
        assert price is not None
        assert price.price_version == "custom@4"
        assert book.lookup("odd") is None
        plane.cut()
        await plane.until(lambda: len(plane.hellos) == 2, "a new stream")
        assert plane.hellos[1].price_overlay_version == 4
