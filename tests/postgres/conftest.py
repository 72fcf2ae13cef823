"""A real Postgres for the tests here: one server a run, one fresh migrated database a test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from bursar_server.changes import Change, ChangeFeed
from bursar_server.clock import SystemClock
from bursar_server.credentials import new_credential
from bursar_server.database.migrate import migrate
from bursar_server.database.pool import Pool, create_pool
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.server import GrpcServer, Register, Transport
from tests.fakes.postgres import (
    FillTemplate,
    PostgresForTests,
    database_url,
    postgres_server,
)
from tests.postgres.hostile_scene import LIMITS, Scene
from tests.postgres.lending_world import lending

__all__ = ["database_url", "postgres_server"]

Serve = Callable[..., Awaitable[grpc.aio.Channel]]


@pytest.fixture(scope="session")
def fill_template() -> FillTemplate:
    """Every test's database begins with all migrations and no rows of its own."""
    return migrate


@pytest.fixture
def empty_database_url(postgres_server: PostgresForTests) -> Iterator[str]:
    """The URL of a database without a table."""
    url = postgres_server.create_database(empty=True)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connections to `database_url`."""
    pool = await create_pool(database_url, size=8)
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture
async def scene(pool: Pool) -> AsyncIterator[Scene]:
    """What a hostile sidecar is tried on."""
    async with lending(pool, SystemClock(), LIMITS) as world:
        scene = Scene(world)
        await scene.begin()
        yield scene


@pytest.fixture
def changes() -> list[Change]:
    """What `feed` told, in order."""
    return []


@pytest.fixture
def feed(changes: list[Change]) -> ChangeFeed:
    """A feed that writes down what it tells."""
    feed = ChangeFeed()
    feed.listen(changes.append)
    return feed


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves services on a free port of this machine, and gives a channel with the admin key:
    `channel = await serve(("bursar.v1.KeyService", lambda server: add(KeyService(...), server)))`.
    """
    async with AsyncExitStack() as stack:

        async def start(*services: tuple[str, Register], admin: bool = True) -> grpc.aio.Channel:
            key = new_credential("ba")
            server = GrpcServer(Transport("127.0.0.1:0"), AdminKeys([key.hash]), services)
            await server.start()
            stack.push_async_callback(server.drain, None)
            interceptors: list[Any] = [_Authorization(key.secret)] if admin else []
            channel = grpc.aio.insecure_channel(server.address, interceptors=interceptors)
            return await stack.enter_async_context(channel)

        yield start


class _Authorization(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Adds the admin key to each call."""

    def __init__(self, secret: str) -> None:
        self._value = f"Bearer {secret}"

    async def intercept_unary_unary(self, continuation, details, request):  # type: ignore[no-untyped-def]
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", self._value))
        return await continuation(details._replace(metadata=metadata), request)
