"""A sidecar with a valid credential that lies, contradicts itself and floods: the books stay whole.

Each case speaks raw frames on a real stream, in a form that passes the border. After it, no balance
of anybody moved but by what the liar itself was lent or posted as its own spending, a verification
finds the ledger whole, and others are served.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from structlog.testing import capture_logs

from bursar.v1 import allowances_pb2, charges_pb2
from tests.fakes.scripted_sidecar import settlement
from tests.postgres.hostile_scene import (
    GRANTED,
    LIMITS,
    STALE,
    Scene,
    charged,
    prior,
    say_hello,
    usage,
)
from tests.postgres.lending_world import OTHER_SECRET, SECRET

# What passes the border, and can't be applied: kept raw, told in an event, and without any effect.
UNAPPLICABLE: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "a return of more than was lent": lambda s: usage(s.window, returned_nanos=201),
    "a report on a window that is not there": lambda s: usage(10**9),
    "a report on a rival's window": lambda s: usage(s.rival_window, want_nanos=100),
    "a report on the platform's window": lambda s: usage(s.platform_window, want_nanos=100),
    "a return of a rival's money": lambda s: usage(s.rival_window, returned_nanos=50),
    "a charge on a rival's window": lambda s: charged(s, windows=[s.rival_window]),
    "a charge on the platform's window": lambda s: charged(s, windows=[s.platform_window]),
    "a charge on its own and a rival's window": lambda s: charged(
        s, windows=sorted([s.window, s.rival_window])
    ),
    "a charge on a window that is not there": lambda s: charged(s, windows=[s.window, 10**9]),
}


async def test_a_frame_that_cannot_be_applied_moves_nothing(scene: Scene) -> None:
    before = await scene.books()
    for lie, frame in UNAPPLICABLE.items():
        await scene.liar.applied(await scene.liar.say(**frame(scene)))
        assert await scene.books() == before, lie
    kept = await scene.pool.fetch("SELECT session_epoch, fault FROM quarantined_frames")
    assert [row["session_epoch"] for row in kept] == [scene.liar.epoch] * len(UNAPPLICABLE)
    events = await scene.pool.fetch("SELECT kind FROM events")
    assert [row["kind"] for row in events] == ["frame_quarantined"] * len(UNAPPLICABLE)
    await scene.expect_served()
    await scene.expect_whole()


async def test_who_sends_one_after_the_other_of_them_is_cut_off(scene: Scene) -> None:
    """Each is kept, so that they must not fill the disk, nor the memory with what they claim."""
    most = LIMITS.max_quarantined_of_stream
    for _ in range(most + 1):
        await scene.liar.say(**usage(10**9, want_nanos=5))
    info = await scene.refused()
    assert info.reason == "STREAM_CUT"
    assert await scene.pool.fetchval("SELECT count(*) FROM quarantined_frames") <= most + 1
    await scene.expect_served()
    await scene.expect_whole()


async def test_budgets_of_others_are_not_there(scene: Scene) -> None:
    before = await scene.books()
    for number, budget in enumerate((scene.rival_budget, scene.platform_budget, 10**9), 2):
        verdict = await scene.liar.need(number, (budget, 10))
        assert verdict.outcome == STALE
    assert await scene.books() == before


async def test_a_need_is_all_or_nothing_also_with_a_budget_of_another(scene: Scene) -> None:
    before = await scene.books()
    verdict = await scene.liar.need(2, (scene.budget, 10), (scene.rival_budget, 10))
    assert verdict.outcome == STALE
    assert await scene.books() == before


async def test_one_number_for_two_needs_lends_no_more_than_there_is(scene: Scene) -> None:
    line = allowances_pb2.NeedLine(budget_id=scene.budget, amount_nanos=400, least_nanos=400)
    twice = [allowances_pb2.Need(need_id=7, lines=[line], wait_ms=20)] * 4
    await scene.liar.say(needs=twice)
    await scene.liar.until(lambda f: any(v.outcome != GRANTED for v in f.verdicts))
    settled, outstanding, _, _ = await scene.world.standing(scene.budget)
    assert settled + outstanding <= 1_000
    await scene.expect_whole()


async def test_another_content_under_the_same_number_changes_nothing(scene: Scene) -> None:
    await scene.liar.applied(await scene.liar.say(**charged(scene, cost=50)))
    before = await scene.books()
    with capture_logs() as logs:
        for fields in ({"cost": 1}, {"cost": 199}, {"cost": 50, "windows": []}):
            seq = await scene.liar.say(**charged(scene, **fields))
            await scene.liar.applied(seq)
        released = {"kind": charges_pb2.SETTLEMENT_KIND_RELEASED, "cost": 0}
        await scene.liar.applied(await scene.liar.say(**charged(scene, **released)))
    assert await scene.books() == before
    assert [e["charge"] for e in logs if e["event"] == "settlement_contradicted"] == [
        f"{scene.liar.epoch}-1"
    ], "once a session"
    await scene.expect_whole()


async def test_totals_that_fall_are_old_news(scene: Scene) -> None:
    for returned in (150, 100, 0, 149):
        seq = await scene.liar.say(**usage(scene.window, returned_nanos=returned))
        await scene.liar.applied(seq)
    assert await scene.world.standing(scene.budget) == (10, 90 + 50, 0, 0)
    await scene.expect_whole()


async def test_money_it_claims_to_have_seen_is_not_made(scene: Scene) -> None:
    claim = usage(scene.window, granted_seen_nanos=10**17, free_nanos=10**17, want_nanos=10**17)
    with capture_logs() as logs:
        for _ in range(3):
            await scene.liar.applied(await scene.liar.say(**claim))
    told = [line for line in logs if line["event"] == "grant_unproven"]
    assert [(line["session_epoch"], line["said_nanos"]) for line in told] == [
        (scene.liar.epoch, 10**17)
    ]
    settled, outstanding, in_doubt, overrun = await scene.world.standing(scene.budget)
    assert settled + outstanding + in_doubt <= 1_000
    assert overrun == 0
    await scene.expect_whole()


async def test_spending_beyond_what_it_holds_is_its_overrun_and_lends_it_nothing(
    scene: Scene,
) -> None:
    """A fact is never refused; but nobody's limit grows by it."""
    seq = await scene.liar.say(**charged(scene, cost=10**15))
    await scene.liar.applied(seq)
    settled, outstanding, in_doubt, overrun = await scene.world.standing(scene.budget)
    assert (settled, outstanding, in_doubt) == (10**15 + 10, 90, 0)
    assert overrun == 10**15 - 200
    assert (await scene.rival.need(90, (scene.rival_budget, 7))).outcome == GRANTED
    verdict = await scene.liar.need(3, (scene.budget, 1))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED
    await scene.expect_whole()


