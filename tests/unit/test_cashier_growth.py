"""An open call that grows: its money, its journal, its line, and how it is told that it can't."""

import asyncio
from pathlib import Path

import pytest

from bursar.v1 import allowances_pb2, charges_pb2
from bursar_sidecar.desk import Outcome, Refusal, Reservation
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.journal_reading import Reading
from tests.fakes.control_plane import PLATFORM_ID, FakeControlPlane
from tests.fakes.counter import USAGE, Counter, serving


async def opened(counter: Counter, ceiling_nanos: int) -> Reservation:
    return await counter.cashier.reserve(await counter.call(ceiling_nanos))


async def refusal_of(counter: Counter, call: Reservation, ceiling_nanos: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await counter.cashier.extend(call, ceiling_nanos)
    return caught.value


async def test_growth_from_held_money_does_not_suspend_and_settles_at_the_final_w(
    plane: FakeControlPlane, counter: Counter, tmp_path: Path
) -> None:
    plane.extra_nanos = 500
    call = await opened(counter, 100)
    with pytest.raises(StopIteration):
        counter.cashier.extend(call, 300).send(None)
    assert call.ceiling_nanos == 300
    kinds = [row.kind for row in Reading(tmp_path, boot_id="boot").rows()]
    assert kinds[-2:] == ["opened", "grown"]
    counter.cashier.settle(call, counter.outcome(250))
    await plane.until(lambda: plane.ledger, "the settlement is posted")
    (settlement,) = plane.ledger.values()
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (300, 250)


async def test_growth_that_does_not_fit_asks_as_growth_in_the_window_of_admission(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.add_budget(9, 1_000, scope_kind=allowances_pb2.SCOPE_KIND_PLATFORM, scope_id=PLATFORM_ID)
    plane.tell_policy()
    await plane.until(lambda: counter.identity.budget(9), "the platform's budget is known")
    call = await opened(counter, 100)
    await counter.cashier.extend(call, 400)
    needs = [need for frame in plane.frames for need in frame.needs if need.growth]
    lines = [
        (line.budget_id, line.budget_window_id, line.amount_nanos)
        for need in needs
        for line in need.lines
    ]
    assert sorted(lines) == [(1, 10, 300), (9, 90, 300)]
    others = [n for frame in plane.frames for n in frame.needs if not n.growth]
    assert all(line.budget_window_id == 0 for need in others for line in need.lines)
    assert call.ceiling_nanos == 400


async def test_what_is_reserved_already_needs_nothing(counter: Counter) -> None:
    call = await opened(counter, 100)
    await counter.cashier.extend(call, 100)
    await counter.cashier.extend(call, 40)
    assert call.ceiling_nanos == 100


async def test_growth_of_an_exhausted_budget_is_refused_and_not_remembered_for_others(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    refusal = await refusal_of(counter, call, 1_200)
    assert (refusal.reason, refusal.budgets[0].limit_nanos) == ("budget_exhausted", 1_000)
    assert call.ceiling_nanos == 100
    asked = sum(len(frame.needs) for frame in plane.frames)
    with pytest.raises(Refusal):
        await opened(counter, 1_150)
    assert sum(len(frame.needs) for frame in plane.frames) == asked + 1


async def test_contended_growth_waits_and_is_then_refused(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=300)) as counter:
        call = await opened(counter, 100)
        hog = await opened(counter, 850)
        waiting = asyncio.create_task(refusal_of(counter, call, 300))
        await plane.until(lambda: plane.waiting, "the need arrived")
        plane.contend()
        assert (await waiting).reason == "budget_reserved"
        counter.cashier.settle(hog, counter.outcome(0))
        await counter.cashier.extend(call, 300)
        assert call.ceiling_nanos == 300


async def test_growth_goes_before_a_call_that_waited_longer(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    hog = await opened(counter, 900)
    plane.judging = False
    admission = asyncio.create_task(opened(counter, 900))
    await plane.until(lambda: plane.waiting == 1, "the call waits")
    growth = asyncio.create_task(counter.cashier.extend(call, 200))
    await plane.until(lambda: plane.waiting == 2, "the growth waits")
    counter.cashier.settle(hog, counter.outcome(50))
    await growth
    assert call.ceiling_nanos == 200
    assert not admission.done()
    admission.cancel()


async def test_a_call_that_ends_while_it_waits_to_grow_settles_at_what_it_had(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    plane.judging = False
    growth = asyncio.create_task(refusal_of(counter, call, 300))
    await plane.until(lambda: plane.waiting, "the need arrived")
    with pytest.raises(ValueError, match="waits to grow already"):
        await counter.cashier.extend(call, 300)
    counter.cashier.settle(call, counter.outcome(80))
    assert (await growth).reason == "no_allowance"
    assert not counter.book.waiters
    await plane.until(lambda: plane.ledger and not plane.waiting, "posted and withdrawn")
    (settlement,) = plane.ledger.values()
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (100, 80)
    with pytest.raises(ValueError, match="settled already"):
        await counter.cashier.extend(call, 300)


async def test_an_app_that_leaves_while_its_call_waits_to_grow_leaves_no_waiter(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    plane.judging = False
    growth = asyncio.create_task(counter.cashier.extend(call, 300))
    await plane.until(lambda: plane.waiting, "the need arrived")
    growth.cancel()
    await plane.until(lambda: not plane.waiting, "the need was withdrawn")
    assert call.ceiling_nanos == 100
    plane.judging = True
    await counter.cashier.extend(call, 300)
    assert call.ceiling_nanos == 300


async def test_growth_is_not_refused_by_a_drain_and_is_by_the_lapse(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    draining = asyncio.create_task(counter.cashier.drain(5, 5))
    await asyncio.sleep(0)
    await counter.cashier.extend(call, 300)
    plane.applying = False
    counter.clock.skip(31)
    assert (await refusal_of(counter, call, 301)).reason == "no_allowance"
    plane.applying = True
    counter.cashier.settle(call, counter.outcome(300))
    draining.cancel()


async def test_a_fenced_session_lends_nothing_more_to_its_open_calls(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.extra_nanos = 500
    call = await opened(counter, 100)
    plane.judging = False
    growth = asyncio.create_task(refusal_of(counter, call, 900))
    await plane.until(lambda: plane.waiting, "the need arrived")
    first = plane.live()
    plane.fence()
    refusal = await growth
    assert refusal.reason == "no_allowance"
    plane.judging = True
    await plane.until(lambda: plane.live() is not first, "a new session")
    await plane.until(lambda: not counter.session.fault(counter.clock.boot_ns()), "all is well")
    refusal = await refusal_of(counter, call, 200)
    assert "closed" in refusal.message
    counter.cashier.settle(call, counter.outcome(80))
    await plane.until(lambda: (first.epoch, 1) in plane.ledger, "posted")
    assert plane.ledger[first.epoch, 1].reserved_nanos == 100


async def test_a_stale_need_refuses_growth_at_once(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    del plane.budgets[1]
    refusal = await refusal_of(counter, call, 900)
    assert (refusal.reason, call.ceiling_nanos) == ("no_allowance", 100)


async def test_growth_that_can_not_be_written_is_taken_back(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.extra_nanos = 500
    call = await opened(counter, 100)

    def full(_self: Journal, _record: object) -> None:
        raise JournalError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "grown", full)
        assert (await refusal_of(counter, call, 200)).reason == "overloaded"
        assert call.ceiling_nanos == 100
        refusal = await refusal_of(counter, call, 900)  # by way of the line
        assert refusal.reason == "overloaded"
    assert call.ceiling_nanos == 100
    pool = counter.book.organization and counter.book.organization.pools[10]
    assert pool
    assert pool.reserved_nanos == 100


async def test_a_call_whose_end_is_unknown_is_posted_at_all_it_grew_to(
    plane: FakeControlPlane, counter: Counter
) -> None:
    call = await opened(counter, 100)
    await counter.cashier.extend(call, 300)
    counter.cashier.settle(call, Outcome("unknown", USAGE, call.ceiling_nanos))
    await plane.until(lambda: plane.ledger, "posted")
    (settlement,) = plane.ledger.values()
    assert settlement.kind == charges_pb2.SETTLEMENT_KIND_PROVISIONAL
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (300, 300)


async def test_a_crash_posts_an_open_call_at_what_it_grew_to(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path)
    call = await opened(first, 100)
    await first.cashier.extend(call, 300)
    await first.crash()
    async with serving(Counter(plane.dial, tmp_path)):
        await plane.until(lambda: plane.ledger, "the open call is posted")
    (settlement,) = plane.ledger.values()
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (300, 300)
