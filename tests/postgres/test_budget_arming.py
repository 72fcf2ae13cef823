"""A budget made over those who spend already: it misses nothing, and says when all know it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import allowances_pb2, budgets_pb2, charges_pb2
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.lending_plane import Plane
from tests.postgres.rows import make_house

PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL
DEADLINE_S = 20


@pytest.fixture
async def plane(pool: Pool) -> AsyncIterator[Plane]:
    house = await make_house(pool)
    plane = Plane(pool, house)
    await plane.enrol()
    async with plane.running():
        yield plane


class Spender:
    """A sidecar, and charges of its calls by the key of the house."""

    def __init__(self, plane: Plane, sidecar: ScriptedSidecar) -> None:
        self._plane = plane
        self.sidecar = sidecar

    async def settle(self, n: int, cost: int, *windows: int, ago_s: float = 0, **more: Any) -> None:
        """Settle call `n`, admitted so many seconds ago."""
        admitted = Timestamp()
        admitted.FromDatetime(self._plane.clock.now() - timedelta(seconds=ago_s))
        charge = settlement(
            self.sidecar.epoch, n, windows, cost, key_id=self._plane.house.key,
            admit_time=admitted, **more,
        )  # fmt: skip
        await self.sidecar.applied(await self.sidecar.say(settlements=[charge]))

    async def hears(self, last_n: int) -> None:
        """Acknowledge the latest policy; calls up to `last_n` were admitted under an older one."""
        version = await self._plane.pool.fetchval(
            "SELECT policy_version FROM organizations WHERE id = $1", self._plane.house.organization
        )
        epoch = self.sidecar.epoch
        told = [f.policy.policy_version for f in self.sidecar.frames if f.session_epoch == epoch]
        if max(told) < version:
            await self.sidecar.until(
                lambda f: f.session_epoch == epoch and f.policy.policy_version >= version
            )
        ack = allowances_pb2.PolicyAck(policy_version=version, last_n_under_older=last_n)
        await self.sidecar.applied(await self.sidecar.say(policy_ack=ack))


async def spender(plane: Plane, boot_id: str = "boot-1") -> Spender:
    return Spender(plane, await plane.sidecar(boot_id))


async def begun(plane: Plane, name: str) -> budgets_pb2.Budget:
    """The budget once the writer has looked at it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            budget = await plane.show(name)
            if budget.HasField("arming"):
                return budget


async def test_a_call_under_way_counts_in_a_budget_made_before_it_settled(plane: Plane) -> None:
    one = await spender(plane)
    name, _ = await plane.budget(100)
    budget = await begun(plane, name)
    assert not budget.arming.HasField("armed_time")
    assert [each.sidecar for each in budget.arming.pending] == ["sidecars/s-1"]
    await one.settle(1, 30, ago_s=60)
    standing = (await plane.show(name)).standing
    assert (standing.settled.nanos, standing.overrun.nanos) == (30, 30)
    assert standing.available.nanos == 70
    assert await plane.differences() == []


async def test_it_is_armed_once_every_session_knows_it(plane: Plane) -> None:
    one, other = await spender(plane), await spender(plane, "boot-2")
    name, budget_id = await plane.budget(100)
    await begun(plane, name)
    await one.hears(last_n=2)
    found = (await plane.show(name)).arming
    assert [each.session_epoch for each in found.pending] == [other.sidecar.epoch]
    await other.hears(last_n=0)
    found = (await plane.show(name)).arming
    assert found.HasField("armed_time")
    # Calls from before count still, those after it only where they draw on it.
    await one.settle(2, 20, ago_s=60)
    await one.settle(3, 7)
    await one.sidecar.need(1, (budget_id, 40))
    window = one.sidecar.allowance(budget_id).budget_window_id
    await one.settle(4, 40, window)
    standing = (await plane.show(name)).standing
    assert (standing.settled.nanos, standing.overrun.nanos) == (60, 20)
    assert await plane.differences() == []


async def test_what_had_settled_is_its_opening_line_and_is_not_counted_again(plane: Plane) -> None:
    one = await spender(plane)
    await one.settle(1, 30)
    name, _ = await plane.budget(100, window="calendar:year")
    await begun(plane, name)
    await one.settle(1, 30)
    await one.settle(2, 5)
    assert (await plane.show(name)).standing.settled.nanos == 35
    assert await plane.differences() == []


async def test_a_session_that_is_cut_off_is_missing_until_its_policy_lapsed(plane: Plane) -> None:
    one = await spender(plane)
    await one.sidecar.hang_up()
    name, _ = await plane.budget(100)
    assert len((await begun(plane, name)).arming.pending) == 1
    plane.clock.shift += timedelta(seconds=32)
    assert (await plane.show(name)).arming.HasField("armed_time")
    # What it brings home later counts all the same.
    again = await spender(plane)
    await again.settle(1, 30, ago_s=40)
    assert (await plane.show(name)).standing.settled.nanos == 30


