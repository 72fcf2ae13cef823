"""Brings a database to the schema of this program, once, however many processes start.

The migrations ship inside the package; there is no alembic.ini.
"""

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from bursar_server.database.pool import CONNECT_TIMEOUT_S, Pool, translated
from bursar_server.errors import failed_precondition, unavailable

# Any number, as long as nothing else of ours locks it.
_LOCK = 7_080_001
# The oldest that its makers maintain as long as this version of ours is.
OLDEST_POSTGRES = 15


def configuration() -> Config:
    """Alembic's configuration, pointing at the migrations in this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    # Alembic splits paths by this; the package may lie in a directory with spaces.
    config.set_main_option("path_separator", "os")
    return config


def newest_revision() -> str:
    """The revision that this program works with."""
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    if head is None:
        raise RuntimeError("the package has no migrations")
    return head


async def migrate(url: str) -> None:
    """Apply the migrations that the database at `url` lacks, all of them or none.

    Processes that start together wait for each other. Raises BursarError: DATABASE_UNAVAILABLE,
    or FAILED_PRECONDITION when Postgres is too old or the database is newer than this program.
    """
    # The driver's own parser reads the URL, as the pool's does: sockets and all its parameters.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: _connect(url),
        poolclass=NullPool,
    )
    try:
        async with translated(), engine.begin() as connection:
            # Until the end of the transaction: a failure frees it too.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(_upgrade)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise unavailable("the database went away", "DATABASE_UNAVAILABLE") from error
        # Such as "permission denied for schema public": what Postgres says is for the operator.
        raise failed_precondition(
            "MIGRATION_FAILED", f"the migrations can't be applied: {error.orig}"
        ) from error
    finally:
        await engine.dispose()


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    try:
        # Here and not outside: SQLAlchemy would wrap what the driver says ("the database system is
        # starting up") into an error of its own, and a start would end instead of trying again.
        async with translated():
            return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except ValueError as error:
        # The driver's parser: a port that is no number, an sslmode that is none.
        raise failed_precondition(
            "DATABASE_URL_UNUSABLE", f"the database can't be reached by this URL: {error}"
        ) from None


def _upgrade(connection: Connection) -> None:
    version = connection.dialect.server_version_info or (0,)
    if int(version[0]) < OLDEST_POSTGRES:
        found = ".".join(map(str, version))
        raise failed_precondition(
            "DATABASE_TOO_OLD",
            f"the database is Postgres {found}, at least {OLDEST_POSTGRES} is needed",
        )
    config = configuration()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        current = MigrationContext.configure(connection).get_current_revision()
        raise failed_precondition(
            "DATABASE_TOO_NEW",
            f"the database is at revision {current}, which this program (revision "
            f"{newest_revision()}) does not know: start the newer program",
        ) from error


async def is_migrated(pool: Pool) -> bool:
    """Whether the database is at the revision of this program."""
    async with translated():
        if await pool.fetchval("SELECT to_regclass('alembic_version')") is None:
            return False
        found = await pool.fetchval("SELECT version_num FROM alembic_version")
    return bool(found == newest_revision())
