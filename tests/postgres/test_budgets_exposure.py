"""What is lent can be seen: by holder on a budget, by organization in the metrics."""

from datetime import datetime, timedelta

from prometheus_client import REGISTRY

from bursar.v1 import budgets_pb2, money_pb2
from bursar.windows import parse_window
from bursar_server.budgets.exposure import REFRESH_EVERY_S, ExposureMetrics
from bursar_server.budgets.service import BudgetService
from bursar_server.changes import ChangeFeed
from bursar_server.database.pool import Pool, create_pool
from tests.postgres.rows import NOW, FixedClock, House, make_house


async def nothing_is_lent(organization_id: int, budget_id: int) -> None:
    """Nobody lends here: a change holds as soon as it is committed."""


async def lend(pool: Pool, house: House, slug: str, *held: tuple[int, int, int]) -> None:
    """A window open now of a budget, and an allowance in it for each (session epoch, granted, in
    doubt), of sidecars called after their epochs."""
    window = await pool.fetchval(
        "INSERT INTO budget_windows (organization_id, budget_id, start_at, limit_nanos,"
        " budget_version, ceiling_nanos, outstanding_nanos, in_doubt_nanos, settled_nanos,"
        " overrun_nanos, hard)"
        " SELECT $1, id, $3, 1000, 1, 1000, $4, $5, 7, 7, true FROM budgets WHERE slug = $2"
        " RETURNING id",
        house.organization,
        slug,
        NOW - timedelta(hours=1),
        sum(granted - doubt for _, granted, doubt in held),
        sum(doubt for _, _, doubt in held),
    )
    for epoch, granted, doubt in held:
        sidecar = await pool.fetchval(
            "INSERT INTO sidecars (organization_id, slug, secret_hash, secret_prefix)"
            " VALUES ($1, $2, $3, 'bs-1') RETURNING id",
            house.organization,
            f"s-{epoch}",
            str(epoch).encode(),
        )
        await pool.execute(
            "INSERT INTO sessions (organization_id, session_epoch, sidecar_organization_id,"
            " sidecar_id, boot_id, last_seen_at) VALUES ($1, $2, $1, $3, '', $4)",
            house.organization,
            epoch,
            sidecar,
            NOW,
        )
        await pool.execute(
            "INSERT INTO allowances (organization_id, session_epoch, budget_window_id,"
            " granted_nanos, returned_nanos, settled_nanos, in_doubt_nanos, in_doubt_since)"
            " VALUES ($1, $2, $3, $4::bigint + 30, 10, 20, $5, $6)",
            house.organization,
            epoch,
            window,
            granted,
            doubt,
            NOW - timedelta(minutes=doubt) if doubt else None,
        )


def reserved(session_epoch: int, window_id: int) -> int | None:
    """Session 1 is connected, and has calls in flight."""
    return 13 if session_epoch == 1 else None


def service(pool: Pool) -> BudgetService:
    return BudgetService(pool, ChangeFeed(), FixedClock(), nothing_is_lent, reserved)


async def make_budget(pool: Pool) -> str:
    budget = budgets_pb2.Budget(
        name="budgets/b-1",
        organization="organizations/acme",
        scope="organizations/acme",
        limit=money_pb2.Money(nanos=1000, currency="USD"),
        window=parse_window("lifetime", ""),
    )
    request = budgets_pb2.CreateBudgetRequest(budget=budget)
    return (await service(pool).CreateBudget(request, None)).name


async def test_a_budget_tells_who_holds_it_the_largest_first(pool: Pool) -> None:
    house = await make_house(pool)
    name = await make_budget(pool)
    await lend(pool, house, "b-1", (1, 50, 0), (2, 90, 60), (3, 0, 0))
    budget = await service(pool).GetBudget(budgets_pb2.GetBudgetRequest(name=name), None)
    standing = budget.standing
    assert [
        (each.sidecar, each.session_epoch, each.outstanding.nanos, each.in_doubt.nanos)
        for each in standing.holders
    ] == [("sidecars/s-2", 2, 30, 60), ("sidecars/s-1", 1, 50, 0)]
    lost, live = standing.holders
    assert (live.reserved.nanos, live.HasField("in_doubt_since_time")) == (13, False)
    assert not lost.HasField("reserved")
    since = lost.in_doubt_since_time.ToDatetime(tzinfo=NOW.tzinfo)
    assert since == NOW - timedelta(minutes=60)
    assert sum(each.outstanding.nanos for each in standing.holders) == standing.outstanding.nanos
    assert sum(each.in_doubt.nanos for each in standing.holders) == standing.in_doubt.nanos
    first = standing.holders[0]
    assert first.organization == "organizations/acme"
    assert first.last_seen_time.ToDatetime(tzinfo=NOW.tzinfo) == NOW
    listed = await service(pool).ListBudgets(budgets_pb2.ListBudgetsRequest(), None)
    assert list(listed.budgets[0].standing.holders) == []


def shown(name: str, unit: str = "nanos") -> float | None:
    labels = {"organization": "acme", "currency": "USD"}
    return REGISTRY.get_sample_value(f"bursar_{name}_{unit}", labels)


def moved(clock: FixedClock, seconds: float) -> datetime:
    return clock.time + timedelta(seconds=seconds)


async def test_the_metrics_tell_the_totals_and_read_the_books_seldom(pool: Pool) -> None:
    house = await make_house(pool)
    await make_budget(pool)
    clock = FixedClock()
    metrics = ExposureMetrics(pool, clock, lambda: {"acme": 13})
    await metrics.refresh()
    assert shown("in_doubt_oldest", "seconds") == 0
    assert [shown(name) for name in ("outstanding", "in_doubt", "overrun")] == [0, 0, 0]
    await lend(pool, house, "b-1", (1, 50, 0), (2, 90, 60))
    clock.time = moved(clock, REFRESH_EVERY_S - 1)
    await metrics.refresh()
    assert shown("outstanding") == 0
    clock.time = moved(clock, 1)
    await metrics.refresh()
    assert [shown(name) for name in ("outstanding", "in_doubt", "overrun")] == [80, 60, 7]
    assert shown("reserved") == 13
    assert shown("in_doubt_oldest", "seconds") == 60 * 60 + REFRESH_EVERY_S


async def test_without_a_database_the_metrics_stay_as_they_were(
    pool: Pool, database_url: str
) -> None:
    await make_house(pool)
    clock = FixedClock()
    lost = await create_pool(database_url, size=4)
    metrics = ExposureMetrics(lost, clock)
    await metrics.refresh()
    await lost.close()
    clock.time = moved(clock, REFRESH_EVERY_S)
    await metrics.refresh()
    assert shown("outstanding") == 0
