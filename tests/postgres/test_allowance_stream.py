"""The session stream against a real Postgres: lending, posting, fencing, and what is refused."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import allowances_pb2, charges_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeKind
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.lending_world import (
    KEY,
    KEY_ID,
    ORGANIZATION,
    OTHER_SECRET,
    SECRET,
    TEAM_ID,
    World,
    lending,
)

LENT = allowances_pb2.NEED_OUTCOME_GRANTED


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, SystemClock(), LendingSettings(idle_tick_ms=5)) as world:
        yield world


async def test_a_need_begins_the_window_and_is_lent_with_what_is_wanted(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    verdict = await sidecar.need(1, (budget, 100), want=50)
    assert verdict.outcome == LENT
    assert sidecar.allowance(budget).granted_nanos == 150
    assert sidecar.allowance(budget).mode == allowances_pb2.ALLOWANCE_MODE_LENT
    assert await world.standing(budget) == (0, 150, 0, 0)


async def test_a_settlement_is_posted_once_however_often_it_comes(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    charge = settlement(
        sidecar.epoch,
        1,
        [window],
        60,
        key_id=KEY_ID,
        tags=["a", 'b"\\,{'],
        service_tier="flex",
        region="eu",
        priced_as="openai/gpt-4o",
        price_currency="EUR",
        exchange_rate="1/0.92",
    )
    await sidecar.applied(await sidecar.say(settlements=[charge, charge]))
    await sidecar.hang_up()
    again = await world.sidecar().open("boot-1")
    assert again.epoch == sidecar.epoch
    assert again.allowance(budget).granted_nanos == 100
    await again.applied(await again.say(settlements=[charge]))
    assert await world.standing(budget) == (60, 40, 0, 0)
    rows = await world.pool.fetch("SELECT * FROM entries")
    assert len(rows) == 1
    row = rows[0]
    assert (row["debit_account"], row["credit_account"]) == ("spend/acme", "payable/openai")
    assert (row["amount_nanos"], row["team_id"], row["tags"]) == (60, TEAM_ID, ["a", 'b"\\,{'])
    priced = (row["service_tier"], row["region"], row["priced_as"])
    assert priced == ("flex", "eu", "openai/gpt-4o")
    assert (row["price_currency"], row["exchange_rate"]) == ("EUR", "1/0.92")


async def test_idle_money_is_called_home_for_the_call_that_waits(world: World) -> None:
    budget = await world.budget(1_000)
    first = await world.sidecar().open("boot-1")
    second = await world.sidecar(OTHER_SECRET).open("boot-2")
    await first.need(1, (budget, 900))
    window = first.allowance(budget).budget_window_id
    held: dict[str, Any] = {"budget_window_id": window, "granted_seen_nanos": 900}
    await first.say(usage=[allowances_pb2.AllowanceUsage(free_nanos=900, idle_ms=9, **held)])
    await second.ask(1, (budget, 500), wait_ms=15_000)
    recall = await first.until(lambda f: len(f.recalls) > 0)
    assert recall.recalls[0].budget_window_id == window
    await first.say(usage=[allowances_pb2.AllowanceUsage(returned_nanos=900, **held)])
    assert (await second.verdict(1)).outcome == LENT
    assert await world.standing(budget) == (0, 500, 0, 0)


async def test_exhausted_names_the_budget_and_contended_says_when(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    verdict = await sidecar.need(1, (budget, 1_001), wait_ms=10_000)
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED
    assert (verdict.binding[0].budget_id, verdict.binding[0].limit_nanos) == (budget, 1_000)
    await sidecar.need(2, (budget, 1_000))
    verdict = await sidecar.need(3, (budget, 1), wait_ms=1)
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_CONTENDED
    assert verdict.binding[0].outstanding_nanos == 1_000
    assert verdict.retry_after_ms > 0


async def test_a_raised_limit_serves_the_call_that_waits(world: World) -> None:
    budget = await world.budget(100)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    await sidecar.ask(2, (budget, 50), wait_ms=15_000)
    await world.set_limit(budget, 150)
    assert (await sidecar.verdict(2)).outcome == LENT


async def test_a_lowered_limit_recalls_and_grants_nothing_more(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 800))
    window = sidecar.allowance(budget).budget_window_id
    held: dict[str, Any] = {"budget_window_id": window, "granted_seen_nanos": 800}
    await sidecar.say(usage=[allowances_pb2.AllowanceUsage(free_nanos=800, **held)])
    await world.set_limit(budget, 300)
    await sidecar.until(lambda f: len(f.recalls) > 0)
    seq = await sidecar.say(usage=[allowances_pb2.AllowanceUsage(returned_nanos=800, **held)])
    await sidecar.applied(seq)
    assert await world.standing(budget) == (0, 0, 0, 0)
    verdict = await sidecar.need(2, (budget, 301))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED


async def test_a_crashed_life_is_settled_and_closed_by_the_next(world: World) -> None:
    budget = await world.budget(1_000)
    crashed = await world.sidecar().open("boot-1")
    await crashed.need(1, (budget, 500))
    window = crashed.allowance(budget).budget_window_id
    await crashed.applied(
        await crashed.say(settlements=[settlement(crashed.epoch, 1, [window], 10)])
    )
    await crashed.hang_up()
    prior = allowances_pb2.PriorSession(
        session_epoch=crashed.epoch, last_n=2, journal=allowances_pb2.JOURNAL_STATE_COMPLETE
    )
    sidecar = await world.sidecar().open("boot-2", [prior])
    assert sidecar.epoch > crashed.epoch
    close = allowances_pb2.CloseSession(session_epoch=crashed.epoch, last_n=2)
    await sidecar.applied(await sidecar.say(close_sessions=[close]))
    assert await world.standing(budget) == (10, 490, 0, 0), "n = 2 is missing: nothing is free"
    lost = settlement(crashed.epoch, 2, [window], 100, kind=charges_pb2.SETTLEMENT_KIND_PROVISIONAL)
    await sidecar.applied(await sidecar.say(settlements=[lost]))
    assert await world.standing(budget) == (110, 0, 0, 0)
    state = await world.pool.fetchval(
        "SELECT state FROM sessions WHERE session_epoch = $1", crashed.epoch
    )
    assert state == "closed"
    account = await world.pool.fetchval("SELECT credit_account FROM entries WHERE n = 2")
    assert account == "provisional"
    found = settlement(crashed.epoch, 2, [window], 30)
    await sidecar.applied(await sidecar.say(settlements=[found]))
    assert await world.standing(budget) == (40, 0, 0, 0)
    rows = await world.pool.fetch("SELECT k, amount_nanos FROM entries WHERE n = 2 ORDER BY k")
    assert [tuple(row) for row in rows] == [(0, 100), (1, -100), (2, 30)]


async def test_a_torn_journal_leaves_the_rest_in_doubt(world: World) -> None:
    budget = await world.budget(1_000)
    crashed = await world.sidecar().open("boot-1")
    await crashed.need(1, (budget, 500))
    await crashed.hang_up()
    prior = allowances_pb2.PriorSession(
        session_epoch=crashed.epoch, last_n=0, journal=allowances_pb2.JOURNAL_STATE_TRUNCATED
    )
    sidecar = await world.sidecar().open("boot-2", [prior])
    close = allowances_pb2.CloseSession(session_epoch=crashed.epoch, last_n=0)
    await sidecar.applied(await sidecar.say(close_sessions=[close]))
    assert await world.standing(budget) == (0, 0, 500, 0)
    verdict = await sidecar.need(1, (budget, 501))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED


async def test_a_charge_beyond_the_allowance_posts_in_full_and_is_told(world: World) -> None:
    budget = await world.budget(100)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 100))
    window = sidecar.allowance(budget).budget_window_id
    charge = settlement(sidecar.epoch, 1, [window], 130, reserved_nanos=100)
    await sidecar.applied(await sidecar.say(settlements=[charge]))
    assert await world.standing(budget) == (130, 0, 0, 30)
    event = await world.pool.fetchrow("SELECT kind, amount_nanos FROM events")
    assert event is not None
    assert tuple(event) == ("overrun", 30)


async def test_a_soft_budget_is_only_watched(world: World) -> None:
    budget = await world.budget(100, enforcement="soft")
    sidecar = await world.sidecar().open("boot-1")
    assert (await sidecar.need(1, (budget, 0))).outcome == LENT
    told = sidecar.allowance(budget)
    assert told.mode == allowances_pb2.ALLOWANCE_MODE_OBSERVED
    charges = [settlement(sidecar.epoch, n, [told.budget_window_id], 60) for n in (1, 2, 3)]
    await sidecar.applied(await sidecar.say(settlements=charges))
    assert await world.standing(budget) == (180, 0, 0, 0)
    assert await world.pool.fetchval("SELECT count(*) FROM events") == 1


async def test_keys_are_told_with_the_budgets_of_their_scopes_and_pushed(world: World) -> None:
    budget = await world.budget(100, "team", TEAM_ID)
    sidecar = await world.sidecar().open("boot-1")
    hashes = [hashlib.sha256(s.encode()).digest() for s in (KEY, "bk-rival", "bk-wrong")]
    await sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=h) for h in hashes])
    told = (await sidecar.until(lambda f: len(f.policy.keys) == 3)).policy
    by_hash = {key.key_hash: key for key in told.keys}
    unknown = allowances_pb2.KEY_REFUSAL_UNKNOWN
    assert [by_hash[h].refusal for h in hashes] == [0, unknown, unknown]
    assert (by_hash[hashes[0]].team, by_hash[hashes[0]].key_id) == ("teams/search", KEY_ID)
    assert [b.budget_id for b in told.budgets] == [budget]
    await world.pool.execute("UPDATE keys SET revoked_at = now() WHERE id = $1", KEY_ID)
    await world.announce(Change(ORGANIZATION, ChangeKind.KEY, KEY_ID, (hashes[0],)))
    told = (await sidecar.until(lambda f: len(f.policy.keys) == 1)).policy
    assert told.keys[0].refusal == allowances_pb2.KEY_REFUSAL_REVOKED
    await world.pool.execute("UPDATE budgets SET disabled = true WHERE id = $1", budget)
    await world.announce(Change(ORGANIZATION, ChangeKind.BUDGET, budget))
    told = (await sidecar.until(lambda f: len(f.policy.removed_budget_ids) > 0)).policy
    assert list(told.removed_budget_ids) == [budget]
    verdict = await sidecar.need(1, (budget, 1))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_STALE


async def test_the_platform_has_a_session_of_its_own(world: World) -> None:
    budget = await world.pool.fetchval(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES (1, 'b-p', '', 'platform', 1, 100, 'lifetime', 'hard') RETURNING id"
    )
    sidecar = await world.sidecar().open("boot-1")
    line = allowances_pb2.NeedLine(budget_id=budget, amount_nanos=40, least_nanos=40)
    needs = [allowances_pb2.Need(need_id=1, lines=[line])]
    await sidecar.say(sidecar.platform_epoch, needs=needs)
    assert (await sidecar.verdict(1)).outcome == LENT
    window = sidecar.allowance(budget).budget_window_id
    charge = settlement(sidecar.platform_epoch, 1, [window], 30)
    seq = await sidecar.say(sidecar.platform_epoch, settlements=[charge])
    await sidecar.applied(seq, sidecar.platform_epoch)
    row = await world.pool.fetchrow("SELECT organization_id, debit_account FROM entries")
    assert row is not None
    assert tuple(row) == (1, "spend/acme")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"settlements": [settlement(1, 1, [1], -5)]}, "settlements[0].cost_nanos"),
        ({"settlements": [settlement(10**9, 1, [1], 5)]}, "settlements[0].session_epoch"),
        ({"settlements": [settlement(1, 0, [1], 5)]}, "settlements[0].n"),
        ({"settlements": [settlement(1, 1, [], 5, k=1)]}, "settlements[0].k"),
        ({"settlements": [settlement(1, 1, [], 5, kind=0)]}, "settlements[0].kind"),
        (
            {"usage": [allowances_pb2.AllowanceUsage(budget_window_id=1, returned_nanos=-1)]},
            "usage[0].returned_nanos",
        ),
        ({"needs": [allowances_pb2.Need(need_id=1)]}, "needs[0].lines"),
        ({"resolve_keys": [allowances_pb2.ResolveKey(key_hash=b"x")]}, "resolve_keys[0]"),
        (
            {"close_sessions": [allowances_pb2.CloseSession(session_epoch=10**9)]},
            "close_sessions[0].session_epoch",
        ),
    ],
)
async def test_a_bad_frame_ends_the_stream_and_moves_nothing(
    world: World, fields: dict[str, Any], fault: str
) -> None:
    await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.say(**fields)
    code, details = await sidecar.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert fault in details
    assert await world.pool.fetchval("SELECT count(*) FROM entries") == 0


async def test_a_gap_in_the_numbers_ends_the_stream(world: World) -> None:
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.say_raw(allowances_pb2.SidecarFrame(session_epoch=sidecar.epoch, seq=2))
    code, details = await sidecar.ended()
    assert (code, "seq" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_sidecar_cannot_settle_for_another_ones_session(world: World) -> None:
    victim = await world.sidecar(OTHER_SECRET).open("boot-2")
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.say(settlements=[settlement(victim.epoch, 1, [], 5)])
    assert (await sidecar.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
    prior = allowances_pb2.PriorSession(
        session_epoch=victim.epoch, journal=allowances_pb2.JOURNAL_STATE_COMPLETE
    )
    thief = world.sidecar()
    with pytest.raises((AssertionError, grpc.aio.AioRpcError)):
        await thief.open("boot-3", [prior])
    state = await world.pool.fetchval(
        "SELECT state FROM sessions WHERE session_epoch = $1", victim.epoch
    )
    assert state == "open"


async def test_a_wrong_or_disabled_credential_is_refused(world: World) -> None:
    with pytest.raises((AssertionError, grpc.aio.AioRpcError)):
        await world.sidecar("bs-wrong").open("boot-1")
    sidecar = await world.sidecar().open("boot-1")
    await world.pool.execute("UPDATE sidecars SET disabled = true WHERE id = 1")
    await world.announce(Change(ORGANIZATION, ChangeKind.SIDECAR, 1))
    code, details = await sidecar.ended()
    assert code is grpc.StatusCode.ABORTED
    assert "credential" in details


async def test_a_frame_that_cannot_be_applied_is_set_aside_and_stops_nobody(
    world: World,
) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    other = await world.sidecar(OTHER_SECRET).open("boot-2")
    bad = await sidecar.say(settlements=[settlement(sidecar.epoch, 1, [999_999], 5)])
    assert (await other.need(1, (budget, 10))).outcome == LENT
    await sidecar.applied(bad)
    assert (await sidecar.need(1, (budget, 10))).outcome == LENT
    row = await world.pool.fetchrow("SELECT session_epoch, frame FROM quarantined_frames")
    assert row is not None
    kept = allowances_pb2.SidecarFrame.FromString(row["frame"])
    assert (row["session_epoch"], kept.settlements[0].cost_nanos) == (sidecar.epoch, 5)
    assert await world.pool.fetchval("SELECT kind FROM events") == "frame_quarantined"


async def test_a_deposed_writer_cannot_commit(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 10))
    await world.pool.execute("UPDATE shards SET owner_epoch = owner_epoch + 1")
    await sidecar.ask(2, (budget, 10))
    async with asyncio.timeout(20):
        await world.failed.wait()
    await sidecar.ended()
    assert await world.standing(budget) == (0, 10, 0, 0)


async def test_the_database_refuses_a_grant_that_does_not_fit(world: World) -> None:
    budget = await world.budget(1_000)
    sidecar = await world.sidecar().open("boot-1")
    await sidecar.need(1, (budget, 10))
    with pytest.raises(asyncpg.CheckViolationError):
        await world.pool.execute("UPDATE budget_windows SET outstanding_nanos = 1001")


async def test_many_calls_from_many_sidecars_share_one_budget_to_the_last_nano(
    world: World,
) -> None:
    budget = await world.budget(100)
    sidecars = [
        await world.sidecar(secret).open(f"boot-{secret}-{life}")
        for secret in (SECRET, OTHER_SECRET)
        for life in range(3)
    ]

    async def spend(sidecar: ScriptedSidecar) -> int:
        spent = 0
        while True:
            verdict = await sidecar.need(spent + 1, (budget, 1), wait_ms=15_000)
            if verdict.outcome != LENT:
                assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED
                return spent
            window = sidecar.allowance(budget).budget_window_id
            charge = settlement(sidecar.epoch, spent + 1, [window], 1)
            await sidecar.applied(await sidecar.say(settlements=[charge]))
            spent += 1

    assert sum(await asyncio.gather(*(spend(s) for s in sidecars))) == 100
    assert await world.standing(budget) == (100, 0, 0, 0)


async def test_a_budget_made_late_counts_what_its_window_has_seen(world: World) -> None:
    sidecar = await world.sidecar().open("boot-1")
    now = Timestamp()
    now.GetCurrentTime()
    calls = [
        settlement(sidecar.epoch, 1, [], 60, key_id=KEY_ID, admit_time=now),
        settlement(
            sidecar.epoch, 2, [], 7, key_id=KEY_ID, admit_time=now,
            model="gpt-4o", requested_model="gpt-4o",
        ),  # another model
        settlement(sidecar.epoch, 3, [], 900, admit_time=now),  # no key, no team
        settlement(sidecar.epoch, 4, [], 900, key_id=KEY_ID, admit_time=Timestamp(seconds=10**9)),
    ]  # fmt: skip
    await sidecar.applied(await sidecar.say(settlements=calls))
    budget = await world.pool.fetchval(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id, models,"
        " limit_nanos, window_kind, window_unit, enforcement) VALUES"
        " ($1, 'late', '', 'team', $2, '{*mini}', 100, 'calendar', 'year', 'hard') RETURNING id",
        ORGANIZATION, TEAM_ID,
    )  # fmt: skip
    await world.announce(Change(ORGANIZATION, ChangeKind.BUDGET, budget))
    verdict = await sidecar.need(1, (budget, 41))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED
    assert verdict.binding[0].settled_nanos == 60
    assert (await sidecar.need(2, (budget, 40))).outcome == LENT
    line = await world.pool.fetchrow("SELECT amount_nanos, entry_count FROM opening_lines")
    assert line is not None
    assert tuple(line) == (60, 1)
    with pytest.raises(asyncpg.RestrictViolationError):
        await world.pool.execute("UPDATE opening_lines SET amount_nanos = 0")


async def test_one_session_cannot_take_the_room_of_all_that_wait(world: World) -> None:
    budget = await world.budget(10)
    greedy = await world.sidecar().open("boot-1")
    other = await world.sidecar(OTHER_SECRET).open("boot-2")
    await greedy.need(1, (budget, 10))
    line = allowances_pb2.NeedLine(budget_id=budget, amount_nanos=1, least_nanos=1)
    most = LendingSettings().max_waiting_needs_of_session
    needs = [
        allowances_pb2.Need(need_id=n, lines=[line], wait_ms=60_000) for n in range(2, most + 4)
    ]
    for part in range(0, len(needs), 1_000):
        await greedy.say(needs=needs[part : part + 1_000])
    await greedy.verdict(most + 3)
    told = [v for frame in greedy.frames for v in frame.verdicts if v.need_id > 1]
    assert [v.need_id for v in told] == [most + 2, most + 3]
    assert {v.outcome for v in told} == {allowances_pb2.NEED_OUTCOME_CONTENDED}
    await other.ask(1, (budget, 1), wait_ms=60_000)
    await world.set_limit(budget, 10 + most + 1)
    assert (await other.verdict(1)).outcome == LENT


async def test_a_sidecar_that_is_drained_is_told_now_and_at_every_hello(world: World) -> None:
    sidecar = await world.sidecar().open("boot")

    async def drain(draining: bool) -> None:
        await world.pool.execute("UPDATE sidecars SET draining = $1 WHERE id = 1", draining)
        await world.announce(Change(ORGANIZATION, ChangeKind.SIDECAR, 1))

    await drain(True)
    assert not (await sidecar.until(lambda f: f.HasField("drain"))).drain.over
    # Before the policy, with which it would begin to admit calls.
    again = await world.sidecar().open("boot")
    told = [name for f in again.frames for name in ("drain", "policy") if f.HasField(name)]
    assert told[0] == "drain"
    await drain(False)
    assert (await again.until(lambda f: f.HasField("drain"))).drain.over
