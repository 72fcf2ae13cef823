"""Calls that may be clamped: what they begin with, and when they are refused all the same."""

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from bursar.v1 import allowances_pb2
from bursar_sidecar.desk import Refusal, Reservation
from bursar_sidecar.journal_reading import Reading
from tests.fakes.control_plane import PLATFORM_ID, FakeControlPlane
from tests.fakes.counter import Counter, serving


async def begun(counter: Counter, ceiling_nanos: int, least_nanos: int) -> Reservation:
    call = await counter.call(ceiling_nanos)
    return await counter.cashier.reserve(structs.replace(call, least_nanos=least_nanos))


async def test_a_call_that_never_fits_begins_with_all_there_is(
    plane: FakeControlPlane, counter: Counter, tmp_path: Path
) -> None:
    held = await begun(counter, 300, 300)
    call = await begun(counter, 5_000, 200)
    assert call.ceiling_nanos == 700
    opened = [row for row in Reading(tmp_path, boot_id="boot").rows() if row.kind == "opened"]
    assert [row.reserved_nanos for row in opened] == [300, 700]
    counter.cashier.settle(call, counter.outcome(650))
    counter.cashier.settle(held, counter.outcome(300))
    await plane.until(lambda: len(plane.ledger) == 2, "posted")
    reserved = {s.n: s.reserved_nanos for s in plane.ledger.values()}
    assert (reserved, plane.settled(1)) == ({1: 300, 2: 700}, 950)
    assert counter.cashier.overrun_count == 0


async def test_need_tells_the_least_it_can_do_with(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await begun(counter, 5_000, 200)
    (line,) = [line for frame in plane.frames for need in frame.needs for line in need.lines]
    assert (line.amount_nanos, line.least_nanos) == (5_000, 200)


async def test_a_call_that_fits_is_not_clamped(counter: Counter) -> None:
    assert (await begun(counter, 900, 200)).ceiling_nanos == 900


async def test_not_even_the_least_is_exhausted_and_remembered_as_that(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(900, 900)
    await plane.until(lambda: plane.settled(1) == 900, "posted")
    with pytest.raises(Refusal) as caught:
        await begun(counter, 5_000, 101)
    assert caught.value.reason == "budget_exhausted"
    asked = sum(len(frame.needs) for frame in plane.frames)
    with pytest.raises(Refusal):
        await begun(counter, 6_000, 101)
    assert sum(len(frame.needs) for frame in plane.frames) == asked
    assert (await begun(counter, 6_000, 100)).ceiling_nanos == 100


async def test_the_tightest_pool_of_both_sessions_counts(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.add_budget(9, 400, scope_kind=allowances_pb2.SCOPE_KIND_PLATFORM, scope_id=PLATFORM_ID)
    plane.tell_policy()
    await plane.until(lambda: counter.identity.budget(9), "the platform's budget is known")
    call = await begun(counter, 700, 200)
    assert call.ceiling_nanos == 400
    assert counter.book.organization
    assert counter.book.organization.pools[10].reserved_nanos == 400


async def test_cut_off_a_call_begins_at_the_end_of_its_wait_with_what_is_held_here(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=100)) as counter:
        plane.extra_nanos = 300
        held = await begun(counter, 100, 100)
        plane.accepting = False
        plane.cut()
        await plane.until(lambda: not counter.session.connected, "the stream is lost")
        with pytest.raises(Refusal) as caught:
            await begun(counter, 500, 301)
        assert caught.value.reason == "no_allowance"
        call = await begun(counter, 500, 200)
        assert call.ceiling_nanos == 300
        counter.cashier.settle(held, counter.outcome(0))
        counter.cashier.settle(call, counter.outcome(10))


async def test_cut_off_a_call_takes_nothing_that_an_earlier_one_waits_for(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path, reserve_wait_ms=2_000)) as counter:
        plane.extra_nanos = 300
        await begun(counter, 100, 100)
        plane.accepting = False
        plane.cut()
        await plane.until(lambda: not counter.session.connected, "the stream is lost")
        now = counter.clock.boot_ns()
        plan = counter.identity.plan(await counter.identify(), "openai", "m", "m")
        first = counter.book.wait(plan, 800, now, now + 1)
        second = counter.book.wait(plan, 500, now, now + 1, 200)
        assert list(counter.book.admit_clamped(second, now)) == []
        counter.book.withdraw(first)
        assert [w.reservation and w.reservation.ceiling_nanos for w in
                counter.book.admit_clamped(second, now)] == [300]  # fmt: skip


async def test_an_app_that_leaves_as_its_clamped_call_is_admitted_leaves_nothing_reserved(
    plane: FakeControlPlane, counter: Counter
) -> None:
    plane.judging = False
    waiting = asyncio.create_task(begun(counter, 5_000, 200))
    await plane.until(lambda: plane.waiting, "the need arrived")
    waiting.cancel()
    plane.judging = True
    plane.judge()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not counter.book.waiters
    assert counter.book.organization
    assert all(not pool.reserved_nanos for pool in counter.book.organization.pools.values())
