"""The SQL on sessions, allowances, budget windows and draw sets: rows in, rows out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg
import msgspec

from bursar_server.allowances.hub import LiveSession
from bursar_server.allowances.life import Passed
from bursar_server.allowances.records import EventRow, SessionRow, WindowRow, window_id
from bursar_server.allowances.resolutions import Resolution, Resolved
from bursar_server.allowances.rules import Books, Totals, WindowBalance
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change, ChangeKind
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

QUERIES = Queries.load(__package__)

MOST_IDLE_IN_A_TICK_MS = 5_000
"""How long a tick may keep its locks while its process says nothing. Between two statements pass
milliseconds; a process that hangs, or lost its way to the database, must not keep another from
taking the shard over."""


async def check_shard(connection: Connection, shard_id: int) -> int:
    """The owner epoch of the shard, held against change until the transaction ends, which the
    database does by itself once its process is silent for too long."""
    return int(
        await connection.fetchval(QUERIES.check_shard, shard_id, str(MOST_IDLE_IN_A_TICK_MS))
    )


async def take_shard(connection: Connection, shard_id: int, owner: str) -> int:
    """Become the shard's owner; returns the new owner epoch."""
    return int(await connection.fetchval(QUERIES.take_shard, shard_id, owner))


async def served_ms(connection: Connection, shard_id: int) -> int:
    """How long the shard was served, as it is on record."""
    return int(await connection.fetchval(QUERIES.served_ms, shard_id))


async def save_served_ms(connection: Connection, shard_id: int, served_ms: int) -> None:
    """Write down how long the shard was served."""
    await connection.execute(QUERIES.save_served_ms, shard_id, served_ms)


async def sessions_due(
    connection: Connection, shard_id: int, heard_until_ms: int, doubted_until_ms: int, most: int
) -> list[int]:
    """Sessions whose stage began by then (heard, doubted), those that wait longest first."""
    rows = await connection.fetch(
        QUERIES.sessions_due, shard_id, heard_until_ms, doubted_until_ms, most
    )
    return [row["session_epoch"] for row in rows]


async def decide_by_time(
    connection: Connection, passed: Passed, actor: str, reason: str, now: datetime
) -> None:
    """Put on record that time decided about a session."""
    await connection.execute(
        QUERIES.decide_by_time,
        passed.row.organization_id,
        passed.row.session_epoch,
        reason,
        actor,
        now,
        {str(window_id): amount for window_id, amount in passed.held.items()},
    )


async def lock_sessions(connection: Connection, epochs: Collection[int]) -> dict[int, SessionRow]:
    """The sessions, locked in one order."""
    rows = await connection.fetch(QUERIES.sessions_for_tick, sorted(epochs))
    return {row["session_epoch"]: SessionRow(**dict(row)) for row in rows}


async def save_sessions(
    connection: Connection, sessions: Sequence[SessionRow], seen_at: datetime
) -> None:
    """Write sessions back."""
    await connection.execute(
        QUERIES.save_sessions,
        [s.organization_id for s in sessions],
        [s.session_epoch for s in sessions],
        [s.state for s in sessions],
        [s.applied_seq for s in sessions],
        [s.settled_count for s in sessions],
        [s.highest_settled_n for s in sessions],
        [s.last_n for s in sessions],
        [s.journal for s in sessions],
        [s.lost_count for s in sessions],
        [s.decision for s in sessions],
        seen_at,
        [s.policy_version for s in sessions],
        [s.policy_last_n for s in sessions],
        [s.quiet_since_ms for s in sessions],
        [s.stage for s in sessions],
    )


async def policy_versions(
    connection: Connection, organization_ids: Collection[int]
) -> dict[int, int]:
    """The policy version of each organization."""
    rows = await connection.fetch(QUERIES.policy_versions, list(organization_ids))
    return {row["id"]: row["policy_version"] for row in rows}


async def policy_changes(
    connection: Connection, since: Mapping[int, int]
) -> dict[int, list[tuple[int, Change]]]:
    """By organization, (version, change) of each version after the given one, in order."""
    found: dict[int, list[tuple[int, Change]]] = {}
    for row in await connection.fetch(
        QUERIES.policy_changes, list(since.keys()), list(since.values())
    ):
        change = Change(
            row["organization_id"],
            ChangeKind(row["kind"]),
            row["subject_id"],
            tuple(row["secret_hashes"]),
        )
        found.setdefault(change.organization_id, []).append((row["policy_version"], change))
    return found


