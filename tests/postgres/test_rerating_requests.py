"""What is asked of re-ratings: lists, repeats, nonsense; and what a verification finds of them."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from bursar.v1 import ratings_pb2
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError, Status
from bursar_server.times import timestamp
from tests.postgres.lending_plane import Plane
from tests.postgres.rerating_scene import DAY, Scene
from tests.postgres.rows import make_house


@pytest.fixture
async def scene(pool: Pool) -> AsyncIterator[Scene]:
    scene = Scene(Plane(pool, await make_house(pool)))
    await scene.begin()
    async with scene.plane.running():
        await scene.open()
        yield scene


async def test_plans_are_listed_and_repeats_are_one(scene: Scene) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    request = ratings_pb2.PlanReratingRequest(
        since_time=timestamp(scene.plane.clock.now() - DAY),
        reason="why not",
        request_id=str(uuid.uuid4()),
    )
    first = await scene.ratings.PlanRerating(request, None)
    assert await scene.ratings.PlanRerating(request, None) == first
    second = await scene.plan()
    page = await scene.ratings.ListReratings(ratings_pb2.ListReratingsRequest(page_size=1), None)
    assert [each.name for each in page.reratings] == [second.name]
    rest = await scene.ratings.ListReratings(
        ratings_pb2.ListReratingsRequest(page_size=1, page_token=page.next_page_token), None
    )
    assert [each.name for each in rest.reratings] == [first.name]
    assert not rest.next_page_token
    shown = await scene.ratings.GetRerating(ratings_pb2.GetReratingRequest(name=first.name), None)
    assert shown == first


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"since_time": None}, "since_time"),
        ({"until_time": 60}, "until_time"),
        ({"since_time": 0, "until_time": -60}, "since_time"),
        ({"reason": "  "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"model": "a b"}, "model[0]"),
        ({"request_id": "1"}, "request_id"),
        ({"organization": "organizations/platform"}, "organization"),
    ],
)
async def test_a_plan_that_means_nothing_is_refused_by_field(
    scene: Scene, fields: dict[str, Any], field: str
) -> None:
    request = ratings_pb2.PlanReratingRequest(
        reason="why", since_time=timestamp(scene.plane.clock.now() - DAY)
    )
    for name, value in fields.items():
        if name.endswith("_time"):
            request.ClearField(name)  # type: ignore[arg-type]  # by name, from a table
            if value is not None:
                later = scene.plane.clock.now() + timedelta(seconds=value)
                getattr(request, name).CopyFrom(timestamp(later))
        else:
            setattr(request, name, value)
    with pytest.raises(BursarError) as refused:
        await scene.ratings.PlanRerating(request, None)
    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE reratings SET state = 'planned'", "which nobody accepted"),
        ("UPDATE entries SET rerating_id = 1 WHERE k = 1", "which does not exist"),
        (
            "UPDATE entries SET amount_nanos = amount_nanos + 1 WHERE k = 1",
            "its entries 6000001 nanos",
        ),
        ("UPDATE budget_windows SET overrun_nanos = 0 WHERE hard", "overrun 0 nanos"),
    ],
)
async def test_a_verification_finds_each_untruth(scene: Scene, statement: str, says: str) -> None:
    await scene.set_price("1")
    await scene.calls(1)
    await scene.set_price("3")
    await scene.apply(await scene.plan())
    async with scene.plane.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement)
    found = await scene.plane.differences()
    assert any(says in each for each in found), found


async def test_what_is_not_on_record_is_not_found(scene: Scene) -> None:
    for name, status in (("reratings/1", Status.NOT_FOUND), ("1", Status.INVALID_ARGUMENT)):
        with pytest.raises(BursarError) as refused:
            await scene.ratings.GetRerating(ratings_pb2.GetReratingRequest(name=name), None)
        assert refused.value.status is status
