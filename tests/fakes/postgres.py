"""A real Postgres for tests: one embedded server a session, a fresh database a test.

Use it from a `conftest.py`:

    from tests.fakes.postgres import database_url, fill_template, postgres_server

and override `fill_template` (session scope) to return what puts the schema into an empty database:
a callable that takes its URL, plain or async. It runs once a session; each test's database is a
copy of the outcome. Workers of pytest-xdist have a server each. `BURSAR_DATABASE_URL` is not looked
at: tests never touch a database that somebody keeps.
"""

import asyncio
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import asyncpg
import pytest

from bursar_cli.up.embedded_postgres import EmbeddedPostgres

# The server dies with the session and nothing in it is kept, so it need not survive a power loss.
# Tests of what survives a crash of Postgres itself start a server of their own.
TEST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}

TEMPLATE = "bursar_template"

FillTemplate = Callable[[str], Awaitable[None] | None]


class PostgresForTests:
    """The session's server and its databases."""

    def __init__(self, server: EmbeddedPostgres, fill: FillTemplate) -> None:
        self.server = server
        self._fill = fill
        self._numbers = itertools.count(1)
        self._has_template = False

    def create_database(self, *, empty: bool = False) -> str:
        """The URL of a fresh database: filled as the template is, or `empty`."""
        if not empty and not self._has_template:
            self._statement(f"CREATE DATABASE {TEMPLATE}")
            _run(self._fill_template())
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        self._statement(
            f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else TEMPLATE} "
            "STRATEGY FILE_COPY"
        )
        return self.server.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database of `create_database`, whoever is still connected to it."""
        self._statement(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    async def _fill_template(self) -> None:
        filled = self._fill(self.server.url_of(TEMPLATE))
        if inspect.isawaitable(filled):
            await filled

    def _statement(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.server.url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        _run(run())


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run in a thread with a loop of its own: the test's loop may be this thread's."""
    faults: list[BaseException] = []

    def body() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            faults.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


@pytest.fixture(scope="session")
def fill_template() -> FillTemplate:
    """What fills the template: nothing, unless a conftest says otherwise."""
    return lambda url: None


@pytest.fixture(scope="session")
def postgres_server(
    tmp_path_factory: pytest.TempPathFactory, fill_template: FillTemplate
) -> Iterator[PostgresForTests]:
    """The session's server."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings=TEST_SETTINGS)
    server.start()
    try:
        yield PostgresForTests(server, fill_template)
    finally:
        server.stop()


@pytest.fixture
def database_url(postgres_server: PostgresForTests) -> Iterator[str]:
    """A database of this test's own, dropped after it."""
    url = postgres_server.create_database()
    try:
        yield url
    finally:
        postgres_server.drop_database(url)
