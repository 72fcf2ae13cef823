"""Changes of policy as sidecars are told of them: none is lost, a version means what it says."""

import hashlib
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from bursar.v1 import allowances_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeKind
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import ControlFrame, ScriptedSidecar
from tests.postgres.lending_world import KEY, KEY_ID, ORGANIZATION, TEAM_ID, World, lending

KEY_HASH = hashlib.sha256(KEY.encode()).digest()
KEY_CHANGED = Change(ORGANIZATION, ChangeKind.KEY, KEY_ID, (KEY_HASH,))
REVOKED = allowances_pb2.KEY_REFUSAL_REVOKED


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, SystemClock(), LendingSettings(idle_tick_ms=5)) as world:
        yield world


async def knows_the_key(world: World, boot_id: str = "boot-1") -> ScriptedSidecar:
    sidecar = await world.sidecar().open(boot_id)
    await sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=KEY_HASH)])
    await sidecar.until(lambda frame: len(frame.policy.keys) == 1)
    return sidecar


def tells_version(epoch: int, version: int) -> Callable[[ControlFrame], bool]:
    return lambda f: f.session_epoch == epoch and f.policy.policy_version >= version


async def revoke(world: World) -> int:
    """Commit a revocation, and die before it is announced."""
    await world.pool.execute("UPDATE keys SET revoked_at = now() WHERE id = $1", KEY_ID)
    return await world.record(KEY_CHANGED)


async def acknowledged(world: World, epoch: int) -> tuple[int, int]:
    row = await world.pool.fetchrow(
        "SELECT policy_version, policy_last_n FROM sessions WHERE session_epoch = $1", epoch
    )
    assert row is not None
    return row["policy_version"], row["policy_last_n"]


async def test_a_change_whose_announcement_is_lost_is_told_all_the_same(world: World) -> None:
    sidecar = await knows_the_key(world)
    version = await revoke(world)
    told = (await sidecar.until(lambda frame: len(frame.policy.keys) == 1)).policy
    assert told.keys[0].refusal == REVOKED
    assert told.policy_version == version


async def test_a_limit_whose_announcement_is_lost_reaches_the_windows(world: World) -> None:
    budget = await world.budget(100)
    sidecar = await knows_the_key(world)
    await sidecar.need(1, (budget, 100))
    await sidecar.ask(2, (budget, 50), wait_ms=15_000)
    await world.pool.execute(
        "UPDATE budgets SET limit_nanos = 150, version = version + 1 WHERE id = $1", budget
    )
    await world.record(Change(ORGANIZATION, ChangeKind.BUDGET, budget))
    assert (await sidecar.verdict(2)).outcome == allowances_pb2.NEED_OUTCOME_GRANTED


async def test_a_version_is_told_with_all_it_holds(world: World) -> None:
    """A change that nobody announced goes with the next delta, whatever that is about."""
    sidecar = await knows_the_key(world)
    await revoke(world)
    await sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=bytes(32))])
    told = (await sidecar.until(lambda frame: len(frame.policy.keys) > 0)).policy
    assert {key.key_hash for key in told.keys} == {KEY_HASH, bytes(32)}


async def test_sessions_that_a_change_does_not_concern_are_told_its_version(world: World) -> None:
    sidecar = await knows_the_key(world)
    before = sidecar.frames[-1].policy.policy_version
    await world.announce(Change(ORGANIZATION, ChangeKind.TEAM, 77))
    told = (await sidecar.until(tells_version(sidecar.epoch, before + 1))).policy
    said = [*told.keys, *told.budgets, *told.removed_budget_ids]
    assert said == []


async def test_a_session_that_missed_what_is_not_on_record_begins_anew(world: World) -> None:
    sidecar = await knows_the_key(world)
    await revoke(world)
    await world.pool.execute("DELETE FROM policy_changes")
    code, details = await sidecar.ended()
    assert code is grpc.StatusCode.ABORTED
    assert "policy" in details


async def test_the_latest_changes_of_an_organization_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar_server.identity.store.MOST_CHANGES_KEPT", 3)
    versions = [
        await world.record(Change(ORGANIZATION, ChangeKind.TEAM, TEAM_ID)) for _ in range(5)
    ]
    kept = await world.pool.fetch("SELECT policy_version FROM policy_changes ORDER BY 1")
    assert [row["policy_version"] for row in kept] == versions[-3:]


async def test_what_a_session_acknowledged_is_kept_with_it(world: World) -> None:
    sidecar = await knows_the_key(world)
    version = await revoke(world)
    await sidecar.until(tells_version(sidecar.epoch, version))
    assert await acknowledged(world, sidecar.epoch) == (1, 0)
    ack = allowances_pb2.PolicyAck(policy_version=version, last_n_under_older=7)
    await sidecar.applied(await sidecar.say(policy_ack=ack))
    assert await acknowledged(world, sidecar.epoch) == (version, 7)
    await sidecar.hang_up()
    again = await world.sidecar().open("boot-1")
    assert await acknowledged(world, again.epoch) == (version, 7)
    # A new life holds nothing older than what there was as it began.
    other = await world.sidecar().open("boot-2")
    assert await acknowledged(world, other.epoch) == (version, 0)


@pytest.mark.parametrize(
    ("version", "last_n", "field"),
    [
        (99, 0, "policy_ack.policy_version"),
        (-1, 0, "policy_ack.policy_version"),
        (0, 0, "policy_ack.policy_version"),
        (1, -1, "policy_ack.last_n_under_older"),
        (1, 2**63 - 1, "policy_ack.last_n_under_older"),
    ],
)
async def test_an_acknowledgement_that_cannot_be_is_refused(
    world: World, version: int, last_n: int, field: str
) -> None:
    sidecar = await world.sidecar().open("boot-1")
    ack = allowances_pb2.PolicyAck(policy_version=version, last_n_under_older=last_n)
    await sidecar.say(policy_ack=ack)
    code, details = await sidecar.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in details
    assert await acknowledged(world, sidecar.epoch) == (1, 0)


async def test_an_acknowledgement_does_not_fall(world: World) -> None:
    sidecar = await knows_the_key(world)
    version = await revoke(world)
    await sidecar.until(tells_version(sidecar.epoch, version))
    for policy_version, last_n in ((version, 7), (version, 6)):
        ack = allowances_pb2.PolicyAck(policy_version=policy_version, last_n_under_older=last_n)
        await sidecar.say(policy_ack=ack)
    code, details = await sidecar.ended()
    assert (code, "last_n" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert (await acknowledged(world, sidecar.epoch))[1] in (0, 7)
