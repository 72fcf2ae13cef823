"""Frames that break a rule are refused at the border, with a reason, and move nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from bursar.v1 import allowances_pb2, charges_pb2
from tests.postgres.hostile_scene import (
    LARGEST,
    Scene,
    begin_raw,
    charged,
    need,
    prior,
    say_hello,
    usage,
)
from tests.postgres.lending_world import OTHER_SECRET

# Frames that say what nobody may say, by the field that is refused.
FRAMES: dict[str, tuple[str, Callable[[Scene], dict[str, Any]]]] = {
    "a cost below zero": ("settlements[0].cost_nanos", lambda s: charged(s, cost=-5)),
    "the largest cost": ("settlements[0].cost_nanos", lambda s: charged(s, cost=LARGEST)),
    "the lowest cost": ("settlements[0].cost_nanos", lambda s: charged(s, cost=-LARGEST)),
    "a reservation below zero": (
        "settlements[0].reserved_nanos", lambda s: charged(s, reserved_nanos=-1)),
    "an absurd reservation": (
        "settlements[0].reserved_nanos", lambda s: charged(s, reserved_nanos=LARGEST)),
    "an adjustment of its own": ("settlements[0].k", lambda s: charged(s, k=1)),
    "an adjustment below zero": ("settlements[0].k", lambda s: charged(s, k=-1)),
    "the number zero": ("settlements[0].n", lambda s: charged(s, n=0)),
    "a negative number": ("settlements[0].n", lambda s: charged(s, n=-1)),
    "a number behind an absurd gap": ("settlements[0].n", lambda s: charged(s, n=2**62)),
    "the largest number": ("settlements[0].n", lambda s: charged(s, n=LARGEST)),
    "no kind": ("settlements[0].kind", lambda s: charged(s, kind=0)),
    "what only people decide": (
        "settlements[0].kind", lambda s: charged(s, kind=charges_pb2.SETTLEMENT_KIND_LOST)),
    "a kind of the future": ("settlements[0].kind", lambda s: charged(s, kind=99)),
    "a released call that cost something": (
        "settlements[0].cost_nanos",
        lambda s: charged(s, kind=charges_pb2.SETTLEMENT_KIND_RELEASED)),
    "another sidecar's session": (
        "settlements[0].session_epoch", lambda s: charged(s, session_epoch=s.honest.epoch)),
    "another organization's session": (
        "settlements[0].session_epoch", lambda s: charged(s, session_epoch=s.rival.epoch)),
    "the platform's session of another": (
        "settlements[0].session_epoch",
        lambda s: charged(s, session_epoch=s.honest.platform_epoch)),
    "its own platform session, said in the other": (
        "settlements[0].session_epoch",
        lambda s: charged(s, session_epoch=s.liar.platform_epoch)),
    "no session at all": (
        "settlements[0].session_epoch", lambda s: charged(s, session_epoch=0)),
    "a window twice": (
        "settlements[0].budget_window_ids", lambda s: charged(s, windows=[s.window, s.window])),
    "windows out of order": (
        "settlements[0].budget_window_ids",
        lambda s: {"settlements": [charges_pb2.Settlement(
            session_epoch=s.liar.epoch, n=1, kind=charges_pb2.SETTLEMENT_KIND_FINAL,
            budget_window_ids=[s.window, 1])]}),
    "a window below zero": (
        "settlements[0].budget_window_ids", lambda s: charged(s, windows=[-1])),
    "a call on too many windows": (
        "settlements[0].budget_window_ids", lambda s: charged(s, windows=list(range(1, 1_000)))),
    "too many tags": ("settlements[0].tags", lambda s: charged(s, tags=["x"] * 65)),
    "a status of no protocol": (
        "settlements[0].http_status", lambda s: charged(s, http_status=70_000)),
    "a price's currency without a rate": (
        "settlements[0].exchange_rate", lambda s: charged(s, price_currency="EUR")),
    "a rate without a currency": (
        "settlements[0].price_currency", lambda s: charged(s, exchange_rate="1")),
    "no currency": (
        "settlements[0].price_currency",
        lambda s: charged(s, price_currency="eur", exchange_rate="1")),
    "no rate": (
        "settlements[0].exchange_rate",
        lambda s: charged(s, price_currency="EUR", exchange_rate="1/-1")),
    "a rate too long": (
        "settlements[0].exchange_rate",
        lambda s: charged(s, price_currency="EUR", exchange_rate="1" * 1_000)),
    "usage below zero": (
        "settlements[0].usage",
        lambda s: charged(s, usage=charges_pb2.Usage(input_llm_tokens=-1))),
    "absurd usage": (
        "settlements[0].usage",
        lambda s: charged(s, usage=charges_pb2.Usage(output_llm_tokens=LARGEST))),
    "absurd further usage": (
        "settlements[0].usage",
        lambda s: charged(s, usage=charges_pb2.Usage(further={"images": LARGEST}))),
    "a time that is none": (
        "settlements[0].admit_time", lambda s: charged(s, admit_time=Timestamp(seconds=2**62))),
    "returned below zero": (
        "usage[0].returned_nanos", lambda s: usage(s.window, returned_nanos=-1)),
    "an absurd return": (
        "usage[0].returned_nanos", lambda s: usage(s.window, returned_nanos=LARGEST)),
    "seen more than there is money": (
        "usage[0].granted_seen_nanos", lambda s: usage(s.window, granted_seen_nanos=LARGEST)),
    "free beyond measure": ("usage[0].free_nanos", lambda s: usage(s.window, free_nanos=LARGEST)),
    "free beneath measure": (
        "usage[0].free_nanos", lambda s: usage(s.window, free_nanos=-LARGEST - 1)),
    "wanting everything": ("usage[0].want_nanos", lambda s: usage(s.window, want_nanos=LARGEST)),
    "the window zero": ("usage[0].budget_window_id", lambda s: usage(0)),
    "needing everything": (
        "needs[0].lines[0].amount_nanos", lambda s: need(s.budget, amount_nanos=LARGEST)),
    "needing less than nothing": (
        "needs[0].lines[0].amount_nanos", lambda s: need(s.budget, amount_nanos=-5)),
    "at least less than nothing": (
        "needs[0].lines[0].least_nanos", lambda s: need(s.budget, amount_nanos=5, least_nanos=-5)),
    "a need of nothing": (
        "needs[0].lines", lambda s: {"needs": [allowances_pb2.Need(need_id=1)]}),
    "a need of one budget twice": (
        "needs[0].lines",
        lambda s: {"needs": [allowances_pb2.Need(
            need_id=1, lines=[allowances_pb2.NeedLine(budget_id=s.budget)] * 2)]}),
    "a need with a hundred thousand lines": (
        "needs[0].lines",
        lambda s: {"needs": [allowances_pb2.Need(
            need_id=1, lines=[allowances_pb2.NeedLine(budget_id=s.budget)] * 100_000)]}),
    "too many needs": (
        "needs", lambda s: {"needs": [allowances_pb2.Need(need_id=1)] * 1_025}),
    "too many reports": (
        "usage", lambda s: {"usage": [allowances_pb2.AllowanceUsage()] * 4_097}),
    "too many settlements": (
        "settlements", lambda s: {"settlements": [charges_pb2.Settlement()] * 4_097}),
    "too many keys": (
        "resolve_keys", lambda s: {"resolve_keys": [allowances_pb2.ResolveKey()] * 1_025}),
    "a hash that is none": (
        "resolve_keys[0].key_hash",
        lambda s: {"resolve_keys": [allowances_pb2.ResolveKey(key_hash=b"x" * 33)]}),
    "closing another's session": (
        "close_sessions[0].session_epoch",
        lambda s: {"close_sessions": [allowances_pb2.CloseSession(session_epoch=s.honest.epoch)]}),
    "closing another organization's session": (
        "close_sessions[0].session_epoch",
        lambda s: {"close_sessions": [allowances_pb2.CloseSession(session_epoch=s.rival.epoch)]}),
    "closing with a number below zero": (
        "close_sessions[0].last_n",
        lambda s: {"close_sessions": [
            allowances_pb2.CloseSession(session_epoch=s.liar.epoch, last_n=-1)]}),
    "closing with an absurd number": (
        "close_sessions[0].last_n",
        lambda s: {"close_sessions": [
            allowances_pb2.CloseSession(session_epoch=s.liar.epoch, last_n=2**62)]}),
    "too many closings": (
        "close_sessions", lambda s: {"close_sessions": [allowances_pb2.CloseSession()] * 65}),
    "a second Hello": ("hello", lambda s: {"hello": allowances_pb2.Hello(boot_id="again")}),
}  # fmt: skip


@pytest.mark.parametrize("part", sorted({field.partition("[")[0] for field, _ in FRAMES.values()}))
async def test_a_frame_that_breaks_a_rule_is_refused_and_moves_nothing(
    scene: Scene, part: str
) -> None:
    before = await scene.books()
    for lie, (field, frame) in FRAMES.items():
        if field.partition("[")[0] != part:
            continue
        with capture_logs() as logs:
            await scene.liar.say(**frame(scene))
            info = await scene.refused()
        assert (info.domain, info.reason) == ("bursar", "FIELD_INVALID"), lie
        assert info.metadata["field"].startswith(field), (lie, info.metadata["field"])
        assert len([each for each in logs if each["event"] == "frame_refused"]) == 1, lie
        assert await scene.books() == before, lie
        scene.liar = await scene.world.sidecar(OTHER_SECRET).open("liar")
    await scene.expect_served()
    await scene.expect_whole()


async def test_what_came_with_a_lie_counts_for_nothing_either(scene: Scene) -> None:
    before = await scene.books()
    honest = charged(scene)["settlements"]
    await scene.liar.say(settlements=honest, **usage(scene.window, returned_nanos=-1))
    await scene.refused()
    assert await scene.books() == before


@pytest.mark.parametrize(
    ("epoch", "seq"),
    [("liar", 0), ("liar", 1), ("liar", 3), ("liar", -1), ("liar", LARGEST), ("honest", 1),
     ("honest", 3), ("rival", 2), ("nobody", 1)],
)  # fmt: skip
async def test_a_frame_out_of_order_or_of_another_session_is_refused(
    scene: Scene, epoch: str, seq: int
) -> None:
    epochs = {"honest": scene.honest.epoch, "rival": scene.rival.epoch, "liar": scene.liar.epoch}
    before = await scene.books()
    frame = allowances_pb2.SidecarFrame(
        session_epoch=epochs.get(epoch, 10**9), seq=seq, **charged(scene)
    )
    await scene.liar.say_raw(frame)
    info = await scene.refused()
    assert info.reason == "FIELD_INVALID"
    assert info.metadata["field"] == ("seq" if epoch == "liar" else "session_epoch")
    assert await scene.books() == before
    await scene.expect_served()


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("hello.boot_id", {"boot_id": ""}),
        ("hello.boot_id", {"boot_id": "x" * 65}),
        ("hello.boot_id", {"boot_id": "a\x00b"}),
        ("hello.build", {"boot_id": "b", "build": "x" * 100_000}),
        ("hello.build", {"boot_id": "b", "build": "\x00"}),
        ("hello.price_snapshot_version",
         {"boot_id": "b", "price_snapshot_version": "x" * 100_000}),
        ("hello.prior_sessions", {"boot_id": "b", "prior_sessions": [prior(1)] * 300}),
        ("hello.prior_sessions[0].journal",
         {"boot_id": "b", "prior_sessions": [prior(1, journal=0)]}),
        ("hello.prior_sessions", {"boot_id": "b", "prior_sessions": [prior(0)]}),
        ("hello.prior_sessions", {"boot_id": "b", "prior_sessions": [prior(-LARGEST)]}),
    ],
)  # fmt: skip
async def test_a_hello_that_breaks_a_rule_is_refused(
    scene: Scene, field: str, fields: dict[str, Any]
) -> None:
    sessions = await scene.pool.fetch("SELECT * FROM sessions ORDER BY session_epoch")
    info = await say_hello(scene, **fields)
    assert (info.reason, info.metadata["field"]) == ("FIELD_INVALID", field)
    assert await scene.pool.fetch("SELECT * FROM sessions ORDER BY session_epoch") == sessions


@pytest.mark.parametrize("whose", ["honest", "rival", "platform"])
async def test_the_sessions_of_others_can_be_named_by_nobody_else(scene: Scene, whose: str) -> None:
    """Named as its own, they would be fenced, and could be settled for and closed."""
    epoch = {
        "honest": scene.honest.epoch,
        "rival": scene.rival.epoch,
        "platform": scene.honest.platform_epoch,
    }[whose]
    sessions = await scene.pool.fetch("SELECT * FROM sessions ORDER BY session_epoch")
    info = await say_hello(scene, boot_id="thief", prior_sessions=[prior(epoch)])
    assert info.metadata["field"] == "hello.prior_sessions"
    assert await scene.pool.fetch("SELECT * FROM sessions ORDER BY session_epoch") == sessions
    await scene.expect_served()


async def test_the_boot_id_of_another_leads_to_a_session_of_ones_own(scene: Scene) -> None:
    thief = await scene.world.sidecar(OTHER_SECRET).open("honest")
    assert thief.epoch not in {scene.honest.epoch, scene.rival.epoch}
    await scene.expect_served()


async def test_the_first_frame_is_a_hello_or_nothing(scene: Scene) -> None:
    sidecar = scene.world.sidecar(OTHER_SECRET)
    frame = allowances_pb2.SidecarFrame(session_epoch=scene.liar.epoch, seq=2, **charged(scene))
    await begin_raw(sidecar, scene, OTHER_SECRET, frame)
    assert (await scene.refused(sidecar)).metadata["field"] == "hello"
