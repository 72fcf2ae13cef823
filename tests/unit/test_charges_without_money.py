"""Usage that is told after it happened posts in full, whatever a budget has left."""

import pytest
from msgspec import structs

from bursar_sidecar.desk import Call, Refusal
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import Counter


async def made(counter: Counter) -> Call:
    return structs.replace(await counter.call(0), is_made=True)


async def test_an_overdrawn_budget_takes_what_was_used_already(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(1_000, 1_500)
    for ceiling_nanos in (0, 1):
        call = await counter.call(ceiling_nanos)
        with pytest.raises(Refusal):
            await counter.cashier.reserve(call)
    reservation = await counter.cashier.reserve(await made(counter))
    counter.cashier.settle(reservation, counter.outcome(700))
    await plane.until(lambda: len(plane.ledger) == 2, "both are posted")
    costs = sorted(settlement.cost_nanos for settlement in plane.ledger.values())
    assert costs == [700, 1_500]


async def test_nothing_is_asked_of_a_budget_for_what_costs_nothing_any_more(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await counter.spend(1_000, 1_500)
    asked = len(plane.judgements)
    await counter.cashier.reserve(await made(counter))
    assert len(plane.judgements) == asked
