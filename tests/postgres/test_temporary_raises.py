"""Temporary raises over a real Postgres: begun and ended by time, without anybody asking."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import allowances_pb2, budgets_pb2, money_pb2
from bursar_server.budgets.raise_service import MOST_RAISES_OF_A_BUDGET
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError, Status
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.lending_plane import Plane
from tests.postgres.rows import make_house

HOUR = timedelta(hours=1)
GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
CONTENDED = allowances_pb2.NEED_OUTCOME_CONTENDED
EXHAUSTED = allowances_pb2.NEED_OUTCOME_EXHAUSTED
MADE, BEGAN = budgets_pb2.RAISE_STEP_KIND_MADE, budgets_pb2.RAISE_STEP_KIND_BEGAN
ENDED = budgets_pb2.RAISE_STEP_KIND_ENDED
CANCELLED = budgets_pb2.RAISE_STEP_KIND_CANCELLED


@pytest.fixture
async def down(pool: Pool) -> Plane:
    """A control plane that does not run."""
    plane = Plane(pool, await make_house(pool))
    await plane.enrol()
    return plane


@pytest.fixture
async def plane(down: Plane) -> AsyncIterator[Plane]:
    async with down.running():
        yield down


def stamp(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found


async def make(plane: Plane, name: str, by: int, **changed: Any) -> budgets_pb2.TemporaryRaise:
    """Raise a budget, for an hour from now on if nothing else is said."""
    fields: dict[str, Any] = {
        "organization": "organizations/acme",
        "budget": name,
        "amount": money_pb2.Money(nanos=by),
        "end_time": stamp(plane.clock.now() + HOUR),
        "reason": "a load test",
    }
    request_id = changed.pop("request_id", "")
    raised = budgets_pb2.TemporaryRaise(**{**fields, **changed})
    return await plane.budgets.CreateTemporaryRaise(
        budgets_pb2.CreateTemporaryRaiseRequest(temporary_raise=raised, request_id=request_id), None
    )


async def cancel(plane: Plane, name: str) -> budgets_pb2.TemporaryRaise:
    return await plane.budgets.CancelTemporaryRaise(
        budgets_pb2.CancelTemporaryRaiseRequest(name=name, reason="the test is over"), None
    )


async def raises(plane: Plane, name: str = "", size: int = 0) -> list[budgets_pb2.TemporaryRaise]:
    request = budgets_pb2.ListTemporaryRaisesRequest(budget=name, page_size=size)
    found: list[budgets_pb2.TemporaryRaise] = []
    while True:
        answer = await plane.budgets.ListTemporaryRaises(request, None)
        found += answer.raises
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def window(plane: Plane, budget: int) -> asyncpg.Record:
    """Limit, ceiling and version of the budget's window."""
    found = await plane.pool.fetchrow(
        "SELECT limit_nanos, ceiling_nanos, budget_version FROM budget_windows"
        " WHERE budget_id = $1 ORDER BY start_at DESC LIMIT 1", budget,
    )  # fmt: skip
    assert found is not None
    return found


async def report(sidecar: ScriptedSidecar, budget: int, *, free: int, returned: int = 0) -> int:
    """Say what is free of what is held, and what is given back; returns the frame's number."""
    told = sidecar.allowance(budget)
    usage = allowances_pb2.AllowanceUsage(
        budget_window_id=told.budget_window_id,
        granted_seen_nanos=told.granted_nanos,
        returned_nanos=returned,
        free_nanos=free,
    )
    return await sidecar.say(usage=[usage])


def steps(raised: budgets_pb2.TemporaryRaise) -> list[tuple[int, int, str]]:
    return [(step.kind, step.limit.nanos, step.actor) for step in raised.steps]


async def test_it_lets_calls_through_while_it_runs_and_its_end_calls_money_home(
    plane: Plane,
) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    assert (await sidecar.need(1, (budget, 90))).outcome == GRANTED
    assert (await sidecar.need(2, (budget, 50))).outcome == CONTENDED
    made = await make(plane, name, 50)
    assert made.state == budgets_pb2.RAISE_STATE_RUNNING
    assert steps(made) == [(MADE, 100, "admin"), (BEGAN, 150, "clock")]
    shown = await plane.show(name)
    assert (shown.limit.nanos, shown.effective_limit.nanos) == (100, 150)
    assert [raised.name for raised in shown.raises] == [made.name]
    assert tuple(await window(plane, budget)) == (150, 150, 1)
    assert (await sidecar.need(3, (budget, 50))).outcome == GRANTED
    # 90 of 140 are in use by a call, the rest is free.
    await sidecar.applied(await report(sidecar, budget, free=50))

    plane.clock.shift += HOUR
    await sidecar.until(lambda frame: len(frame.recalls) > 0)
    assert tuple(await window(plane, budget)) == (100, 140, 1)
    assert (await sidecar.need(4, (budget, 1))).outcome == CONTENDED
    await sidecar.applied(await report(sidecar, budget, free=10, returned=40))
    assert tuple(await window(plane, budget)) == (100, 100, 1)
    shown = await plane.show(name)
    assert (shown.effective_limit.nanos, list(shown.raises)) == (100, [])
    assert shown.standing.available.nanos == 0
    (told,) = await raises(plane)
    assert told.state == budgets_pb2.RAISE_STATE_ENDED
    assert steps(told)[2:] == [(ENDED, 100, "clock")]
    assert told.steps[2].effective_time == made.end_time
    assert await plane.differences() == []


