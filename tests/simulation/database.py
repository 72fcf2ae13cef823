"""The durable side in memory: dictionaries with transactions.

A transaction works on copies; only its commit is seen by anybody else.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from bursar_server.allowances.arming import ArmingSession
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change
from bursar_server.errors import unavailable
from bursar_server.identity.records import KeyRecord, OrganizationRecord
from bursar_server.ledger.entries import Kind
from tests.simulation.coverage import saw

_FAULTS = {
    "away": "the database was away",
    "lost_ack": "the acknowledgement of a commit was lost",
    "crash_before": "a control plane died before its commit",
    "crash_after": "a control plane died behind its commit",
}
MOST_FORGOTTEN = 30
"""Commits that a fail-over may take with it."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The control plane's process ended at this point."""


class Broken(AssertionError):
    """An invariant does not hold; the text says which and how."""


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `sessions`."""

    organization_id: int
    epoch: int
    sidecar_id: int
    boot_id: str
    state: str = "open"
    applied_seq: int = 0
    settled_count: int = 0
    highest_settled_n: int = 0
    last_n: int | None = None
    journal: str | None = None
    lost_count: int = 0
    decision: str | None = None
    seen_at: datetime = EPOCH
    policy_version: int = 0
    policy_last_n: int = 0
    quiet_since_ms: int = 0
    stage: str = "heard"
    spender: str = ""
    """The slug of the sidecar's organization."""

    def row(self) -> SessionRow:
        """As the writer reads it."""
        return SessionRow(
            self.organization_id, self.epoch, self.state, self.applied_seq, self.settled_count,
            self.highest_settled_n, self.last_n, self.journal, self.lost_count, self.decision,
            self.policy_version, self.policy_last_n, self.quiet_since_ms, self.stage,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """A row of `budget_windows`."""

    row: WindowRow
    hard: bool
    limit: int
    ceiling: int
    version: int
    settled: int = 0
    outstanding: int = 0
    in_doubt: int = 0
    overrun: int = 0
    opening: int = 0
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What an entry says, as far as the invariants look at it."""

    organization_id: int
    epoch: int
    n: int
    k: int
    kind: Kind
    amount: int
    credit: str
    window_ids: tuple[int, ...]
    armed: tuple[int, ...] = ()
    """Of its windows those of budgets that it did not know when it was admitted."""
    key_id: int = 0
    admitted_at: datetime = EPOCH
    posted_at: datetime = EPOCH
    price_version: str = ""


class Lent(NamedTuple):
    """A row of `allowances`."""

    granted: int = 0
    returned: int = 0
    settled: int = 0
    in_doubt: int = 0
    lost: int = 0

    @property
    def held(self) -> int:
        """What may still be spent of it."""
        return max(0, self.granted - self.returned - self.settled)


NOTHING: Final = Lent()


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of `resolutions`."""

    id: int
    organization_id: int
    session_epoch: int
    decision: str
    created_at: datetime
    applied: bool = False
    refusal: str = ""
    held: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Tables:
    """All rows. Values are immutable, so that a copy of the dictionaries is a snapshot."""

    sessions: dict[int, Session] = field(default_factory=dict)
    windows: dict[int, Window] = field(default_factory=dict)
    allowances: dict[tuple[int, int], Lent] = field(default_factory=dict)
    """By session epoch and window."""
    entries: dict[tuple[int, int, int], Entry] = field(default_factory=dict)
    draw_sets: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = field(default_factory=dict)
    budgets: dict[int, BudgetRecord] = field(default_factory=dict)
    keys: dict[bytes, KeyRecord] = field(default_factory=dict)
    resolutions: dict[int, Decision] = field(default_factory=dict)
    quarantined: list[tuple[int, int]] = field(default_factory=list)
    prices: tuple[int, ...] = ()
    """What an LLM token of output costs, in nanos, by version from 1 on."""
    owner_epoch: int = 0
    commit_count: int = 0
    skipped: int = 0
    """Numbers of sessions that are left out."""
    chance: list[int] = field(default_factory=lambda: [0])
    """Shared by all snapshots: what comes by chance does not come again."""
    lost_tails: int = 0
    tail_lost_at: datetime = EPOCH
    changes: dict[int, tuple[Change, ...]] = field(default_factory=dict)
    """By organization: what each policy version from 2 on changed."""
    served_ms: int = 0
    organizations: dict[int, OrganizationRecord] = field(default_factory=dict)
    """They never change here."""
    armings: dict[int, int] = field(default_factory=dict)
    """The policy version that a budget came with."""
    arming_sessions: dict[tuple[int, int], ArmingSession] = field(default_factory=dict)
    """By budget and session."""

    def policy_version(self, organization_id: int) -> int:
        """The policy version of an organization."""
        return 1 + len(self.changes.get(organization_id, ()))

    def record(self, change: Change) -> None:
        """A change, as its transaction puts it on record."""
        before = self.changes.get(change.organization_id, ())
        self.changes[change.organization_id] = (*before, change)

    def copy(self) -> "Tables":
        """A snapshot."""
        return Tables(
            dict(self.sessions), dict(self.windows), dict(self.allowances), dict(self.entries),
            dict(self.draw_sets), dict(self.budgets), dict(self.keys), dict(self.resolutions),
            list(self.quarantined), self.prices, self.owner_epoch, self.commit_count,
            self.skipped, self.chance, self.lost_tails, self.tail_lost_at, dict(self.changes),
            self.served_ms, self.organizations, dict(self.armings), dict(self.arming_sessions),
        )  # fmt: skip


@dataclass(slots=True)
class Database:
    """What survives every process."""

    tables: Tables = field(default_factory=Tables)
    faults: list[str] = field(default_factory=list)
    """What happens to the next commits: "away", "lost_ack", "crash_before", "crash_after"."""
    on_commit: Callable[[Tables, Tables], None] = lambda before, after: None
    owners: int = 0
    """How many processes took the shard."""
    past: deque[Tables] = field(default_factory=lambda: deque(maxlen=MOST_FORGOTTEN))
    """What was committed before."""

    def forget(self, commits: int) -> bool:
        """A fail-over to a standby that lagged by so many commits. What admins changed is kept:
        they would see it, and do it again."""
        if not self.past:
            return False
        now, then = self.tables, self.past[-min(commits, len(self.past))].copy()
        then.budgets, then.keys, then.changes = now.budgets, now.keys, now.changes
        then.resolutions, then.prices = now.resolutions, now.prices
        then.armings, then.arming_sessions = now.armings, now.arming_sessions
        self.tables = then
        self.past.clear()
        return True


@asynccontextmanager
async def transaction(database: Any, *, read_only: bool = False) -> AsyncIterator[Any]:
    """A transaction; what happens to its commit is the next fault, if one is armed."""
    assert isinstance(database, Database)
    tables = database.tables.copy()
    yield tables
    if read_only:
        return
    fault = database.faults.pop(0) if database.faults else ""
    if fault:
        saw(_FAULTS[fault])
    if fault == "away":
        raise unavailable("the connection is gone")
    if fault == "crash_before":
        raise Crash
    before, database.tables = database.tables, tables
    database.past.append(before)
    database.on_commit(before, tables)
    if fault == "lost_ack":
        raise unavailable("the connection was lost during the commit")
    if fault == "crash_after":
        raise Crash
