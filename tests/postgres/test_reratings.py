"""Re-ratings on a real Postgres: planned, accepted, posted once, and the books hold."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from bursar.pricing import charge, price_from_json, snapshot
from bursar.usage import Usage
from bursar.v1 import allowances_pb2, charges_pb2, ledger_pb2, ratings_pb2
from bursar_server.allowances import correcting
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError
from bursar_server.ledger.service import LedgerService
from bursar_server.ratings import store as rating_store
from bursar_server.times import timestamp
from tests.fakes.scripted_sidecar import settlement
from tests.postgres.lending_plane import Plane
from tests.postgres.rerating_scene import A_DOLLAR, DAY, Scene
from tests.postgres.rows import make_house

PLANNED = ratings_pb2.RERATING_STATE_PLANNED
APPLYING = ratings_pb2.RERATING_STATE_APPLYING
APPLIED = ratings_pb2.RERATING_STATE_APPLIED


@pytest.fixture
async def scene(pool: Pool) -> AsyncIterator[Scene]:
    scene = Scene(Plane(pool, await make_house(pool)))
    await scene.begin()
    async with scene.plane.running():
        await scene.open()
        yield scene


async def test_a_corrected_price_posts_the_differences_in_one_batch(scene: Scene) -> None:
    await scene.set_price("1")
    numbers = await scene.calls(3)
    before = await scene.plane.pool.fetch("SELECT * FROM entries ORDER BY n, k")
    await scene.set_price("3")
    planned = await scene.plan()
    assert (planned.state, planned.call_count, planned.corrected_count) == (PLANNED, 3, 3)
    assert (planned.before.nanos, planned.difference.nanos) == (3 * A_DOLLAR, 6 * A_DOLLAR)
    assert [(p.name, p.call_count, p.difference.nanos) for p in planned.models] == [
        ("openai/ours", 3, 6 * A_DOLLAR)
    ]
    assert len(planned.budgets) == 4
    assert {p.difference.nanos for p in planned.budgets} == {6 * A_DOLLAR}
    (pair,) = planned.versions
    assert (pair.from_version, pair.to_version, pair.call_count) == ("custom@1", "custom@2", 3)
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM entries") == 3
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM rerating_lines") == 0

    done = await scene.apply(planned)
    assert (done.state, done.posted_count, done.accepted_by) == (APPLIED, 3, "admin")
    assert done.HasField("apply_time")
    await scene.expect_whole()
    for name in ("team", "key"):
        assert await scene.settled(name) == (9 * A_DOLLAR, 6 * A_DOLLAR)
    assert (await scene.settled("soft"))[0] == 9 * A_DOLLAR
    after = await scene.plane.pool.fetch("SELECT * FROM entries ORDER BY n, k")
    assert [row for row in after if row["k"] == 0] == before
    posted = [row for row in after if row["k"]]
    assert [(row["n"], row["k"], row["kind"], row["amount_nanos"]) for row in posted] == [
        (n, 1, "correction", 2 * A_DOLLAR) for n in numbers
    ]
    batch = int(done.name.partition("/")[2])
    assert {row["rerating_id"] for row in posted} == {batch}
    assert {row["price_version"] for row in posted} == {"custom@2"}
    assert {row["credit_account"] for row in posted} == {"payable/openai"}
    ledger = LedgerService(scene.plane.pool, scene.plane.clock, scene.plane.control)
    batch_only = ledger_pb2.ListEntriesRequest(rerating=done.name)
    entries = (await ledger.ListEntries(batch_only, None)).entries
    assert len(entries) == 3
    assert {entry.rerating for entry in entries} == {done.name}
    assert {entry.kind for entry in entries} == {charges_pb2.SETTLEMENT_KIND_CORRECTION}
    batch_only.rerating = "reratings/1"
    assert not (await ledger.ListEntries(batch_only, None)).entries
    batch_only.rerating = "1"
    with pytest.raises(BursarError) as refused:
        await ledger.ListEntries(batch_only, None)
    assert refused.value.metadata["field"] == "rerating"
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM rerating_lines") == 0


async def test_a_second_run_finds_nothing_to_do(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(2)
    await scene.set_price("2")
    first = await scene.plan()
    await scene.apply(first)
    again = await scene.plan()
    assert (again.call_count, again.corrected_count, again.difference.nanos) == (2, 0, 0)
    assert (await scene.apply(again)).state == APPLIED
    # The same plan applied again posts nothing either, and tells what it did.
    repeated = await scene.apply(first)
    assert (repeated.state, repeated.posted_count) == (APPLIED, 2)
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM entries") == 4
    # Neither does a sidecar that sends its charge again.
    epoch = scene.sidecar.epoch
    window = scene.sidecar.allowance(scene.budgets["team"]).budget_window_id
    charge_again = settlement(epoch, 1, [window], A_DOLLAR, priced_as="openai/ours")
    await scene.sidecar.applied(await scene.sidecar.say(settlements=[charge_again]))
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM entries") == 4
    await scene.expect_whole()


async def test_corrections_up_and_down_and_up_again_keep_the_books(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(4)
    for rate, settled, overrun in (("3", 12, 8), ("0.5", 2, 8)):
        await scene.set_price(rate)
        assert (await scene.apply(await scene.plan())).posted_count == 4
        assert await scene.settled("team") == (settled * A_DOLLAR, overrun * A_DOLLAR)
        await scene.expect_whole()
    # What it freed is lent before it is spent after all: that is overrun, never refused.
    granted = await scene.sidecar.need(99, (scene.budgets["team"], 97 * A_DOLLAR))
    assert granted.outcome == allowances_pb2.NEED_OUTCOME_GRANTED
    await scene.set_price("2")
    await scene.apply(await scene.plan())
    assert await scene.settled("team") == (8 * A_DOLLAR, 14 * A_DOLLAR)
    await scene.expect_whole()


async def test_shadow_and_soft_budgets_follow(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(11)
    await scene.calls(3)  # beyond the limit of both
    await scene.expect_whole()
    row = "SELECT would_refuse_count, would_refuse_nanos FROM budget_windows WHERE budget_id = $1"
    shadow = scene.budgets["shadow"]
    refused = await scene.plane.pool.fetchrow(row, shadow)
    assert refused is not None
    assert refused[0] > 0
    await scene.set_price("2")
    await scene.apply(await scene.plan())
    await scene.expect_whole()
    doubled = await scene.plane.pool.fetchrow(row, shadow)
    assert doubled is not None
    assert tuple(doubled) == (refused[0], 2 * refused[1])


async def test_a_correction_that_crosses_a_soft_limit_is_told(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(11)
    await scene.set_price("2")
    await scene.apply(await scene.plan())
    events = await scene.plane.pool.fetch(
        "SELECT budget_id, amount_nanos FROM events WHERE kind = 'soft_limit_crossed'"
    )
    assert [tuple(event) for event in events] == [(scene.budgets["soft"], 22 * A_DOLLAR)]


async def test_what_is_not_known_is_left_and_counted(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    await scene.calls(1, kind=charges_pb2.SETTLEMENT_KIND_PROVISIONAL)
    estimated = charges_pb2.Usage(input_llm_tokens=5, estimate_reason="aborted")
    await scene.calls(1, usage=estimated)
    await scene.calls(1, cost=0, usage=charges_pb2.Usage(), http_status=500)
    await scene.calls(1, priced_as="")
    await scene.calls(1, cost=0, kind=charges_pb2.SETTLEMENT_KIND_RELEASED)
    await scene.set_price("2")
    planned = await scene.plan()
    assert (planned.call_count, planned.corrected_count) == (5, 1)
    assert {skip.reason: skip.call_count for skip in planned.skips} == {
        "provisional": 1,
        "estimated": 1,
        "not_charged": 1,
        "not_recorded": 1,
    }
    await scene.apply(planned)
    await scene.expect_whole()


async def test_evidence_for_a_provisional_call_and_then_a_correction(scene: Scene) -> None:
    await scene.set_price("1")
    (n,) = await scene.calls(1, kind=charges_pb2.SETTLEMENT_KIND_PROVISIONAL)
    window = [scene.sidecar.allowance(id).budget_window_id for id in scene.budgets.values()]
    now = timestamp(scene.plane.clock.now() - timedelta(minutes=1))
    final = settlement(
        scene.sidecar.epoch, n, window, A_DOLLAR, model="ours", priced_as="openai/ours",
        key_id=scene.plane.house.key, admit_time=now, finish_time=now,
        usage=charges_pb2.Usage(input_llm_tokens=1_000, output_llm_tokens=1_000),
    )  # fmt: skip
    await scene.sidecar.applied(await scene.sidecar.say(settlements=[final]))
    await scene.set_price("3")
    await scene.apply(await scene.plan())
    await scene.expect_whole()
    rows = await scene.plane.pool.fetch("SELECT k, kind, amount_nanos FROM entries ORDER BY k")
    assert [tuple(row) for row in rows] == [
        (0, "provisional", A_DOLLAR),
        (1, "provisional", -A_DOLLAR),
        (2, "final", A_DOLLAR),
        (3, "correction", 2 * A_DOLLAR),
    ]


async def test_only_the_calls_of_the_period_and_the_models_asked_for(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    old = timestamp(scene.plane.clock.now() - 5 * DAY)
    await scene.calls(1, admit_time=old, finish_time=old)
    await scene.set_price("2")
    assert (await scene.plan()).call_count == 1
    since = timestamp(scene.plane.clock.now() - 6 * DAY)
    assert (await scene.plan(since_time=since)).call_count == 2
    until_time = timestamp(scene.plane.clock.now() - 4 * DAY)
    assert (await scene.plan(since_time=since, until_time=until_time)).call_count == 1
    assert (await scene.plan(since_time=since, model="openai/ou?s")).corrected_count == 2
    assert (await scene.plan(since_time=since, model="gpt-*")).call_count == 0


async def test_a_price_that_is_right_for_a_while_corrects_the_calls_of_that_while(
    scene: Scene,
) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    old = timestamp(scene.plane.clock.now() - 5 * DAY)
    await scene.calls(1, admit_time=old, finish_time=old)
    await scene.set_price("4", days=-2)
    planned = await scene.plan(since_time=timestamp(scene.plane.clock.now() - 6 * DAY))
    assert (planned.call_count, planned.corrected_count) == (2, 1)
    assert planned.difference.nanos == 3 * A_DOLLAR


async def test_what_would_be_something_else_is_refused(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    await scene.set_price("2")
    planned = await scene.plan()
    with pytest.raises(BursarError) as refused:
        await scene.apply(planned, etag="another")
    assert refused.value.metadata["field"] == "etag"
    await scene.set_price("3")
    with pytest.raises(BursarError) as refused:
        await scene.apply(planned)
    assert refused.value.reason == "RERATING_DIFFERS"
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM entries") == 1
    assert await scene.plane.pool.fetchval("SELECT count(*) FROM rerating_lines") == 0
    assert await scene.plane.pool.fetchval("SELECT state FROM reratings") == "planned"
    await scene.expect_whole()


async def test_a_crash_between_two_steps_goes_on_where_it_was(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correcting, "MOST_LINES", 2)
    monkeypatch.setattr(rating_store, "PAGE_SIZE", 2)
    scene = Scene(Plane(pool, await make_house(pool)))
    await scene.begin()
    async with scene.plane.running():
        await scene.open()
        await scene.set_price("1")
        await scene.calls(7)
        await scene.set_price("2")
        planned = await scene.plan()
        assert planned.corrected_count == 7
        corrector = scene.plane.control.corrector
        steps = 0
        step = corrector._step

        async def falters(*arguments: Any) -> bool:
            nonlocal steps
            steps += 1
            if steps == 3:
                await step(*arguments)
                raise RuntimeError("the process dies before it commits")
            return await step(*arguments)

        monkeypatch.setattr(corrector, "_step", falters)
        waiting = await scene.apply(planned)
        assert (waiting.state, waiting.posted_count) == (APPLYING, 4)
        assert await pool.fetchval("SELECT count(*) FROM entries") == 7 + 4
        await scene.expect_whole()
        # Meanwhile no other is computed for posting.
        other = await scene.plan()
        with pytest.raises(BursarError) as refused:
            await scene.apply(other)
        assert refused.value.reason == "RERATING_RUNS"
    async with scene.plane.running():
        await scene.plane.control.corrector.rerating_applied(
            scene.plane.house.organization, int(planned.name.partition("/")[2])
        )
        assert await pool.fetchval("SELECT count(*) FROM entries") == 14
        assert await pool.fetchval("SELECT posted_count FROM reratings ORDER BY id LIMIT 1") == 7
        await scene.expect_whole()
        assert (await scene.settled("team"))[0] == 14 * A_DOLLAR


async def test_two_that_accept_at_once_post_once(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(2)
    await scene.set_price("2")
    planned = await scene.plan()
    other = await scene.plan()
    answers = await asyncio.gather(
        *(scene.apply(each) for each in (planned, other, planned, other)), return_exceptions=True
    )
    faults = [each for each in answers if isinstance(each, BaseException)]
    assert all(isinstance(each, BursarError) for each in faults)
    assert {each.reason for each in faults if isinstance(each, BursarError)} <= {
        "RERATING_RUNS", "RERATING_DIFFERS", "TRANSACTION_ABORTED",
    }  # fmt: skip
    assert await scene.plane.pool.fetchval(
        "SELECT count(*) FROM entries WHERE kind = 'correction'"
    ) == 2  # fmt: skip
    await scene.expect_whole()


async def test_the_platform_s_ledger_is_corrected_with_it(scene: Scene) -> None:
    _, platform = await scene.plane.budget(
        100 * A_DOLLAR, scope="organizations/platform", organization="organizations/platform"
    )
    await scene.set_price("1")
    await scene.calls(1)
    sidecar = scene.sidecar
    seq = await sidecar.say(
        sidecar.platform_epoch,
        needs=[_need(platform, 1, A_DOLLAR)],
    )
    await sidecar.applied(seq, sidecar.platform_epoch)
    window = await scene.plane.pool.fetchval(
        "SELECT id FROM budget_windows WHERE budget_id = $1", platform
    )
    now = timestamp(scene.plane.clock.now() - timedelta(minutes=1))
    charge_there = settlement(
        sidecar.platform_epoch, 1, [window], A_DOLLAR, model="ours", priced_as="openai/ours",
        admit_time=now, finish_time=now,
        usage=charges_pb2.Usage(input_llm_tokens=1_000, output_llm_tokens=1_000),
    )  # fmt: skip
    seq = await sidecar.say(sidecar.platform_epoch, settlements=[charge_there])
    await sidecar.applied(seq, sidecar.platform_epoch)
    await scene.set_price("3")
    planned = await scene.plan()
    assert (planned.call_count, planned.corrected_count) == (1, 1)
    assert planned.difference.nanos == 2 * A_DOLLAR
    assert len(planned.budgets) == 5
    done = await scene.apply(planned)
    assert done.posted_count == 2
    rows = await scene.plane.pool.fetch(
        "SELECT organization_id, debit_account, amount_nanos FROM entries"
        " WHERE kind = 'correction' ORDER BY organization_id"
    )
    assert [tuple(row) for row in rows] == [
        (1, "spend/acme", 2 * A_DOLLAR),
        (scene.plane.house.organization, "spend/acme", 2 * A_DOLLAR),
    ]
    await scene.expect_whole()


def _need(budget: int, need_id: int, amount: int) -> Any:
    line = allowances_pb2.NeedLine(budget_id=budget, amount_nanos=amount, least_nanos=amount)
    return allowances_pb2.Need(need_id=need_id, lines=[line])


def test_the_amounts_of_this_file_are_those_of_the_engine() -> None:
    price = snapshot().with_overlay(
        [
            price_from_json(
                '{"provider":"openai","model":"ours","mode":"chat","components":'
                '[{"meter":"input","rate":"1"},{"meter":"output","rate":"1"}]}'
            )
        ],
        "1",
    )
    found = price.lookup("openai/ours")
    assert found is not None
    assert charge(found, Usage(input=1_000, output=1_000)).cost_nanos == A_DOLLAR
