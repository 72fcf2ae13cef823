"""Money of a session that does not come back, decided about through the rpc, on a real Postgres."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest

from bursar.v1 import allowances_pb2, ledger_pb2
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import ChangeFeed
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError, Status
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.ledger.service import LedgerService
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.fakes.until import until
from tests.postgres.rows import House, make_house

SPENT = ledger_pb2.SESSION_DECISION_SPENT
FREE = ledger_pb2.SESSION_DECISION_FREE
SECRET = "bs-first"


class MovableClock(SystemClock):
    """The machine's clock, some time ahead."""

    ahead = timedelta()

    def now(self) -> datetime:
        """The time, and what it is ahead."""
        return super().now() + self.ahead


class World:
    """A control plane over the pool, with a team's budget of 1000 and a key's of 400."""

    def __init__(self, pool: Pool, house: House) -> None:
        self.pool = pool
        self.house = house
        self.clock = MovableClock()
        self.control: AllowanceControl
        self.ledger: LedgerService
        self.channel: grpc.aio.Channel
        self.budgets: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """One process life of the control plane."""
        settings = LendingSettings(idle_tick_ms=5)
        self.control = AllowanceControl(
            self.pool, ChangeFeed(), self.clock, settings, asyncio.Event()
        )
        self.ledger = LedgerService(self.pool, self.clock, self.control)
        server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
        self.control.add_to_server(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await self.control.start()
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as self.channel:
            yield
        await self.control.drain()
        await server.stop(0)

    async def borrower(self) -> ScriptedSidecar:
        """A sidecar that was lent 300 of both budgets and 200 more of the team's; 50 are spent."""
        sidecar = await ScriptedSidecar(self.channel, SECRET).open("boot-1")
        team, key = self.budgets["team"], self.budgets["key"]
        await sidecar.need(1, (team, 300), (key, 300))
        await sidecar.need(2, (team, 200))
        windows = self.windows(sidecar)
        await sidecar.applied(
            await sidecar.say(settlements=[settlement(sidecar.epoch, 1, windows.values(), 50)])
        )
        return sidecar

    def windows(self, sidecar: ScriptedSidecar) -> dict[str, int]:
        return {
            name: sidecar.allowance(budget).budget_window_id
            for name, budget in self.budgets.items()
        }

    async def gone(self, sidecar: ScriptedSidecar, after: timedelta = timedelta()) -> None:
        """Its process died, and so much time passed."""
        await sidecar.hang_up()
        await asyncio.to_thread(
            until, lambda: not self.control.is_connected(sidecar.epoch), "the stream's end"
        )
        self.clock.ahead += after

    async def next_life(
        self,
        crashed: ScriptedSidecar,
        journal: "allowances_pb2.JournalState.ValueType",
        last_n: int,
    ) -> ScriptedSidecar:
        prior = allowances_pb2.PriorSession(
            session_epoch=crashed.epoch, last_n=last_n, journal=journal
        )
        return await ScriptedSidecar(self.channel, SECRET).open("boot-2", [prior])

    async def resolve(
        self,
        epoch: int,
        decision: "ledger_pb2.SessionDecision.ValueType" = SPENT,
        **fields: Any,
    ) -> ledger_pb2.ResolveSessionResponse:
        fields = {"reason": "the disk is gone", **fields}
        return await self.ledger.ResolveSession(
            ledger_pb2.ResolveSessionRequest(session_epoch=epoch, decision=decision, **fields), None
        )

    async def standing(self, name: str) -> tuple[int, int, int, int]:
        row = await self.pool.fetchrow(
            "SELECT settled_nanos, outstanding_nanos, in_doubt_nanos, overrun_nanos"
            " FROM budget_windows WHERE budget_id = $1", self.budgets[name],
        )  # fmt: skip
        assert row is not None
        return (row[0], row[1], row[2], row[3])

    async def expect_whole(self) -> None:
        answer = await self.ledger.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
        assert [d for check in answer.checks for d in check.differences] == []


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    world = World(pool, await make_house(pool))
    scopes = {"team": ("team", world.house.team, 1_000), "key": ("key", world.house.key, 400)}
    for name, (kind, id, limit) in scopes.items():
        world.budgets[name] = await pool.fetchval(
            "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
            " limit_nanos, window_kind, enforcement)"
            " VALUES ($1, $2, '', $3, $4, $5, 'lifetime', 'hard') RETURNING id",
            world.house.organization, f"b-{name}", kind, id, limit,
        )  # fmt: skip
    await pool.execute(
        "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
        " VALUES ($1, 1, 's-1', $2, 'bs-')",
        world.house.organization, hashlib.sha256(SECRET.encode()).digest(),
    )  # fmt: skip
    async with world.running():
        yield world
        await world.expect_whole()


async def refusal(world: World, epoch: int, **fields: Any) -> str:
    with pytest.raises(BursarError) as refused:
        await world.resolve(epoch, **fields)
    assert refused.value.status is Status.FAILED_PRECONDITION
    return refused.value.reason


async def test_who_may_still_spend_is_not_decided_about(world: World) -> None:
    sidecar = await world.borrower()
    assert await refusal(world, sidecar.epoch) == "SESSION_IS_CONNECTED"
    await world.gone(sidecar, timedelta(minutes=30))
    assert await refusal(world, sidecar.epoch) == "SESSION_MAY_RETURN"
    assert await world.standing("team") == (50, 450, 0, 0)
    assert await world.pool.fetchval("SELECT count(*) FROM resolutions") == 0


async def test_a_request_that_says_too_little_is_refused_by_field(world: World) -> None:
    for field, fields in (
        ("decision", {"decision": 0}),
        ("reason", {"reason": " "}),
        ("session_epoch", {"epoch": 0}),
    ):
        with pytest.raises(BursarError) as refused:
            await world.resolve(**{"epoch": 1, **fields})  # type: ignore[arg-type]
        assert [violation.field for violation in refused.value.field_violations] == [field]
    with pytest.raises(BursarError) as refused:
        await world.resolve(999)
    assert refused.value.status is Status.NOT_FOUND


async def test_a_lost_disk_counts_as_spent(world: World) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    answer = await world.resolve(sidecar.epoch)
    assert [(w.budget, w.amount.nanos) for w in answer.windows] == [
        ("budgets/b-key", 250),
        ("budgets/b-team", 450),
    ]
    assert await world.standing("team") == (500, 0, 0, 0)
    assert await world.standing("key") == (300, 0, 0, 0)
    rows = await world.pool.fetch(
        "SELECT n, amount_nanos, debit_account, credit_account FROM entries WHERE kind = 'lost'"
        " ORDER BY n DESC"
    )
    assert [tuple(row) for row in rows] == [
        (-1, 250, "spend/acme", "lost"),
        (-2, 200, "spend/acme", "lost"),
    ]
    entries = await world.ledger.ListEntries(
        ledger_pb2.ListEntriesRequest(charge_id=f"{sidecar.epoch}-lost-2"), None
    )
    assert [list(entry.budgets) for entry in entries.entries] == [["budgets/b-team"]]
    record = await world.pool.fetchrow("SELECT actor, reason, decision FROM resolutions")
    assert record is not None
    assert tuple(record) == ("admin", "the disk is gone", "spent")
    assert await refusal(world, sidecar.epoch) == "SESSION_HOLDS_NOTHING"


async def test_free_money_can_be_lent_again(world: World) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    answer = await world.resolve(sidecar.epoch, FREE)
    assert sum(window.amount.nanos for window in answer.windows) == 700
    assert await world.standing("team") == (50, 0, 0, 0)
    again = await ScriptedSidecar(world.channel, SECRET).open("boot-2")
    verdict = await again.need(1, (world.budgets["key"], 350))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_GRANTED


async def test_a_torn_journal_is_resolved_while_its_next_life_runs(world: World) -> None:
    crashed = await world.borrower()
    windows = world.windows(crashed).values()
    await world.gone(crashed)
    sidecar = await world.next_life(crashed, allowances_pb2.JOURNAL_STATE_TRUNCATED, 1)
    close = allowances_pb2.CloseSession(session_epoch=crashed.epoch, last_n=1)
    await sidecar.applied(await sidecar.say(close_sessions=[close]))
    assert await world.standing("team") == (50, 0, 450, 0)
    await world.resolve(crashed.epoch)
    assert await world.standing("team") == (500, 0, 0, 0)
    await world.expect_whole()
    # Evidence that was found later: it was part of what was lost.
    found = settlement(crashed.epoch, 2, windows, 100)
    for _ in range(2):
        await sidecar.applied(await sidecar.say(settlements=[found]))
        assert await world.standing("team") == (500, 0, 0, 0)
        assert await world.standing("key") == (300, 0, 0, 0)
    assert await world.pool.fetchval("SELECT count(*) FROM entries WHERE kind = 'lost'") == 3
    more = settlement(crashed.epoch, 3, windows, 200)
    await sidecar.applied(await sidecar.say(settlements=[more]))
    assert await world.standing("team") == (500, 0, 0, 0)
    assert await world.standing("key") == (350, 0, 0, 50)


async def test_evidence_after_a_free_decision_is_overrun(world: World) -> None:
    crashed = await world.borrower()
    windows = world.windows(crashed).values()
    await world.gone(crashed)
    sidecar = await world.next_life(crashed, allowances_pb2.JOURNAL_STATE_TRUNCATED, 1)
    await world.resolve(crashed.epoch, FREE)
    await sidecar.applied(
        await sidecar.say(settlements=[settlement(crashed.epoch, 2, windows, 100)])
    )
    assert await world.standing("team") == (150, 0, 0, 100)


async def test_a_recovered_journal_takes_back_what_was_not_spent(world: World) -> None:
    crashed = await world.borrower()
    windows = world.windows(crashed).values()
    await world.gone(crashed, timedelta(minutes=31))
    await world.resolve(crashed.epoch)
    sidecar = await world.next_life(crashed, allowances_pb2.JOURNAL_STATE_COMPLETE, 2)
    close = allowances_pb2.CloseSession(session_epoch=crashed.epoch, last_n=2)
    found = settlement(crashed.epoch, 2, windows, 100)
    await sidecar.applied(await sidecar.say(settlements=[found], close_sessions=[close]))
    assert await world.standing("team") == (150, 0, 0, 0)
    assert await world.standing("key") == (150, 0, 0, 0)
    assert await refusal(world, crashed.epoch) == "SESSION_IS_CLOSED"


async def test_a_session_that_wakes_up_after_the_decision_is_told(world: World) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    await world.resolve(sidecar.epoch)
    again = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
    fences = [f for f in again.frames if f.HasField("fence") and f.session_epoch == again.epoch]
    assert again.epoch == sidecar.epoch
    assert len(fences) == 1
    assert not any(f.allowances for f in again.frames[: again.frames.index(fences[0])])
    await again.say()
    why = "it was decided what becomes of the session's money"
    await again.until(lambda f: f.fence.reason == why)


async def test_a_repeated_request_is_answered_alike(world: World) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    request_id = str(uuid.uuid4())
    first = await world.resolve(sidecar.epoch, request_id=request_id)
    assert await world.resolve(sidecar.epoch, request_id=request_id) == first
    assert await world.pool.fetchval("SELECT count(*) FROM resolutions") == 1
    with pytest.raises(BursarError) as refused:
        await world.resolve(sidecar.epoch, FREE, request_id=request_id)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_a_decision_outlives_the_process_that_recorded_it(pool: Pool, world: World) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    await world.control.drain()
    with pytest.raises(BursarError) as refused:
        await world.resolve(sidecar.epoch, request_id=(request_id := str(uuid.uuid4())))
    assert refused.value.reason == "RESOLUTION_PENDING"
    assert await world.standing("team") == (50, 450, 0, 0)
    async with world.running():
        answer = await world.resolve(sidecar.epoch, request_id=request_id)
        assert sum(window.amount.nanos for window in answer.windows) == 700
        assert await world.standing("team") == (500, 0, 0, 0)


async def test_a_session_that_was_back_before_the_decision_applied_keeps_its_money(
    pool: Pool, world: World
) -> None:
    sidecar = await world.borrower()
    await world.gone(sidecar, timedelta(minutes=31))
    await world.pool.execute(
        "INSERT INTO resolutions (organization_id, session_epoch, decision, reason, actor,"
        " created_at) VALUES ($1, $2, 'spent', '', 'admin', $3)",
        world.house.organization, sidecar.epoch, world.clock.now(),
    )  # fmt: skip
    id = await world.pool.fetchval("SELECT id FROM resolutions")
    again = await ScriptedSidecar(world.channel, SECRET).open("boot-1")
    await world.control.resolution_applied(id)
    refused = await world.pool.fetchval("SELECT refusal FROM resolutions")
    assert refused == "SESSION_IS_CONNECTED"
    assert await world.standing("team") == (50, 450, 0, 0)
    await again.hang_up()
