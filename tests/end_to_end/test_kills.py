"""`kill -9` of every part at random moments under load; then the provider's bill is the ledger.

A round is a test of its own. Two are run unless `BURSAR_KILL_ROUNDS` says otherwise; each prints
the seed by which `BURSAR_KILL_SEED` chooses the same parts and the same order again.
"""

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bursar_sidecar.journal import machine_boot_id
from bursar_sidecar.journal_reading import Reading
from tests.fakes.calling_apps import BROKEN, SERVED, App, Load
from tests.fakes.programs import PostgresProgram, Program
from tests.fakes.provider_bill import compare, cost_of, entries_of, posted
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

MILLI_USD = 1_000_000
ROUNDS = int(os.environ.get("BURSAR_KILL_ROUNDS", "2"))
SEED = os.environ.get("BURSAR_KILL_SEED") or str(random.SystemRandom().randrange(10**9))
# What a call under a budget may meet while parts are away.
HONEST = {
    SERVED,
    BROKEN,
    "402 budget_exhausted",
    "429 budget_reserved",
    "503 no_allowance",
}

Part = Program | PostgresProgram


@pytest.fixture(scope="module")
def mortal() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), lending={}) as made,
    ):
        asyncio.run(watch(made.postgres.url))
        made.start_sidecars()
        yield made


def owed(sidecar: Sidecar) -> int:
    """What its journal says is not acknowledged yet, of this life and of earlier ones."""
    reading = Reading(sidecar.home, boot_id=machine_boot_id())
    for _row in reading.rows():
        pass
    return sum(session.owed + session.in_flight for session in reading.sessions())


def bring_back(mortal: Site, victims: list[Part]) -> None:
    """Start again what does not run, in this order, and wait until all of it serves."""
    for part in victims:
        if not part.is_running:
            part.launch()
    if not mortal.postgres.is_running:
        mortal.postgres.launch()
    # The database first: the control plane waits for it, sidecars for nobody.
    for part in sorted(victims, key=lambda part: part is not mortal.postgres):
        part.wait_until_serving()
    if mortal.server in victims:
        mortal.aim(mortal.server)
    until(mortal.is_reachable, "the control plane answers")


def settle_up(mortal: Site, key: str, app: App) -> dict[str, int]:
    """All journals are replayed and the ledger is the provider's bill. How many calls stand there
    at their exact cost, and how many at their reservation."""
    bill = mortal.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    for sidecar in mortal.sidecars.values():
        until(lambda: owed(sidecar) == 0, f"{sidecar.name} owes nothing any more")  # noqa: B023
    posted(mortal.admin, key, served)
    entries = entries_of(mortal.admin, key)
    kinds = compare(served, entries)
    exact = {call for call in app.served if entries[call][0].amount.nanos == cost_of(served[call])}
    assert exact == app.served, "the app has a whole answer, and the ledger not its price"
    asyncio.run(check_every_committed_state(mortal.postgres.url))
    mortal.verify()
    return kinds


def test_postgres_killed_and_stopped_under_load(mortal: Site) -> None:
    key, secret = mortal.make_key()
    mortal.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    with Load(app, addresses(mortal)) as load:
        load.wait_for(SERVED, 100)
        mortal.postgres.kill()
        load.wait_for(SERVED, 10)  # with what is held
        mortal.postgres.start()
        load.wait_for(SERVED, 50)
        mortal.postgres.stop()
        load.wait_for(SERVED, 10)
        mortal.postgres.start()
        load.wait_for(SERVED, 50)
    assert set(app.ended) <= HONEST - {BROKEN}, app.ended
    assert settle_up(mortal, key, app) == {"exact": app.ended[SERVED]}


def addresses(mortal: Site) -> Callable[[], list[str]]:
    return lambda: [sidecar.address for sidecar in mortal.sidecars.values()]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kills_at_random_moments(mortal: Site, number: int) -> None:
    print(f"BURSAR_KILL_SEED={SEED} round {number}")
    chance = random.Random(f"{SEED}/{number}")
    key, secret = mortal.make_key()
    limit_nanos = chance.choice([6, 1_000]) * MILLI_USD
    mortal.make_budget(key, limit_nanos)
    app = App(secret)
    parts: list[Part] = [mortal.postgres, mortal.server, *mortal.sidecars.values()]
    with Load(app, addresses(mortal)) as load:
        load.wait_for_any(chance.randint(20, 80))
        victims = chance.sample(parts, chance.randint(1, len(parts)))
        for part in victims:
            part.kill()
            load.wait_for_any(chance.randint(1, 12))
        chance.shuffle(victims)
        if chance.random() < 0.5:
            # Once more, while it comes up.
            victims[0].launch()
            load.wait_for_any(chance.randint(1, 6))
            victims[0].kill()
        bring_back(mortal, victims)
        load.wait_for_any(40)
    assert set(app.ended) <= HONEST, app.ended
    kinds = settle_up(mortal, key, app)
    print([part.name for part in victims], dict(app.ended), dict(kinds))
    spent_nanos = sum(
        entry.amount.nanos for each in entries_of(mortal.admin, key).values() for entry in each
    )
    assert spent_nanos <= limit_nanos
    # It works as before: nothing is stranded.
    fresh_key, fresh_secret = mortal.make_key()
    mortal.make_budget(fresh_key, MILLI_USD)
    fresh = App(fresh_secret)
    for sidecar in mortal.sidecars.values():
        until(lambda: fresh.call(sidecar.address).ended == SERVED, "calls are served")  # noqa: B023