async def test_it_begins_when_its_time_has_come(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    await sidecar.need(1, (budget, 100))
    now = plane.clock.now()
    made = await make(plane, name, 50, start_time=stamp(now + HOUR), end_time=stamp(now + 2 * HOUR))
    assert made.state == budgets_pb2.RAISE_STATE_SCHEDULED
    assert tuple(await window(plane, budget)) == (100, 100, 1)
    assert (await plane.show(name)).effective_limit.nanos == 100
    # It waits for the money; nobody asks again, and nobody tells of the raise.
    await sidecar.ask(2, (budget, 50), wait_ms=60_000)
    plane.clock.shift += HOUR
    assert (await sidecar.verdict(2)).outcome == GRANTED


@pytest.mark.parametrize(
    ("away", "limit", "kinds"),
    [
        (HOUR, 100, [MADE]),
        (3 * HOUR, 150, [MADE, BEGAN]),
        (9 * HOUR, 100, [MADE, BEGAN, ENDED]),
    ],
)
async def test_what_time_did_while_nothing_ran_is_applied_at_the_start(
    down: Plane, away: timedelta, limit: int, kinds: list[int]
) -> None:
    async with down.running():
        name, budget = await down.budget(100)
        await (await down.sidecar()).need(1, (budget, 10))
        now = down.clock.now()
        await make(down, name, 50, start_time=stamp(now + 2 * HOUR), end_time=stamp(now + 5 * HOUR))
    down.clock.shift += away
    async with down.running():
        # A need is answered behind what the start has to apply.
        await (await down.sidecar("boot-2")).need(1, (budget, 1))
        assert (await window(down, budget))["limit_nanos"] == limit
        (told,) = await raises(down)
        assert [step.kind for step in told.steps] == kinds
        assert await down.differences() == []


async def test_raises_that_overlap_add_up_and_one_may_be_cancelled(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    await sidecar.need(1, (budget, 10))
    first, second = await make(plane, name, 50), await make(plane, name, 7)
    assert (await window(plane, budget))["limit_nanos"] == 157
    ended = await cancel(plane, first.name)
    assert ended.state == budgets_pb2.RAISE_STATE_CANCELLED
    assert ended.steps[-1].reason == "the test is over"
    assert steps(ended)[-1] == (CANCELLED, 107, "admin")
    assert tuple(await window(plane, budget)) == (107, 107, 1)
    assert [raised.name for raised in (await plane.show(name)).raises] == [second.name]
    with pytest.raises(BursarError) as refused:
        await cancel(plane, first.name)
    assert (refused.value.status, refused.value.reason) == (
        Status.FAILED_PRECONDITION, "RAISE_IS_OVER",
    )  # fmt: skip
    plane.clock.shift += HOUR
    assert (await sidecar.need(2, (budget, 95))).outcome == CONTENDED
    assert tuple(await window(plane, budget)) == (100, 100, 1)
    assert steps(await _named(plane, second.name))[-1] == (ENDED, 100, "clock")
    assert [r.name for r in await raises(plane, name, size=1)] == [second.name, first.name]


async def _named(plane: Plane, name: str) -> budgets_pb2.TemporaryRaise:
    (found,) = (raised for raised in await raises(plane) if raised.name == name)
    return found


async def test_one_that_is_cancelled_before_it_begins_never_does(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    await sidecar.need(1, (budget, 10))
    now = plane.clock.now()
    made = await make(plane, name, 50, start_time=stamp(now + HOUR), end_time=stamp(now + 2 * HOUR))
    await cancel(plane, made.name)
    plane.clock.shift += HOUR
    assert (await sidecar.need(2, (budget, 95))).outcome == CONTENDED
    assert steps(await _named(plane, made.name)) == [
        (MADE, 100, "admin"),
        (CANCELLED, 100, "admin"),
    ]


async def test_a_lasting_change_of_the_limit_keeps_the_raises(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    await (await plane.sidecar()).need(1, (budget, 10))
    await make(plane, name, 50)
    asked = budgets_pb2.UpdateBudgetRequest(
        budget=budgets_pb2.Budget(name=name, limit=money_pb2.Money(nanos=20))
    )
    asked.update_mask.paths.append("limit")
    assert (await plane.budgets.UpdateBudget(asked, None)).effective_limit.nanos == 70
    assert tuple(await window(plane, budget)) == (70, 70, 2)


async def test_a_new_window_begins_with_the_limit_of_that_instant(plane: Plane) -> None:
    name, budget = await plane.budget(100, window="1h")
    sidecar = await plane.sidecar()
    await sidecar.need(1, (budget, 10))
    await make(plane, name, 50, end_time=stamp(plane.clock.now() + 3 * HOUR))
    plane.clock.shift += 2 * HOUR
    assert (await sidecar.need(2, (budget, 145))).outcome == GRANTED
    assert tuple(await window(plane, budget)) == (150, 150, 1)
    assert await plane.differences() == []


async def test_a_refusal_says_what_is_wrong(plane: Plane) -> None:
    name, _ = await plane.budget(100)
    now = plane.clock.now()
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("temporary_raise.budget", {"budget": "teams/x"}),
        ("temporary_raise.amount.nanos", {"amount": money_pb2.Money()}),
        ("temporary_raise.amount.nanos", {"amount": money_pb2.Money(nanos=-1)}),
        ("temporary_raise.amount.currency", {"amount": money_pb2.Money(nanos=1, currency="EUR")}),
        ("temporary_raise.end_time", {"end_time": None}),
        ("temporary_raise.end_time", {"end_time": stamp(now - HOUR)}),
        ("temporary_raise.end_time", {"end_time": Timestamp(seconds=2**60)}),
        ("temporary_raise.end_time", {"start_time": stamp(now + 2 * HOUR)}),
        ("temporary_raise.start_time", {"start_time": stamp(now - HOUR)}),
        ("temporary_raise.reason", {"reason": " "}),
        ("temporary_raise.reason", {"reason": "x" * 501}),
    ]
    for field, changed in wrong:
        with pytest.raises(BursarError) as refused:
            await make(plane, name, 50, **changed)
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert [v.field for v in refused.value.field_violations] == [field], changed
    for changed in ({"budget": "budgets/b-none"}, {"organization": "organizations/none"}):
        with pytest.raises(BursarError) as refused:
            await make(plane, name, 50, **changed)
        assert refused.value.status is Status.NOT_FOUND
    assert await raises(plane) == []


async def test_a_repeated_request_makes_one_raise_and_too_many_are_refused(plane: Plane) -> None:
    name, _ = await plane.budget(100)
    again = {"request_id": str(uuid.uuid4()), "end_time": stamp(datetime(2999, 1, 1, tzinfo=UTC))}
    first = await make(plane, name, 1, **again)
    assert (await make(plane, name, 1, **again)).name == first.name
    for _ in range(MOST_RAISES_OF_A_BUDGET - 1):
        await make(plane, name, 1)
    with pytest.raises(BursarError) as refused:
        await make(plane, name, 1)
    assert refused.value.reason == "TOO_MANY_RAISES"
    # Those that are over make room.
    plane.clock.shift += HOUR
    await make(plane, name, 1)


async def test_a_budget_that_never_lent_goes_with_its_raises_and_leaves_their_steps(
    plane: Plane,
) -> None:
    name, _ = await plane.budget(100)
    await make(plane, name, 1)
    await plane.budgets.DeleteBudget(budgets_pb2.DeleteBudgetRequest(name=name), None)
    assert await plane.pool.fetchval("SELECT count(*) FROM budget_raises") == 0
    assert await plane.pool.fetchval("SELECT count(*) FROM budget_raise_steps") == 2
    with pytest.raises(asyncpg.RestrictViolationError):
        await plane.pool.execute("DELETE FROM budget_raise_steps")


async def test_a_verification_finds_a_limit_that_is_not_in_force(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    await sidecar.need(1, (budget, 10))
    await make(plane, name, 50)
    await plane.pool.execute("UPDATE budget_windows SET start_at = start_at - interval '1 day'")
    assert await plane.differences() == []
    await plane.pool.execute("UPDATE budget_windows SET limit_nanos = 149")
    (difference,) = await plane.differences()
    assert "its limit is 149 nanos, the budget's 100 and its raises 50" in difference


async def test_what_was_settled_above_the_old_limit_stays_within_the_ceiling(plane: Plane) -> None:
    name, budget = await plane.budget(100)
    sidecar = await plane.sidecar()
    await make(plane, name, 50)
    await sidecar.need(1, (budget, 140))
    bought = sidecar.allowance(budget).budget_window_id
    await sidecar.applied(
        await sidecar.say(settlements=[settlement(sidecar.epoch, 1, [bought], 120)])
    )
    plane.clock.shift += HOUR
    assert (await sidecar.need(2, (budget, 1))).outcome == EXHAUSTED
    assert tuple(await window(plane, budget)) == (100, 140, 1)
    standing = (await plane.show(name)).standing
    assert (standing.settled.nanos, standing.outstanding.nanos, standing.overrun.nanos) == (
        120, 20, 0,
    )  # fmt: skip
    assert await plane.differences() == []
