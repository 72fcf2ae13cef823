"""Two control planes on one database: one owns the books, and who was deposed commits nothing."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.fakes.calling_apps import SERVED, App, Load
from tests.fakes.programs import Program
from tests.fakes.provider_bill import compare, entries_of, posted
from tests.fakes.site import Site, site
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

MILLI_USD = 1_000_000
DEPOSED = 1
"""The exit code of a control plane that can't go on."""


@pytest.fixture(scope="module")
def contested() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory)) as made,
    ):
        asyncio.run(watch(made.postgres.url))
        made.start_sidecars()
        yield made
        made.verify()


def whole(contested: Site, key: str, app: App) -> None:
    """The ledger is the provider's bill."""
    bill = contested.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(contested.admin, key, served)
    assert compare(served, entries_of(contested.admin, key)) == {"exact": app.ended[SERVED]}
    asyncio.run(check_every_committed_state(contested.postgres.url))


def give_way(contested: Site, older: Program) -> None:
    """The older one notices, and ends; the wires lead to the present one."""
    assert older.wait_for_end() == DEPOSED, older.log()
    assert older.has_logged("Deposed"), older.log()
    until(contested.is_reachable, "the newer one answers")


def test_a_deposed_control_plane_ends_and_its_sidecars_go_to_the_other(contested: Site) -> None:
    key, secret = contested.make_key()
    contested.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    older, newer = contested.server, contested.control_plane("newer")
    addresses = [sidecar.address for sidecar in contested.sidecars.values()]
    with Load(app, lambda: addresses) as load:
        load.wait_for(SERVED, 40)
        newer.start()
        contested.aim(newer)
        load.wait_for(SERVED, 40)
    give_way(contested, older)
    whole(contested, key, app)


def test_a_control_plane_that_hangs_in_a_transaction_is_deposed_and_commits_nothing(
    contested: Site,
) -> None:
    key, secret = contested.make_key()
    contested.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    older, newer = contested.server, contested.control_plane("newest")
    addresses = [sidecar.address for sidecar in contested.sidecars.values()]
    with Load(app, lambda: addresses) as load:
        load.wait_for(SERVED, 40)
        asyncio.run(hang_in_a_transaction(contested.postgres.url, older))
        newer.start()
        contested.aim(newer)
        load.wait_for(SERVED, 40)
    whole(contested, key, app)
    before = entries_of(contested.admin, key)
    older.send(signal.SIGCONT)
    give_way(contested, older)
    assert entries_of(contested.admin, key) == before


async def hang_in_a_transaction(url: str, server: Program) -> None:
    """Stop the process while it holds the locks of a tick."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            # Its next tick can't get on while we hold these.
            await connection.execute("SELECT FROM budget_windows FOR UPDATE")
            pid: int = await connection.fetchval("SELECT pg_backend_pid()")
            waits = False
            while not waits:
                waits = await connection.fetchval(
                    "SELECT count(*) > 0 FROM pg_stat_activity "
                    "WHERE $1 = ANY(pg_blocking_pids(pid))",
                    pid,
                )
            server.send(signal.SIGSTOP)
    finally:
        await connection.close()