async def windows_held_by(connection: Connection, epochs: Collection[int]) -> list[int]:
    """The windows that sessions were ever lent from."""
    rows = await connection.fetch(QUERIES.windows_held_by, list(epochs))
    return [row["budget_window_id"] for row in rows]


async def open_books(
    connection: Connection,
    window_ids: Collection[int],
    pairs: Collection[tuple[int, int]],
    closing: Collection[int],
) -> tuple[Books, dict[int, WindowRow]]:
    """Lock windows in the order of their ids, and read the totals of (session, window) pairs and
    of closing sessions."""
    books = Books()
    windows: dict[int, WindowRow] = {}
    for row in await connection.fetch(QUERIES.lock_windows, sorted(window_ids)):
        windows[row["id"]] = WindowRow(
            row["id"], row["organization_id"], row["budget_id"], row["start_at"], row["end_at"]
        )
        books.windows[row["id"]] = WindowBalance(
            id=row["id"],
            budget_id=row["budget_id"],
            hard=row["hard"],
            limit=row["limit_nanos"],
            ceiling=row["ceiling_nanos"],
            settled=row["settled_nanos"],
            outstanding=row["outstanding_nanos"],
            in_doubt=row["in_doubt_nanos"],
            overrun=row["overrun_nanos"],
            budget_version=row["budget_version"],
            frozen=row["frozen"],
            shadow=row["shadow"],
            would_refuse_count=row["would_refuse_count"],
            would_refuse_nanos=row["would_refuse_nanos"],
        )
    rows: list[asyncpg.Record] = []
    if pairs:
        rows += await connection.fetch(
            QUERIES.totals, [epoch for epoch, _ in pairs], [window for _, window in pairs]
        )
    if closing:
        rows += await connection.fetch(QUERIES.totals_of_sessions, list(closing))
    for row in rows:
        books.totals[row["session_epoch"], row["budget_window_id"]] = Totals(
            granted=row["granted_nanos"],
            returned=row["returned_nanos"],
            settled=row["settled_nanos"],
            in_doubt=row["in_doubt_nanos"],
            lost=row["lost_nanos"],
        )
    return books, windows


async def save_books(
    connection: Connection, books: Books, windows: dict[int, WindowRow], now: datetime
) -> None:
    """Write what changed."""
    changed = [w for w in books.windows.values() if w.changed]
    if changed:
        await connection.execute(
            QUERIES.save_windows,
            [windows[w.id].organization_id for w in changed],
            [w.id for w in changed],
            [w.limit for w in changed],
            [w.ceiling for w in changed],
            [w.settled for w in changed],
            [w.outstanding for w in changed],
            [w.in_doubt for w in changed],
            [w.overrun for w in changed],
            [w.budget_version for w in changed],
            [w.would_refuse_count for w in changed],
            [w.would_refuse_nanos for w in changed],
        )
    totals = [(epoch, window, t) for (epoch, window), t in books.totals.items() if t.changed]
    if totals:
        await connection.execute(
            QUERIES.save_totals,
            [windows[window].organization_id for _, window, _ in totals],
            [epoch for epoch, _, _ in totals],
            [window for _, window, _ in totals],
            [t.granted for _, _, t in totals],
            [t.returned for _, _, t in totals],
            [t.settled for _, _, t in totals],
            [t.in_doubt for _, _, t in totals],
            [t.lost for _, _, t in totals],
            now,
        )


async def unapplied_resolutions(connection: Connection) -> list[int]:
    """Decisions that were recorded and not applied: a crash came between."""
    return [row["id"] for row in await connection.fetch(QUERIES.unapplied_resolutions)]


async def resolutions(connection: Connection, ids: Collection[int]) -> list[Resolution]:
    """Those of the decisions that still wait, locked, the oldest first."""
    rows = await connection.fetch(QUERIES.resolutions_for_tick, list(ids))
    return [Resolution(**dict(row)) for row in rows]


