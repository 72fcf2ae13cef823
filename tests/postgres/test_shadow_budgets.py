"""Shadow budgets over a real Postgres: nothing is refused, what would have been is kept."""

from collections.abc import AsyncIterator

import pytest
from asyncpg import CheckViolationError

from bursar.v1 import allowances_pb2, budgets_pb2, charges_pb2
from bursar_server.allowances import metrics
from bursar_server.database.pool import Pool
from tests.fakes.scripted_sidecar import settlement
from tests.postgres.lending_plane import Plane
from tests.postgres.rows import make_house

SHADOW = budgets_pb2.ENFORCEMENT_SHADOW
PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


@pytest.fixture
async def plane(pool: Pool) -> AsyncIterator[Plane]:
    plane = Plane(pool, await make_house(pool))
    await plane.enrol()
    async with plane.running():
        yield plane


async def spent(plane: Plane) -> tuple[str, int]:
    """A shadow budget of 100 under which four calls cost 60 each, one of them provisionally.

    Returns its name and its window.
    """
    name, budget = await plane.budget(100, enforcement=SHADOW)
    sidecar = await plane.sidecar()
    assert (await sidecar.need(1, (budget, 0))).outcome == allowances_pb2.NEED_OUTCOME_GRANTED
    told = sidecar.allowance(budget)
    assert told.mode == allowances_pb2.ALLOWANCE_MODE_OBSERVED
    window = told.budget_window_id
    for n in (1, 2, 3, 4):
        kind = {"kind": PROVISIONAL} if n == 4 else {}
        charge = settlement(sidecar.epoch, n, [window], 60, **kind)
        await sidecar.applied(await sidecar.say(settlements=[charge]))
    return name, window


async def test_nothing_is_refused_and_what_would_have_been_is_counted(plane: Plane) -> None:
    before = metrics.SHADOW_REFUSALS._value.get()
    name, _ = await spent(plane)
    shown = (await plane.show(name)).standing
    assert (shown.settled.nanos, shown.outstanding.nanos) == (240, 0)
    assert (shown.would_refuse_count, shown.would_refuse.nanos) == (3, 180)
    assert shown.would_refuse.currency == "USD"
    events = await plane.pool.fetch("SELECT kind, amount_nanos FROM events")
    assert [tuple(event) for event in events] == [("shadow_refusal", 60)]
    assert metrics.SHADOW_REFUSALS._value.get() - before == 3
    assert await plane.differences() == []


async def test_evidence_that_comes_in_another_process_life_follows_its_call(plane: Plane) -> None:
    name, window = await spent(plane)
    epoch = await plane.pool.fetchval("SELECT session_epoch FROM entries LIMIT 1")
    prior = allowances_pb2.PriorSession(
        session_epoch=epoch, last_n=4, journal=allowances_pb2.JOURNAL_STATE_COMPLETE
    )
    later = await plane.sidecar("boot-2", [prior])
    charge = settlement(epoch, 4, [window], 10, reserved_nanos=60)
    await later.applied(await later.say(settlements=[charge]))
    shown = (await plane.show(name)).standing
    assert (shown.settled.nanos, shown.would_refuse_count) == (190, 3)
    assert shown.would_refuse.nanos == 130
    assert await plane.differences() == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE budget_windows SET would_refuse_count = 2 WHERE id = {window}",
            "would have refused 2 calls of 180 nanos, its entries say 3 of 180",
        ),
        (
            "UPDATE budget_windows SET would_refuse_nanos = 120 WHERE id = {window}",
            "would have refused 3 calls of 120 nanos, its entries say 3 of 180",
        ),
        (
            "UPDATE entries SET would_refuse_window_ids = NULL WHERE n = 3",
            "would have refused 3 calls of 180 nanos, its entries say 2 of 120",
        ),
        (
            "UPDATE entries SET would_refuse_window_ids = ARRAY[1] WHERE n = 1",
            "says that window 1 would have refused it",
        ),
        (
            "WITH e AS (UPDATE entries SET would_refuse_window_ids = NULL WHERE n = 3)"
            " UPDATE budget_windows SET would_refuse_count = 2, would_refuse_nanos = 120",
            "let 120 nanos through after 0, its limit was never above 100",
        ),
    ],
)
async def test_a_verification_finds_each_untruth(plane: Plane, statement: str, says: str) -> None:
    _, window = await spent(plane)
    async with plane.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement.format(window=window))
    found = await plane.differences()
    assert [says in difference for difference in found] == [True], found


async def test_the_database_refuses_a_count_where_there_is_no_shadow(plane: Plane) -> None:
    await spent(plane)
    with pytest.raises(CheckViolationError):
        await plane.pool.execute("UPDATE budget_windows SET shadow = false")
    with pytest.raises(CheckViolationError):
        await plane.pool.execute("UPDATE budget_windows SET hard = true")
