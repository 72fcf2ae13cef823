"""The migrations make exactly the tables of the schema, once, and guard the ledger."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from bursar_server.database import schema
from bursar_server.database.migrate import is_migrated, migrate, newest_revision
from bursar_server.database.pool import Pool, create_pool, transaction
from bursar_server.errors import BursarError, Status

# What Postgres itself says of a database: more than reflection compares (checks, order of columns).
CATALOGUE = """
SELECT 'column', c.relname || '.' || a.attname,
       a.attnum || ' ' || format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
           || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') || a.attidentity::text
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint', r.conrelid::regclass || '.' || r.conname, pg_get_constraintdef(r.oid)
FROM pg_constraint r WHERE r.connamespace = 'public'::regnamespace AND r.contype <> 'n'
UNION ALL
SELECT 'index', i.indexname, i.indexdef FROM pg_indexes i WHERE i.schemaname = 'public'
UNION ALL
SELECT 'sequence', s.sequencename, s.start_value || ' ' || s.increment_by || ' ' || s.data_type
FROM pg_sequences s WHERE s.schemaname = 'public'
"""


def engine_of(url: str) -> AsyncEngine:
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )


async def catalogue(url: str) -> set[tuple[str, str, str]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(CATALOGUE)
    finally:
        await connection.close()
    return {tuple(row) for row in rows if "alembic_version" not in f"{row[1]} {row[2]}"}


async def make_schema(url: str) -> None:
    """The tables straight from the schema, without a migration."""
    engine = engine_of(url)
    async with engine.begin() as connection:
        await connection.run_sync(schema.metadata.create_all)
    await engine.dispose()


async def test_the_migrated_database_is_the_schema(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, schema.metadata))

    engine = engine_of(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_postgres_itself_sees_no_difference(
    database_url: str, empty_database_url: str
) -> None:
    await make_schema(empty_database_url)
    migrated, described = await catalogue(database_url), await catalogue(empty_database_url)
    assert len(described) > 100
    assert sorted(migrated ^ described) == []


async def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    await migrate(empty_database_url)
    pool = await create_pool(empty_database_url, size=2)
    assert await is_migrated(pool)
    organizations = await pool.fetch("SELECT id, slug, currency, shard_id FROM organizations")
    assert [tuple(row) for row in organizations] == [
        (schema.PLATFORM_ORGANIZATION_ID, "platform", "USD", 0)
    ]
    assert await pool.fetchval("SELECT nextval('ids')") >= 1000
    await pool.close()


async def test_an_empty_database_is_not_ready(empty_database_url: str) -> None:
    pool = await create_pool(empty_database_url, size=1)
    assert not await is_migrated(pool)
    await pool.close()


async def test_a_newer_database_is_refused(pool: Pool, database_url: str) -> None:
    await pool.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BursarError, match=f"9999.*{newest_revision()}") as refusal:
        await migrate(database_url)
    assert refusal.value.reason == "DATABASE_TOO_NEW"
    assert not await is_migrated(pool)


async def test_a_server_that_is_starting_up_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_ignored: object, **_more: object) -> None:
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(BursarError) as refused:
        await migrate("postgresql://localhost/bursar")
    assert refused.value.status is Status.UNAVAILABLE


async def test_no_server_is_a_clear_refusal(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = f"postgresql://bursar@/bursar?host={tmp_path_factory.mktemp('socket')}"
    with pytest.raises(BursarError, match="can't be reached") as refusal:
        await migrate(nowhere)
    assert refusal.value.status is Status.UNAVAILABLE
    with pytest.raises(BursarError, match="can't be reached"):
        await create_pool(nowhere, size=1)


@pytest.mark.parametrize("table", ["entries", "budget_versions"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET organization_id = 2",
        "DELETE FROM {table}",
        "TRUNCATE {table}",
        "TRUNCATE {table} CASCADE",
    ],
)
async def test_the_past_is_never_changed(pool: Pool, table: str, statement: str) -> None:
    await pool.execute(
        "INSERT INTO budget_versions"
        " (organization_id, budget_id, version, display_name, limit_nanos, disabled, actor)"
        " VALUES (1, 1, 1, '', 1, false, 'admin')"
    )
    verb = statement.split()[0]
    with pytest.raises(asyncpg.RestrictViolationError, match=f"{verb} on {table} is refused"):
        await pool.execute(statement.format(table=table))
    assert await pool.fetchval("SELECT count(*) FROM budget_versions") == 1


async def test_json_travels_as_values(pool: Pool) -> None:
    value = {"schön": ["a", 1, None, {"b": True}]}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value


async def test_a_read_only_transaction_writes_nothing(pool: Pool) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with transaction(pool, read_only=True) as connection:
            await connection.execute("INSERT INTO shards (id) VALUES (7)")


async def test_a_lost_race_may_be_tried_again(pool: Pool) -> None:
    await pool.execute("INSERT INTO shards (id) VALUES (1), (2)")
    both_hold_one = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> str:
        try:
            async with transaction(pool) as connection:
                await connection.execute("SELECT FROM shards WHERE id = $1 FOR UPDATE", first)
                await both_hold_one.wait()
                await connection.execute("SELECT FROM shards WHERE id = $1 FOR UPDATE", second)
        except BursarError as error:
            return error.reason
        return "committed"

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1))
    assert sorted(outcomes) == ["TRANSACTION_ABORTED", "committed"]


async def end_other_connections(url: str) -> None:
    """Returns once no other client of the database at `url` has a process at Postgres any more."""
    others = (
        "FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    connection = await asyncpg.connect(url)
    try:
        # Without the deadline (in ms) it only sends a signal, which a busy machine delivers later.
        await connection.execute(f"SELECT pg_terminate_backend(pid, 60000) {others}")
        assert not await connection.fetchval(f"SELECT count(*) {others}")
    finally:
        await connection.close()


async def test_connections_that_postgres_ended_are_unavailable_not_a_fault(
    pool: Pool, database_url: str
) -> None:
    """What a restart of Postgres does to idle connections, however the driver comes to see it."""
    refused = 0
    # How far the driver's event loop has come since: it learns of it in the midst of a statement,
    # has read Postgres' goodbye but not the end of the connection, or knows all of it.
    for turns in range(4):
        with ThreadPoolExecutor(1) as elsewhere:  # blocks this loop: the driver sees nothing yet
            elsewhere.submit(asyncio.run, end_other_connections(database_url)).result()
        for _ in range(turns):
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(
            *(is_migrated(pool) for _ in range(4)), return_exceptions=True
        )
        for outcome in outcomes:
            assert outcome is True or (
                isinstance(outcome, BursarError) and outcome.status is Status.UNAVAILABLE
            ), repr(outcome)
        refused += sum(outcome is not True for outcome in outcomes)
        assert all(await asyncio.gather(*(is_migrated(pool) for _ in range(4))))
    assert refused
