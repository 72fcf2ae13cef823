"""What the modules with SQL do, over the tables in memory.

`STORE`, `LEDGER` and the functions beside them have the names and the signatures of the modules
they stand in for, so that the real tick, writer and service run on them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from msgspec import structs

from bursar.pricing import Contract, price_to_json
from bursar_server.allowances import rules
from bursar_server.allowances.records import SessionRow, WindowRow, window_id
from bursar_server.allowances.resolutions import Resolution, Resolved
from bursar_server.allowances.store import OpenedSession
from bursar_server.budgets.rules import phase_at
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change
from bursar_server.identity.records import KeyRecord, OrganizationRecord
from bursar_server.ledger.entries import Kind, PostedSoFar, Posting, Settlement
from tests.simulation.database import Entry, Lent, Session, Tables, Window
from tests.simulation.plans import price_of


class Store:
    """`bursar_server.allowances.store`, over Tables."""

    async def check_shard(self, tables: Tables, _shard_id: int) -> int:
        return tables.owner_epoch

    async def served_ms(self, tables: Tables, _shard_id: int) -> int:
        return tables.served_ms

    async def save_served_ms(self, tables: Tables, _shard_id: int, served_ms: int) -> None:
        tables.served_ms = max(tables.served_ms, served_ms)

    async def sessions_due(
        self, tables: Tables, _shard_id: int, heard_until: int, doubted_until: int, most: int
    ) -> list[int]:
        until = {"heard": heard_until, "doubted": doubted_until}
        found = [
            (session.quiet_since_ms, session.epoch)
            for session in tables.sessions.values()
            if session.state != "closed" and session.decision is None and session.stage in until
            if session.quiet_since_ms <= until[session.stage]
        ]
        return [epoch for _, epoch in sorted(found)[:most]]

    async def decide_by_time(self, *_ignored: object) -> None:
        """The record is for people."""

    async def lock_sessions(self, tables: Tables, epochs: Collection[int]) -> dict[int, SessionRow]:
        return {e: tables.sessions[e].row() for e in sorted(epochs) if e in tables.sessions}

    async def save_sessions(
        self, tables: Tables, sessions: Sequence[SessionRow], seen_at: datetime
    ) -> None:
        for row in sessions:
            old = tables.sessions[row.session_epoch]
            tables.sessions[row.session_epoch] = replace(
                old,
                state=row.state,
                applied_seq=max(old.applied_seq, row.applied_seq),
                settled_count=row.settled_count,
                highest_settled_n=row.highest_settled_n,
                last_n=row.last_n,
                journal=row.journal,
                lost_count=row.lost_count,
                decision=row.decision,
                seen_at=seen_at if row.applied_seq > old.applied_seq else old.seen_at,
                policy_version=row.policy_version,
                policy_last_n=row.policy_last_n,
                quiet_since_ms=row.quiet_since_ms,
                stage=row.stage,
            )

    async def policy_versions(
        self, tables: Tables, organization_ids: Collection[int]
    ) -> dict[int, int]:
        return {id: tables.policy_version(id) for id in organization_ids}

    async def policy_changes(
        self, tables: Tables, since: Mapping[int, int]
    ) -> dict[int, list[tuple[int, Change]]]:
        return {
            id: list(enumerate(tables.changes.get(id, ())[told - 1 :], told + 1))
            for id, told in since.items()
        }

    async def windows_held_by(self, tables: Tables, epochs: Collection[int]) -> list[int]:
        return sorted({window for epoch, window in tables.allowances if epoch in epochs})

    async def open_books(
        self,
        tables: Tables,
        window_ids: Collection[int],
        pairs: Collection[tuple[int, int]],
        closing: Collection[int],
    ) -> tuple[rules.Books, dict[int, WindowRow]]:
        books = rules.Books()
        rows: dict[int, WindowRow] = {}
        for id in sorted(window_ids):
            window = tables.windows.get(id)
            if window is None:
                continue
            rows[id] = window.row
            books.windows[id] = rules.WindowBalance(
                id=id,
                budget_id=window.row.budget_id,
                hard=window.hard,
                limit=window.limit,
                ceiling=window.ceiling,
                settled=window.settled,
                outstanding=window.outstanding,
                in_doubt=window.in_doubt,
                overrun=window.overrun,
                budget_version=window.version,
                frozen=window.frozen,
            )
        wanted = set(pairs) | {pair for pair in tables.allowances if pair[0] in closing}
        for pair in sorted(wanted):
            if pair in tables.allowances:
                books.totals[pair] = rules.Totals(*tables.allowances[pair])
        return books, rows

    async def save_books(
        self, tables: Tables, books: rules.Books, _windows: dict[int, WindowRow], _now: datetime
    ) -> None:
        for window in books.windows.values():
            if window.changed:
                tables.windows[window.id] = replace(
                    tables.windows[window.id],
                    limit=window.limit,
                    ceiling=window.ceiling,
                    version=window.budget_version,
                    settled=window.settled,
                    outstanding=window.outstanding,
                    in_doubt=window.in_doubt,
                    overrun=window.overrun,
                )
        for pair, totals in books.totals.items():
            if totals.changed:
                tables.allowances[pair] = Lent(
                    totals.granted, totals.returned, totals.settled, totals.in_doubt, totals.lost
                )

    async def last_windows(
        self, tables: Tables, organization_id: int, budget_ids: Collection[int], now: datetime
    ) -> dict[int, WindowRow]:
        found: dict[int, WindowRow] = {}
        for window in tables.windows.values():
            row = window.row
            mine = row.organization_id == organization_id and row.budget_id in budget_ids
            if mine and row.start_at <= now:
                best = found.get(row.budget_id)
                if best is None or row.start_at > best.start_at:
                    found[row.budget_id] = row
        return found

    async def windows_by_ids(
        self, tables: Tables, organization_id: int, ids: Collection[int]
    ) -> list[WindowRow]:
        rows = [tables.windows[id].row for id in sorted(ids) if id in tables.windows]
        return [row for row in rows if row.organization_id == organization_id]

    async def budgets_of(self, tables: Tables, organization_id: int, _most: int) -> list[int]:
        return [b.id for b in tables.budgets.values() if b.organization_id == organization_id]

    async def make_window(
        self,
        tables: Tables,
        budget: BudgetRecord,
        span: tuple[datetime, datetime | None],
        opening: tuple[int, int],
        now: datetime,
    ) -> WindowRow:
        for window in tables.windows.values():
            if window.row.budget_id == budget.id and window.row.start_at == span[0]:
                return window.row
        id = window_id(budget.organization_id, budget.id, span[0])
        row = WindowRow(id, budget.organization_id, budget.id, span[0], span[1])
        limit = budget.limit_at(max(now, span[0]))
        tables.windows[row.id] = Window(
            row, budget.hard, limit, max(limit, opening[0]), budget.version,
            settled=opening[0], opening=opening[0],
        )  # fmt: skip
        return row

    async def windows_of_budgets(
        self, tables: Tables, organization_id: int, budget_ids: Collection[int], now: datetime
    ) -> list[int]:
        return [
            id
            for id, window in tables.windows.items()
            if window.row.organization_id == organization_id
            and window.row.budget_id in budget_ids
            and (window.row.end_at is None or window.row.end_at > now or window.outstanding > 0)
        ]

    async def budgets_with_stale_windows(
        self, tables: Tables, now: datetime, organization_id: int | None = None
    ) -> list[tuple[int, int]]:
        return sorted(
            {
                (window.row.organization_id, window.row.budget_id)
                for window in tables.windows.values()
                if organization_id in (None, window.row.organization_id)
                and window.version != tables.budgets[window.row.budget_id].version
                and (window.row.end_at is None or window.row.end_at > now or window.outstanding > 0)
            }
        )

    async def unapplied_resolutions(self, tables: Tables) -> list[int]:
        return [id for id, decision in tables.resolutions.items() if not decision.applied]

    async def resolutions(self, tables: Tables, ids: Collection[int]) -> list[Resolution]:
        waiting = []
        for id in sorted(ids):
            one = tables.resolutions[id]
            session = tables.sessions[one.session_epoch]
            returned = session.state == "open" and session.seen_at > one.created_at
            if not one.applied:
                waiting.append(
                    Resolution(id, one.organization_id, one.session_epoch, one.decision, returned)
                )
        return waiting

    async def save_resolved(
        self, tables: Tables, resolved: Iterable[Resolved], _applied_at: datetime
    ) -> None:
        for each in resolved:
            id = each.resolution.id
            tables.resolutions[id] = replace(
                tables.resolutions[id], applied=True, refusal=each.refusal, held=dict(each.held)
            )

    async def books_of_sessions(
        self, tables: Tables, epochs: Collection[int]
    ) -> dict[int, tuple[str, str]]:
        return {epoch: (tables.sessions[epoch].spender, "USD") for epoch in epochs}

    async def intern_draw_set(
        self,
        tables: Tables,
        organization_id: int,
        window_ids: Sequence[int],
        armed_window_ids: Sequence[int],
    ) -> int:
        key = (organization_id, tuple(window_ids), tuple(armed_window_ids))
        return tables.draw_sets.setdefault(key, len(tables.draw_sets) + 1)

    async def spenders_of_keys(
        self, tables: Tables, _organization_id: int, key_ids: Iterable[int]
    ) -> dict[int, tuple[int | None, int | None, int | None]]:
        teams = {key.id: key.team_id for key in tables.keys.values()}
        return {id: (teams.get(id), None, None) for id in key_ids}

    async def save_events(self, _tables: Tables, _events: object, _now: datetime) -> None:
        """Nobody looks at them here."""

    async def quarantine(
        self, tables: Tables, session: Any, seq: int, _frame: bytes, now: datetime
    ) -> None:
        tables.quarantined.append((session.session_epoch, seq))
        old = tables.sessions[session.session_epoch]
        version, last_n = session.policy_heard
        tables.sessions[session.session_epoch] = replace(
            old,
            applied_seq=max(old.applied_seq, seq),
            seen_at=now,
            policy_version=max(old.policy_version, version),
            policy_last_n=max(old.policy_last_n, last_n),
        )

    async def open_session(
        self,
        tables: Tables,
        organization_id: int,
        sidecar_organization_id: int,
        sidecar_id: int,
        boot_id: str,
        now: datetime,
        served_ms: int,
    ) -> OpenedSession:
        for old in tables.sessions.values():
            if (old.organization_id, old.sidecar_id, old.boot_id) == (
                organization_id, sidecar_id, boot_id,
            ):  # fmt: skip
                tables.sessions[old.epoch] = replace(old, seen_at=max(old.seen_at, now))
                return OpenedSession(old.epoch, old.applied_seq, old.state, resumed=True)
        tables.skipped = max(tables.skipped, max(tables.sessions, default=0)) + 1
        epoch = tables.skipped
        spender = tables.organizations[sidecar_organization_id].slug
        tables.sessions[epoch] = Session(
            organization_id, epoch, sidecar_id, boot_id, seen_at=now, quiet_since_ms=served_ms,
            policy_version=tables.policy_version(organization_id), spender=spender,
        )  # fmt: skip
        return OpenedSession(epoch, 0, "open", resumed=False)

    async def prior_sessions(
        self, tables: Tables, _organization_id: int, sidecar_id: int, epochs: Collection[int]
    ) -> list[SessionRow]:
        return [
            row.row()
            for row in tables.sessions.values()
            if row.sidecar_id == sidecar_id and row.epoch in epochs
        ]

    async def fence(
        self, tables: Tables, _organization_id: int, epoch: int, journal: str | None
    ) -> None:
        old = tables.sessions[epoch]
        tables.sessions[epoch] = replace(
            old,
            state="fenced" if old.state == "open" else old.state,
            journal=old.journal if old.journal == "truncated" else journal or old.journal,
        )

    async def see_sidecar(self, *_ignored: object) -> bool:
        """When it came matters to people only; nobody drains it."""
        return False

    async def session_allowances(
        self, tables: Tables, organization_id: int, epoch: int, now: datetime
    ) -> list[tuple[WindowRow, rules.WindowBalance, rules.Totals]]:
        held = []
        for (owner, id), lent in tables.allowances.items():
            window = tables.windows[id]
            row = window.row
            runs = row.end_at is None or row.end_at > now
            if owner != epoch or not (runs or lent.held):
                continue
            balance = rules.WindowBalance(
                id=id,
                budget_id=row.budget_id,
                hard=window.hard,
                limit=window.limit,
                ceiling=window.limit,
                settled=window.settled,
            )
            held.append((row, balance, rules.Totals(lent.granted, lent.returned)))
            assert row.organization_id == organization_id
        return held


class Ledger:
    """`bursar_server.ledger.posting`, over Tables."""

    async def posted_so_far(
        self, tables: Tables, _organization_id: int, settlements: Sequence[Settlement]
    ) -> dict[tuple[int, int], PostedSoFar]:
        found: dict[tuple[int, int], PostedSoFar] = {}
        for settlement in settlements:
            identity = (settlement.session_epoch, settlement.n)
            k, amount, final = 0, 0, False
            while (entry := tables.entries.get((*identity, k))) is not None:
                amount += entry.amount
                final = final or entry.kind is Kind.FINAL
                k += 1
            if k:
                first = tables.entries[*identity, 0]
                found[identity] = PostedSoFar(
                    k - 1, amount, final, (), first.window_ids, first.armed
                )
        return found

    async def write(self, tables: Tables, postings: Sequence[Posting], posted_at: datetime) -> None:
        for posting in postings:
            settlement = posting.settlement
            identity = (settlement.session_epoch, settlement.n, posting.k)
            if identity in tables.entries:
                raise RuntimeError(f"an entry was there already: {identity}")
            tables.entries[identity] = Entry(
                settlement.organization_id,
                *identity,
                posting.kind,
                posting.amount_nanos,
                posting.credit_account,
                settlement.budget_window_ids,
                posting.armed_window_ids,
                settlement.key_id,
                settlement.admitted_at,
                posted_at,
                settlement.price_version,
            )

    async def spent_before(
        self,
        tables: Tables,
        organization_id: int,
        since: datetime,
        scope: tuple[str, int],
        _models: Sequence[str],
        _providers: Sequence[str],
        *,
        posted_since: datetime | None,
    ) -> tuple[int, int]:
        keys = {
            key.id
            for key in tables.keys.values()
            if scope[0] == "organization" or scope[1] in (key.id, key.team_id)
        }
        found = [
            entry.amount
            for entry in tables.entries.values()
            if entry.organization_id == organization_id
            and entry.key_id in keys
            and (
                entry.admitted_at >= since
                or (posted_since is not None and entry.posted_at >= posted_since)
            )
        ]
        return sum(found), len(found)


async def overlay(tables: Tables, _organization_id: int) -> tuple[int, list[bytes]]:
    """The price in force, if anybody ever set one."""
    version = len(tables.prices)
    return version, [price_to_json(price_of(tables.prices[-1], version))] if version else []


async def imported_list(_tables: Tables, _organization_id: int) -> None:
    """None: a history imports no lists."""


async def contracts_to_tell(_tables: Tables, _organization_id: int) -> list[Contract]:
    """None: a history has prices alone."""
    return []


async def budgets_by_ids(
    tables: Tables, organization_id: int, ids: Collection[int]
) -> list[BudgetRecord]:
    return [
        b for b in tables.budgets.values() if b.organization_id == organization_id and b.id in ids
    ]


async def budgets_by_scopes(
    tables: Tables, organization_id: int, scopes: Sequence[tuple[str, int]]
) -> list[BudgetRecord]:
    return [
        b
        for b in tables.budgets.values()
        if b.organization_id == organization_id and (b.scope_kind, b.scope_id) in scopes
    ]


async def keys_by_secret_hashes(
    tables: Tables, hashes: Collection[bytes]
) -> dict[bytes, KeyRecord]:
    return {h: tables.keys[h] for h in hashes if h in tables.keys}


async def organization_by_id(tables: Tables, id: int) -> OrganizationRecord | None:
    found = tables.organizations.get(id)
    return structs.replace(found, policy_version=tables.policy_version(id)) if found else None


class Raises:
    """`bursar_server.budgets.raises`, over Tables: a budget's record holds its raises."""

    async def due_budgets(self, tables: Tables, now: datetime) -> list[tuple[int, int]]:
        return [
            (budget.organization_id, budget.id)
            for budget in tables.budgets.values()
            if any(phase_at(raised, now) != raised.phase for raised in budget.raises)
        ]

    async def next_boundary(self, tables: Tables) -> datetime | None:
        waits = [
            raised.over_at if raised.phase == "running" else min(raised.start_at, raised.over_at)
            for budget in tables.budgets.values()
            for raised in budget.raises
            if raised.phase != "over"
        ]
        return min(waits, default=None)

    async def note_boundaries(self, tables: Tables, budget: BudgetRecord, now: datetime) -> None:
        kept = tables.budgets[budget.id]
        tables.budgets[budget.id] = structs.replace(
            kept,
            raises=tuple(structs.replace(r, phase=phase_at(r, now)) for r in kept.raises),
        )


STORE = Store()
LEDGER = Ledger()
RAISES = Raises()
