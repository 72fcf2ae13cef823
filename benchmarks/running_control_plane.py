"""The lending part of the control plane in this process, on an embedded Postgres of its own.

Its streams are real: gRPC over the loopback. Postgres has the settings that it ships with (fsync
and synchronous commit on).
"""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import structlog

from bursar_cli.up.embedded_postgres import EmbeddedPostgres
from bursar_server import collector
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import SystemClock
from bursar_server.database.migrate import migrate
from bursar_server.database.pool import Pool, create_pool, transaction
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.identity.store import record_change
from tests.fakes.scripted_sidecar import ScriptedSidecar

ORGANIZATION = 5_000
LIMIT_NANOS = 10**17
SHARED_CHANNELS = 4
"""Connections that the scripted sidecars share: each costs threads of the client's."""


class ControlPlane:
    """It, and what a benchmark asks of it."""

    def __init__(self, pool: Pool, url: str, feed: ChangeFeed, address: str) -> None:
        self.pool = pool
        self.url = url
        self.feed = feed
        self.address = address

    async def add_sidecars(self, secrets: list[str]) -> None:
        """Enrol sidecars, each with its secret."""
        await self.pool.executemany(
            "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
            " VALUES ($1, $2, $3, $4, 'bs-')",
            [
                (ORGANIZATION, number, f"s-{number}", hashlib.sha256(secret.encode()).digest())
                for number, secret in enumerate(secrets, start=1)
            ],
        )

    async def add_key(self, key_id: int, secret: str) -> bytes:
        """Make a key; returns the hash of its secret."""
        key_hash = hashlib.sha256(secret.encode()).digest()
        await self.pool.execute(
            "INSERT INTO keys (organization_id, id, slug, display_name, secret_hash,"
            " secret_prefix) VALUES ($1, $2, $3, '', $4, 'bk-')",
            ORGANIZATION, key_id, f"k-{key_id}", key_hash,
        )  # fmt: skip
        return key_hash

    async def revoke(self, key_id: int, key_hash: bytes) -> None:
        """Revoke a key as its service does: commit with its record, then tell."""
        change = Change(ORGANIZATION, ChangeKind.KEY, key_id, (key_hash,))
        async with transaction(self.pool) as connection:
            await connection.execute("UPDATE keys SET revoked_at = now() WHERE id = $1", key_id)
            await record_change(connection, change)
        self.feed.publish(change)

    async def add_budgets(self, count: int) -> list[int]:
        """Hard budgets of the organization; returns their ids."""
        rows = await self.pool.fetch(
            "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
            " limit_nanos, window_kind, enforcement)"
            " SELECT $1, 'b-' || n, '', 'organization', $1, $2, 'lifetime', 'hard'"
            " FROM generate_series(1, $3) AS n RETURNING id",
            ORGANIZATION, LIMIT_NANOS, count,
        )  # fmt: skip
        return sorted(row["id"] for row in rows)


@asynccontextmanager
async def running_control_plane() -> AsyncIterator[ControlPlane]:
    """Postgres, its schema, an organization, lending, and a gRPC server on a free port."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as directory:
        postgres = EmbeddedPostgres(Path(directory))
        postgres.start()
        try:
            await migrate(postgres.url)
            pool = await create_pool(postgres.url, size=8)
            await pool.execute(
                "INSERT INTO organizations (id, slug, display_name, currency)"
                " VALUES ($1, 'acme', 'Acme', 'USD')", ORGANIZATION,
            )  # fmt: skip
            feed = ChangeFeed()
            control = AllowanceControl(
                pool, feed, SystemClock(), LendingSettings(), asyncio.Event()
            )
            server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
            control.add_to_server(server)
            port = server.add_insecure_port("127.0.0.1:0")
            await control.start()
            await server.start()
            collector.settle()  # as the server does
            try:
                yield ControlPlane(pool, postgres.url, feed, f"127.0.0.1:{port}")
            finally:
                await control.drain()
                await server.stop(0)
                await pool.close()
        finally:
            postgres.stop()


@asynccontextmanager
async def scripted_sidecars(
    plane: ControlPlane, count: int
) -> AsyncIterator[list[ScriptedSidecar]]:
    """So many sidecars with open streams, enrolled here."""
    secrets = [f"bs-{number}" for number in range(1, count + 1)]
    await plane.add_sidecars(secrets)
    channels = [
        grpc.aio.insecure_channel(
            plane.address,
            options=[("grpc.use_local_subchannel_pool", 1), ("benchmark.channel", number)],
        )
        for number in range(SHARED_CHANNELS)
    ]
    try:
        yield [
            await ScriptedSidecar(channels[i % SHARED_CHANNELS], secret).open(f"boot-{i}")
            for i, secret in enumerate(secrets)
        ]
    finally:
        for channel in channels:
            await channel.close(None)
