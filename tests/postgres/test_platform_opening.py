"""A budget of the platform, made in mid-window, counts what all organizations spent in it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bursar.v1 import allowances_pb2, budgets_pb2
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.ledger_rows import add_draw_set, add_entry, add_session
from tests.postgres.lending_plane import Plane
from tests.postgres.rows import make_house

PLATFORM = "organizations/platform"
GPT = {"model": "gpt-4o-mini", "requested_model": "gpt-4o-mini"}


@pytest.fixture
async def plane(pool: Pool) -> AsyncIterator[Plane]:
    plane = Plane(pool, await make_house(pool))
    await plane.enrol()
    async with plane.running():
        yield plane


async def spend(plane: Plane, sidecar: ScriptedSidecar, n: int, cost: int, **changed: Any) -> None:
    """A call of acme's, now, under no budget."""
    admitted = changed.pop("admitted", plane.clock.now())
    charge = settlement(sidecar.epoch, n, [], cost, **changed)
    charge.admit_time.FromDatetime(admitted)
    await sidecar.applied(await sidecar.say(settlements=[charge]))


async def others_spend(
    plane: Plane, slug: str, currency: str, amount: int, session_epoch: int
) -> None:
    """A call of another organization's, now."""
    house = await make_house(plane.pool, slug, currency)
    await add_session(
        plane.pool, house, session_epoch, settled_count=1, highest_settled_n=1, state="fenced"
    )
    await add_entry(
        plane.pool, house, session_epoch=session_epoch, n=1, amount_nanos=amount,
        debit_account=f"spend/{slug}", currency=currency, admitted_at=plane.clock.now(),
        draw_set_id=await add_draw_set(plane.pool, house, []),
    )  # fmt: skip


async def platform_budget(plane: Plane, **changed: Any) -> tuple[str, int]:
    return await plane.budget(
        1000, window="monthly", scope=PLATFORM, organization=PLATFORM, **changed
    )


async def under(sidecar: ScriptedSidecar, n: int, cost: int, *budgets: int) -> None:
    """A call of acme's under budgets of the platform: it settles in both sessions."""
    epoch = sidecar.platform_epoch
    lines = [
        allowances_pb2.NeedLine(budget_id=budget, amount_nanos=cost, least_nanos=cost)
        for budget in budgets
    ]
    await sidecar.say(epoch, needs=[allowances_pb2.Need(need_id=n, lines=lines)])
    await sidecar.until(
        lambda f: any(
            v.need_id == n and v.outcome == allowances_pb2.NEED_OUTCOME_GRANTED for v in f.verdicts
        )
    )
    windows = [sidecar.allowance(budget).budget_window_id for budget in budgets]
    for number, drawn in ((sidecar.epoch, []), (epoch, windows)):
        charge = settlement(number, n, drawn, cost)
        charge.admit_time.GetCurrentTime()
        await sidecar.applied(await sidecar.say(number, settlements=[charge]), number)


async def settled(plane: Plane, name: str) -> int:
    return int((await plane.show(name, PLATFORM)).standing.settled.nanos)


async def test_it_begins_with_what_all_spent_in_its_currency_and_counts_nothing_twice(
    plane: Plane,
) -> None:
    sidecar = await plane.sidecar()
    older, older_id = await platform_budget(plane)
    # Posted in both ledgers: for acme, and for the platform under its older budget.
    await under(sidecar, 1, 20, older_id)
    await spend(plane, sidecar, 2, 30)
    await others_spend(plane, "globex", "USD", 7, 8001)
    await others_spend(plane, "dupont", "EUR", 1000, 8002)

    newer, newer_id = await platform_budget(plane)
    assert not (await plane.show(newer, PLATFORM)).HasField("standing")
    await under(sidecar, 3, 40, older_id, newer_id)
    assert (await settled(plane, older), await settled(plane, newer)) == (60, 20 + 30 + 7 + 40)
    line = await plane.pool.fetchrow("SELECT amount_nanos, entry_count FROM opening_lines")
    assert line is not None
    assert tuple(line) == (57, 3)
    assert await plane.differences() == []


async def test_it_looks_at_what_its_selector_chooses_and_its_window_holds(plane: Plane) -> None:
    sidecar = await plane.sidecar()
    now = plane.clock.now()
    await spend(plane, sidecar, 1, 1, **GPT)
    await spend(plane, sidecar, 2, 10, model="claude-haiku", requested_model="claude-haiku")
    await spend(plane, sidecar, 3, 100, provider="azure", **GPT)
    await spend(plane, sidecar, 4, 1000, admitted=now.replace(year=now.year - 1), **GPT)
    selector = budgets_pb2.Selector(models=["gpt-*"], providers=["openai"])
    name, budget = await platform_budget(plane, selector=selector)
    await under(sidecar, 5, 2, budget)
    assert await settled(plane, name) == 1 + 2
    assert await plane.differences() == []


@pytest.mark.parametrize("enforcement", ["SOFT", "SHADOW"])
async def test_budgets_that_refuse_nothing_begin_so_too(plane: Plane, enforcement: str) -> None:
    sidecar = await plane.sidecar()
    await spend(plane, sidecar, 1, 30)
    value = budgets_pb2.Enforcement.Value(f"ENFORCEMENT_{enforcement}")
    name, budget = await platform_budget(plane, enforcement=value)
    await under(sidecar, 2, 5, budget)
    assert await settled(plane, name) == 35
    assert await plane.differences() == []
