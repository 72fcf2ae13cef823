"""Short stories about lending over a real Postgres, each of which some fault does not survive."""

import asyncio
from datetime import UTC, datetime

import grpc

from bursar.v1 import allowances_pb2
from bursar_server.changes import Change, ChangeKind
from tests.fakes.scripted_sidecar import DEADLINE_S, ScriptedSidecar, settlement
from tests.postgres.lending_world import ORGANIZATION, OTHER_SECRET, World

GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
EXHAUSTED = allowances_pb2.NEED_OUTCOME_EXHAUSTED
COMMIT_LOCK = 77
"""Whoever holds it lets nobody commit a change of a window."""

_WAIT_AT_COMMIT = f"""
CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock({COMMIT_LOCK}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_at_commit AFTER UPDATE ON budget_windows
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
"""


async def held_by_one_who_is_gone(world: World, budget: int) -> ScriptedSidecar:
    """A sidecar that was lent 500 and died."""
    sidecar = await world.sidecar().open("boot-1")
    assert (await sidecar.need(1, (budget, 500))).outcome == GRANTED
    await sidecar.hang_up()
    return sidecar


async def silence_is_no_return(world: World) -> None:
    budget = await world.budget(1_000)
    await held_by_one_who_is_gone(world, budget)
    await world.pool.execute("UPDATE sessions SET last_seen_at = last_seen_at - interval '1 hour'")
    other = await world.sidecar(OTHER_SECRET).open("boot-2")
    assert (await other.need(1, (budget, 501))).outcome != GRANTED


async def a_lost_disk_is_no_return(world: World) -> None:
    budget = await world.budget(1_000)
    await held_by_one_who_is_gone(world, budget)
    anew = await world.sidecar().open("boot-2")
    assert (await anew.need(1, (budget, 501))).outcome != GRANTED


async def a_repeat_costs_nobody_else_anything(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    charges = [settlement(sidecar.epoch, n, [window], 20) for n in (1, 2)]
    await sidecar.applied(await sidecar.say(settlements=charges[:1]))
    await sidecar.applied(await sidecar.say(settlements=charges))
    assert await world.standing(budget) == (40, 60, 0, 0)


async def calls_that_come_together_share(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    line = allowances_pb2.NeedLine(budget_id=budget, amount_nanos=600, least_nanos=600)
    needs = [allowances_pb2.Need(need_id=id, lines=[line]) for id in (1, 2)]
    await sidecar.say(needs=needs)
    assert (await sidecar.verdict(1)).outcome == GRANTED
    assert await world.standing(budget) == (0, 600, 0, 0)


async def totals_are_no_differences(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    usage = allowances_pb2.AllowanceUsage(
        budget_window_id=window, granted_seen_nanos=100, returned_nanos=30
    )
    for _ in range(2):
        await sidecar.applied(await sidecar.say(usage=[usage]))
    assert await world.standing(budget) == (0, 70, 0, 0)


async def nothing_is_told_before_its_commit(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    await world.pool.execute(_WAIT_AT_COMMIT)
    async with world.pool.acquire() as holder:
        await holder.execute(f"SELECT pg_advisory_lock({COMMIT_LOCK})")
        try:
            await sidecar.ask(2, (budget, 50))
            async with asyncio.timeout(DEADLINE_S):
                while not await holder.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                ):
                    pass  # the transaction is not at its commit yet
            # Asked behind it and answered without the writer: what was told before came before.
            await sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=b"k" * 32)])
            answer = await sidecar.until(lambda frame: len(frame.policy.keys) > 0)
            told = [v.need_id for frame in sidecar.frames for v in frame.verdicts]
            assert told == [1]
            assert answer.applied_seq == 1
        finally:
            await holder.execute(f"SELECT pg_advisory_unlock({COMMIT_LOCK})")
    assert (await sidecar.verdict(2)).outcome == GRANTED


async def a_charge_counts_where_it_was_admitted(world: World) -> None:
    drawn, other = await world.budget(1_000), await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (drawn, 100))
    await sidecar.need(2, (other, 100))
    window = sidecar.allowance(drawn).budget_window_id
    charge = settlement(sidecar.epoch, 1, [window], 60)
    await sidecar.applied(await sidecar.say(settlements=[charge]))
    assert await world.standing(other) == (0, 100, 0, 0)


async def what_overran_is_spent(world: World) -> None:
    budget = await world.budget(200)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    charge = settlement(sidecar.epoch, 1, [window], 150)
    await sidecar.applied(await sidecar.say(settlements=[charge]))
    assert await world.standing(budget) == (150, 0, 0, 50)
    other = await world.sidecar(OTHER_SECRET).open("boot-2")
    assert (await other.need(1, (budget, 10), want=500)).outcome == GRANTED
    assert (await world.standing(budget))[1] <= 50


async def a_deposed_owner_lends_no_more(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 10))
    await world.pool.execute("UPDATE shards SET owner_epoch = owner_epoch + 1")
    try:
        verdict = await sidecar.need(2, (budget, 10))
    except (AssertionError, grpc.aio.AioRpcError):
        verdict = None  # the stream ended
    assert verdict is None
    assert await world.standing(budget) == (0, 10, 0, 0)


async def a_cut_limit_holds(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    await world.set_limit(budget, 300)
    assert (await sidecar.need(2, (budget, 301))).outcome == EXHAUSTED


async def a_close_that_knows_too_little_stops_no_charge(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    charges = [settlement(sidecar.epoch, n, [window], 5) for n in (1, 2, 3)]
    await sidecar.applied(await sidecar.say(settlements=charges[:2]))
    close = allowances_pb2.CloseSession(session_epoch=sidecar.epoch, last_n=1)
    await sidecar.applied(await sidecar.say(settlements=charges[2:], close_sessions=[close]))
    assert await world.pool.fetchval("SELECT count(*) FROM quarantined_frames") == 0
    assert await world.standing(budget) == (15, 0, 85, 0)


async def who_closes_is_lent_nothing(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 10))
    line = allowances_pb2.NeedLine(budget_id=budget, amount_nanos=100, least_nanos=100)
    needs = [allowances_pb2.Need(need_id=2, lines=[line])]
    close = allowances_pb2.CloseSession(session_epoch=sidecar.epoch, last_n=0)
    await sidecar.applied(await sidecar.say(needs=needs, close_sessions=[close]))
    assert await world.standing(budget) == (0, 0, 0, 0)


async def a_limit_is_heard_of_by_whoever_comes_later(world: World) -> None:
    budget = await world.pool.fetchval(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES ($1, 'b-x', '', 'organization', $1, 1000, 'lifetime', 'hard') RETURNING id",
        ORGANIZATION,
    )
    await world.pool.execute(
        "INSERT INTO budget_windows (organization_id, budget_id, start_at, limit_nanos,"
        " budget_version, ceiling_nanos, hard, created_at)"
        " VALUES ($1, $2, $3, 1000, 1, 1000, true, $3)",
        ORGANIZATION, budget, datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    await world.pool.execute(
        "UPDATE budgets SET limit_nanos = 50, version = version + 1 WHERE id = $1", budget
    )
    await world.record(Change(ORGANIZATION, ChangeKind.BUDGET, budget))
    sidecar = await world.sidecar().open("boot-1")
    assert (await sidecar.need(1, (budget, 100))).outcome == EXHAUSTED
