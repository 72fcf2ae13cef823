"""The flow of a progressive answer over a desk: grown at once, by asking, after a count, or cut."""

import asyncio
import json
from typing import Any

from bursar.exchange import ExchangeRates
from bursar.pricing import Price, llm_token_price
from bursar.usage import Usage
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Call, Reservation
from bursar_sidecar.flow import Flow
from bursar_sidecar.growth import FIRST_OUTPUT, LEAST_SLACK, NEVER
from bursar_sidecar.progressive import Start, nanos_of, start_of
from bursar_sidecar.progressive_pairs import Row
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import Bounds, agree
from tests.fakes.desk import FakeDesk, spender
from tests.fakes.dialect_requests import read
from tests.fakes.sidecar_bench import FixedClock

LIMIT = 100_000
ROW = Row(("openai",), ("gpt-4o*",), "measured", "ours")


CHEAP = llm_token_price("openai", "gpt-4o", rates={"input": "0", "output": "0.001"})
"""A nano for an LLM token of output, nothing for input."""


def agreed(price: Price = CHEAP, prompt: str = "") -> tuple[Start, Bounds]:
    body: dict[str, Any] = {"model": "gpt-4o", "max_tokens": LIMIT, "stream": True}
    body["messages"] = [{"role": "user", "content": prompt}]
    facts = read("chat", json.dumps(body).encode())
    terms = agree(
        facts,
        Route(Provider("openai", "http://p/v1"), "gpt-4o", price),
        budgeted=True,
        rates=CallRates(ExchangeRates(), "USD", 0),
        default_max_output=4096,
    )
    start = start_of(facts, terms, ROW)
    assert start is not None
    assert terms.bounds is not None
    return start, terms.bounds


class Scene:
    """One open call over a desk with so many nanos in all."""

    def __init__(self, limit_nanos: int, desk: FakeDesk | None = None) -> None:
        self.start, self.bounds = agreed()
        self.desk = desk or FakeDesk(limit_nanos)
        self.clock = FixedClock()

    async def begun(self) -> Flow:
        call = Call(
            spender(), "openai", "gpt-4o", "gpt-4o", LIMIT, LIMIT,
            begin_nanos=self.start.begin_nanos, stream=True,
        )  # fmt: skip
        self.held = await self.desk.reserve(call)
        growth = self.start.growth(self.bounds, self.held.ceiling_nanos)
        flow = Flow(self.desk, self.clock, self.held, growth, self.bounds, self.start.limit)
        flow.begin()
        return flow


class AskedDesk(FakeDesk):
    """Nothing is free here: all has to be asked for."""

    def __init__(self, limit_nanos: int) -> None:
        super().__init__(limit_nanos)
        self.answers = asyncio.Event()
        self.asked: list[int] = []

    def extend_here(self, reservation: Reservation, ceiling_nanos: int, least_nanos: int) -> bool:
        return False

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        self.asked.append(ceiling_nanos)
        await self.answers.wait()
        await super().extend(reservation, ceiling_nanos)


async def test_it_grows_at_once_from_what_is_free() -> None:
    scene = Scene(10 * LIMIT)
    flow = await scene.begun()
    assert scene.held.ceiling_nanos == FIRST_OUTPUT + LEAST_SLACK
    for produced in range(0, 50_000, 10):
        if produced >= flow.growth.ask_at:
            flow.ask(produced)
        assert produced <= flow.growth.cut_at
        assert produced + LEAST_SLACK <= scene.held.ceiling_nanos
    assert 5 < len(scene.desk.growths) < 40
    flow.close()


async def test_it_takes_the_last_of_what_is_free_and_is_then_cut_at_the_last_llm_token() -> None:
    scene = Scene(3_001)
    flow = await scene.begun()
    produced = 0
    while produced <= flow.growth.cut_at or await flow.covers(produced):
        if produced >= flow.growth.ask_at:
            flow.ask(produced)
        produced += 1
    assert scene.held.ceiling_nanos == 3_001
    assert produced - 1 + LEAST_SLACK == 3_001
    flow.close()


