"""What the session says at once, and what waits for company."""

import asyncio

import pytest

from bursar.v1 import allowances_pb2
from bursar_sidecar.clock import NANOS_PER_MS
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter


@pytest.fixture
def plane() -> FakeControlPlane:
    plane = FakeControlPlane()
    plane.add_key(KEY, 7)
    plane.add_budget(1, 1_000)
    return plane


async def enter_tail(plane: FakeControlPlane, counter: Counter, *, hold_idle_ms: int) -> None:
    """Say that the budget is in its tail, and wait until that is heard."""
    allowance = plane.allowance(plane.live(), 1)
    allowance.tail, allowance.hold_idle_ms = True, hold_idle_ms
    plane.say(allowances=[allowance])
    leg = counter.book.organization
    assert leg is not None
    (pool,) = leg.pools.values()
    await plane.until(lambda: pool.tail, "the tail is known")


async def test_what_others_wait_for_goes_home_with_its_charge_at_once(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await counter.cashier.reserve(await counter.call(100))
    await enter_tail(plane, counter, hold_idle_ms=0)
    gathering: list[None] = []
    monkeypatch.setattr(counter.session, "touched", lambda: gathering.append(None))
    counter.cashier.settle(held, counter.outcome(10))
    assert not gathering
    await plane.until(lambda: plane.ledger, "it is posted")
    assert plane.live().returned == {10: 90}
    assert plane.outstanding(1) == 0


async def test_where_nobody_waits_a_charge_gathers_company(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await counter.cashier.reserve(await counter.call(100))
    await enter_tail(plane, counter, hold_idle_ms=2_000)
    woken: list[bool] = []
    monkeypatch.setattr(counter.session, "touched", lambda: woken.append(False))
    monkeypatch.setattr(counter.session._wake, "set", lambda: woken.append(True))
    counter.cashier.settle(held, counter.outcome(10))
    assert woken == [False]


async def test_a_call_behind_others_that_wait_long_asks_in_company(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.judging = False
    call = await counter.call(10)
    plan = counter.cashier._plan(call, call.spender)
    woken: list[bool] = []

    def ask() -> bool:
        """Whether one more call that waits is said at once."""
        now = counter.clock.boot_ns()
        waiter = counter.book.wait(plan, 10, now, now + 2_000 * NANOS_PER_MS)
        woken.clear()
        with monkeypatch.context() as patched:
            patched.setattr(counter.session, "_gather", lambda seconds: woken.append(False))
            patched.setattr(counter.session._wake, "set", lambda: woken.append(True))
            counter.session.ask(waiter)
        counter.session._wake.set()
        return woken[0]

    assert ask()
    await plane.until(lambda: plane.waiting == 1, "the first has asked")
    assert ask()  # the first may be answered in a moment
    await plane.until(lambda: plane.waiting == 2, "the second has asked")
    counter.clock.skip(1)
    assert not ask()


async def test_what_a_call_was_lent_is_not_sent_home_by_a_recall_in_the_same_frame(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(10, 10)
    plane.judging = False
    waiting = asyncio.ensure_future(counter.cashier.reserve(await counter.call(100)))
    await plane.until(lambda: plane.waiting == 1, "it has asked")
    session, ((_, _, need),) = plane.live(), plane._waiting
    session.granted[10] += 100
    plane.say(
        allowances=[plane.allowance(session, 1)],
        verdicts=[
            allowances_pb2.Verdict(
                need_id=need.need_id, outcome=allowances_pb2.NEED_OUTCOME_GRANTED
            )
        ],
        recalls=[allowances_pb2.Recall(budget_window_id=10, tail=True)],
    )
    await plane.until(waiting.done, "it was admitted")
    held = waiting.result()
    assert held.ceiling_nanos == 100
    counter.cashier.settle(held, counter.outcome(0))
