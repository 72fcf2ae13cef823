"""Which windows of which budgets the writer works with: read, begun, and kept in memory.

Only the writer of a shard begins windows and applies limits to them, so what it keeps here is what
is committed; `forget` after a transaction that failed.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from bursar_server.allowances import rules, store
from bursar_server.allowances.ahead import Ahead, is_due
from bursar_server.allowances.forgotten import windows_around
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.records import WindowRow, window_id
from bursar_server.budgets import raises
from bursar_server.budgets.rules import window_at
from bursar_server.budgets.store import BudgetRecord, budgets_by_ids
from bursar_server.database.pool import Connection
from bursar_server.ledger import posting

MOST_CACHED = 100_000
"""Rows kept of each kind; beyond it the cache starts anew, which costs a query, never a fault."""
FORESEEN = ("calendar", "every")
"""Windows whose next one is known before it begins; others begin with a call, or have none."""
FORGOTTEN_WITHIN: Final = timedelta(days=31)
"""A machine that was off may come back with its charges; but a sidecar must not make the writer
begin windows of all times."""


class Windows:
    """The budgets and current windows of a shard."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[int, int], BudgetRecord] = {}
        self._current: dict[int, WindowRow] = {}
        self._next: dict[int, WindowRow] = {}
        self._rows: dict[int, WindowRow] = {}

    def forget(self) -> None:
        """Drop what is kept: a transaction failed, so what it made may not exist."""
        for cache in (self._budgets, self._current, self._next, self._rows):
            cache.clear()

    def trim(self) -> None:
        """Bound what is kept."""
        if max(len(self._budgets), len(self._current), len(self._rows)) > MOST_CACHED:
            self.forget()

    def changed(self, budgets: Iterable[tuple[int, int]]) -> None:
        """These (organization, budget) changed: read them again."""
        for key in budgets:
            self._budgets.pop(key, None)

    async def budget(
        self, connection: Connection, organization_id: int, budget_id: int
    ) -> BudgetRecord | None:
        """A budget; None if it is gone."""
        await self._load(connection, organization_id, [budget_id])
        return self._budgets.get((organization_id, budget_id))

    async def limits(
        self,
        connection: Connection,
        changed: Collection[tuple[int, int]],
        books: rules.Books,
        windows: dict[int, WindowRow],
        now: datetime,
    ) -> dict[int, tuple[int, int]]:
        """By window of `changed` budgets: (limit in force, version of the budget)."""
        limits: dict[int, tuple[int, int]] = {}
        for organization_id, budget_id in changed:
            budget = await self.budget(connection, organization_id, budget_id)
            if budget is not None:
                for window in books.windows.values():
                    mine = windows[window.id].organization_id == organization_id
                    if mine and window.budget_id == budget_id:
                        # One that was begun ahead of time has the limit of its own first instant.
                        at = max(now, windows[window.id].start_at)
                        limits[window.id] = (budget.limit_at(at), budget.version)
        return limits

    async def pass_boundaries(
        self, connection: Connection, changed: Collection[tuple[int, int]], now: datetime
    ) -> datetime | None:
        """Write down what time has done to the raises of `changed` budgets, now that their limits
        hold; returns when time changes a limit next."""
        for key in changed:
            budget = self._budgets.get(key)
            if budget is not None and budget.raises:
                await raises.note_boundaries(connection, budget, now)
                # What is kept says what was applied before.
                del self._budgets[key]
        return await raises.next_boundary(connection)

    async def current(
        self, connection: Connection, organization_id: int, budget_ids: set[int], now: datetime
    ) -> dict[int, WindowRow]:
        """The window each budget is in now, begun where it was not; none for a budget that is
        gone or disabled."""
        self._read_anew(organization_id, budget_ids, now)
        await self._load(connection, organization_id, budget_ids)
        found: dict[int, WindowRow] = {}
        missing: list[BudgetRecord] = []
        for budget_id in sorted(budget_ids):
            budget = self._budgets.get((organization_id, budget_id))
            if budget is None or budget.disabled:
                continue
            current = self._current.get(budget_id)
            if current is None or (current.end_at is not None and current.end_at <= now):
                missing.append(budget)
            else:
                found[budget_id] = current
        if missing:
            ids = [budget.id for budget in missing]
            last = await store.last_windows(connection, organization_id, ids, now)
            for budget in missing:
                row = last.get(budget.id)
                if row is None or (row.end_at is not None and row.end_at <= now):
                    span = window_at(
                        budget.window,
                        now,
                        created_at=budget.created_at,
                        last_end=row.end_at if row else None,
                    )
                    opening = (0, 0)
                    if row is None:
                        opening = await self._opening(connection, budget, span.start_at)
                    row = await store.make_window(
                        connection, budget, (span.start_at, span.end_at), opening, now
                    )
                found[budget.id] = self._current[budget.id] = self._rows[row.id] = row
        return found

    def _read_anew(self, organization_id: int, budget_ids: Iterable[int], now: datetime) -> None:
        """Forget budgets that have no window now: what begins one is what is on record. Where an
        announcement was lost while no session was here, only windows tell what is stale."""
        for budget_id in budget_ids:
            current = self._current.get(budget_id)
            if current is None or (current.end_at is not None and current.end_at <= now):
                self._budgets.pop((organization_id, budget_id), None)

    async def at(
        self, connection: Connection, budget: BudgetRecord, at: datetime, now: datetime
    ) -> WindowRow | None:
        """The window that a call admitted then belongs to, begun if it was not; where that can't
        be told any more, the one of now."""
        if budget.window.kind in FORESEEN:
            span = window_at(budget.window, at, created_at=budget.created_at)
            return await store.make_window(connection, budget, span, (0, 0), now)
        found = await self.current(connection, budget.organization_id, {budget.id}, now)
        return found.get(budget.id)

    async def ahead(
        self,
        connection: Connection,
        frames: Iterable[tuple[int, Frame]],
        now: datetime,
        ahead_ms: int,
    ) -> list[Ahead]:
        """Who is to be lent from a next window now: of the sessions that report on a window which
        ends soon, those whose moment has come. Begins next windows where they are missing."""
        found: list[Ahead] = []
        for epoch, frame in frames:
            for report in frame.reports:
                row = self._rows.get(report.window_id)
                if row is None or row.end_at is None or report.idle_ms > ahead_ms:
                    continue
                if is_due(epoch, row.start_at, row.end_at, now, ahead_ms):
                    following = await self._following(connection, row, row.end_at, now)
                    if following is not None:
                        found.append(Ahead(epoch, following.id, row.id, report.want))
        return found

    async def _following(
        self, connection: Connection, row: WindowRow, end_at: datetime, now: datetime
    ) -> WindowRow | None:
        """The window after `row`, begun if it was not; None if there is none to foresee."""
        following = self._next.get(row.budget_id)
        if following is not None and following.start_at == end_at:
            return following
        budget = await self.budget(connection, row.organization_id, row.budget_id)
        if budget is None or budget.disabled or budget.window.kind not in FORESEEN:
            return None
        span = window_at(budget.window, end_at, created_at=budget.created_at)
        following = await store.make_window(connection, budget, span, (0, 0), now)
        self._next[row.budget_id] = self._rows[following.id] = following
        return following

    def note(self, windows: Mapping[int, WindowRow]) -> None:
        """Remember when windows run that were read for another reason."""
        self._rows.update(windows)

    @staticmethod
    async def _opening(
        connection: Connection, budget: BudgetRecord, since: datetime
    ) -> tuple[int, int]:
        """What the budget's first window has seen already: (nanos, entries)."""
        chosen = (since, (budget.scope_kind, budget.scope_id), budget.models, budget.providers)
        if budget.scope_kind == "platform" and since >= budget.created_at:
            return 0, 0
        if budget.scope_kind == "platform":
            # Its own ledger knows only what its budgets counted: every call is in another one's.
            amount_nanos, count = await posting.spent_by_all_before(connection, *chosen)
        else:
            # Where no window came before, what was under way as the budget was made counts.
            amount_nanos, count = await posting.spent_before(
                connection,
                budget.organization_id,
                *chosen,
                posted_since=budget.created_at if since >= budget.created_at else None,
            )
        return max(0, amount_nanos), count

    async def _load(
        self, connection: Connection, organization_id: int, budget_ids: Iterable[int]
    ) -> None:
        unknown = [b for b in budget_ids if (organization_id, b) not in self._budgets]
        if unknown:
            for record in await budgets_by_ids(connection, organization_id, unknown):
                self._budgets[organization_id, record.id] = record

    async def begin_forgotten(
        self, connection: Connection, missing: Mapping[int, tuple[int, datetime]], now: datetime
    ) -> None:
        """Begin windows again that charges name and the database forgot: by window its organization
        and when a call was admitted in it. An id says which window of which budget it is."""
        organizations = {organization_id for organization_id, _ in missing.values()}
        for organization_id in organizations:
            sought = {
                id: admitted_at
                for id, (owner, admitted_at) in missing.items()
                if owner == organization_id and abs(now - admitted_at) <= FORGOTTEN_WITHIN
            }
            if sought:
                await self._begin_forgotten(connection, organization_id, sought, now)

    async def _begin_forgotten(
        self,
        connection: Connection,
        organization_id: int,
        sought: dict[int, datetime],
        now: datetime,
    ) -> None:
        ids = await store.budgets_of(connection, organization_id, MOST_CACHED)
        await self._load(connection, organization_id, ids)
        known = [self._budgets.get((organization_id, id)) for id in ids]
        budgets = [budget for budget in known if budget is not None]
        for budget, span in windows_around(budgets, set(sought.values())):
            if sought.pop(window_id(organization_id, budget.id, span.start_at), None) is None:
                continue
            opening = (0, 0)
            if span.start_at <= budget.created_at:
                opening = await self._opening(connection, budget, span.start_at)
            await store.make_window(connection, budget, span, opening, now)
            if not sought:
                return
