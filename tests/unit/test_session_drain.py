"""A sidecar that the control plane wants emptied: no calls, nothing held, and back again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar.v1 import allowances_pb2
from bursar_sidecar.desk import Refusal
from bursar_sidecar.draining import Draining
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter, serving

ASKED = allowances_pb2.Drain()
OVER = allowances_pb2.Drain(over=True)


@pytest.fixture
def plane() -> FakeControlPlane:
    plane = FakeControlPlane()
    plane.add_key(KEY, 7)
    plane.add_budget(1, 1_000)
    plane.extra_nanos = 500
    return plane


@pytest.fixture
async def counter(plane: FakeControlPlane, tmp_path: Path) -> AsyncIterator[Counter]:
    async with serving(Counter(plane.dial, tmp_path)) as life:
        draining = Draining(life.cashier, life.session, longest_call_s=1_800)
        yield life
        await draining.stop()


async def refused(counter: Counter) -> bool:
    try:
        await counter.spend(1, 0)
    except Refusal as refusal:
        return refusal.reason == "overloaded"
    return False


async def test_a_drained_sidecar_admits_nothing_and_holds_nothing(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(100, 10)
    session = plane.live()
    plane.say(drain=ASKED)
    await plane.until(lambda: session.closed_at == 1, "the session is closed")
    assert plane.outstanding(1) == 0
    assert counter.cashier.readiness() == "draining"
    assert await refused(counter)


async def test_a_call_in_flight_ends_as_it_would(plane: FakeControlPlane, counter: Counter) -> None:
    held = await counter.cashier.reserve(await counter.call(100))
    session = plane.live()
    plane.say(drain=ASKED)
    await plane.until(lambda: counter.cashier.readiness() == "draining", "it heard")
    assert session.closed_at is None
    counter.cashier.settle(held, counter.outcome(30))
    await plane.until(lambda: session.closed_at == 1, "the session is closed")
    assert plane.settled(1) == 30
    assert plane.outstanding(1) == 0


async def test_let_in_again_it_begins_a_new_life(plane: FakeControlPlane, counter: Counter) -> None:
    await counter.spend(100, 10)
    first = plane.live()
    plane.say(drain=ASKED)
    await plane.until(lambda: first.closed_at == 1, "the session is closed")
    plane.say(drain=OVER)
    await plane.until(lambda: plane.live().epoch != first.epoch, "a new session")
    assert plane.hellos[0].boot_id != plane.hellos[-1].boot_id
    assert await counter.spend(100, 20) == f"{plane.live().epoch}-1"
    await plane.until(lambda: plane.settled(1) == 30, "both calls are posted")


async def test_a_stream_that_does_not_ask_for_it_ends_a_drain(
    plane: FakeControlPlane, counter: Counter
) -> None:
    # It was let in again while it was cut off.
    await counter.spend(100, 10)
    first = plane.live()
    plane.say(drain=ASKED)
    await plane.until(lambda: first.closed_at == 1, "the session is closed")
    plane.cut()
    await plane.until(lambda: plane.live().epoch != first.epoch, "a new session")
    await counter.spend(100, 20)
    await plane.until(lambda: plane.settled(1) == 30, "both calls are posted")


async def test_asked_twice_it_drains_once(plane: FakeControlPlane, counter: Counter) -> None:
    await counter.spend(100, 10)
    first = plane.live()
    plane.say(drain=ASKED)
    plane.say(drain=ASKED)
    await plane.until(lambda: first.closed_at == 1, "the session is closed")
    plane.say(drain=OVER)
    plane.say(drain=OVER)
    await plane.until(lambda: plane.live().epoch != first.epoch, "a new session")
    assert not await refused(counter)


async def test_calls_in_flight_are_waited_for_as_long_as_a_call_may_take(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path)) as counter:
        draining = Draining(counter.cashier, counter.session, longest_call_s=0)
        held = await counter.cashier.reserve(await counter.call(100))
        plane.say(drain=ASKED)
        await plane.until(lambda: any(f.close_sessions for f in plane.frames), "it waits no more")
        counter.cashier.settle(held, counter.outcome(30))
        await plane.until(lambda: plane.settled(1) == 30, "what comes late is posted all the same")
        await draining.stop()
