"""Calls that begin with a part of their worst case: with how much, and how they go on."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from bursar.exchange import ExchangeRates
from bursar.money import NANOS_PER_UNIT
from bursar.pricing import llm_token_price
from bursar.usage import Usage
from bursar.v1 import allowances_pb2
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Call, Outcome, Refusal, Reservation
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.journal_reading import Reading
from bursar_sidecar.progressive import nanos_of, start_of
from bursar_sidecar.progressive_pairs import Row
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import agree
from tests.fakes.control_plane import FakeControlPlane, Session
from tests.fakes.counter import Counter
from tests.fakes.dialect_requests import read

ROW = Row(("openai",), ("gpt-4o*",), "measured", "ours")


async def asked(
    counter: Counter, worst: int, begin: int, *, least: int = 0, stream: bool = True
) -> Call:
    call = await counter.call(worst)
    return structs.replace(call, least_nanos=least or worst, begin_nanos=begin, stream=stream)


async def begun(
    counter: Counter, worst: int, begin: int, *, least: int = 0, stream: bool = True
) -> Reservation:
    call = await asked(counter, worst, begin, least=least, stream=stream)
    return await counter.cashier.reserve(call)


def into_tail(plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is in its tail, as the sidecar knows already and hears again and again."""
    told = plane.allowance

    def in_tail(session: Session, budget_id: int) -> allowances_pb2.Allowance:
        allowance = told(session, budget_id)
        allowance.tail, allowance.hold_idle_ms = True, 2_000
        return allowance

    monkeypatch.setattr(plane, "allowance", in_tail)
    pools = counter.book.organization and counter.book.organization.pools
    assert pools
    pools[10].tail, pools[10].hold_idle_ns = True, 2_000_000_000


async def test_a_stream_begins_small_and_grows_from_what_is_free(
    plane: FakeControlPlane, counter: Counter, tmp_path: Path
) -> None:
    plane.extra_nanos = 500
    call = await begun(counter, 90_000, 100)
    assert (call.ceiling_nanos, call.grows) == (100, True)
    assert counter.cashier.extend_here(call, 300, 300)
    assert call.ceiling_nanos == 300
    kinds = [row.kind for row in Reading(tmp_path, boot_id="boot").rows()]
    assert kinds[-2:] == ["opened", "grown"]
    assert not counter.cashier.extend_here(call, 5_000, 700)  # 600 is all there is here
    assert call.ceiling_nanos == 300
    assert counter.cashier.extend_here(call, 5_000, 301)
    assert call.ceiling_nanos == 600
    assert not counter.cashier.extend_here(call, 5_000, 601)
    counter.cashier.settle(call, counter.outcome(550))
    await plane.until(lambda: plane.ledger, "posted")
    (settlement,) = plane.ledger.values()
    assert (settlement.reserved_nanos, settlement.cost_nanos) == (600, 550)


async def test_a_worst_case_no_larger_than_the_beginning_does_not_grow(counter: Counter) -> None:
    call = await begun(counter, 100, 100)
    assert (call.ceiling_nanos, call.grows) == (100, False)


