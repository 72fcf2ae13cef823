"""The rows of budgets: the only SQL on `budgets` and `budget_versions`."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import asyncpg
import msgspec

from bursar_server.budgets.rules import (
    Enforcement,
    ScopeKind,
    TemporaryRaise,
    WindowSpec,
    effective_limit,
)
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

q = Queries.load(__package__)


class BudgetRecord(msgspec.Struct, frozen=True):
    """A budget as its row says it, with the name of its scope."""

    id: int
    slug: str
    organization_id: int
    display_name: str
    scope_kind: ScopeKind
    scope_id: int
    scope_name: str
    """ "teams/search"; empty if what it was for is gone."""
    models: tuple[str, ...]
    providers: tuple[str, ...]
    limit_nanos: int
    currency: str
    window: WindowSpec
    enforcement: Enforcement
    disabled: bool
    version: int
    created_at: datetime
    updated_at: datetime
    raises: tuple[TemporaryRaise, ...] = ()
    """Those that were not over when they were last applied."""

    def limit_at(self, at: datetime) -> int:
        """The limit in force at an instant that is not long past."""
        return effective_limit(self.limit_nanos, self.raises, at)

    @property
    def hard(self) -> bool:
        """Whether it can refuse."""
        return self.enforcement == "hard"

    @property
    def shadow(self) -> bool:
        """Whether it counts what it would refuse if it could."""
        return self.enforcement == "shadow"


class NewBudget(msgspec.Struct, frozen=True):
    """What a budget is made of."""

    organization_id: int
    slug: str
    display_name: str
    scope_kind: ScopeKind
    scope_id: int
    models: tuple[str, ...]
    providers: tuple[str, ...]
    limit_nanos: int
    window: WindowSpec
    enforcement: Enforcement
    disabled: bool


class Standing(msgspec.Struct, frozen=True):
    """A budget in the window that is open now; amounts in nanos."""

    window_id: int
    start_at: datetime
    end_at: datetime | None
    limit_nanos: int
    settled_nanos: int
    outstanding_nanos: int
    in_doubt_nanos: int
    overrun_nanos: int
    would_refuse_count: int = 0
    would_refuse_nanos: int = 0
    frozen: bool = False


class Holder(msgspec.Struct, frozen=True):
    """What one session of a sidecar holds of a window; amounts in nanos."""

    sidecar_slug: str
    organization_slug: str
    session_epoch: int
    last_seen_at: datetime
    outstanding_nanos: int
    in_doubt_nanos: int
    in_doubt_since: datetime | None


class Exposure(msgspec.Struct, frozen=True):
    """What an organization has lent, added up over its budgets; amounts in nanos."""

    organization_slug: str
    currency: str
    outstanding_nanos: int
    in_doubt_nanos: int
    overrun_nanos: int
    in_doubt_since: datetime | None
    """When the oldest of what is in doubt came to be so; None: nothing is."""


async def budgets_by_scopes(
    connection: Connection, organization_id: int, scopes: Sequence[tuple[str, int]]
) -> list[BudgetRecord]:
    """Every budget of the given (scope kind, scope id), disabled ones too, by id."""
    kinds = [kind for kind, _ in scopes]
    ids = [scope_id for _, scope_id in scopes]
    rows = await connection.fetch(q.budgets_by_scopes, organization_id, kinds, ids)
    return [_record(row) for row in rows]


async def budgets_by_ids(
    connection: Connection, organization_id: int, ids: Sequence[int]
) -> list[BudgetRecord]:
    """The budgets of these ids that exist, disabled ones too, by id."""
    rows = await connection.fetch(q.budgets_by_ids, organization_id, list(ids))
    return [_record(row) for row in rows]


async def budget_by_slug(
    connection: Connection, organization_id: int, slug: str
) -> BudgetRecord | None:
    """The budget of this name, None if there is none."""
    budget_id = await connection.fetchval(q.budget_id_by_slug, organization_id, slug)
    found = await budgets_by_ids(connection, organization_id, [budget_id]) if budget_id else []
    return found[0] if found else None


async def lock_budget(
    connection: Connection, organization_id: int, slug: str
) -> BudgetRecord | None:
    """The budget of this name, kept from changing until the transaction ends."""
    row = await connection.fetchrow(q.lock_budget, organization_id, slug)
    if row is None:
        return None
    return (await budgets_by_ids(connection, organization_id, [row["id"]]))[0]


async def budget_page(
    connection: Connection,
    organization_id: int,
    *,
    after_slug: str,
    scope: tuple[str, int] | None,
    size: int,
) -> list[BudgetRecord]:
    """At most `size` budgets by name, behind `after_slug`, of one scope or of all."""
    kind, scope_id = scope or ("", 0)
    rows = await connection.fetch(q.budget_page, organization_id, after_slug, kind, scope_id, size)
    records = await budgets_by_ids(connection, organization_id, [row["id"] for row in rows])
    return sorted(records, key=lambda record: record.slug)


async def scope_id(
    connection: Connection, kind: str, organization_id: int, slug: str
) -> int | None:
    """The id of a team, project, user or key of this name, None if there is none."""
    found: int | None = await connection.fetchval(q.scope_ids, organization_id, kind, slug)
    return found


async def insert_budget(connection: Connection, budget: NewBudget, *, actor: str) -> int | None:
    """Write a new budget and its first version; returns its id, None if the name is taken."""
    window = budget.window
    budget_id: int | None = await connection.fetchval(
        q.insert_budget,
        budget.organization_id,
        budget.slug,
        budget.display_name,
        budget.scope_kind,
        budget.scope_id,
        list(budget.models),
        list(budget.providers),
        budget.limit_nanos,
        window.kind,
        window.unit,
        window.count,
        window.anchor,
        window.start_at,
        window.time_zone,
        budget.enforcement,
        budget.disabled,
    )
    if budget_id is not None:
        await connection.execute(q.insert_budget_version, budget.organization_id, budget_id, actor)
    return budget_id


async def update_budget(
    connection: Connection,
    record: BudgetRecord,
    *,
    display_name: str,
    limit_nanos: int,
    disabled: bool,
    actor: str,
) -> None:
    """Write the changed fields of a locked budget, and its next version."""
    where = (record.organization_id, record.id)
    await connection.execute(q.update_budget, *where, display_name, limit_nanos, disabled)
    await connection.execute(q.insert_budget_version, *where, actor)


async def has_windows(connection: Connection, organization_id: int, budget_id: int) -> bool:
    """Whether anything was ever lent from it or posted to it."""
    return bool(await connection.fetchval(q.budget_has_windows, organization_id, budget_id))


async def delete_budget(connection: Connection, organization_id: int, budget_id: int) -> None:
    """Remove a budget that has no windows; its versions stay."""
    await connection.execute(q.delete_budget, organization_id, budget_id)


async def current_windows(
    connection: Connection, organization_id: int, budget_ids: Sequence[int], now: datetime
) -> Mapping[int, Standing]:
    """How each of these budgets stands in the window open at `now`; none if it has none yet."""
    rows = await connection.fetch(q.current_windows, organization_id, list(budget_ids), now)
    return {
        row["budget_id"]: Standing(
            window_id=row["id"],
            start_at=row["start_at"],
            end_at=row["end_at"],
            limit_nanos=row["limit_nanos"],
            settled_nanos=row["settled_nanos"],
            outstanding_nanos=row["outstanding_nanos"],
            in_doubt_nanos=row["in_doubt_nanos"],
            overrun_nanos=row["overrun_nanos"],
            would_refuse_count=row["would_refuse_count"],
            would_refuse_nanos=row["would_refuse_nanos"],
            frozen=row["frozen"],
        )
        for row in rows
    }


async def holders(
    connection: Connection, organization_id: int, window_id: int, size: int
) -> list[Holder]:
    """The sessions that hold most of a window, at most `size`."""
    rows = await connection.fetch(q.holders, organization_id, window_id, size)
    return msgspec.convert([dict(row) for row in rows], list[Holder])


async def exposure(connection: Connection, now: datetime) -> list[Exposure]:
    """Every organization's exposure, and what its windows open at `now` have overrun."""
    rows = await connection.fetch(q.exposure, now)
    return msgspec.convert([dict(row) for row in rows], list[Exposure])


