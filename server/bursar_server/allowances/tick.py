"""One tick: the frames gathered since the last one, applied in one transaction.

Read, decide, write: the shard's owner epoch is checked, sessions and then budget windows are
locked in the order of their ids, `step` decides on the locked balances, the changes are written.
Nothing is told to anybody before the commit.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from datetime import datetime

import msgspec
import structlog

from bursar_server.allowances import healing, life, restoring, rules, store, waiting
from bursar_server.allowances.ahead import Ahead
from bursar_server.allowances.armings import Armings
from bursar_server.allowances.claims import Claim, claims_of
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.healing import Commits, Rewound
from bursar_server.allowances.hub import Hub, LiveSession
from bursar_server.allowances.life import Passed
from bursar_server.allowances.passing import Passing
from bursar_server.allowances.proofs import GrantProof
from bursar_server.allowances.records import EventRow, SessionRow, WindowRow
from bursar_server.allowances.resolutions import Resolution
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.step import FrameFault, Input, Output, Slice, step
from bursar_server.allowances.waiting import WaitingNeed
from bursar_server.allowances.windows import MOST_CACHED, Windows
from bursar_server.budgets import raises
from bursar_server.database.pool import Connection
from bursar_server.ledger import entries, posting

log = structlog.get_logger(__name__)


class Deposed(Exception):
    """Another process owns the shard now: this one must stop writing."""


class Batch(msgspec.Struct):
    """What one tick works on."""

    frames: list[tuple[LiveSession, Frame]]
    needs: list[WaitingNeed]
    changed_budgets: set[tuple[int, int]]
    """(organization, budget) whose limit or life changed."""
    applied: "list[asyncio.Future[None]]"
    """Who waits for those changes."""
    resolutions: frozenset[int] = frozenset()
    """Decisions about sessions that do not come back, on record."""
    passing: bool = False
    """Time is told to sessions."""
    boundary_due: bool = False
    """Time changes limits now: the budgets join `changed_budgets`."""


class Outcome(msgspec.Struct):
    """What a tick did, to be told after its commit."""

    books: rules.Books
    windows: dict[int, WindowRow]
    decisions: rules.Decisions
    stale: list[WaitingNeed]
    """Needs on budgets that are gone or disabled."""
    by_need: dict[tuple[int, int], WaitingNeed]
    recalls: list[rules.Holder]
    entry_count: int
    repeat_count: int
    events: list[EventRow]
    shadow_refusal_count: int
    """Calls times the shadow budgets that would have refused them."""
    tail: set[int]
    """Of these windows those in their tail."""
    lent: bool
    """False: facts only were posted."""
    next_boundary: datetime | None
    """When time changes a limit next; only told where budgets changed."""
    passed: list[Passed] = []
    """What time did to sessions."""
    is_tail_lost: bool = False
    """Whether it was found that the database forgot what it had committed."""
    fenced: dict[int, str] = {}
    """Sessions that spoke and may not spend, and why."""
    unheard: bool = False
    """Whether an earlier try may have been committed, and what it granted was told to nobody."""


class Tick:
    """Applies batches. Keeps caches of what only this writer changes; `forget` drops them."""

    def __init__(self, shard_id: int, hub: Hub, settings: LendingSettings) -> None:
        self.shard_id = shard_id
        self.owner_epoch = 0
        self._hub = hub
        self._settings = settings
        self._windows = Windows()
        self._armings = Armings(hub, self._windows)
        self.passing = Passing(shard_id, settings)
        self.commits = Commits(shard_id)
        self._draw_sets: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
        self._spenders: dict[tuple[int, int], tuple[int | None, int | None, int | None]] = {}
        self._sessions_read: dict[int, SessionRow] = {}
        """Those of the present transaction, as they were read."""

    def forget(self) -> None:
        """Drop the caches: a transaction failed, so what it made may not exist."""
        self._windows.forget()
        self._armings.forget()
        self._draw_sets.clear()
        self._spenders.clear()

    async def check(self, connection: Connection) -> None:
        """Hold the shard for this transaction, and count it. Raises Deposed or Rewound."""
        owner_epoch = await store.check_shard(connection, self.shard_id)
        if owner_epoch < self.owner_epoch:
            raise Rewound("the database forgot who owns the shard")
        if owner_epoch != self.owner_epoch:
            raise Deposed
        await self.commits.count(connection)

    async def apply(
        self, connection: Connection, batch: Batch, now: datetime, now_ms: int, *, lending: bool
    ) -> Outcome:
        """Apply `batch` inside the connection's transaction; with `lending` off, facts only.

        Raises Deposed, Rewound, FrameFault, or what the database says.
        """
        await self.check(connection)
        self._trim()
        served_ms = await self.passing.served_ms(connection, now_ms)
        resolutions, due = await self._ending(connection, batch, served_ms)
        resolving = {resolution.session_epoch for resolution in resolutions}.union(due)
        sessions = await self._sessions(connection, batch, resolving)
        if batch.boundary_due:
            batch.changed_budgets.update(await raises.due_budgets(connection, now))
        self._windows.changed(batch.changed_budgets)
        asked = waiting.budgets_of(batch.needs)
        await self._armings.begin(connection, batch.changed_budgets | asked, sessions, now)
        found = await waiting.find(connection, self._windows, batch.needs, asked, sessions, now)
        postings, repeat_count = await self._postings(connection, batch, sessions, now)
        spoken = [(session.session_epoch, frame) for session, frame in batch.frames]
        ahead: list[Ahead] = []
        if lending:
            ahead = await self._windows.ahead(connection, spoken, now, self._settings.ahead_ms)
        claims = claims_of(batch.frames)
        books, windows = await self._books(
            connection, batch, sessions, found.pairs, postings, resolving, ahead, claims, now
        )
        healing.warn_of_unproven(batch.frames, books, claims)
        self._windows.note(windows)
        limits = await self._windows.limits(connection, batch.changed_budgets, books, windows, now)
        state = Slice(sessions, windows, books)
        output = step(
            state,
            Input(
                frames=spoken,
                postings=postings,
                needs=found.needs,
                limits=limits,
                traffic=lambda ids: self._hub.traffic(ids, now_ms, self._settings.active_ms),
                holders=self._hub.holders,
                now=now,
                now_ms=now_ms,
                lending=lending,
                resolutions=resolutions,
                connected=self._hub.sessions.keys(),
                tail=self._hub.tail,
                ahead=ahead,
                claims=claims,
                served_ms=served_ms,
                due=due,
                terms=self.passing.terms,
            ),
        )
        await self._armings.closed(connection, sessions)
        await self._save(connection, batch, state, postings, output, now)
        next_boundary = await self._pass_boundaries(connection, batch, now)
        return Outcome(
            books=books,
            windows=windows,
            decisions=output.decisions,
            stale=found.stale,
            by_need=found.by_need,
            recalls=output.recalls,
            entry_count=len(postings),
            repeat_count=repeat_count,
            events=output.events,
            shadow_refusal_count=sum(len(p.would_refuse_window_ids) for p in postings if not p.k),
            tail=output.tail,
            lent=lending,
            passed=output.passed,
            fenced=_fenced(spoken, sessions),
            next_boundary=next_boundary,
            is_tail_lost=output.is_tail_lost,
        )

    async def _ending(
        self, connection: Connection, batch: Batch, served_ms: int
    ) -> tuple[list[Resolution], list[int]]:
        """What people decided about sessions, and about which ones time may."""
        resolutions: list[Resolution] = []
        if batch.resolutions:
            resolutions = await store.resolutions(connection, batch.resolutions)
        due = await self.passing.due(connection, served_ms) if batch.passing else []
        return resolutions, due

    async def _pass_boundaries(
        self, connection: Connection, batch: Batch, now: datetime
    ) -> datetime | None:
        """When time changes a limit next, if the batch could have changed that."""
        changed = batch.changed_budgets
        if not changed and not batch.boundary_due:
            return None
        return await self._windows.pass_boundaries(connection, changed, now)

    async def _sessions(
        self, connection: Connection, batch: Batch, resolving: Collection[int]
    ) -> dict[int, SessionRow]:
        epochs = {need.session.session_epoch for need in batch.needs}
        epochs.update(resolving)
        for session, frame in batch.frames:
            epochs.add(session.session_epoch)
            epochs.update(s.session_epoch for s in frame.settlements)
            epochs.update(c.session_epoch for c in frame.closes)
        rows = await store.lock_sessions(connection, epochs)
        self._sessions_read = {epoch: copy(row) for epoch, row in rows.items()}
        for session, frame in batch.frames:
            row = rows.get(session.session_epoch)
            if row is None:
                raise FrameFault(f"session {session.session_epoch} is gone")
            row.applied_seq = max(row.applied_seq, frame.seq)
            if frame.policy_ack is not None:
                version, last_n = frame.policy_ack
                row.policy_version = max(row.policy_version, version)
                row.policy_last_n = max(row.policy_last_n, last_n)
        return rows

    async def _postings(
        self,
        connection: Connection,
        batch: Batch,
        sessions: dict[int, SessionRow],
        now: datetime,
    ) -> tuple[list[entries.Posting], int]:
        """The entries to write, with accounts, currency, spender and draw set filled in."""
        by_session: dict[int, list[entries.Settlement]] = defaultdict(list)
        speakers = {session.session_epoch: session for session, _ in batch.frames}
        for session, frame in batch.frames:
            if frame.settlements:
                by_session[session.session_epoch].extend(frame.settlements)
        postings: list[entries.Posting] = []
        repeats = 0
        so_far = await self._posted_so_far(connection, by_session, speakers, sessions)
        for epoch, settlements in by_session.items():
            session = speakers[epoch]
            planned = entries.plan(settlements, so_far)
            repeats += len(settlements) - sum(1 for p in planned if p.kind is p.settlement.kind)
            if not session.contradicted:
                for settlement in entries.contradictions(settlements, so_far):
                    session.contradicted = True
                    log.warning(
                        "settlement_contradicted",
                        sidecar=session.stream.name,
                        charge=f"{settlement.session_epoch}-{settlement.n}",
                        posted_nanos=so_far[settlement.session_epoch, settlement.n].amount_nanos,
                        said_nanos=settlement.cost_nanos,
                    )
                    break
            await self._fill_in(connection, session, planned)
            await self._armings.count(connection, planned, so_far, now)
            for entry in planned:
                entry.draw_set_id = await self._draw_set(connection, entry)
            postings += planned
        return postings, repeats

    async def _posted_so_far(
        self,
        connection: Connection,
        by_session: Mapping[int, Sequence[entries.Settlement]],
        speakers: Mapping[int, LiveSession],
        sessions: Mapping[int, SessionRow],
    ) -> dict[tuple[int, int], entries.PostedSoFar]:
        """What is posted of these settlements: asked once for each organization."""
        asked: dict[int, list[entries.Settlement]] = defaultdict(list)
        for epoch, settlements in by_session.items():
            # Above the highest number that a locked session ever posted, nothing is posted.
            asked[speakers[epoch].organization_id] += [
                s
                for s in settlements
                if (row := sessions.get(s.session_epoch)) is None or s.n <= row.highest_settled_n
            ]
        found: dict[tuple[int, int], entries.PostedSoFar] = {}
        for organization_id, some in asked.items():
            found |= await posting.posted_so_far(connection, organization_id, some)
        return found

    async def _fill_in(
        self, connection: Connection, session: LiveSession, planned: Sequence[entries.Posting]
    ) -> None:
        organization_id = session.organization_id
        keys = {p.settlement.key_id for p in planned if p.settlement.key_id}
        unknown = [key for key in keys if (organization_id, key) not in self._spenders]
        if unknown:
            spenders = await store.spenders_of_keys(connection, organization_id, unknown)
            for key in unknown:
                self._spenders[organization_id, key] = spenders.get(key, (None, None, None))
        for entry in planned:
            settlement = entry.settlement
            entry.debit_account = entries.spend(session.spender_organization)
            entry.currency = session.currency
            if settlement.key_id:
                entry.team_id, entry.project_id, entry.user_id = self._spenders[
                    organization_id, settlement.key_id
                ]

    async def _draw_set(self, connection: Connection, entry: entries.Posting) -> int:
        settlement = entry.settlement
        drawn = (settlement.organization_id, settlement.budget_window_ids, entry.armed_window_ids)
        if drawn not in self._draw_sets:
            self._draw_sets[drawn] = await store.intern_draw_set(connection, *drawn)
        return self._draw_sets[drawn]

    async def _fill_in_losses(
        self, connection: Connection, losses: Sequence[entries.Posting]
    ) -> None:
        epochs = {entry.settlement.session_epoch for entry in losses}
        kept_in = await store.books_of_sessions(connection, epochs)
        for entry in losses:
            spender, entry.currency = kept_in[entry.settlement.session_epoch]
            entry.debit_account = entries.spend(spender)
            entry.draw_set_id = await self._draw_set(connection, entry)

    async def _books(
        self,
        connection: Connection,
        batch: Batch,
        sessions: dict[int, SessionRow],
        needed: Collection[tuple[int, int]],
        postings: Sequence[entries.Posting],
        resolving: Collection[int],
        ahead: Sequence[Ahead],
        claims: Mapping[Claim, GrantProof],
        now: datetime,
    ) -> tuple[rules.Books, dict[int, WindowRow]]:
        pairs = set(needed)
        owner: dict[int, int] = {}
        pairs.update((one.session_epoch, one.window_id) for one in ahead)
        for session, frame in batch.frames:
            pairs.update((session.session_epoch, r.window_id) for r in frame.reports)
            owner.update((r.window_id, session.organization_id) for r in frame.reports)
        for entry in postings:
            settlement = entry.settlement
            pairs.update((settlement.session_epoch, w) for w in settlement.budget_window_ids)
            owner.update((w, settlement.organization_id) for w in settlement.budget_window_ids)
        # A session may close in this tick when its last settlement or its CloseSession came.
        closing = {c.session_epoch for _, frame in batch.frames for c in frame.closes} | {
            row.session_epoch for row in sessions.values() if row.last_n is not None
        }
        closing.update(resolving)
        window_ids = {window for _, window in pairs}
        if closing:
            window_ids.update(await store.windows_held_by(connection, closing))
        by_organization: dict[int, list[int]] = defaultdict(list)
        for organization_id, budget_id in batch.changed_budgets:
            by_organization[organization_id].append(budget_id)
        for organization_id, budget_ids in by_organization.items():
            window_ids.update(
                await store.windows_of_budgets(connection, organization_id, budget_ids, now)
            )
        books, windows = await store.open_books(connection, window_ids, pairs, closing)
        forgotten = [proof for claim, proof in claims.items() if claim.window_id not in windows]
        if forgotten:
            await restoring.restore_windows(connection, forgotten, now)
        missing = {
            window_id: (entry.settlement.organization_id, entry.settlement.admitted_at)
            for entry in postings
            for window_id in entry.settlement.budget_window_ids
            if window_id not in windows
        }
        if missing:
            await self._windows.begin_forgotten(connection, missing, now)
        if forgotten or missing:
            books, windows = await store.open_books(connection, window_ids, pairs, closing)
        for window_id, organization_id in owner.items():
            row = windows.get(window_id)
            if row is None or row.organization_id != organization_id:
                raise FrameFault(f"budget window {window_id} is none of the organization's")
        return books, windows

    async def _save(
        self,
        connection: Connection,
        batch: Batch,
        state: Slice,
        postings: list[entries.Posting],
        output: Output,
        now: datetime,
    ) -> None:
        """Write all that changed; what was lost joins `postings`."""
        if output.losses:
            await self._fill_in_losses(connection, output.losses)
            postings += output.losses
        if postings:
            await posting.write(connection, postings, now)
        if output.resolved:
            await store.save_resolved(connection, output.resolved, now)
        output.events += await self.passing.record(connection, output.passed, now)
        for one in output.healed:
            currency = self._hub.sessions[one.session_epoch].currency
            output.events.append(healing.event_of(one, state.windows[one.window_id], currency))
        output.is_tail_lost = await healing.record(
            connection, self.shard_id, output.healed, output.events, now
        )
        await store.save_books(connection, state.books, state.windows, now)
        # Many sessions only wait.
        read = self._sessions_read
        changed = [row for epoch, row in state.sessions.items() if row != read.get(epoch)]
        if changed:
            await store.save_sessions(connection, changed, now)
        if output.events:
            await store.save_events(connection, output.events, now)

    def _trim(self) -> None:
        self._windows.trim()
        if len(self._draw_sets) > MOST_CACHED:
            self._draw_sets.clear()
        if len(self._spenders) > MOST_CACHED:
            self._spenders.clear()


def _fenced(
    spoken: Iterable[tuple[int, Frame]], sessions: Mapping[int, SessionRow]
) -> dict[int, str]:
    """Sessions that spoke and may not spend, and why."""
    return {
        epoch: life.why_fenced(sessions[epoch])
        for epoch, _ in spoken
        if sessions[epoch].state == "fenced" and sessions[epoch].last_n is None
    }