async def test_what_is_not_here_is_asked_for_while_it_flows_on() -> None:
    desk = AskedDesk(10 * LIMIT)
    scene = Scene(0, desk)
    flow = await scene.begun()
    flow.ask(600)
    flow.ask(700)
    await asyncio.sleep(0)
    assert len(desk.asked) == 1
    assert flow.growth.cut_at == FIRST_OUTPUT
    desk.answers.set()
    assert await flow.covers(1_200)
    assert flow.growth.cut_at >= 1_200
    flow.close()


async def test_what_is_refused_is_asked_for_in_halves() -> None:
    desk = AskedDesk(FIRST_OUTPUT + LEAST_SLACK + 100)
    desk.answers.set()
    scene = Scene(0, desk)
    flow = await scene.begun()
    flow.ask(600)
    assert await flow.covers(FIRST_OUTPUT + 30)
    assert not await flow.covers(FIRST_OUTPUT + 200)
    assert desk.asked == sorted(desk.asked, reverse=True) or len(desk.asked) > 2
    assert FIRST_OUTPUT + 90 <= flow.growth.cut_at <= FIRST_OUTPUT + 100
    flow.close()


async def test_a_count_makes_room_while_more_is_asked_for() -> None:
    desk = AskedDesk(10 * LIMIT)
    scene = Scene(0, desk)
    flow = await scene.begun()
    counts = 0

    async def count(_within_s: float) -> tuple[int, int, int]:
        nonlocal counts
        counts += 1
        return 0, 400, 1_200

    flow.begin(count)
    assert await flow.covers(1_200)
    assert flow.growth.cut_at == FIRST_OUTPUT + 800
    assert len(desk.asked) == 1
    desk.answers.set()
    assert await flow.covers(flow.growth.cut_at + 1)
    assert counts == 2
    flow.close()


async def test_what_the_provider_tells_of_its_input_makes_room() -> None:
    price = llm_token_price("openai", "gpt-4o", rates={"input": "0.001", "output": "0.001"})
    desk = AskedDesk(10 * LIMIT)
    scene = Scene(0, desk)
    scene.start, scene.bounds = agreed(price, "word " * 200)
    flow = await scene.begun()
    bound = scene.bounds.input_llm_tokens
    assert bound > 1_000
    flow.begin(None, lambda: Usage(input=150, cached_input=50))
    assert await flow.covers(1_500)
    assert flow.growth.cut_at == FIRST_OUTPUT + bound - 200
    flow.close()


class SlowDesk(AskedDesk):
    """What is asked for comes, each time after a while."""

    def __init__(self, limit_nanos: int, clock: FixedClock) -> None:
        super().__init__(limit_nanos)
        self.answers.set()
        self.clock = clock

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        self.clock.seconds += 0.2
        await super().extend(reservation, ceiling_nanos)


async def test_what_is_held_back_again_and_again_is_cut_before_too_much_is_unseen() -> None:
    clock = FixedClock()
    scene = Scene(0, SlowDesk(10 * LIMIT, clock))
    scene.clock = clock
    flow = await scene.begun()
    for _ in range(3):
        assert await flow.covers(flow.growth.cut_at + 1)
    assert not await flow.covers(flow.growth.cut_at + 1)
    flow.caught_up()
    assert await flow.covers(flow.growth.cut_at + 1)
    flow.close()


async def test_the_whole_is_reserved_or_not() -> None:
    scene = Scene(10 * LIMIT)
    flow = await scene.begun()
    assert await flow.whole()
    assert flow.growth.cut_at == NEVER
    assert scene.held.ceiling_nanos == LIMIT == nanos_of(scene.bounds, LIMIT)
    assert not await (await Scene(LIMIT - 1).begun()).whole()


async def test_the_end_of_a_call_ends_its_asking() -> None:
    desk = AskedDesk(10 * LIMIT)
    flow = await Scene(0, desk).begun()
    flow.ask(600)
    await asyncio.sleep(0)
    flow.close()
    desk.answers.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert desk.growths == []
    flow.ask(700)
    assert len(desk.asked) == 1
