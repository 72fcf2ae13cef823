"""Growth of open calls against a real Postgres: in which windows, before whom, and for whom not."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import grpc
import pytest

from bursar.v1 import allowances_pb2
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import ChangeFeed
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.rows import House, make_house

GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
EXHAUSTED = allowances_pb2.NEED_OUTCOME_EXHAUSTED
STALE = allowances_pb2.NEED_OUTCOME_STALE
SECRET = "bs-first"


class World:
    """A control plane with one budget of 1,000, and a sidecar that holds 100 of it."""

    pool: Pool
    house: House
    budget: int
    window: int
    sidecar: ScriptedSidecar
    channel: grpc.aio.Channel
    need_id = 1

    async def another_budget(self, organization: int) -> int:
        budget_id = await self.pool.fetchval(
            "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
            " limit_nanos, window_kind, enforcement) VALUES ($1, 'b-' || nextval('ids'), '',"
            " 'organization', $1, 1000, 'lifetime', 'hard') RETURNING id", organization,
        )  # fmt: skip
        return int(budget_id)

    async def ask(
        self, amount: int, *, window: int | None = None, budget: int | None = None, wait_ms: int = 0
    ) -> int:
        """A call of the sidecar wants to grow; returns the number of its need."""
        self.need_id += 1
        line = allowances_pb2.NeedLine(
            budget_id=budget or self.budget, amount_nanos=amount, least_nanos=amount,
            budget_window_id=self.window if window is None else window,
        )  # fmt: skip
        need = allowances_pb2.Need(need_id=self.need_id, lines=[line], wait_ms=wait_ms, growth=True)
        await self.sidecar.say(needs=[need])
        return self.need_id

    async def grow(
        self, amount: int, *, window: int | None = None, budget: int | None = None
    ) -> "allowances_pb2.NeedOutcome.ValueType":
        asked = await self.ask(amount, window=window, budget=budget)
        return (await self.sidecar.verdict(asked)).outcome

    async def end_window(self) -> None:
        await self.pool.execute(
            "UPDATE budget_windows SET start_at = now() - interval '2 days',"
            " end_at = now() - interval '1 day' WHERE id = $1", self.window,
        )  # fmt: skip

    async def granted(self) -> int:
        granted = await self.pool.fetchval(
            "SELECT granted_nanos FROM allowances WHERE session_epoch = $1 AND"
            " budget_window_id = $2", self.sidecar.epoch, self.window,
        )  # fmt: skip
        return int(granted)


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    world = World()
    world.pool, world.house = pool, await make_house(pool)
    await pool.execute(
        "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
        " VALUES ($1, 1, 's-1', $2, 'bs-')",
        world.house.organization, hashlib.sha256(SECRET.encode()).digest(),
    )  # fmt: skip
    world.budget = await world.another_budget(world.house.organization)
    settings = LendingSettings(idle_tick_ms=5)
    control = AllowanceControl(pool, ChangeFeed(), SystemClock(), settings, asyncio.Event())
    server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
    control.add_to_server(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await control.start()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as world.channel:
        world.sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
        await world.sidecar.need(1, (world.budget, 100))
        world.window = world.sidecar.allowance(world.budget).budget_window_id
        yield world
    await control.drain()
    await server.stop(0)


async def test_an_open_call_grows_within_the_limit(world: World) -> None:
    assert await world.grow(900) == GRANTED
    assert await world.grow(1_001) == EXHAUSTED
    assert await world.granted() == 1_000


async def test_it_grows_in_the_window_of_its_admission_after_that_ended(world: World) -> None:
    await world.end_window()
    assert await world.grow(50) == GRANTED
    assert await world.granted() == 150
    # Once nothing is out in it any more, the window is closed.
    report = allowances_pb2.AllowanceUsage(
        budget_window_id=world.window, granted_seen_nanos=150, returned_nanos=150
    )
    await world.sidecar.applied(await world.sidecar.say(usage=[report]))
    assert await world.grow(50) == STALE
    assert await world.granted() == 150


async def test_it_grows_under_a_budget_that_is_gone(world: World) -> None:
    await world.pool.execute("UPDATE budgets SET disabled = true")
    assert await world.grow(50) == GRANTED


async def test_it_does_not_grow_in_windows_of_others_nor_of_other_budgets(world: World) -> None:
    other = await world.another_budget(world.house.organization)
    assert await world.grow(1, budget=other) == STALE
    assert await world.grow(1, window=world.window + 1_000) == STALE
    rival = await make_house(world.pool, "rival")
    theirs = await world.another_budget(rival.organization)
    window = await world.pool.fetchval(
        "INSERT INTO budget_windows (organization_id, budget_id, start_at, limit_nanos,"
        " budget_version, ceiling_nanos, hard) VALUES ($1, $2, now(), 1000, 1, 1000, true)"
        " RETURNING id", rival.organization, theirs,
    )  # fmt: skip
    assert await world.grow(1, window=window, budget=theirs) == STALE


async def test_growth_is_served_before_a_call_that_came_earlier(world: World) -> None:
    report = allowances_pb2.AllowanceUsage(budget_window_id=world.window, granted_seen_nanos=100)
    await world.sidecar.ask(2, (world.budget, 950), wait_ms=30_000)
    world.need_id = 2
    growth = await world.ask(901, wait_ms=30_000)
    freed = allowances_pb2.AllowanceUsage(
        budget_window_id=world.window, granted_seen_nanos=100, returned_nanos=100
    )
    await world.sidecar.say(usage=[report])
    await world.sidecar.say(usage=[freed])
    assert (await world.sidecar.verdict(growth)).outcome == GRANTED
    assert not any(v.need_id == 2 for frame in world.sidecar.frames for v in frame.verdicts)


async def test_a_fenced_session_is_lent_nothing_for_its_open_calls(world: World) -> None:
    await world.pool.execute("UPDATE sessions SET state = 'fenced'")
    assert await world.grow(1) == STALE


@pytest.mark.parametrize(("growth", "window"), [(True, 0), (True, -1), (False, 7)])
async def test_growth_and_nothing_else_names_its_window(
    world: World, growth: bool, window: int
) -> None:
    line = allowances_pb2.NeedLine(
        budget_id=world.budget, amount_nanos=1, least_nanos=1, budget_window_id=window
    )
    need = allowances_pb2.Need(need_id=2, lines=[line], growth=growth)
    await world.sidecar.say(needs=[need])
    code, details = await world.sidecar.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "needs[0].lines[0].budget_window_id" in details
