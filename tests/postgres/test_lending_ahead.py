"""Money of the next window is lent before it begins, so that no call waits at the edge."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from bursar.v1 import allowances_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeKind
from bursar_server.database.pool import Pool
from tests.postgres.lending_world import ORGANIZATION, OTHER_SECRET, ShiftedClock, World, lending

NEAR_THE_END = timedelta(seconds=45)
"""From there on every session is due: a quarter of the stretch is left."""
PAST_THE_END = timedelta(seconds=16)
LONG_MS = 3_600_000


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def world(pool: Pool, clock: ShiftedClock) -> AsyncIterator[World]:
    async with lending(pool, clock, LendingSettings(idle_tick_ms=5, ahead_ms=60_000)) as world:
        yield world


async def daily(world: World, clock: ShiftedClock, enforcement: str = "hard") -> int:
    """A budget whose window of a day ends a minute from now."""
    budget_id = await world.budget(1_000, enforcement=enforcement)
    await world.pool.execute(
        "UPDATE budgets SET window_kind = 'every', window_unit = 'day', window_count = 1,"
        " window_start_at = $2, created_at = $2, version = version + 1 WHERE id = $1",
        budget_id, clock.now() + timedelta(minutes=1) - timedelta(days=1),
    )  # fmt: skip
    await world.announce(Change(ORGANIZATION, ChangeKind.BUDGET, budget_id))
    return budget_id


def usage(
    window_id: int, want: int, *, free: int = 0, idle_ms: int = 0
) -> allowances_pb2.AllowanceUsage:
    return allowances_pb2.AllowanceUsage(
        budget_window_id=window_id,
        granted_seen_nanos=free,
        free_nanos=free,
        want_nanos=want,
        idle_ms=idle_ms,
    )


async def windows(world: World, budget_id: int) -> list[tuple[int, int]]:
    rows = await world.pool.fetch(
        "SELECT id, outstanding_nanos FROM budget_windows WHERE budget_id = $1 ORDER BY start_at",
        budget_id,
    )
    return [(row[0], row[1]) for row in rows]


async def test_a_busy_session_is_lent_from_the_next_window_and_goes_on_in_it(
    world: World, clock: ShiftedClock
) -> None:
    budget_id = await daily(world, clock)
    sidecar = await world.sidecar().open("boot")
    await sidecar.need(1, (budget_id, 100))
    (first,) = await windows(world, budget_id)
    clock.shift += NEAR_THE_END
    frame = await sidecar.applied(await sidecar.say(usage=[usage(first[0], 300)]))
    ahead = [a for a in frame.allowances if a.budget_window_id != first[0]]
    assert [(a.granted_nanos, a.starts_in_ms > 0, a.limit_nanos) for a in ahead] == [
        (300, True, 1_000)
    ]
    # In the present window it had 100 of the 300 it wants.
    assert await windows(world, budget_id) == [(first[0], 300), (ahead[0].budget_window_id, 300)]
    # Once: what it reports again brings no more.
    await sidecar.applied(await sidecar.say(usage=[usage(first[0], 300)]))
    assert (await windows(world, budget_id))[1][1] == 300
    # At the edge the next window is the current one, not begun anew.
    clock.shift += PAST_THE_END
    verdict = await sidecar.need(2, (budget_id, 50))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_GRANTED
    assert await windows(world, budget_id) == [(first[0], 300), (ahead[0].budget_window_id, 350)]


async def test_until_it_begins_calls_belong_to_the_window_before(
    world: World, clock: ShiftedClock
) -> None:
    budget_id = await daily(world, clock)
    sidecar = await world.sidecar().open("boot")
    await sidecar.need(1, (budget_id, 100))
    (first,) = await windows(world, budget_id)
    clock.shift += NEAR_THE_END
    await sidecar.applied(await sidecar.say(usage=[usage(first[0], 300)]))
    other = await world.sidecar(OTHER_SECRET).open("other")
    assert (await other.need(1, (budget_id, 70))).outcome == allowances_pb2.NEED_OUTCOME_GRANTED
    assert (await windows(world, budget_id))[0] == (first[0], 370)


async def test_who_rests_is_lent_nothing_ahead(world: World, clock: ShiftedClock) -> None:
    budget_id = await daily(world, clock)
    sidecar = await world.sidecar().open("boot")
    await sidecar.need(1, (budget_id, 100))
    (first,) = await windows(world, budget_id)
    clock.shift += NEAR_THE_END
    await sidecar.applied(await sidecar.say(usage=[usage(first[0], 300, idle_ms=LONG_MS)]))
    assert len(await windows(world, budget_id)) == 1


async def test_a_soft_budget_names_its_next_window_and_lends_nothing(
    world: World, clock: ShiftedClock
) -> None:
    budget_id = await daily(world, clock, "soft")
    sidecar = await world.sidecar().open("boot")
    await sidecar.need(1, (budget_id, 0))
    (first,) = await windows(world, budget_id)
    clock.shift += NEAR_THE_END
    frame = await sidecar.applied(await sidecar.say(usage=[usage(first[0], 0)]))
    ahead = [a for a in frame.allowances if a.budget_window_id != first[0]]
    assert [(a.granted_nanos, a.mode) for a in ahead] == [
        (0, allowances_pb2.ALLOWANCE_MODE_OBSERVED)
    ]


async def test_a_limit_that_is_cut_before_the_window_begins_holds_in_it(
    world: World, clock: ShiftedClock
) -> None:
    budget_id = await daily(world, clock)
    sidecar = await world.sidecar().open("boot")
    await sidecar.need(1, (budget_id, 100))
    (first,) = await windows(world, budget_id)
    clock.shift += NEAR_THE_END
    await sidecar.applied(await sidecar.say(usage=[usage(first[0], 300)]))
    following = (await windows(world, budget_id))[1][0]
    await sidecar.applied(await sidecar.say(usage=[usage(following, 0, free=300)]))
    await world.set_limit(budget_id, 200)
    frame = await sidecar.until(lambda f: len(f.recalls) > 0)
    assert [recall.budget_window_id for recall in frame.recalls] == [following]
    clock.shift += PAST_THE_END
    verdict = await sidecar.need(2, (budget_id, 50))
    assert verdict.outcome == allowances_pb2.NEED_OUTCOME_CONTENDED
