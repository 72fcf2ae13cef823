"""Calls that can do with less, against a real Postgres: lent what there is, and never beyond it."""

from collections.abc import AsyncIterator

import pytest

from bursar.v1 import allowances_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.lending_world import OTHER_SECRET, World, lending

GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
CLAMPED = allowances_pb2.NEED_OUTCOME_CLAMPED
CONTENDED = allowances_pb2.NEED_OUTCOME_CONTENDED
EXHAUSTED = allowances_pb2.NEED_OUTCOME_EXHAUSTED


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, SystemClock(), LendingSettings(idle_tick_ms=5)) as world:
        yield world


async def need(
    sidecar: ScriptedSidecar, need_id: int, *lines: tuple[int, int, int], wait_ms: int = 0
) -> "allowances_pb2.NeedOutcome.ValueType":
    """Ask for (budget, amount, least) lines."""
    asked = [
        allowances_pb2.NeedLine(budget_id=budget, amount_nanos=amount, least_nanos=least)
        for budget, amount, least in lines
    ]
    await sidecar.say(needs=[allowances_pb2.Need(need_id=need_id, lines=asked, wait_ms=wait_ms)])
    return (await sidecar.verdict(need_id)).outcome


async def test_what_never_fits_is_clamped_to_what_there_is(world: World) -> None:
    wide, narrow = await world.budget(1_000), await world.budget(300)
    sidecar = await world.sidecar().open("boot-1")
    assert await need(sidecar, 1, (wide, 900, 50), (narrow, 900, 50)) == CLAMPED
    assert sidecar.allowance(wide).granted_nanos == 900
    assert sidecar.allowance(narrow).granted_nanos == 300
    assert await world.standing(wide) == (0, 900, 0, 0)
    assert await world.standing(narrow) == (0, 300, 0, 0)


async def test_what_others_hold_is_waited_for_and_then_done_without(world: World) -> None:
    budget = await world.budget(1_000)
    other = await world.sidecar(OTHER_SECRET).open("boot-1")
    assert await need(other, 1, (budget, 700, 700)) == GRANTED
    sidecar = await world.sidecar().open("boot-2")
    assert await need(sidecar, 1, (budget, 800, 800)) == CONTENDED
    assert await need(sidecar, 2, (budget, 800, 301), wait_ms=50) == CONTENDED
    assert await need(sidecar, 3, (budget, 800, 200), wait_ms=50) == CLAMPED
    assert sidecar.allowance(budget).granted_nanos == 300
    assert await world.standing(budget) == (0, 1_000, 0, 0)


async def test_not_even_the_least_is_exhausted(world: World) -> None:
    budget = await world.budget(100)
    sidecar = await world.sidecar().open("boot-1")
    assert await need(sidecar, 1, (budget, 900, 101)) == EXHAUSTED
    assert await need(sidecar, 2, (budget, 900, 100)) == CLAMPED
