"""Full disks, at the sidecar and at Postgres: refused in time, nothing lost, and on again.

The disk is full by a limit on the size of files, which any user may set for what he started.
"""

import asyncio
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.fakes.calling_apps import SERVED, App, Load
from tests.fakes.programs import limit_files
from tests.fakes.provider_bill import compare, entries_of, posted
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.until import until

NO_ROOM = "503 overloaded"
MILLI_USD = 1_000_000


@pytest.fixture(scope="module")
def starved() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        # Without whole pages in the log of writes it stays short, see `no_room_for_entries`.
        site(Path(directory), sidecars=("one",), postgres={"full_page_writes": "off"}) as made,
    ):
        made.start_sidecars()
        yield made
        made.verify()


def served_again(app: App, sidecar: Sidecar) -> None:
    until(lambda: app.call(sidecar.address).ended == SERVED, "calls are served again")


def test_a_sidecar_without_disk_refuses_and_bills_what_is_in_flight(starved: Site) -> None:
    one = starved.sidecars["one"]
    key, secret = starved.make_key()
    starved.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    with Load(app, lambda: [one.address], concurrency=8, chunk_delay_ms=20) as load:
        load.wait_for(SERVED, 20)
        limit_files([one.pid], 0)
        load.wait_for(NO_ROOM, 10)
    assert set(app.ended) == {SERVED, NO_ROOM}, app.ended
    # Before there is room again: what could not be written down was told all the same.
    bill = starved.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(starved.admin, key, served)
    assert compare(served, entries_of(starved.admin, key)) == {"exact": app.ended[SERVED]}
    assert app.call(one.address).ended == NO_ROOM
    limit_files([one.pid], None)
    served_again(app, one)


def test_a_sidecar_killed_without_disk_and_cut_off_is_charged_in_full(starved: Site) -> None:
    one = starved.sidecars["one"]
    key, secret = starved.make_key()
    starved.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    with Load(app, lambda: [one.address], concurrency=8, chunk_delay_ms=20) as load:
        load.wait_for(SERVED, 20)
        one.wire.hold(up=True, down=True)
        limit_files([one.pid], 0)
        load.wait_for(NO_ROOM, 10)
    one.kill()
    one.wire.heal()
    one.start()
    served_again(app, one)
    bill = starved.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(starved.admin, key, served)
    kinds = compare(served, entries_of(starved.admin, key))
    assert kinds["provisional"] > 0, "nothing ended after the disk was full"
    assert kinds["exact"] + kinds["provisional"] == len(served)


def test_postgres_without_disk_for_its_log_of_writes(starved: Site) -> None:
    """Postgres gives up at once, and can't even start again until there is room."""
    one = starved.sidecars["one"]
    key, secret = starved.make_key()
    starved.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    with Load(app, lambda: [one.address], concurrency=8) as load:
        load.wait_for(SERVED, 60)
        starved.postgres.limit_files(0)
        load.wait_for(SERVED, 5)
        load.wait_for("503 no_allowance", 5)
        until(lambda: not starved.postgres.is_running, "Postgres gives up")
        starved.postgres.start()
        load.wait_for(SERVED, 20)
    bill = starved.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(starved.admin, key, served)
    assert compare(served, entries_of(starved.admin, key)) == {"exact": app.ended[SERVED]}


async def no_room_for_entries(url: str) -> int:
    """A size of files that leaves room for the log of writes, and none for one more page of
    entries."""
    connection = await asyncpg.connect(url)
    try:
        # The next write begins a new file, so that offsets in it are small.
        await connection.execute("SELECT pg_switch_wal()")
        await connection.execute("CREATE TABLE first_in_the_new_file ()")
        size: int = await connection.fetchval("SELECT pg_relation_size('entries')")
        return size + 4_096
    finally:
        await connection.close()


def test_postgres_without_disk_for_its_tables(starved: Site) -> None:
    """Each transaction fails, and is tried again for ever."""
    one = starved.sidecars["one"]
    key, secret = starved.make_key()
    starved.make_budget(key, 1_000 * MILLI_USD)
    # Large rows, so that their table soon needs another page.
    app = App(secret, tags=[secrets.token_hex(50) for _ in range(8)])
    server = starved.server.pid
    with Load(app, lambda: [one.address], concurrency=8) as load:
        load.wait_for(SERVED, 100)
        starved.postgres.limit_files(asyncio.run(no_room_for_entries(starved.postgres.url)))
        until(lambda: starved.server.has_logged("DATABASE_FAILED"), "transactions fail")
        load.wait_for("503 no_allowance", 5)
        assert starved.postgres.is_running, starved.log()
        starved.postgres.limit_files(None)
        load.wait_for(SERVED, 20)
    assert starved.server.is_running
    assert starved.server.pid == server
    bill = starved.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(starved.admin, key, served)
    assert compare(served, entries_of(starved.admin, key)) == {"exact": app.ended[SERVED]}
