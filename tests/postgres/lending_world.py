"""A control plane's lending over a real database, for an organization with two sidecars."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import grpc

from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool, transaction
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.identity.store import record_change
from tests.fakes.scripted_sidecar import ScriptedSidecar

SECRET = "bs-first"
OTHER_SECRET = "bs-second"
KEY = "bk-demo"
ORGANIZATION = 5000
KEY_ID = 5100
TEAM_ID = 5200


class World:
    """An organization with a team, a key and two sidecars; budgets as a test wants them."""

    def __init__(self, pool: Pool, feed: ChangeFeed, channel: grpc.aio.Channel) -> None:
        self.pool = pool
        self.feed = feed
        self.channel = channel
        self.failed = asyncio.Event()

    async def budget(
        self, limit: int, scope: str = "organization", scope_id: int = ORGANIZATION,
        enforcement: str = "hard",
    ) -> int:  # fmt: skip
        budget_id = await self.pool.fetchval(
            "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
            " limit_nanos, window_kind, enforcement)"
            " VALUES ($1, 'b-' || nextval('ids'), '', $2, $3, $4, 'lifetime', $5) RETURNING id",
            ORGANIZATION, scope, scope_id, limit, enforcement,
        )  # fmt: skip
        await self.announce(Change(ORGANIZATION, ChangeKind.BUDGET, budget_id))
        return int(budget_id)

    async def set_limit(self, budget_id: int, limit: int) -> None:
        await self.pool.execute(
            "UPDATE budgets SET limit_nanos = $2, version = version + 1 WHERE id = $1",
            budget_id, limit,
        )  # fmt: skip
        await self.announce(Change(ORGANIZATION, ChangeKind.BUDGET, budget_id))

    async def announce(self, change: Change) -> None:
        """Put a change on record and tell of it, as a service does."""
        await self.record(change)
        self.feed.publish(change)

    async def record(self, change: Change) -> int:
        """Put a change on record, and tell nobody; returns its policy version."""
        async with transaction(self.pool) as connection:
            return await record_change(connection, change)

    async def standing(self, budget_id: int) -> tuple[int, int, int, int]:
        row = await self.pool.fetchrow(
            "SELECT settled_nanos, outstanding_nanos, in_doubt_nanos, overrun_nanos"
            " FROM budget_windows WHERE budget_id = $1", budget_id,
        )  # fmt: skip
        assert row is not None
        return (row[0], row[1], row[2], row[3])

    def sidecar(self, secret: str = SECRET) -> ScriptedSidecar:
        return ScriptedSidecar(self.channel, secret)


class ShiftedClock(SystemClock):
    """The machine's clocks, and as much later as a test wants it to be."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        return super().now() + self.shift

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return super().monotonic() + self.shift.total_seconds()

    def monotonic_ms(self) -> int:
        """The same clock in whole milliseconds."""
        return super().monotonic_ms() + self.shift // timedelta(milliseconds=1)


@asynccontextmanager
async def lending(
    pool: Pool, clock: SystemClock, settings: LendingSettings
) -> AsyncIterator[World]:
    """A control plane that lends, served over gRPC, with the organization in its database."""
    await pool.execute(
        "INSERT INTO organizations (id, slug, display_name, currency)"
        " VALUES ($1, 'acme', 'Acme', 'USD'), (6000, 'rival', 'Rival', 'USD')", ORGANIZATION,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO teams (organization_id, id, slug, display_name) VALUES ($1, $2, 'search', '')",
        ORGANIZATION, TEAM_ID,
    )  # fmt: skip
    for organization, id, secret in ((ORGANIZATION, KEY_ID, KEY), (6000, 6100, "bk-rival")):
        await pool.execute(
            "INSERT INTO keys (organization_id, id, slug, display_name, team_id, secret_hash,"
            " secret_prefix) VALUES ($1, $2, 'k-1', '', $3, $4, 'bk-')",
            organization, id, TEAM_ID if organization == ORGANIZATION else None,
            hashlib.sha256(secret.encode()).digest(),
        )  # fmt: skip
    for id, secret in ((1, SECRET), (2, OTHER_SECRET)):
        await pool.execute(
            "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
            " VALUES ($1, $2, $3, $4, 'bs-')",
            ORGANIZATION, id, f"s-{id}", hashlib.sha256(secret.encode()).digest(),
        )  # fmt: skip
    feed = ChangeFeed()
    failed = asyncio.Event()
    control = AllowanceControl(pool, feed, clock, settings, failed)
    server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
    control.add_to_server(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await control.start()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        world = World(pool, feed, channel)
        world.failed = failed
        yield world
    await control.drain()
    await server.stop(0)
