"""Calls that Envoy carries: who ends them, and what they cost when nobody does."""

import asyncio

import pytest

from bursar.usage import Usage
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.desk import Receipt, Refusal
from bursar_sidecar.dialects.reading import Reading
from tests.fakes.envoy_calls import CHAT, EnvoyCalls

USED = Usage(input=10, output=20)
USED_NANOS = 13_500
"""Ten LLM tokens at 0.15 and twenty at 0.60 USD a million."""
STREAM = CHAT.replace(b'{"model"', b'{"stream":true,"model"')


def used(attempt: Attempt) -> Receipt:
    return attempt.charge_told(USED, Reading())


async def test_a_call_is_taken_once_and_its_end_is_the_takers() -> None:
    calls = EnvoyCalls()
    charge_id = await calls.admit()
    assert calls.in_flight == (1, 1)
    call = calls.held.take(charge_id)
    assert call is not None
    assert calls.held.take(charge_id) is None
    assert calls.held.settle(charge_id, used) is None
    used(call.attempt)
    calls.held.over(call)
    calls.held.over(call)
    assert calls.in_flight == (0, 0)
    assert calls.desk.only_outcome.cost_nanos == USED_NANOS
    calls.clock.skip(3_600)
    assert calls.held.sweep() == 0


async def test_what_the_taker_left_open_is_closed_refunding_nothing() -> None:
    calls = EnvoyCalls()
    charge_id = await calls.admit()
    reserved = calls.desk.open[charge_id].ceiling_nanos
    call = calls.held.take(charge_id)
    assert call is not None
    calls.held.over(call)
    assert calls.desk.only_outcome.kind == "unknown"
    assert calls.desk.only_outcome.cost_nanos == reserved


async def test_a_call_that_nobody_takes_is_charged_after_a_minute() -> None:
    calls = EnvoyCalls()
    charge_id = await calls.admit("strict")
    reserved = calls.desk.open[charge_id].ceiling_nanos
    calls.clock.skip(59.9)
    assert calls.held.sweep() == 0
    calls.clock.skip(0.1)
    assert calls.held.sweep() == 1
    outcome = calls.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", reserved)
    assert outcome.usage.estimate_reason == "reservation_expired"
    assert calls.held.take(charge_id) is None
    assert calls.in_flight == (0, 0)


async def test_a_call_of_the_light_tier_is_held_as_long_as_the_setting_says() -> None:
    calls = EnvoyCalls(envoy_hold_s=300)
    await calls.admit("light")
    calls.clock.skip(299)
    assert calls.held.sweep() == 0
    calls.clock.skip(1)
    assert calls.held.sweep() == 1


async def test_no_call_is_held_longer_than_the_longest_call() -> None:
    calls = EnvoyCalls(envoy_hold_s=300, longest_call_s=100)
    await calls.admit("light")
    calls.clock.skip(100)
    assert calls.held.sweep() == 1


async def test_evidence_settles_once() -> None:
    calls = EnvoyCalls()
    charge_id = await calls.admit("light")
    receipt = calls.held.settle(charge_id, used)
    assert receipt is not None
    assert receipt.cost_nanos == USED_NANOS
    assert calls.held.settle(charge_id, used) is None
    assert calls.held.take(charge_id) is None
    assert calls.desk.only_outcome.cost_nanos == USED_NANOS
    assert calls.in_flight == (0, 0)


async def test_evidence_that_comes_late_adjusts_once() -> None:
    calls = EnvoyCalls(envoy_hold_s=1)
    charge_id = await calls.admit("light")
    calls.clock.skip(1)
    calls.held.sweep()
    receipt = calls.held.settle(charge_id, used)
    assert receipt is not None
    assert calls.evidence.adjusted[charge_id].cost_nanos == USED_NANOS
    assert calls.held.settle(charge_id, used) is None
    assert len(calls.desk.outcomes) == 1
    assert calls.in_flight == (0, 0)
    assert dict(calls.held.ended) == {"expired": 1, "adjusted": 1}


async def test_evidence_that_is_refused_may_come_again() -> None:
    calls = EnvoyCalls(envoy_hold_s=1)
    charge_id = await calls.admit("light")
    calls.clock.skip(1)
    calls.held.sweep()
    calls.evidence.taking = False
    with pytest.raises(Refusal, match="closed"):
        calls.held.settle(charge_id, used)
    calls.evidence.taking = True
    assert calls.held.settle(charge_id, used) is not None


async def test_evidence_that_cannot_be_used_leaves_the_call_open() -> None:
    calls = EnvoyCalls()
    charge_id = await calls.admit("light")

    def faulty(attempt: Attempt) -> Receipt:
        raise ValueError("not evidence")

    with pytest.raises(ValueError, match="not evidence"):
        calls.held.settle(charge_id, faulty)
    assert calls.held.settle(charge_id, used) is not None


async def test_no_more_calls_are_held_than_the_setting_says() -> None:
    calls = EnvoyCalls(envoy_max_calls=2)
    charge_id = await calls.admit()
    waiting = calls.held.seat()
    with pytest.raises(Refusal) as caught:
        calls.held.seat()
    assert (caught.value.reason, caught.value.retry_after_s) == ("overloaded", 1.0)
    calls.held.give_up(waiting)
    assert calls.held.open_count == 1
    assert calls.held.take(charge_id) is not None
    assert calls.held.open_count == 0


async def test_at_the_end_what_is_open_is_charged_and_nothing_more_is_held() -> None:
    calls = EnvoyCalls()
    await calls.admit("light")
    taken = calls.held.take(await calls.admit("strict", STREAM))
    assert taken is not None
    await calls.held.drain(0)
    with pytest.raises(Refusal, match="going down"):
        calls.held.seat()
    calls.held.close()
    kinds = [(one.kind, one.usage.estimate_reason) for one in calls.desk.outcomes]
    assert kinds[0] == ("unknown", "sidecar_stopped")
    assert not calls.desk.open
    calls.held.over(taken)
    assert calls.in_flight == (0, 0)


async def test_draining_ends_with_the_last_call() -> None:
    calls = EnvoyCalls()
    taken = calls.held.take(await calls.admit())
    assert taken is not None
    light = await calls.admit("light")
    draining = asyncio.create_task(calls.held.drain(30))
    await asyncio.sleep(0)
    assert not draining.done()
    used(taken.attempt)
    calls.held.over(taken)
    calls.held.settle(light, used)
    await draining


async def test_a_call_that_waits_for_evidence_keeps_no_body() -> None:
    calls = EnvoyCalls(envoy_hold_s=1)
    long = CHAT.replace(b'"hi"', b'"' + b"x" * 100_000 + b'"')
    for tier in ("light", "strict"):
        charge_id = await calls.admit("light" if tier == "light" else "strict", long)
        calls.clock.skip(1 if tier == "strict" else 0)
        calls.held.sweep()
        call = calls.held.held(charge_id)
        assert call is not None
        assert (call.request.body, call.edited) == (b"", None)
        kept = call.facts.fields
        assert bytes(kept["model"]) == b'"gpt-4o-mini"'
        assert bytes(kept["messages"]) == b"null"
