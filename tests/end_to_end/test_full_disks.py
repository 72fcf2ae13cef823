"""Full disks, at the sidecar and at Postgres: refused in time, nothing lost, and on again.

The disk is full by a limit on the size of files, which any user may set for what he started.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.calling_apps import BROKEN, SERVED, App, Load
from tests.fakes.programs import limit_files
from tests.fakes.provider_bill import compare, entries_of, posted
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.until import until

pytestmark = pytest.mark.xdist_group("full-disks")

NO_ROOM = "503 overloaded"
MILLI_USD = 1_000_000


@pytest.fixture(scope="module")
def starved() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("one",)) as made,
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