async def save_resolved(
    connection: Connection, resolved: Iterable[Resolved], applied_at: datetime
) -> None:
    """Write down what became of decisions."""
    for one in resolved:
        held = {str(window_id): amount for window_id, amount in one.held.items()}
        await connection.execute(
            QUERIES.save_resolution,
            one.resolution.organization_id,
            one.resolution.id,
            applied_at,
            one.refusal,
            held,
        )


async def books_of_sessions(
    connection: Connection, epochs: Collection[int]
) -> dict[int, tuple[str, str]]:
    """By session: the slug of the organization that spends in it, and the currency it is kept
    in."""
    rows = await connection.fetch(QUERIES.books_of_sessions, list(epochs))
    return {row["session_epoch"]: (row["spender"], row["currency"]) for row in rows}


async def last_windows(
    connection: Connection, organization_id: int, budget_ids: Collection[int], now: datetime
) -> dict[int, WindowRow]:
    """The latest window of each budget that has begun, by budget."""
    rows = await connection.fetch(QUERIES.current_windows, organization_id, list(budget_ids), now)
    return {
        row["budget_id"]: WindowRow(
            row["id"], organization_id, row["budget_id"], row["start_at"], row["end_at"]
        )
        for row in rows
    }


async def windows_by_ids(
    connection: Connection, organization_id: int, ids: Collection[int]
) -> list[WindowRow]:
    """Those of the organization's windows, whether they run or are over."""
    rows = await connection.fetch(QUERIES.windows_by_ids, organization_id, list(ids))
    return [msgspec.convert(dict(row), WindowRow) for row in rows]


async def budgets_of(connection: Connection, organization_id: int, most: int) -> list[int]:
    """The budgets of an organization."""
    rows = await connection.fetch(QUERIES.budgets_of, organization_id, most)
    return [row["id"] for row in rows]


async def make_window(
    connection: Connection,
    budget: BudgetRecord,
    span: tuple[datetime, datetime | None],
    opening: tuple[int, int],
    now: datetime,
) -> WindowRow:
    """Begin a window, or find it if it began already.

    `opening` is what it had seen before the budget was made: (nanos, entries).
    """
    amount_nanos, entry_count = opening
    row = await connection.fetchrow(
        QUERIES.make_window,
        budget.organization_id,
        budget.id,
        *span,
        budget.limit_at(max(now, span[0])),
        budget.version,
        budget.hard,
        amount_nanos,
        now,
        budget.shadow,
        window_id(budget.organization_id, budget.id, span[0]),
    )
    assert row is not None  # the statement returns the row in either case
    if entry_count:
        await connection.execute(
            QUERIES.open_with, budget.organization_id, row["id"], amount_nanos, entry_count, now
        )
    return WindowRow(row["id"], budget.organization_id, budget.id, row["start_at"], row["end_at"])


async def windows_of_budgets(
    connection: Connection, organization_id: int, budget_ids: Collection[int], now: datetime
) -> list[int]:
    """Windows of the budgets that run or still have money out."""
    rows = await connection.fetch(
        QUERIES.windows_of_budgets, organization_id, list(budget_ids), now
    )
    return [row["id"] for row in rows]


async def budgets_with_stale_windows(
    connection: Connection, now: datetime, organization_id: int | None = None
) -> list[tuple[int, int]]:
    """(organization, budget) whose windows were not told of the budget's last change; of one
    organization, or of all."""
    rows = await connection.fetch(QUERIES.budgets_with_stale_windows, now, organization_id)
    return [(row["organization_id"], row["budget_id"]) for row in rows]


async def intern_draw_set(
    connection: Connection,
    organization_id: int,
    window_ids: Sequence[int],
    armed_window_ids: Sequence[int],
) -> int:
    """The id of this set of windows, some of which were armed while the call was under way."""
    return int(
        await connection.fetchval(
            QUERIES.draw_set, organization_id, list(window_ids), list(armed_window_ids)
        )
    )