async def test_in_the_tail_nothing_begins_small(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.extra_nanos = 200
    await counter.spend(10, 10)
    into_tail(plane, counter, monkeypatch)
    whole = await begun(counter, 300, 100)
    assert (whole.ceiling_nanos, whole.grows) == (300, False)
    clamped = await begun(counter, 90_000, 100, least=50)
    assert (clamped.ceiling_nanos, clamped.grows) == (690, False)


async def test_one_that_waited_into_the_tail_is_clamped(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    hog = await counter.cashier.reserve(await counter.call(1_000))
    plane.judging = False
    waiting = asyncio.create_task(begun(counter, 90_000, 100, least=50))
    await plane.until(lambda: plane.waiting, "it waits")
    into_tail(plane, counter, monkeypatch)
    counter.cashier.settle(hog, counter.outcome(20))
    call = await waiting
    assert (call.ceiling_nanos, call.grows) == (100, False)


async def test_a_plain_call_is_whole_where_the_budget_is_ample(counter: Counter) -> None:
    await counter.spend(10, 10)  # until then nothing is known of the budget
    whole = await begun(counter, 30, 5, stream=False)
    assert (whole.ceiling_nanos, whole.grows) == (30, False)
    small = await begun(counter, 40, 5, stream=False)
    assert (small.ceiling_nanos, small.grows) == (5, True)


async def test_the_last_of_a_budget_is_less_than_a_beginning_and_clamps(counter: Counter) -> None:
    await counter.spend(920, 920)
    call = await begun(counter, 90_000, 100, least=50)
    assert (call.ceiling_nanos, call.grows) == (80, False)


async def test_growth_that_can_not_be_written_is_none(
    plane: FakeControlPlane, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.extra_nanos = 500
    call = await begun(counter, 90_000, 100)

    def full(_self: Journal, _record: object) -> None:
        raise JournalError("No space left on device")

    monkeypatch.setattr(Journal, "grown", full)
    assert not counter.cashier.extend_here(call, 200, 200)
    assert call.ceiling_nanos == 100


async def test_a_call_that_may_not_wait_is_refused_by_the_first_word(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.cashier.reserve(await counter.call(1_000))
    call = structs.replace(await counter.call(100), may_wait=False)
    waiting = asyncio.create_task(counter.cashier.reserve(call))
    await plane.until(lambda: plane.waiting, "it asks")
    plane.contend()
    with pytest.raises(Refusal) as caught:
        await waiting
    assert caught.value.reason == "budget_reserved"
    (need,) = [need for frame in plane.frames for need in frame.needs][1:]
    assert need.wait_ms == 0


async def test_forty_streams_of_a_dear_model_share_a_small_budget(
    plane: FakeControlPlane, counter: Counter
) -> None:
    """A worst case of $9.60 a call under $25: each of 40 at once costs $0.05 in truth."""
    price = llm_token_price("openai", "gpt-4o-dear", rates={"input": "15", "output": "75"})
    body = {"model": "gpt-4o-dear", "max_tokens": 128_000, "stream": True}
    body["messages"] = [{"role": "user", "content": "Tell me."}]
    facts = read("chat", json.dumps(body).encode())
    terms = agree(
        facts,
        Route(Provider("openai", "http://p/v1"), "gpt-4o-dear", price),
        budgeted=True,
        rates=CallRates(ExchangeRates(), "USD", 0),
        default_max_output=4_096,
    )
    start = start_of(facts, terms, ROW)
    assert start is not None
    assert terms.bounds is not None
    assert Decimal(terms.ceiling_nanos) / NANOS_PER_UNIT >= Decimal("9.60")
    plane.limits[1] = 25 * NANOS_PER_UNIT
    bounds = terms.bounds
    # 640 LLM tokens, each of four bytes and two hundredths of a second.
    usage = Usage(input=30, output=640)
    cost = nanos_of(bounds, 640)

    async def stream() -> int:
        held = await counter.cashier.reserve(
            await asked(counter, terms.ceiling_nanos, start.begin_nanos)
        )
        growth = start.growth(bounds, held.ceiling_nanos)
        for llm_tokens in range(640):
            produced, elapsed = 4 * llm_tokens, llm_tokens / 50
            if produced >= growth.ask_at:
                target = growth.target(produced, elapsed)
                await counter.cashier.extend(held, nanos_of(bounds, target))
                growth.grew(target, produced, elapsed)
            assert produced <= growth.cut_at
            await asyncio.sleep(0)
        counter.cashier.settle(held, Outcome("final", usage, cost))
        return held.ceiling_nanos

    grown = await asyncio.gather(*(stream() for _ in range(40)))
    assert max(grown) < terms.ceiling_nanos // 20
    assert counter.cashier.overrun_count == 0
    await plane.until(lambda: plane.settled(1) == 40 * cost, "all is posted")
    assert cost * 40 < plane.limits[1]