def _record(row: asyncpg.Record) -> BudgetRecord:
    return BudgetRecord(
        id=row["id"],
        slug=row["slug"],
        organization_id=row["organization_id"],
        display_name=row["display_name"],
        scope_kind=row["scope_kind"],
        scope_id=row["scope_id"],
        scope_name=row["scope_name"] or "",
        models=tuple(row["models"]),
        providers=tuple(row["providers"]),
        limit_nanos=row["limit_nanos"],
        currency=row["currency"],
        window=WindowSpec(
            kind=row["window_kind"],
            unit=row["window_unit"],
            count=row["window_count"],
            anchor=row["window_anchor"],
            start_at=row["window_start_at"],
            time_zone=row["time_zone"],
        ),
        enforcement=row["enforcement"],
        disabled=row["disabled"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        raises=tuple(
            TemporaryRaise(
                id=raised["id"],
                amount_nanos=raised["amount_nanos"],
                start_at=raised["start_at"],
                end_at=raised["end_at"],
                cancelled_at=raised["cancelled_at"],
                phase=raised["phase"],
            )
            for raised in row["raises"]
        ),
    )


async def is_frozen(connection: Connection, organization_id: int, budget_id: int) -> bool:
    """Whether a window of the budget lends nothing because grants of it were forgotten."""
    return bool(await connection.fetchval(q.is_frozen, organization_id, budget_id))


async def thaw(
    connection: Connection,
    organization_id: int,
    budget_id: int,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    """Put on record that a budget may lend again; whoever lends looks there."""
    await connection.execute(q.thaw, organization_id, budget_id, reason, actor, now)
