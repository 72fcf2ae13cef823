"""Since when money is in doubt, and what is set aside: what people see of it in `sidecar show`."""

from collections.abc import AsyncIterator

import pytest

from bursar.v1 import allowances_pb2, sidecars_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import ChangeFeed
from bursar_server.database.pool import Pool
from bursar_server.sidecars.service import SidecarService
from tests.fakes.scripted_sidecar import settlement
from tests.postgres.lending_world import ShiftedClock, World, lending


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, ShiftedClock(), LendingSettings(idle_tick_ms=5)) as world:
        yield world


async def test_the_first_doubt_dates_it_and_its_end_clears_it(world: World) -> None:
    budget = await world.budget(1_000)
    crashed = await world.sidecar().open("boot-1")
    await crashed.need(1, (budget, 500))
    window = crashed.allowance(budget).budget_window_id
    await crashed.hang_up()
    prior = allowances_pb2.PriorSession(
        session_epoch=crashed.epoch, last_n=1, journal=allowances_pb2.JOURNAL_STATE_TRUNCATED
    )
    sidecar = await world.sidecar().open("boot-2", [prior])
    close = allowances_pb2.CloseSession(session_epoch=crashed.epoch, last_n=1)
    before = await world.pool.fetchval("SELECT now()")
    await sidecar.applied(await sidecar.say(close_sessions=[close]))

    async def since() -> object:
        return await world.pool.fetchval(
            "SELECT in_doubt_since FROM allowances WHERE session_epoch = $1", crashed.epoch
        )

    dated = await since()
    assert dated is not None
    assert dated >= before
    for n, cost in ((1, 100), (2, 100)):
        charge = settlement(crashed.epoch, n, [window], cost)
        await sidecar.applied(await sidecar.say(settlements=[charge]))
        assert await since() == dated, "it is the first that counts"
    charge = settlement(crashed.epoch, 3, [window], 300)
    await sidecar.applied(await sidecar.say(settlements=[charge]))
    assert await world.standing(budget) == (500, 0, 0, 0)
    assert await since() is None


async def test_a_sidecar_shows_what_it_set_aside_and_what_is_in_doubt_since_when(
    world: World,
) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 500))
    window = sidecar.allowance(budget).budget_window_id
    said = allowances_pb2.AllowanceUsage(
        budget_window_id=window, granted_seen_nanos=500, reserved_nanos=120, free_nanos=380
    )
    await sidecar.applied(await sidecar.say(usage=[said]))

    def reserved(session_epoch: int, window_id: int) -> int | None:
        return 120 if (session_epoch, window_id) == (sidecar.epoch, window) else None

    service = SidecarService(world.pool, ChangeFeed(), lambda: {1}, reserved)
    asked = sidecars_pb2.GetSidecarRequest(organization="organizations/acme", name="sidecars/s-1")
    (held,) = [
        each
        for session in (await service.GetSidecar(asked, None)).sessions  # type: ignore[arg-type]  # no context is needed
        for each in session.allowances
    ]
    assert (held.outstanding.nanos, held.reserved.nanos) == (500, 120)
    assert not held.HasField("in_doubt_since_time")
    await world.pool.execute("UPDATE allowances SET in_doubt_nanos = 5, in_doubt_since = now()")
    told = (await service.GetSidecar(asked, None)).sessions[0].allowances[0]  # type: ignore[arg-type]  # as above
    assert told.HasField("in_doubt_since_time")
