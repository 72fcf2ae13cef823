"""The rows of temporary raises: the only SQL on `budget_raises` and `budget_raise_steps`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from bursar_server.budgets.rules import (
    RaisePhase,
    RaiseStepKind,
    TemporaryRaise,
    boundaries_passed,
    phase_at,
)
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

q = Queries.load(__package__, "raises.sql")

CLOCK: Final = "clock"
"""Who does what time does."""


class RaiseRecord(msgspec.Struct, frozen=True):
    """A temporary raise as its row says it."""

    id: int
    slug: str
    budget_id: int
    budget_slug: str
    amount_nanos: int
    currency: str
    start_at: datetime
    end_at: datetime
    cancelled_at: datetime | None
    reason: str
    actor: str
    phase: RaisePhase
    created_at: datetime

    @property
    def terms(self) -> TemporaryRaise:
        """What the rules know of it."""
        return TemporaryRaise(
            self.id, self.amount_nanos, self.start_at, self.end_at, self.cancelled_at, self.phase
        )


class NewRaise(msgspec.Struct, frozen=True):
    """What a raise is made of."""

    slug: str
    amount_nanos: int
    start_at: datetime
    end_at: datetime
    reason: str


class Step(msgspec.Struct, frozen=True):
    """One step of a raise's life; `limit_nanos` is the budget's limit from then on."""

    raise_id: int
    kind: RaiseStepKind
    effective_at: datetime
    limit_nanos: int
    actor: str
    reason: str
    created_at: datetime


async def insert_raise(
    connection: Connection, budget: BudgetRecord, new: NewRaise, *, actor: str, now: datetime
) -> int:
    """Write a raise of a locked budget, and its first step; returns its id."""
    raise_id = await connection.fetchval(
        q.insert_raise,
        budget.organization_id,
        new.slug,
        budget.id,
        new.amount_nanos,
        new.start_at,
        new.end_at,
        new.reason,
        actor,
        now,
    )
    limit_nanos = budget.limit_at(now)
    await _write(
        connection, budget, Step(raise_id, "made", now, limit_nanos, actor, new.reason, now)
    )
    return int(raise_id)


async def lock_raise(connection: Connection, organization_id: int, slug: str) -> RaiseRecord | None:
    """The raise of this name, kept from changing until the transaction ends."""
    raise_id = await connection.fetchval(q.lock_raise, organization_id, slug)
    found = await raises_by_ids(connection, organization_id, [raise_id]) if raise_id else []
    return found[0] if found else None


async def cancel_raise(
    connection: Connection,
    budget: BudgetRecord,
    record: RaiseRecord,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """End a locked raise of a locked budget now."""
    await connection.execute(q.cancel_raise, budget.organization_id, record.id, now)
    others = tuple(each for each in budget.raises if each.id != record.id)
    limit_nanos = msgspec.structs.replace(budget, raises=others).limit_at(now)
    await _write(
        connection, budget, Step(record.id, "cancelled", now, limit_nanos, actor, reason, now)
    )


async def raise_by_slug(
    connection: Connection, organization_id: int, slug: str
) -> RaiseRecord | None:
    """The raise of this name, None if there is none."""
    raise_id = await connection.fetchval(q.raise_by_slug, organization_id, slug)
    found = await raises_by_ids(connection, organization_id, [raise_id]) if raise_id else []
    return found[0] if found else None


async def raises_by_ids(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> list[RaiseRecord]:
    """The raises of these ids, the newest first."""
    rows = await connection.fetch(q.raises_by_ids, organization_id, list(ids))
    return msgspec.convert([dict(row) for row in rows], list[RaiseRecord])


async def raise_page(
    connection: Connection, organization_id: int, *, budget_id: int, before_id: int, size: int
) -> list[RaiseRecord]:
    """At most `size` raises, the newest first, behind `before_id`; 0: all budgets, first page."""
    rows = await connection.fetch(q.raise_page, organization_id, budget_id, before_id, size)
    return await raises_by_ids(connection, organization_id, [row["id"] for row in rows])


async def steps(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> Mapping[int, list[Step]]:
    """The steps of each of these raises, the oldest first."""
    found: defaultdict[int, list[Step]] = defaultdict(list)
    for row in await connection.fetch(q.steps, organization_id, list(ids)):
        found[row["raise_id"]].append(msgspec.convert(dict(row), Step))
    return found


async def delete_raises(connection: Connection, organization_id: int, budget_id: int) -> None:
    """Remove the raises of a budget that is removed; their steps stay."""
    await connection.execute(q.delete_raises, organization_id, budget_id)


async def due_budgets(connection: Connection, now: datetime) -> list[tuple[int, int]]:
    """(organization, budget) whose limit time has changed since it was last applied."""
    rows = await connection.fetch(q.due_budgets, now)
    return [(row["organization_id"], row["budget_id"]) for row in rows]


async def next_boundary(connection: Connection) -> datetime | None:
    """When time changes a limit next, of all that is not applied yet; it may be past."""
    found: datetime | None = await connection.fetchval(q.next_boundary)
    return found


async def note_boundaries(connection: Connection, budget: BudgetRecord, now: datetime) -> None:
    """Write down what time has done to the raises of a budget, whose limit is applied in the same
    transaction."""
    passed: list[Step] = []
    for raised in budget.raises:
        phase = phase_at(raised, now)
        if phase != raised.phase:
            await connection.execute(q.set_phase, budget.organization_id, raised.id, phase)
        passed += [
            Step(raised.id, kind, at, budget.limit_at(at), CLOCK, "", now)
            for kind, at in boundaries_passed(raised, now)
        ]
    for step in sorted(passed, key=lambda step: step.effective_at):
        await _write(connection, budget, step)


async def _write(connection: Connection, budget: BudgetRecord, step: Step) -> None:
    await connection.execute(
        q.insert_step,
        budget.organization_id,
        budget.id,
        step.raise_id,
        step.kind,
        step.effective_at,
        step.limit_nanos,
        step.actor,
        step.reason,
        step.created_at,
    )
