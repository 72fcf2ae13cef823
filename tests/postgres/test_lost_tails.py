"""A database that forgets its last commits: found, and healed from what sidecars prove."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bursar.v1 import allowances_pb2, budgets_pb2, ledger_pb2
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.budgets.service import BudgetService
from bursar_server.changes import ChangeFeed
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.ledger.service import LedgerService
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.rows import House, make_house

SECRET, OTHER = "bs-first", "bs-other"
FORGETFUL = (
    "shards", "sessions", "budget_windows", "allowances", "draw_sets", "entries", "events",
)  # fmt: skip
GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
CONTENDED = allowances_pb2.NEED_OUTCOME_CONTENDED


class World:
    """A control plane over a database that can be set back, and a team's budget of 1000."""

    def __init__(self, pool: Pool, house: House) -> None:
        self.pool = pool
        self.house = house
        self.control: AllowanceControl
        self.budgets: BudgetService
        self.failed = asyncio.Event()
        self.channel: grpc.aio.Channel
        self.budget = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """One process life of the control plane."""
        self.failed = asyncio.Event()
        settings, feed, clock = LendingSettings(idle_tick_ms=5), ChangeFeed(), SystemClock()
        self.control = AllowanceControl(self.pool, feed, clock, settings, self.failed)
        self.budgets = BudgetService(self.pool, feed, clock, self.control.writer.budget_applied)
        server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
        self.control.add_to_server(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await self.control.start()
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as self.channel:
                yield
        finally:
            await self.control.drain()
            await server.stop(0)

    async def remember(self) -> None:
        """What a standby that lags has."""
        await self.pool.execute("CREATE SCHEMA standby")
        for table in FORGETFUL:
            await self.pool.execute(f"CREATE TABLE standby.{table} AS TABLE {table}")
        await self.pool.execute("CREATE TABLE standby.numbers AS SELECT last_value FROM ids")

    async def fail_over(self) -> None:
        """To that standby."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            for table in FORGETFUL:
                await connection.execute(f"DELETE FROM {table}")
                await connection.execute(f"INSERT INTO {table} SELECT * FROM standby.{table}")
            await connection.execute(
                "SELECT setval('ids', last_value), setval('session_epochs', 1) FROM standby.numbers"
            )

    async def standing(self) -> tuple[int, int, int, int]:
        row = await self.pool.fetchrow(
            "SELECT settled_nanos, outstanding_nanos, in_doubt_nanos, overrun_nanos"
            " FROM budget_windows WHERE budget_id = $1", self.budget,
        )  # fmt: skip
        return (row[0], row[1], row[2], row[3]) if row else (0, 0, 0, 0)

    async def events(self) -> list[tuple[str, int]]:
        rows = await self.pool.fetch("SELECT kind, amount_nanos FROM events ORDER BY id")
        return [(row["kind"], row["amount_nanos"]) for row in rows]

    async def thaw(self) -> budgets_pb2.Budget:
        request = budgets_pb2.ThawBudgetRequest(name="budgets/b-team", reason="all are back")
        return await self.budgets.ThawBudget(request, None)

    async def is_frozen(self) -> bool:
        request = budgets_pb2.GetBudgetRequest(name="budgets/b-team")
        return (await self.budgets.GetBudget(request, None)).standing.frozen


def proofs_of(sidecar: ScriptedSidecar) -> list[bytes]:
    """What its Welcomes gave it."""
    return [f.welcome.proof for f in sidecar.frames if f.HasField("welcome")]


def claim(sidecar: ScriptedSidecar, budget: int, **fields: Any) -> dict[str, Any]:
    """A report with the proof of what it was granted last."""
    allowance = sidecar.allowance(budget)
    values: dict[str, Any] = {
        "budget_window_id": allowance.budget_window_id,
        "granted_seen_nanos": allowance.granted_nanos,
        "grant_proof": allowance.grant_proof,
    } | fields
    return {"usage": [allowances_pb2.AllowanceUsage(**values)]}


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    world = World(pool, await make_house(pool))
    world.budget = await pool.fetchval(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES ($1, 'b-team', '', 'team', $2, 1000, 'lifetime', 'hard') RETURNING id",
        world.house.organization, world.house.team,
    )  # fmt: skip
    for number, secret in enumerate((SECRET, OTHER), 1):
        await pool.execute(
            "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
            " VALUES ($1, $2, $3, $4, 'bs-')",
            world.house.organization, number, f"s-{number}",
            hashlib.sha256(secret.encode()).digest(),
        )  # fmt: skip
    yield world
    async with world.running():
        ledger = LedgerService(pool, SystemClock(), world.control)
        answer = await ledger.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
        assert [d for check in answer.checks for d in check.differences] == []


async def borrower(world: World) -> ScriptedSidecar:
    """A sidecar that was lent 100 before the standby's last commit, and 300 in all."""
    sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
    await sidecar.need(1, (world.budget, 100))
    await world.remember()
    await sidecar.need(2, (world.budget, 200))
    return sidecar


async def test_a_control_plane_that_lived_through_it_finds_out_and_ends(world: World) -> None:
    async with world.running():
        sidecar = await borrower(world)
        window = sidecar.allowance(world.budget).budget_window_id
        spent = settlement(sidecar.epoch, 1, [window], 50)
        await sidecar.applied(await sidecar.say(settlements=[spent]))
        await world.fail_over()
        await sidecar.say()
        await asyncio.wait_for(world.failed.wait(), 20)
    assert [kind for kind, _ in await world.events()] == ["ledger_tail_lost"]
    async with world.running():
        again = await ScriptedSidecar(world.channel, SECRET).open(
            "boot-1", proofs=proofs_of(sidecar)
        )
        told = [f.welcome.lost_tails for f in again.frames if f.HasField("welcome")]
        assert told == [1, 1]
        # The next process heard of it by its number, and nothing is lent twice.
        again.frames[:0] = sidecar.frames
        await again.applied(await again.say(**claim(sidecar, world.budget), settlements=[spent]))
        assert await world.standing() == (50, 250, 0, 0)


async def test_a_forgotten_grant_is_restored_and_its_budget_frozen(world: World) -> None:
    async with world.running():
        sidecar = await borrower(world)
    await world.fail_over()
    async with world.running():
        again = await ScriptedSidecar(world.channel, SECRET).open(
            "boot-1", proofs=proofs_of(sidecar)
        )
        assert await world.standing() == (0, 100, 0, 0)
        await again.say(**claim(sidecar, world.budget))
        status, details = await again.ended()
        assert (status, details) == (
            grpc.StatusCode.ABORTED, "the database forgot what it had committed",
        )  # fmt: skip
        assert await world.standing() == (0, 300, 0, 0)
        assert await world.is_frozen()
        assert ("ledger_tail_lost", 200) in await world.events()
        back = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
        assert (await back.need(3, (world.budget, 10))).outcome == CONTENDED
        thawed = await world.thaw()
        assert not thawed.standing.frozen
        assert (await back.need(4, (world.budget, 10))).outcome == GRANTED
        with pytest.raises(BursarError) as refused:
            await world.thaw()
        assert refused.value.reason == "BUDGET_NOT_FROZEN"
    record = await world.pool.fetchrow("SELECT reason, actor FROM thaws")
    assert record is not None
    assert tuple(record) == ("all are back", "admin")


@pytest.mark.parametrize("lie", ["none", "wrong", "another"])
async def test_a_claim_without_a_proof_of_its_own_moves_nothing(world: World, lie: str) -> None:
    async with world.running():
        sidecar = await borrower(world)
        other = await ScriptedSidecar(world.channel, OTHER).open("boot-9")
        await other.need(1, (world.budget, 50))
        theirs = sidecar.allowance(world.budget).grant_proof
        proof = {"none": b"", "wrong": theirs[:-1] + b"!", "another": theirs}[lie]
        seq = await other.say(
            **claim(other, world.budget, granted_seen_nanos=900, grant_proof=proof)
        )
        await other.applied(seq)
        assert await world.standing() == (0, 350, 0, 0)
        assert not await world.is_frozen()
    assert await world.events() == []


async def test_a_forgotten_session_is_taken_up_by_its_own_proof_alone(world: World) -> None:
    async with world.running():
        await world.remember()
        sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
        await sidecar.need(1, (world.budget, 100))
    await world.fail_over()
    async with world.running():
        thief = await ScriptedSidecar(world.channel, OTHER).open(
            "boot-1", proofs=proofs_of(sidecar)
        )
        assert thief.epoch != sidecar.epoch
        again = await ScriptedSidecar(world.channel, SECRET).open(
            "boot-1", proofs=proofs_of(sidecar)
        )
        assert (again.epoch, again.platform_epoch) == (sidecar.epoch, sidecar.platform_epoch)
        window = sidecar.allowance(world.budget).budget_window_id
        spent = settlement(sidecar.epoch, 1, [window], 30)
        await again.applied(await again.say(**claim(sidecar, world.budget), settlements=[spent]))
        assert await world.standing() == (30, 70, 0, 0)


async def test_an_earlier_life_that_was_forgotten_is_settled(world: World) -> None:
    async with world.running():
        await world.remember()
        sidecar = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
        await sidecar.need(1, (world.budget, 100))
    await world.fail_over()
    async with world.running():
        proof = next(
            f.welcome.proof
            for f in sidecar.frames
            if f.HasField("welcome") and f.session_epoch == sidecar.epoch
        )
        prior = allowances_pb2.PriorSession(
            session_epoch=sidecar.epoch, last_n=1, proof=proof,
            journal=allowances_pb2.JOURNAL_STATE_COMPLETE,
        )  # fmt: skip
        again = await ScriptedSidecar(world.channel, SECRET).open("boot-2", [prior])
        assert again.epoch > sidecar.epoch
        window = sidecar.allowance(world.budget).budget_window_id
        spent = settlement(sidecar.epoch, 1, [window], 30)
        spent.admit_time.GetCurrentTime()
        close = allowances_pb2.CloseSession(session_epoch=sidecar.epoch, last_n=1)
        await again.applied(await again.say(settlements=[spent], close_sessions=[close]))
        assert await world.standing() == (30, 0, 0, 30)
