"""Pages of events."""

import pytest

from bursar.v1 import alerts_pb2
from bursar_server.alerts.service import AlertService
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError
from tests.postgres.ledger_rows import add_window, insert
from tests.postgres.rows import House, make_house


@pytest.fixture
async def house(pool: Pool) -> House:
    return await make_house(pool)


@pytest.fixture
def service(pool: Pool) -> AlertService:
    return AlertService(pool)


async def test_events_come_newest_first_in_pages(
    service: AlertService, house: House, pool: Pool
) -> None:
    window = await add_window(pool, house, "b-soft", ("team", house.team), hard=False)
    budget = await pool.fetchval("SELECT budget_id FROM budget_windows WHERE id = $1", window)
    kinds = ["soft_limit_crossed", "overrun", "frame_quarantined"]
    for place, kind in enumerate(kinds):
        await insert(
            pool,
            "events",
            organization_id=house.organization,
            kind=kind,
            budget_id=budget if kind != "frame_quarantined" else None,
            summary=f"the {kind}",
            amount_nanos=place,
            currency="USD",
        )
    request = alerts_pb2.ListEventsRequest(page_size=2)
    first = await service.ListEvents(request, None)
    request.page_token = first.next_page_token
    second = await service.ListEvents(request, None)
    assert not second.next_page_token
    events = [*first.events, *second.events]
    assert [event.kind for event in events] == [
        alerts_pb2.EVENT_KIND_FRAME_QUARANTINED,
        alerts_pb2.EVENT_KIND_OVERRUN,
        alerts_pb2.EVENT_KIND_SOFT_LIMIT_CROSSED,
    ]
    assert [event.budget for event in events] == ["", "budgets/b-soft", "budgets/b-soft"]
    assert [event.amount.nanos for event in events] == [2, 1, 0]
    assert [event.id for event in events] == sorted((e.id for e in events), reverse=True)
    assert events[1].summary == "the overrun"
    assert events[1].organization == "organizations/acme"
    assert events[1].HasField("create_time")


async def test_events_of_others_are_not_told(
    service: AlertService, house: House, pool: Pool
) -> None:
    other = await make_house(pool, "other")
    await insert(
        pool,
        "events",
        organization_id=other.organization,
        kind="overrun",
        summary="x",
        amount_nanos=1,
        currency="USD",
    )
    request = alerts_pb2.ListEventsRequest(organization="organizations/acme")
    assert not (await service.ListEvents(request, None)).events


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (alerts_pb2.ListEventsRequest(page_size=-1), "page_size"),
        (alerts_pb2.ListEventsRequest(page_token="nonsense"), "page_token"),
        (alerts_pb2.ListEventsRequest(organization="teams/x"), "organization"),
    ],
)
async def test_bad_questions_are_refused_by_field(
    service: AlertService, house: House, asked: alerts_pb2.ListEventsRequest, field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await service.ListEvents(asked, None)
    assert refused.value.metadata["field"] == field
