"""The writer's part of arming: notes who may spend when a budget is made, and finds their calls.

Works inside the writer's transactions, so that the opening line and the calls that come after it
neither miss nor repeat an entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import structs

from bursar_server.allowances import arming
from bursar_server.allowances import arming_store as store
from bursar_server.allowances.arming import ArmingSession
from bursar_server.allowances.hub import Hub
from bursar_server.allowances.records import SessionRow
from bursar_server.allowances.windows import MOST_CACHED, Windows
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.pool import Connection
from bursar_server.ledger.entries import PostedSoFar, Posting

Call = tuple[int, int]
"""(session epoch, n)."""


class Armings:
    """Which sessions may have calls under way that new budgets must count."""

    def __init__(self, hub: Hub, windows: Windows) -> None:
        self._hub = hub
        self._windows = windows
        self._sessions: dict[int, dict[int, ArmingSession]] | None = None
        """By session and budget; None: not read yet."""
        self._begun: set[int] = set()
        """Budgets of which it is known that they were looked at when they were new."""

    def forget(self) -> None:
        """Drop what is kept: a transaction failed."""
        self._sessions = None
        self._begun.clear()

    async def begin(
        self,
        connection: Connection,
        budgets: Iterable[tuple[int, int]],
        sessions: Mapping[int, SessionRow],
        now: datetime,
    ) -> None:
        """Look at (organization, budget) that may be new, and at sessions that spoke: before
        anything draws on the budgets, and before anything is posted in this transaction."""
        await self._look(connection, budgets, now)
        await self.hear(connection, sessions)

    async def _look(
        self, connection: Connection, budgets: Iterable[tuple[int, int]], now: datetime
    ) -> None:
        asked = {(o, b) for o, b in budgets if b not in self._begun}
        if not asked:
            return
        if len(self._begun) > MOST_CACHED:
            self._begun.clear()
        known = await store.budgets_begun(connection, [b for _, b in asked])
        # Of one that is new nothing is believed but what is on record: disabled, it waits.
        self._windows.changed((o, b) for o, b in asked if b not in known)
        for organization_id, budget_id in sorted(asked):
            budget = await self._windows.budget(connection, organization_id, budget_id)
            if budget is None or (budget.disabled and budget_id not in known):
                continue  # it is new once it is enabled
            if budget_id not in known:
                await self._begin(connection, budget, now)
            self._begun.add(budget_id)

    async def _begin(self, connection: Connection, budget: BudgetRecord, now: datetime) -> None:
        version = await store.policy_version(connection, budget.organization_id)
        sessions = await store.sessions_that_may_spend(connection, budget)
        rows = [
            arming.heard(row, session) or row
            for session in sessions
            if self._may_spend(session.session_epoch, budget)
            for row in [
                ArmingSession(budget.organization_id, budget.id, session.session_epoch, version)
            ]
        ]
        if rows:
            # It begins at once, so that what settles from now on has a window to count in.
            await self._windows.current(connection, budget.organization_id, {budget.id}, now)
        await store.save_arming(connection, budget, version, rows, now)
        if self._sessions is not None:
            for row in rows:
                self._sessions.setdefault(row.session_epoch, {})[row.budget_id] = row

    def _may_spend(self, session_epoch: int, budget: BudgetRecord) -> bool:
        live = self._hub.sessions.get(session_epoch)
        if live is None or live.is_asking or live.policy_heard[0] == 0:
            # What it knows is not known here, or not all of it.
            return True
        return arming.may_spend(budget.scope_kind, budget.scope_id, live.keys.values())

    async def hear(self, connection: Connection, sessions: Mapping[int, SessionRow]) -> None:
        """Take note of sessions that act on the policy with the budget now."""
        kept = await self._kept(connection)
        changed = [
            row
            for epoch in kept.keys() & sessions.keys()
            for before in kept[epoch].values()
            if (row := arming.heard(before, sessions[epoch])) is not None
        ]
        if changed:
            await store.save_heard(connection, changed)
            for row in changed:
                kept[row.session_epoch][row.budget_id] = row

    async def closed(self, connection: Connection, sessions: Mapping[int, SessionRow]) -> None:
        """Forget sessions that have closed: all their calls are settled."""
        kept = await self._kept(connection)
        gone = [epoch for epoch in kept.keys() & sessions.keys() if sessions[epoch].is_closed]
        if gone:
            await store.forget_arming(connection, gone)
            for epoch in gone:
                del kept[epoch]

    async def count(
        self,
        connection: Connection,
        postings: Sequence[Posting],
        so_far: Mapping[Call, PostedSoFar],
        now: datetime,
    ) -> None:
        """Draw calls on the budgets that they fall under and did not know of; later postings of a
        call draw on what its first one drew on."""
        kept = await self._kept(connection)
        first: dict[Call, Posting] = {}
        found: list[tuple[Posting, BudgetRecord]] = []
        for posting in postings:
            settlement = posting.settlement
            call = (settlement.session_epoch, settlement.n)
            if posting.k == 0:
                first[call] = posting
                for row in kept.get(settlement.session_epoch, {}).values():
                    if arming.is_older(row, settlement.n):
                        budget = await self._windows.budget(
                            connection, row.organization_id, row.budget_id
                        )
                        if budget is not None and arming.falls_under(budget, posting):
                            found.append((posting, budget))
        if found:
            await self._draw(connection, found, now)
        for posting in postings:
            if posting.k:
                call = (posting.settlement.session_epoch, posting.settlement.n)
                if call in first:
                    drawn = first[call].settlement.budget_window_ids
                    armed = first[call].armed_window_ids
                else:
                    drawn, armed = so_far[call].drawn, so_far[call].armed
                posting.armed_window_ids = armed
                posting.settlement = structs.replace(posting.settlement, budget_window_ids=drawn)

    async def _draw(
        self,
        connection: Connection,
        found: Sequence[tuple[Posting, BudgetRecord]],
        now: datetime,
    ) -> None:
        drawn = await store.budgets_of_windows(
            connection, {w for posting, _ in found for w in posting.settlement.budget_window_ids}
        )
        for posting, budget in found:
            settlement = posting.settlement
            if any(drawn.get(w) == budget.id for w in settlement.budget_window_ids):
                continue
            # By the sidecar's clock, which may be ahead of ours.
            at = min(settlement.admitted_at, now)
            windows = await store.windows_around(connection, budget, at)
            window = arming.window_of(windows, at, budget.created_at)
            if window is None:
                continue
            if window.end_at is not None and window.end_at <= at and not budget.disabled:
                window = await self._windows.at(connection, budget, at, now) or window
            if window.id in settlement.budget_window_ids:
                continue  # the database had forgotten it, and it began again under its own id
            posting.armed_window_ids = tuple(sorted((*posting.armed_window_ids, window.id)))
            both = tuple(sorted((*settlement.budget_window_ids, window.id)))
            posting.settlement = structs.replace(settlement, budget_window_ids=both)

    async def _kept(self, connection: Connection) -> dict[int, dict[int, ArmingSession]]:
        if self._sessions is None:
            self._sessions = {}
            for row in await store.arming_sessions(connection):
                self._sessions.setdefault(row.session_epoch, {})[row.budget_id] = row
        return self._sessions