async def test_a_later_difference_follows_its_call(plane: Plane) -> None:
    one = await spender(plane)
    name, _ = await plane.budget(100)
    await begun(plane, name)
    await one.settle(1, 50, kind=PROVISIONAL)
    await one.hears(last_n=1)
    await one.settle(1, 20)
    standing = (await plane.show(name)).standing
    assert standing.settled.nanos == 20
    sets = await plane.pool.fetch("SELECT DISTINCT draw_set_id FROM entries")
    assert len(sets) == 1
    assert await plane.differences() == []


async def test_several_budgets_are_armed_at_once_and_each_counts_its_own(plane: Plane) -> None:
    one = await spender(plane)
    names = [
        (await plane.budget(100, scope=scope))[0]
        for scope in ("organizations/acme", "keys/k-1", "users/ada")
    ]
    soft, _ = await plane.budget(10, enforcement=budgets_pb2.ENFORCEMENT_SOFT)
    for name in (*names, soft):
        await begun(plane, name)
    await one.settle(1, 30, ago_s=5)
    shown = [(await plane.show(name)).standing.settled.nanos for name in (*names, soft)]
    assert shown == [30, 30, 30, 30]
    assert (await plane.show(soft)).standing.overrun.nanos == 0
    kinds = await plane.pool.fetch("SELECT kind FROM events")
    assert [row["kind"] for row in kinds] == ["soft_limit_crossed"]
    assert await plane.differences() == []


async def test_a_control_plane_that_starts_again_goes_on_arming(pool: Pool) -> None:
    plane = Plane(pool, await make_house(pool))
    await plane.enrol()
    async with plane.running():
        one = await spender(plane)
        name, _ = await plane.budget(100)
        await begun(plane, name)
    async with plane.running():
        again = await spender(plane)
        assert again.sidecar.epoch == one.sidecar.epoch
        assert len((await plane.show(name)).arming.pending) == 1
        await again.settle(1, 30, ago_s=5)
        await again.hears(last_n=1)
        assert (await plane.show(name)).arming.HasField("armed_time")
        assert (await plane.show(name)).standing.settled.nanos == 30
        assert await plane.differences() == []


async def test_a_limit_may_change_and_the_budget_be_disabled_meanwhile(plane: Plane) -> None:
    one = await spender(plane)
    name, _ = await plane.budget(100)
    await begun(plane, name)
    for field in ("limit", "disabled"):
        budget = budgets_pb2.Budget(name=name, organization="organizations/acme", disabled=True)
        budget.limit.nanos = 20
        request = budgets_pb2.UpdateBudgetRequest(budget=budget)
        request.update_mask.paths.append(field)
        await plane.budgets.UpdateBudget(request, None)
    await one.settle(1, 30, ago_s=5)
    standing = (await plane.show(name)).standing
    assert (standing.settled.nanos, standing.limit.nanos) == (30, 20)
    assert await plane.differences() == []


async def test_one_over_what_nobody_spent_for_is_born_armed(plane: Plane) -> None:
    one = await spender(plane)
    wrong = hashlib.sha256(b"bk-nobody").digest()
    await one.sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=wrong)])
    await one.sidecar.until(lambda frame: len(frame.policy.keys) == 1)
    await one.hears(last_n=0)
    name, budget_id = await plane.budget(100, scope="keys/k-1")
    found = await begun(plane, name)
    assert found.arming.HasField("armed_time")
    assert not found.HasField("standing")
    # One that was told of the key may have calls of it under way.
    key_hash = b"acme/k-1".ljust(32, b"\0")
    await plane.pool.execute("UPDATE keys SET secret_hash = $1", key_hash)
    await one.sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=key_hash)])
    await one.sidecar.until(
        lambda f: any(k.key_hash == key_hash and k.key_id for k in f.policy.keys)
    )
    later, _ = await plane.budget(100, scope="keys/k-1")
    assert len((await begun(plane, later)).arming.pending) == 1
    assert budget_id


async def test_it_is_written_down_though_nobody_looks(plane: Plane) -> None:
    one = await spender(plane)
    name, _ = await plane.budget(100)
    await begun(plane, name)
    await one.hears(last_n=0)
    async with asyncio.timeout(DEADLINE_S):
        while await plane.pool.fetchval("SELECT armed_at FROM armings") is None:
            pass
    # Gone with the session.
    close = allowances_pb2.CloseSession(session_epoch=one.sidecar.epoch, last_n=0)
    await one.sidecar.applied(await one.sidecar.say(close_sessions=[close]))
    assert await plane.pool.fetchval("SELECT count(*) FROM arming_sessions") == 0
