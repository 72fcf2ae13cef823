"""Sessions that fall silent, on a real Postgres and real streams: time is told, nobody decides."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from bursar.v1 import allowances_pb2, ledger_pb2
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import ChangeFeed
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.ledger.service import LedgerService
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.fakes.until import until
from tests.postgres.rows import House, make_house

SECRET = "bs-first"
MINUTE = 60_000
HORIZON = 24 * 60
SETTINGS = LendingSettings(idle_tick_ms=5, most_gap_ms=60 * MINUTE)
"""Hours of service pass in few steps."""


class MovableClock(SystemClock):
    """The machine's clocks, each some time ahead."""

    ahead = timedelta()
    ahead_ms = 0

    def now(self):  # type: ignore[no-untyped-def]  # a datetime, as above
        """The time, and what it is ahead."""
        return super().now() + self.ahead

    def monotonic_ms(self) -> int:
        """The same of the clock for durations."""
        return super().monotonic_ms() + self.ahead_ms


class World:
    """A control plane over the pool, and a team's budget of 1000."""

    def __init__(self, pool: Pool, house: House) -> None:
        self.pool = pool
        self.house = house
        self.clock = MovableClock()
        self.control: AllowanceControl
        self.channel: grpc.aio.Channel
        self.budget = 0

    @contextlib.asynccontextmanager
    async def running(self, settings: LendingSettings = SETTINGS) -> AsyncIterator[None]:
        """One process life of the control plane."""
        self.control = AllowanceControl(
            self.pool, ChangeFeed(), self.clock, settings, asyncio.Event()
        )
        server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
        self.control.add_to_server(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await self.control.start()
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as self.channel:
            yield
        await self.control.drain()
        await server.stop(0)

    async def serve(self, minutes: int) -> None:
        """The control plane serves for so long, and commits at least every half hour."""
        while minutes > 0:
            self.clock.ahead_ms += min(minutes, 30) * MINUTE
            minutes -= 30
            async with self.control.writer.turn:
                await self.control.writer.pass_time()

    async def borrower(self, boot_id: str = "boot-1") -> ScriptedSidecar:
        """A sidecar that was lent 300, and spent 50 of it."""
        sidecar = await ScriptedSidecar(self.channel, SECRET).open(boot_id)
        await sidecar.need(1, (self.budget, 300))
        await sidecar.applied(
            await sidecar.say(
                settlements=[settlement(sidecar.epoch, 1, [self.window(sidecar)], 50)]
            )
        )
        return sidecar

    def window(self, sidecar: ScriptedSidecar) -> int:
        return sidecar.allowance(self.budget).budget_window_id

    async def gone(self, sidecar: ScriptedSidecar) -> ScriptedSidecar:
        """Its process died."""
        await sidecar.hang_up()
        await asyncio.to_thread(
            until, lambda: not self.control.is_connected(sidecar.epoch), "the stream's end"
        )
        return sidecar

    async def standing(self) -> tuple[int, int, int, int]:
        row = await self.pool.fetchrow(
            "SELECT settled_nanos, outstanding_nanos, in_doubt_nanos, overrun_nanos"
            " FROM budget_windows WHERE budget_id = $1", self.budget,
        )  # fmt: skip
        assert row is not None
        return (row[0], row[1], row[2], row[3])

    async def state(self, epoch: int) -> str:
        query = "SELECT state FROM sessions WHERE session_epoch = $1"
        return str(await self.pool.fetchval(query, epoch))

    async def events(self) -> list[tuple[str, int, str]]:
        rows = await self.pool.fetch("SELECT kind, amount_nanos, currency FROM events ORDER BY id")
        return [(row["kind"], row["amount_nanos"], row["currency"]) for row in rows]


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    world = World(pool, await make_house(pool))
    world.budget = await pool.fetchval(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES ($1, 'b-team', '', 'team', $2, 1000, 'lifetime', 'hard') RETURNING id",
        world.house.organization, world.house.team,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
        " VALUES ($1, 1, 's-1', $2, 'bs-')",
        world.house.organization, hashlib.sha256(SECRET.encode()).digest(),
    )  # fmt: skip
    yield world
    async with world.running():
        ledger = LedgerService(pool, world.clock, world.control)
        answer = await ledger.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
        assert [d for check in answer.checks for d in check.differences] == []


async def test_a_silent_session_is_in_doubt_and_then_spent(world: World) -> None:
    async with world.running():
        sidecar = await world.gone(await world.borrower())
        await world.serve(30)
        assert (await world.standing(), await world.state(sidecar.epoch)) == (
            (50, 250, 0, 0),
            "open",
        )
        await world.serve(1)
        assert (await world.standing(), await world.state(sidecar.epoch)) == (
            (50, 0, 250, 0),
            "fenced",
        )
        await world.serve(HORIZON - 1)
        assert await world.standing() == (50, 0, 250, 0)
        await world.serve(1)
        assert await world.standing() == (300, 0, 0, 0)
    assert await world.events() == [("session_silent", 250, "USD"), ("session_lost", 250, "USD")]
    record = await world.pool.fetchrow(
        "SELECT session_epoch, decision, actor, reason, refusal FROM resolutions"
        " WHERE applied_at IS NOT NULL"
    )
    assert record is not None
    assert tuple(record) == (
        sidecar.epoch, "spent", "horizon", "no evidence came within 24 hours", "",
    )  # fmt: skip


async def test_evidence_after_the_horizon_takes_its_part_back(world: World) -> None:
    async with world.running():
        lost = await world.gone(await world.borrower())
        await world.serve(31)
        await world.serve(HORIZON)
        prior = allowances_pb2.PriorSession(
            session_epoch=lost.epoch, last_n=2, journal=allowances_pb2.JOURNAL_STATE_COMPLETE
        )
        sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-2", [prior])
        found = settlement(lost.epoch, 2, [world.window(lost)], 100)
        await sidecar.applied(await sidecar.say(settlements=[found]))
        assert await world.standing() == (300, 0, 0, 0)
        close = allowances_pb2.CloseSession(session_epoch=lost.epoch, last_n=2)
        await sidecar.applied(await sidecar.say(close_sessions=[close]))
        assert await world.standing() == (150, 0, 0, 0)


async def test_a_session_that_wakes_up_is_fenced_and_settles(world: World) -> None:
    async with world.running():
        lost = await world.gone(await world.borrower())
        await world.serve(31)
        again = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
        fences = [f for f in again.frames if f.HasField("fence") and f.session_epoch == lost.epoch]
        assert len(fences) == 1
        found = settlement(lost.epoch, 2, [world.window(lost)], 100)
        await again.applied(await again.say(settlements=[found]))
        assert await world.standing() == (150, 0, 150, 0)
        verdict = await again.need(1, (world.budget, 10))
        assert verdict.outcome == allowances_pb2.NEED_OUTCOME_STALE


async def test_a_sidecar_that_keeps_speaking_is_never_silent(world: World) -> None:
    async with world.running():
        sidecar = await world.borrower()
        for _ in range(4):
            await world.serve(30)
            await sidecar.applied(await sidecar.say())
        assert (await world.standing(), await world.state(sidecar.epoch)) == (
            (50, 250, 0, 0),
            "open",
        )


async def test_a_jump_of_the_wall_clock_ends_nothing(world: World) -> None:
    async with world.running():
        sidecar = await world.gone(await world.borrower())
        world.clock.ahead += timedelta(days=300)
        await world.serve(29)
        assert await world.state(sidecar.epoch) == "open"


async def test_while_the_control_plane_is_down_nobody_is_silent(world: World) -> None:
    async with world.running():
        sidecar = await world.gone(await world.borrower())
        await world.serve(20)
    world.clock.ahead_ms += 10 * HORIZON * MINUTE
    async with world.running():
        await world.serve(9)
        assert await world.state(sidecar.epoch) == "open"
        # What was silent before it went down counts: it is on record.
        await world.serve(3)
        assert await world.state(sidecar.epoch) == "fenced"


async def test_while_the_database_was_away_nobody_is_silent(world: World) -> None:
    async with world.running(LendingSettings(idle_tick_ms=5, most_gap_ms=MINUTE)):
        sidecar = await world.gone(await world.borrower())
        world.clock.ahead_ms += 10 * HORIZON * MINUTE
        async with world.control.writer.turn:
            await world.control.writer.pass_time()
        assert await world.state(sidecar.epoch) == "open"


async def test_a_boot_that_never_spoke_is_closed_and_may_still_speak(world: World) -> None:
    async with world.running():
        born = await world.gone(await ScriptedSidecar(world.channel, SECRET).open("boot-1"))
        await world.serve(31)
        assert await world.state(born.epoch) == "closed"
        assert await world.state(born.platform_epoch) == "closed"
        prior = allowances_pb2.PriorSession(
            session_epoch=born.epoch, last_n=1, journal=allowances_pb2.JOURNAL_STATE_COMPLETE
        )
        sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-2", [prior])
        await sidecar.applied(await sidecar.say(settlements=[settlement(born.epoch, 1, [], 5)]))
        close = allowances_pb2.CloseSession(session_epoch=born.epoch, last_n=1)
        await sidecar.applied(await sidecar.say(close_sessions=[close]))
        assert await world.state(born.epoch) == "closed"
    assert await world.events() == []


async def test_many_sessions_are_ended_a_bounded_number_at_a_time(world: World) -> None:
    async with world.running(
        LendingSettings(idle_tick_ms=5, most_gap_ms=60 * MINUTE, max_due_sessions=2)
    ):
        for number in range(3):
            await world.gone(await world.borrower(f"boot-{number}"))
        # Two sessions each: of the organization and of the platform.
        await world.serve(31)
        async with world.control.writer.turn:
            await world.control.writer.pass_time()
            await world.control.writer.pass_time()
        assert await world.standing() == (150, 0, 750, 0)


async def test_the_writer_wakes_by_itself_and_tells_the_sidecar(world: World) -> None:
    settings = LendingSettings(idle_tick_ms=5, life_beat_ms=20, most_gap_ms=60 * MINUTE)
    async with world.running(settings):
        sidecar = await world.borrower()
        world.clock.ahead_ms += 31 * MINUTE
        frame = await sidecar.until(lambda f: f.HasField("fence"))
        assert frame.fence.reason == "the session was silent for too long"
        assert await world.standing() == (50, 0, 250, 0)