async def test_a_session_that_closes_too_early_settles_on_and_stays_whole(scene: Scene) -> None:
    """It says that it opened one reservation, gives the rest back, and settles two more."""
    epoch = scene.liar.epoch
    await scene.liar.applied(await scene.liar.say(**charged(scene, n=1)))
    close = allowances_pb2.CloseSession(session_epoch=epoch, last_n=1)
    await scene.liar.applied(await scene.liar.say(close_sessions=[close]))
    assert await scene.world.standing(scene.budget) == (15, 90, 0, 0)
    await scene.expect_whole()
    await scene.liar.applied(await scene.liar.say(**charged(scene, n=3)))
    assert await scene.world.standing(scene.budget) == (20, 90, 0, 5)
    await scene.expect_whole()
    await scene.liar.applied(await scene.liar.say(**charged(scene, n=2)))
    state = await scene.pool.fetchrow("SELECT * FROM sessions WHERE session_epoch = $1", epoch)
    assert state is not None
    assert (state["state"], state["settled_count"], state["last_n"]) == ("closed", 3, 3)
    assert (await scene.liar.need(2, (scene.budget, 1))).outcome == STALE
    await scene.expect_whole()


async def test_a_session_that_names_too_high_a_number_keeps_what_it_holds(scene: Scene) -> None:
    close = allowances_pb2.CloseSession(session_epoch=scene.liar.epoch, last_n=10**9)
    await scene.liar.applied(await scene.liar.say(close_sessions=[close]))
    assert await scene.world.standing(scene.budget) == (10, 290, 0, 0)
    assert (await scene.liar.need(2, (scene.budget, 1))).outcome == STALE
    want = usage(scene.window, granted_seen_nanos=200, want_nanos=500)
    await scene.liar.applied(await scene.liar.say(**want))
    assert await scene.world.standing(scene.budget) == (10, 290, 0, 0), "it is lent no more"
    await scene.expect_whole()


