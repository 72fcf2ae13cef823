"""Connections to Postgres, and the one place where the driver's faults become ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import asyncpg.pool
import msgspec

from bursar_server.errors import BursarError, Status, unavailable

# asyncpg's classes are generic in their stubs only.
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# A request that can't get a connection in this time is told to come back: the queue before the
# pool is then longer than anybody waits for.
ACQUIRE_TIMEOUT_S = 10.0
# No statement of ours runs for long; one that does is stuck behind a lock or a dead network.
COMMAND_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
# An idle connection is closed by us before a firewall on the way forgets it.
IDLE_LIFETIME_S = 240.0


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        # A jsonb value on the binary wire is a version byte (1) and the text.
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
        format="binary",
    )


async def _leave(_connection: Connection) -> None:
    """A connection goes back to the pool as it is: the driver has rolled back what was open, and
    nothing here sets anything of a session (settings, locks, listeners and cursors all end with
    their transaction). The driver's own reset would be a transaction more for each of ours."""


async def create_pool(url: str, *, size: int) -> Pool:
    """A pool of at most `size` connections to the database at `url` (a postgresql:// URL).

    Raises BursarError (DATABASE_UNAVAILABLE) if it can't be reached.
    """
    async with translated():
        return await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            init=_prepare,
            reset=_leave,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            max_inactive_connection_lifetime=IDLE_LIFETIME_S,
            server_settings={"application_name": "bursar-server"},
        )


@asynccontextmanager
async def transaction(
    pool: Pool, *, read_only: bool = False, snapshot: bool = False
) -> AsyncIterator[Connection]:
    """A connection inside a transaction: committed at the end, rolled back on any error.

    Read-only ones, and those with `snapshot`, see one state of the database throughout. The
    driver's faults leave as BursarError: UNAVAILABLE when the database can't be reached or fails by
    itself, ABORTED when two transactions met and this one lost; in both cases the caller may
    repeat.
    """
    async with (
        translated(),
        pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
        connection.transaction(
            isolation="repeatable_read" if read_only or snapshot else "read_committed",
            readonly=read_only,
        ),
    ):
        yield connection


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the driver's faults into ours."""
    try:
        yield
    except BursarError:
        raise
    except (
        asyncpg.SerializationError,
        asyncpg.DeadlockDetectedError,
        asyncpg.LockNotAvailableError,
    ) as error:
        raise BursarError(
            Status.ABORTED, "TRANSACTION_ABORTED", "another change came first: try again"
        ) from error
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.QueryCanceledError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        # A database that is set to accept no connections, for maintenance.
        asyncpg.ObjectNotInPrerequisiteStateError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as error:
        # InterfaceError: the pool is closing, or the connection was lost between two statements.
        # InternalClientError: Postgres said goodbye (it is being stopped) while the connection
        # was idle, and the driver meets that in the next statement ("cannot switch to state").
        raise unavailable(
            "the database can't be reached: try again", "DATABASE_UNAVAILABLE"
        ) from error
    except (
        asyncpg.InsufficientResourcesError,
        asyncpg.PostgresSystemError,
        asyncpg.InternalServerError,
    ) as error:
        # A full or failing disk, no memory left: nothing in what was asked is at fault, and it goes
        # through once an operator has seen to it.
        raise unavailable("the database fails: try again", "DATABASE_FAILED") from error
