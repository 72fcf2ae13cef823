"""Sidecars and control plane apart: the network between them fails, in every way a wire can.

The truth is the simulated provider's bill: once the wire heals, the ledger equals it to the nano.
"""

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.calling_apps import SERVED, App, Load
from tests.fakes.provider_bill import compare, cost_of, entries_of, posted
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

NOBODY_ASKED = "503 no_allowance"
MILLI_USD = 1_000_000
CUTS = 14
SEED = os.environ.get("BURSAR_KILL_SEED") or str(random.SystemRandom().randrange(10**9))
"""Of what happens when. The moments themselves are never the same twice: processes are real."""


@pytest.fixture(scope="module")
def apart() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("near", "far")) as made,
    ):
        asyncio.run(watch(made.postgres.url))
        made.start_sidecars()
        yield made
        made.verify()


def whole(apart: Site, key: str, *apps: App) -> int:
    """Every call of a key, which these apps used, stands in the ledger at the provider's
    price, once; no budget was overspent in between. Returns what they cost."""
    bill = apart.served()
    called = set().union(*(app.called for app in apps))
    served = {call: bill[call] for call in bill.keys() & called}
    assert set().union(*(app.served for app in apps)) <= served.keys()
    posted(apart.admin, key, served)
    assert compare(served, entries_of(apart.admin, key)) == {"exact": len(served)}
    asyncio.run(check_every_committed_state(apart.postgres.url))
    return sum(map(cost_of, served.values()))


def lent_to(apart: Site, budget: str, sidecar: str) -> int:
    """What a sidecar holds of a budget, as the control plane counts it."""
    return sum(
        holder.outstanding.nanos
        for holder in apart.standing(budget).holders
        if holder.sidecar == f"sidecars/{sidecar}"
    )


def silent_too_long(app: App, sidecar: Sidecar) -> bool:
    answer = app.call(sidecar.address)
    if answer.ended == SERVED:
        return False
    assert answer.ended == NOBODY_ASKED
    return "silent too long" in answer.body["message"]


def serves_again(app: App, sidecar: Sidecar) -> None:
    until(lambda: app.call(sidecar.address).ended == SERVED, f"{sidecar.name} serves again")


def test_a_sidecar_cut_off_for_longer_than_its_validity_stops_and_loses_nothing(
    apart: Site,
) -> None:
    near, far = apart.sidecars["near"], apart.sidecars["far"]
    key, secret = apart.make_key()
    limit_nanos = 8 * MILLI_USD
    budget = apart.make_budget(key, limit_nanos)
    free_key, free_secret = apart.make_key()
    there, here, free = App(secret), App(secret), App(free_secret)
    serves_again(free, far)

    with Load(there, lambda: [far.address], concurrency=6, chunk_delay_ms=20) as load:
        load.wait_for(SERVED, 40)

        far.wire.hold(up=True, down=True)

        load.wait_for(NOBODY_ASKED, 3)
        until(lambda: silent_too_long(there, far), "its validity lapses")
        assert silent_too_long(free, far), "a key under no budget goes on without policy"

    held_nanos = lent_to(apart, budget, "far")
    assert held_nanos > 0, "it held nothing to begin with"

    # All of the rest may be spent elsewhere, and nothing of what is out of sight.
    with Load(here, lambda: [near.address], concurrency=6) as load:
        until(
            lambda: (
                here.ended["402 budget_exhausted"] + here.ended["429 budget_reserved"] > 5
                and apart.standing(budget).settled.nanos > limit_nanos * 3 // 4 - held_nanos
            ),
            "the other sidecar used nearly all that was left, and is refused",
        )
    assert lent_to(apart, budget, "far") == held_nanos
    stands = apart.standing(budget)
    assert stands.settled.nanos + stands.outstanding.nanos <= limit_nanos

    far.wire.heal()
    serves_again(free, far)

    assert whole(apart, key, there, here) <= limit_nanos

    whole(apart, free_key, free)


def test_one_way_only_counts_nothing_twice(apart: Site) -> None:
    near, far = apart.sidecars["near"], apart.sidecars["far"]
    key, secret = apart.make_key()
    limit_nanos = 1_000 * MILLI_USD
    apart.make_budget(key, limit_nanos)
    app = App(secret)
    addresses = [near.address, far.address]
    with Load(app, lambda: addresses, concurrency=8) as load:
        load.wait_for(SERVED, 40)
        # What one says arrives and is posted, but no acknowledgement comes back. The other says
        # everything into the void and is heard no more.
        near.wire.swallow(down=True)
        far.wire.swallow(up=True)
        load.wait_for(NOBODY_ASKED, 10)
    assert near.wire.down.lost_bytes
    assert far.wire.up.lost_bytes
    before = len(entries_of(apart.admin, key))
    near.wire.heal()
    far.wire.heal()
    serves_again(app, near)
    serves_again(app, far)
    assert whole(apart, key, app) <= limit_nanos
    assert before < len(app.served), "nothing was on its way"


def test_words_of_an_older_stream_that_come_late_count_once(apart: Site) -> None:
    far = apart.sidecars["far"]
    key, secret = apart.make_key()
    apart.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    connections = far.wire.connection_count
    with Load(app, lambda: [far.address], concurrency=6) as load:
        load.wait_for(SERVED, 20)
        far.wire.hold(up=True)
        # It gives the stream up and tries others, all of which are heard at once in the end.
        until(lambda: far.wire.connection_count > connections, "the sidecar tries again")
        far.wire.heal()
        load.wait_for(SERVED, 20)
    whole(apart, key, app)


def test_cuts_at_random_moments_under_load(apart: Site) -> None:
    print(f"BURSAR_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    key, secret = apart.make_key()
    apart.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    sidecars = [apart.sidecars["near"], apart.sidecars["far"]]
    addresses = [sidecar.address for sidecar in sidecars]
    with Load(app, lambda: addresses, concurrency=10) as load:
        for _ in range(CUTS):
            wire = chance.choice(sidecars).wire
            up, down = chance.choice([(True, True), (True, False), (False, True)])
            fault = chance.choice(["reset", "end", "hold", "swallow", "slow"])
            if fault in ("reset", "end"):
                wire.cut(reset=fault == "reset")
            elif fault == "slow":
                wire.slow(up_s=0.02 * up, down_s=0.02 * down, bytes_per_s=100_000)
            else:
                (wire.hold if fault == "hold" else wire.swallow)(up=up, down=down)
            load.wait_for_any(chance.randint(1, 20))
            if chance.random() < 0.7:
                wire.heal()
        for sidecar in sidecars:
            sidecar.wire.heal()
        load.wait_for(SERVED, 20)
    assert set(app.ended) <= {SERVED, NOBODY_ASKED, "429 budget_reserved"}, app.ended
    whole(apart, key, app)


def test_a_control_plane_that_is_away_at_the_start_of_a_sidecar(apart: Site) -> None:
    late = apart.add_sidecar("late")
    key, secret = apart.make_key()
    assert apart.server.stop() == 0
    late.start()
    app = App(secret)
    first = app.call(late.address)
    assert first.ended == NOBODY_ASKED
    assert "has not been reached" in first.body["message"]
    pid = late.pid
    apart.start_server()
    serves_again(app, late)
    assert late.pid == pid
    assert late.is_running
    whole(apart, key, app)
