"""Sums of spend, by everything that can be asked for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import reports_pb2
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError
from bursar_server.reports.service import ReportService
from bursar_server.times import timestamp
from tests.postgres.ledger_rows import add_draw_set, add_entry, add_session, make_ledger
from tests.postgres.rows import NOW, House, make_house

ORGANIZATION = reports_pb2.SPEND_DIMENSION_ORGANIZATION
TEAM = reports_pb2.SPEND_DIMENSION_TEAM
PROJECT = reports_pb2.SPEND_DIMENSION_PROJECT
USER = reports_pb2.SPEND_DIMENSION_USER
KEY = reports_pb2.SPEND_DIMENSION_KEY
CUSTOMER = reports_pb2.SPEND_DIMENSION_CUSTOMER
APP = reports_pb2.SPEND_DIMENSION_APP
MODEL = reports_pb2.SPEND_DIMENSION_MODEL
PROVIDER = reports_pb2.SPEND_DIMENSION_PROVIDER
TAG = reports_pb2.SPEND_DIMENSION_TAG
DAY = reports_pb2.SPEND_DIMENSION_DAY


@pytest.fixture
async def house(pool: Pool) -> House:
    made = await make_house(pool)
    await add_session(pool, made, 1)
    return made


@pytest.fixture
def service(pool: Pool) -> ReportService:
    return ReportService(pool)


class Calls:
    """Writes calls, one after the other."""

    def __init__(self, pool: Pool, house: House) -> None:
        self._pool = pool
        self._house = house
        self._n = 0

    async def add(self, amount_nanos: int, **changed: Any) -> int:
        """A call that costs so much; returns its n."""
        self._n += 1
        draw_set = await self._draw_set()
        await add_entry(
            self._pool,
            self._house,
            **{
                "session_epoch": 1,
                "n": self._n,
                "amount_nanos": amount_nanos,
                "draw_set_id": draw_set,
                **changed,
            },
        )
        return self._n

    async def _draw_set(self) -> int:
        found = await self._pool.fetchval("SELECT id FROM draw_sets")
        return int(found) if found else await add_draw_set(self._pool, self._house, [])


@pytest.fixture
def calls(pool: Pool, house: House) -> Calls:
    return Calls(pool, house)


async def query(
    service: ReportService, *by: reports_pb2.SpendDimension.ValueType, **asked: Any
) -> reports_pb2.QuerySpendResponse:
    return await service.QuerySpend(reports_pb2.QuerySpendRequest(group_by=by, **asked), None)


def table(answer: reports_pb2.QuerySpendResponse) -> dict[tuple[str, ...], tuple[int, int]]:
    """Values -> cost and calls."""
    return {tuple(row.values): (row.cost.nanos, row.call_count) for row in answer.rows}


async def test_nothing_was_spent(service: ReportService, house: House) -> None:
    answer = await query(service)
    assert len(answer.rows) == 1
    assert answer.rows[0] == answer.total
    assert (answer.total.cost.nanos, answer.total.cost.currency) == (0, "USD")
    assert not (await query(service, TEAM)).rows


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (ORGANIZATION, {("organizations/acme",): (60, 3)}),
        (TEAM, {("teams/search",): (30, 2), ("",): (30, 1)}),
        (PROJECT, {("projects/answers",): (60, 3)}),
        (USER, {("users/ada",): (60, 3)}),
        (KEY, {("keys/k-1",): (60, 3)}),
        (CUSTOMER, {("c-1",): (10, 1), ("",): (50, 2)}),
        (APP, {("app/1",): (20, 1), ("",): (40, 2)}),
        (MODEL, {("gpt-4o",): (10, 1), ("gpt-4o-mini",): (50, 2)}),
        (PROVIDER, {("azure",): (30, 1), ("openai",): (30, 2)}),
    ],
)
async def test_spend_is_summed_by_each(
    service: ReportService,
    calls: Calls,
    dimension: reports_pb2.SpendDimension.ValueType,
    expected: dict[tuple[str, ...], tuple[int, int]],
) -> None:
    await calls.add(10, customer="c-1", model="gpt-4o")
    await calls.add(20, app="app/1")
    await calls.add(30, team_id=None, provider="azure")
    answer = await query(service, dimension)
    assert table(answer) == expected
    assert (answer.total.cost.nanos, answer.total.call_count) == (60, 3)
    costs = [row.cost.nanos for row in answer.rows]
    assert costs == sorted(costs, reverse=True)


async def test_an_entry_counts_under_each_of_its_tags(service: ReportService, calls: Calls) -> None:
    await calls.add(10, tags=["a", "b", "a"])
    await calls.add(5, tags=["b"])
    await calls.add(1)
    answer = await query(service, TAG)
    assert table(answer) == {("b",): (15, 2), ("a",): (10, 1), ("",): (1, 1)}
    assert (answer.total.cost.nanos, answer.total.call_count) == (16, 3)


async def test_three_dimensions_combine(service: ReportService, calls: Calls) -> None:
    await calls.add(10, tags=["a"])
    await calls.add(10, tags=["a"], model="gpt-4o")
    answer = await query(service, MODEL, TAG, TEAM)
    assert table(answer) == {
        ("gpt-4o", "a", "teams/search"): (10, 1),
        ("gpt-4o-mini", "a", "teams/search"): (10, 1),
    }


async def test_days_are_of_the_time_zone(service: ReportService, calls: Calls) -> None:
    late = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
    await calls.add(1, admitted_at=late)
    await calls.add(2, admitted_at=late + timedelta(hours=1))
    await calls.add(4, admitted_at=late + timedelta(hours=23))
    assert list(table(await query(service, DAY)).items()) == [
        (("2026-03-29",), (6, 2)),
        (("2026-03-28",), (1, 1)),
    ]
    # In Berlin the 29th has 23 hours, from 23:00 to 22:00.
    assert list(table(await query(service, DAY, time_zone="Europe/Berlin")).items()) == [
        (("2026-03-30",), (4, 1)),
        (("2026-03-29",), (3, 2)),
    ]


async def test_a_released_call_is_no_call(service: ReportService, calls: Calls) -> None:
    await calls.add(10)
    await calls.add(0, kind="released")
    assert table(await query(service)) == {(): (10, 1)}


async def test_an_adjustment_adds_an_amount_and_no_call(
    service: ReportService, calls: Calls
) -> None:
    n = await calls.add(80, kind="provisional", input_llm_tokens=500, estimate_reason="unknown")
    open_ = (await query(service)).total
    assert (open_.cost.nanos, open_.call_count, open_.estimated_call_count) == (80, 1, 1)
    assert open_.input_llm_tokens == 500
    usage = {"input_llm_tokens": 7, "cache_write_1h_llm_tokens": 2, "output_llm_tokens": 3}
    await calls.add(-80, n=n, k=1, kind="provisional", **usage)
    await calls.add(60, n=n, k=2, kind="final", **usage, cached_input_llm_tokens=1)
    known = (await query(service)).total
    assert (known.cost.nanos, known.call_count, known.estimated_call_count) == (60, 1, 0)
    consumed = (known.input_llm_tokens, known.cache_llm_tokens, known.output_llm_tokens)
    assert consumed == (7, 3, 3)


async def test_estimates_are_counted(service: ReportService, calls: Calls) -> None:
    await calls.add(1)
    await calls.add(1, estimate_reason="the app hung up")
    assert (await query(service)).total.estimated_call_count == 1


async def test_a_period_is_of_admission(service: ReportService, calls: Calls) -> None:
    for hour in range(4):
        await calls.add(1 << hour, admitted_at=NOW + timedelta(hours=hour), posted_at=NOW)
    answer = await query(
        service,
        since_time=timestamp(NOW + timedelta(hours=1)),
        until_time=timestamp(NOW + timedelta(hours=3)),
    )
    assert answer.total.cost.nanos == 2 + 4


async def test_the_dearest_are_told_and_that_more_exist(
    service: ReportService, calls: Calls
) -> None:
    for number in range(5):
        await calls.add(number, customer=f"c-{number}")
    answer = await query(service, CUSTOMER, limit=2)
    assert list(table(answer)) == [("c-4",), ("c-3",)]
    assert answer.truncated
    assert answer.total.cost.nanos == 10
    assert not (await query(service, CUSTOMER, limit=5)).truncated


async def test_a_report_of_another_organization_is_its_own(
    service: ReportService, calls: Calls, pool: Pool
) -> None:
    await calls.add(10)
    await make_house(pool, "other")
    answer = await query(service, organization="organizations/other")
    assert answer.total.cost.nanos == 0


async def test_every_entry_of_a_whole_ledger_is_in_the_sum(
    service: ReportService, pool: Pool
) -> None:
    await make_ledger(pool, await make_house(pool))
    answer = await query(service, MODEL, DAY, KEY)
    total = await pool.fetchval("SELECT sum(amount_nanos) FROM entries")
    assert answer.total.cost.nanos == total == sum(row.cost.nanos for row in answer.rows)
    assert answer.total.call_count == 6


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"group_by": [TEAM, USER, KEY, APP]}, "group_by"),
        ({"group_by": [TEAM, TEAM]}, "group_by[1]"),
        ({"group_by": [0]}, "group_by[0]"),
        ({"group_by": [99]}, "group_by[0]"),
        ({"limit": -1}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"time_zone": "'; DROP TABLE entries; --"}, "time_zone"),
        ({"organization": "acme"}, "organization"),
        (
            {"since_time": Timestamp(seconds=2), "until_time": Timestamp(seconds=1)},
            "until_time",
        ),
    ],
)
async def test_bad_questions_are_refused_by_field(
    service: ReportService, house: House, asked: dict[str, Any], field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await service.QuerySpend(reports_pb2.QuerySpendRequest(**asked), None)
    assert refused.value.metadata["field"] == field
