"""When a change is effective everywhere, as the service tells it of real streams."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest

from bursar.v1 import allowances_pb2, identity_pb2, policy_pb2
from bursar_server.allowances.hub import Hub
from bursar_server.allowances.policy import PolicyDesk
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeKind
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status
from bursar_server.identity.key_service import KeyService
from bursar_server.identity.store import record_change
from bursar_server.policy import store
from bursar_server.policy.service import PolicyService
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.lending_world import (
    KEY,
    ORGANIZATION,
    OTHER_SECRET,
    TEAM_ID,
    ShiftedClock,
    World,
    lending,
)

KEY_HASH = hashlib.sha256(KEY.encode()).digest()
ACME = "organizations/acme"
NAME = "keys/k-1"
Epochs = dict[int, ScriptedSidecar]


class Installation:
    """A lending control plane with the services that this is about."""

    def __init__(self, world: World, clock: ShiftedClock) -> None:
        self.world = world
        self.clock = clock
        self.live: Epochs = {}
        self.keys = KeyService(world.pool, world.feed, clock)
        self.policy = PolicyService(world.pool, clock, 30_000, self.live.__contains__)
        self._context: Any = None

    async def sidecar(self, boot_id: str, secret: str = "bs-first") -> ScriptedSidecar:
        sidecar = await self.world.sidecar(secret).open(boot_id)
        self.live[sidecar.epoch] = sidecar
        return sidecar

    async def revoke(self) -> None:
        asked = identity_pb2.RevokeKeyRequest(organization=ACME, name=NAME)
        await self.keys.RevokeKey(asked, self._context)

    async def propagation(self, name: str = NAME) -> policy_pb2.Propagation:
        asked = policy_pb2.GetPropagationRequest(organization=ACME, name=name)
        return await self.policy.GetPropagation(asked, self._context)

    async def hears(self, sidecar: ScriptedSidecar, version: int) -> None:
        """The sidecar is told a version and acknowledges it."""
        told = await sidecar.until(
            lambda f: f.session_epoch == sidecar.epoch and f.policy.policy_version >= version
        )
        ack = allowances_pb2.PolicyAck(policy_version=told.policy.policy_version)
        await sidecar.applied(await sidecar.say(policy_ack=ack))


@pytest.fixture
async def acme(pool: Pool) -> AsyncIterator[Installation]:
    clock = ShiftedClock()
    async with lending(pool, clock, LendingSettings(idle_tick_ms=5)) as world:
        yield Installation(world, clock)


async def test_a_revocation_is_effective_once_each_connected_sidecar_said_so(
    acme: Installation,
) -> None:
    first, second = await acme.sidecar("boot-1"), await acme.sidecar("boot-2", OTHER_SECRET)
    await acme.revoke()
    found = await acme.propagation()
    assert (found.session_count, found.applied_count, len(found.pending)) == (2, 0, 2)
    assert found.HasField("change_time")
    await acme.hears(first, found.policy_version)
    found = await acme.propagation()
    assert [each.session_epoch for each in found.pending] == [second.epoch]
    assert (found.pending[0].sidecar, found.pending[0].connected) == ("sidecars/s-2", True)
    assert not found.HasField("effective_everywhere_time")
    await acme.hears(second, found.policy_version)
    found = await acme.propagation()
    assert (found.applied_count, len(found.pending)) == (2, 0)
    effective = found.effective_everywhere_time
    acme.clock.shift += timedelta(hours=1)
    assert (await acme.propagation()).effective_everywhere_time == effective


async def test_one_that_is_cut_off_is_pending_until_its_policy_lapsed(acme: Installation) -> None:
    sidecar = await acme.sidecar("boot-1")
    await sidecar.hang_up()
    await acme.revoke()
    found = await acme.propagation()
    pending = found.pending[0]
    assert pending.lapse_time.ToDatetime() - pending.last_seen_time.ToDatetime() == timedelta(
        seconds=31
    )
    acme.clock.shift += timedelta(seconds=15)
    assert len((await acme.propagation()).pending) == 1
    acme.clock.shift += timedelta(seconds=17)
    found = await acme.propagation()
    assert (found.lapsed_count, len(found.pending)) == (1, 0)
    assert found.HasField("effective_everywhere_time")


async def test_one_that_says_nothing_about_policy_is_pending_while_it_is_heard_of(
    acme: Installation,
) -> None:
    sidecar = await acme.sidecar("boot-1")
    await acme.revoke()
    for _ in range(3):
        acme.clock.shift += timedelta(seconds=20)
        await sidecar.applied(await sidecar.say())
        assert len((await acme.propagation()).pending) == 1


async def test_a_hello_makes_valid_anew_what_a_sidecar_holds(acme: Installation) -> None:
    sidecar = await acme.sidecar("boot-1")
    await sidecar.hang_up()
    await acme.revoke()
    acme.clock.shift += timedelta(seconds=15)
    again = await acme.sidecar("boot-1")
    acme.clock.shift += timedelta(seconds=17)
    found = await acme.propagation()
    assert [each.session_epoch for each in found.pending] == [again.epoch]


async def test_a_sidecar_that_begins_later_holds_nothing_older(acme: Installation) -> None:
    await acme.revoke()
    first = await acme.propagation()
    assert (first.session_count, first.HasField("effective_everywhere_time")) == (0, True)
    await acme.sidecar("boot-1")
    found = await acme.propagation()
    assert (found.applied_count, len(found.pending)) == (1, 0)
    assert found.effective_everywhere_time == first.effective_everywhere_time


async def test_of_two_who_write_it_down_the_first_is_told(
    acme: Installation, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, earlier = store.mark_effective, acme.clock.now() - timedelta(seconds=1)

    async def mark_second(connection: Connection, id: int, version: int, now: datetime) -> None:
        async with transaction(pool) as other:
            await mark(other, id, version, earlier)
        await mark(connection, id, version, now)

    await acme.revoke()
    monkeypatch.setattr(store, "mark_effective", mark_second)
    found = await acme.propagation()
    monkeypatch.undo()
    assert (await acme.propagation()).effective_everywhere_time == found.effective_everywhere_time


async def test_it_is_written_down_though_nobody_asks(acme: Installation) -> None:
    sidecar = await acme.sidecar("boot-1")
    await acme.revoke()
    version = await acme.world.pool.fetchval("SELECT max(policy_version) FROM policy_changes")
    await acme.hears(sidecar, version)
    async with asyncio.timeout(20):
        while True:
            row = await acme.world.pool.fetchrow("SELECT * FROM policy_changes")
            assert row is not None
            if row["effective_at"] is not None:
                break
    assert (await acme.propagation()).effective_everywhere_time.ToDatetime() == row[
        "effective_at"
    ].replace(tzinfo=None)


async def test_it_is_written_down_though_nobody_is_connected(acme: Installation) -> None:
    sidecar = await acme.sidecar("boot-1")
    await sidecar.hang_up()
    await acme.revoke()
    acme.clock.shift += timedelta(seconds=32)
    async with asyncio.timeout(20):
        while await acme.world.pool.fetchval("SELECT effective_at FROM policy_changes") is None:
            pass


async def test_nothing_is_written_while_there_is_nothing_to_write_down(pool: Pool) -> None:
    clock = ShiftedClock()
    desk = PolicyDesk(pool, Hub(), clock, LendingSettings())
    assert not await desk._tell({})
    async with transaction(pool) as connection:
        await record_change(connection, Change(PLATFORM_ORGANIZATION_ID, ChangeKind.KEY, 1))
    assert not await desk._tell({})  # it looked just now
    clock.shift += timedelta(seconds=1)
    assert await desk._tell({})
    await desk._mark_effective()
    clock.shift += timedelta(seconds=1)
    assert not await desk._tell({})


async def test_the_latest_change_of_the_thing_that_is_named_counts(acme: Installation) -> None:
    await acme.sidecar("boot-1")
    budget = await acme.world.budget(100)
    slug = await acme.world.pool.fetchval("SELECT slug FROM budgets WHERE id = $1", budget)
    await acme.world.announce(Change(ORGANIZATION, ChangeKind.TEAM, TEAM_ID))
    await acme.revoke()
    versions = [
        (await acme.propagation(name)).policy_version
        for name in (f"budgets/{slug}", "teams/search", NAME, ACME)
    ]
    assert versions == [2, 3, 4, 4]
    # A sidecar was never changed: no more is known than that everything so far counts.
    found = await acme.propagation("sidecars/s-1")
    assert (found.policy_version, found.HasField("change_time")) == (4, False)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("keys/nobody", Status.NOT_FOUND),
        ("budgets/nobody", Status.NOT_FOUND),
        ("users/nobody", Status.NOT_FOUND),
        ("sidecars/nobody", Status.NOT_FOUND),
        ("prices/p-1", Status.INVALID_ARGUMENT),
        ("", Status.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_there_is_said(acme: Installation, name: str, status: Status) -> None:
    with pytest.raises(BursarError) as caught:
        await acme.propagation(name)
    assert caught.value.status is status
    assert grpc.StatusCode[status.name]