async def test_a_fenced_session_settles_and_is_lent_nothing(scene: Scene) -> None:
    old = scene.liar
    new = await scene.world.sidecar(OTHER_SECRET).open("liar-2", [prior(old.epoch)])
    await old.applied(await old.say(**usage(scene.window, want_nanos=500)))
    assert (await old.need(2, (scene.budget, 5))).outcome == STALE
    told = {frame.fence.reason for frame in old.frames if frame.HasField("fence")}
    assert told == {"a newer life of the sidecar began"}
    await old.applied(await old.say(**charged(scene, n=1)))
    assert await scene.world.standing(scene.budget) == (15, 285, 0, 0)
    charge = settlement(old.epoch, 1, [scene.window], 7)
    await new.applied(await new.say(settlements=[charge]))
    assert await scene.world.standing(scene.budget) == (15, 285, 0, 0), "it is posted once"
    await scene.expect_whole()


async def test_texts_are_cut_and_stored_whatever_they_hold(scene: Scene) -> None:
    long = "x" * 100_000
    odd = "a\x00b\N{RIGHT-TO-LEFT OVERRIDE}'; DROP TABLE entries; --"
    texts = ("customer", "app", "run", "provider", "model", "requested_model", "price_version",
             "provider_request_id")  # fmt: skip
    usage_of = charges_pb2.Usage(further={long[:50_000]: 1, odd: 2}, estimate_reason=long)
    for n, text in ((1, long), (2, odd)):
        fields: dict[str, Any] = dict.fromkeys(texts, text)
        seq = await scene.liar.say(
            **charged(scene, n=n, tags=[text, text + "2"], usage=usage_of, **fields)
        )
        await scene.liar.applied(seq)
    rows = await scene.pool.fetch(
        "SELECT * FROM entries WHERE session_epoch = $1", scene.liar.epoch
    )
    assert len(rows) == 2
    assert max(len(row[name]) for row in rows for name in texts) == 256
    assert "\x00" not in str([dict(row) for row in rows])
    assert await scene.pool.fetchval("SELECT count(*) FROM quarantined_frames") == 0
    await scene.expect_whole()


async def test_a_flood_of_frames_leaves_room_for_others(scene: Scene) -> None:
    """Frames that were received and not applied are bounded in bytes, by session: the rest waits
    in the flooder's own connection."""
    pad = ["x" * 250 + str(i) for i in range(60)]

    async def flood() -> None:
        for n in range(1, 200):
            await scene.liar.say(**charged(scene, n=n, cost=0, tags=pad))

    flooding = asyncio.create_task(flood())
    await scene.expect_served()
    await flooding
    await scene.liar.until(lambda f: f.applied_seq >= 200)
    sessions = await scene.pool.fetchval(
        "SELECT settled_count FROM sessions WHERE session_epoch = $1", scene.liar.epoch
    )
    assert sessions == 199
    await scene.expect_whole()


async def test_one_sidecar_cannot_take_every_stream(scene: Scene) -> None:
    most = LIMITS.max_streams_of_sidecar
    held = [await scene.world.sidecar(OTHER_SECRET).open(f"life-{i}") for i in range(most - 1)]
    info = await say_hello(scene, boot_id="one-too-many")
    assert info.reason == "TOO_MANY_STREAMS"
    await held[0].hang_up()
    await scene.expect_served()
    assert await scene.world.sidecar(SECRET).open("another") is not None


async def test_a_frame_larger_than_gRPC_takes_ends_the_stream(scene: Scene) -> None:
    before = await scene.books()
    line = allowances_pb2.NeedLine(budget_id=scene.budget, amount_nanos=1)
    huge = [allowances_pb2.Need(need_id=1, lines=[line] * 1_000_000)]
    await scene.liar.say(needs=huge)
    code, _ = await scene.liar.ended()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await scene.books() == before
    await scene.expect_served()
