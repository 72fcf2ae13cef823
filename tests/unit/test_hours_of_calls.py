"""Calls of a model that costs less at some hours: reserved at the dearest, charged by the hour."""

import msgspec

from bursar.pricing import Component, Price, Span, Window, snapshot
from bursar_sidecar.desk import Outcome
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, Bench, chat_answer

HALF_PRICE = "happy hour"


def half_price(start: str, end: str) -> FakeDesk:
    """A desk whose book sells the model at half of its price for some hours (UTC)."""
    listed = snapshot().lookup("gpt-4o-mini", "openai")
    assert listed is not None
    cheap = (
        msgspec.structs.replace(component, rate=component.rate / 2, during=HALF_PRICE)
        for component in listed.components
        if component.meter in ("input", "output") and not component.tier
    )
    components: tuple[Component, ...] = (*listed.components, *cheap)
    windows = {HALF_PRICE: Window((Span(start, end),))}
    price: Price = msgspec.structs.replace(listed, components=components, windows=windows)
    return FakeDesk(book=snapshot().with_overlay([price], "own-1"))


async def call(desk: FakeDesk) -> Outcome:
    bench = Bench(desk)
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    return await bench.settled()


async def test_a_call_costs_what_the_hour_of_its_admission_says() -> None:
    # The bench's clock says 22:13:20.
    assert (await call(half_price("22:00", "23:00"))).cost_nanos == COST_NANOS // 2
    assert (await call(half_price("23:00", "22:00"))).cost_nanos == COST_NANOS


async def test_no_cheap_hour_lowers_what_is_reserved() -> None:
    plain, cheap = FakeDesk(), half_price("00:00", "00:00")
    await call(plain)
    await call(cheap)
    assert cheap.calls[0].ceiling_nanos == plain.calls[0].ceiling_nanos