async def spenders_of_keys(
    connection: Connection, organization_id: int, key_ids: Iterable[int]
) -> dict[int, tuple[int | None, int | None, int | None]]:
    """(team, project, user) of each key of the organization."""
    rows = await connection.fetch(QUERIES.spender_of_key, organization_id, list(key_ids))
    return {row["id"]: (row["team_id"], row["project_id"], row["user_id"]) for row in rows}


async def save_events(connection: Connection, events: Sequence[EventRow], now: datetime) -> None:
    """Write events."""
    await connection.execute(
        QUERIES.save_events,
        [e.organization_id for e in events],
        [e.kind for e in events],
        [e.budget_id for e in events],
        [e.budget_window_id for e in events],
        [e.summary for e in events],
        [e.amount_nanos for e in events],
        [e.currency for e in events],
        now,
    )


async def quarantine(
    connection: Connection, session: LiveSession, seq: int, frame: bytes, now: datetime
) -> None:
    """Set a frame aside that can't be applied, say so in an event, and count it as received."""
    await connection.execute(
        QUERIES.quarantine, session.organization_id, session.session_epoch, seq, frame, now
    )
    await connection.execute(
        QUERIES.quarantine_event,
        session.organization_id,
        f"frame {seq} of session {session.session_epoch} could not be applied",
        session.currency,
        now,
    )
    await connection.execute(
        QUERIES.receive_frame,
        session.organization_id,
        session.session_epoch,
        seq,
        now,
        *session.policy_heard,
    )


class OpenedSession(msgspec.Struct, frozen=True):
    """A session begun or found again."""

    session_epoch: int
    applied_seq: int
    state: str
    resumed: bool


async def open_session(
    connection: Connection,
    organization_id: int,
    sidecar_organization_id: int,
    sidecar_id: int,
    boot_id: str,
    now: datetime,
    served_ms: int,
) -> OpenedSession:
    """The session of this process life for the organization: a new one the first time."""
    epoch = await connection.fetchval(
        QUERIES.open_session,
        organization_id,
        sidecar_organization_id,
        sidecar_id,
        boot_id,
        now,
        served_ms,
    )
    if epoch is not None:
        return OpenedSession(int(epoch), 0, "open", resumed=False)
    row = await connection.fetchrow(
        QUERIES.resume_session, organization_id, sidecar_id, boot_id, now
    )
    assert row is not None  # the insert met it
    return OpenedSession(row["session_epoch"], row["applied_seq"], row["state"], resumed=True)


async def prior_sessions(
    connection: Connection, sidecar_organization_id: int, sidecar_id: int, epochs: Collection[int]
) -> list[SessionRow]:
    """Those of `epochs` that are sessions of this sidecar."""
    rows = await connection.fetch(
        QUERIES.sessions_of_sidecar, sidecar_organization_id, sidecar_id, list(epochs)
    )
    return [msgspec.convert(dict(row), SessionRow) for row in rows]


async def fence(
    connection: Connection, organization_id: int, session_epoch: int, journal: str | None
) -> None:
    """No more grants for a session; remember what its journal proves."""
    await connection.execute(QUERIES.fence_session, organization_id, session_epoch, journal)


async def see_sidecar(
    connection: Connection, organization_id: int, sidecar_id: int, build: str, now: datetime
) -> bool:
    """Remember that a sidecar came, and with which build; returns whether it is to be drained."""
    return bool(
        await connection.fetchval(QUERIES.see_sidecar, organization_id, sidecar_id, build, now)
    )


async def session_allowances(
    connection: Connection, organization_id: int, session_epoch: int, now: datetime
) -> list[tuple[WindowRow, WindowBalance, Totals]]:
    """What a resumed session holds of windows that run or still have its money."""
    rows = await connection.fetch(QUERIES.session_allowances, organization_id, session_epoch, now)
    return [
        (
            WindowRow(
                row["budget_window_id"],
                organization_id,
                row["budget_id"],
                row["start_at"],
                row["end_at"],
            ),
            WindowBalance(
                id=row["budget_window_id"],
                budget_id=row["budget_id"],
                hard=row["hard"],
                limit=row["limit_nanos"],
                ceiling=row["limit_nanos"],
                settled=row["settled_nanos"],
            ),
            Totals(granted=row["granted_nanos"], returned=row["returned_nanos"]),
        )
        for row in rows
    ]
