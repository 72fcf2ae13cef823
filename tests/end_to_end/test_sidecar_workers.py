"""Several workers behind one address: one sidecar, one budget, one bill, whoever of them dies."""

import asyncio
import json
import os
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.calling_apps import BROKEN, SERVED, App, Load
from tests.fakes.provider_bill import compare, cost_of, entries_of, posted
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

MILLI_USD = 1_000_000
HONEST = {SERVED, BROKEN, "402 budget_exhausted", "429 budget_reserved", "503 no_allowance"}
WORKERS = 2


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("many",), lending={}) as made,
    ):
        asyncio.run(watch(made.postgres.url))
        many = made.sidecars["many"]
        many.tell(BURSAR_WORKERS=str(WORKERS))
        made.start_sidecars()
        yield made
        made.verify()


def asked(sidecar: Sidecar, path: str) -> str:
    with urllib.request.urlopen(f"http://{sidecar.said['admin']}{path}") as answer:
        content: bytes = answer.read()
    return content.decode()


def readiness(sidecar: Sidecar) -> str:
    """Why no calls should be sent there; "" when ready."""
    try:
        return str(json.loads(asked(sidecar, "/readyz"))["reason"])
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["reason"])


def held(sidecar: Sidecar) -> list[dict[str, Any]]:
    """What the workers say that they hold; of one that does not run, nothing."""
    processes: list[dict[str, Any]] = json.loads(asked(sidecar, "/debug.json"))["processes"]
    return processes


def pids(sidecar: Sidecar) -> list[int]:
    """Of the workers that serve."""
    return [worker["pid"] for worker in held(sidecar) if worker.get("pid")]


def all_serve(sidecar: Sidecar) -> bool:
    workers = held(sidecar)
    return all("session" in worker and worker["session"]["connected"] for worker in workers)


def calls_of(sidecar: Sidecar) -> dict[str, float]:
    """How many calls each worker has ended."""
    found: dict[str, float] = {}
    for line in asked(sidecar, "/metrics").splitlines():
        if line.startswith("bursar_sidecar_calls_total{"):
            worker = line.partition('worker="')[2].partition('"')[0]
            found[worker] = found.get(worker, 0) + float(line.rpartition(" ")[2])
    return found


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def settle_up(place: Site, key: str, app: App) -> dict[str, int]:
    """The ledger is the provider's bill, and no budget was overspent at any moment."""
    bill = place.served()
    served = {call: bill[call] for call in bill.keys() & app.called}
    posted(place.admin, key, served)
    entries = entries_of(place.admin, key)
    kinds = compare(served, entries)
    exact = {call for call in app.served if entries[call][0].amount.nanos == cost_of(served[call])}
    assert exact == app.served, "the app has a whole answer, and the ledger not its price"
    asyncio.run(check_every_committed_state(place.postgres.url))
    return kinds


def test_workers_share_a_budget_to_its_end_and_never_spend_more(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    limit_nanos = 6 * MILLI_USD
    budget = place.make_budget(key, limit_nanos)
    app = App(secret)
    with Load(app, lambda: [many.address], concurrency=8) as load:
        load.wait_for("402 budget_exhausted", 20)
    assert set(app.ended) <= HONEST - {BROKEN}, app.ended
    assert settle_up(place, key, app) == {"exact": app.ended[SERVED]}
    stands = place.standing(budget)
    assert limit_nanos * 9 // 10 <= stands.settled.nanos <= limit_nanos
    worked = calls_of(many)
    assert set(worked) == {"0", "1"}, "one worker served all"
    assert all(count > 3 for count in worked.values())


def test_all_workers_are_lives_of_one_sidecar_that_do_not_fence_each_other(place: Site) -> None:
    many = place.sidecars["many"]
    until(lambda: all_serve(many), "every worker serves")
    sessions = [each["session"] for each in held(many)]
    epochs = {s["epoch"] for each in held(many) for s in each["sessions"]}
    assert len(epochs) == 2 * WORKERS  # of the organization and of the platform, for each
    assert not any(s["fenced"] for each in held(many) for s in each["sessions"])
    assert all(session["admits_nothing_because"] == "" for session in sessions)
    assert not place.server.has_logged("newer life")


def test_a_worker_killed_under_load_comes_back_on_its_own_journal(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    place.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    before = {worker["worker"]: worker["sessions"] for worker in held(many)}
    settings = place.directory / "sidecar.toml"
    good = settings.read_text()
    with Load(app, lambda: [many.address], concurrency=8, chunk_delay_ms=10) as load:
        load.wait_for(SERVED, 40)
        # What stands in the file by then does not count: the supervisor's settings do.
        settings.write_text("drain_s = true")
        victim = pids(many)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: is_gone(victim), "it is gone")
        load.wait_for(SERVED, 20)  # by the other, without a refused connection
        until(lambda: all_serve(many) and victim not in pids(many), "it serves again")
        load.wait_for(SERVED, 40)
    settings.write_text(good)
    assert set(app.ended) <= {SERVED, BROKEN}, app.ended
    kinds = settle_up(place, key, app)
    assert kinds["exact"] >= app.ended[SERVED] - kinds.get("estimated", 0)
    after = {worker["worker"]: worker["sessions"] for worker in held(many)}
    assert after[1][0]["epoch"] == before[1][0]["epoch"]  # who lived on was not disturbed
    assert after[0][0]["epoch"] > before[0][0]["epoch"]
    assert 'bursar_sidecar_worker_restarts_total{worker="0"} 1' in asked(many, "/metrics")
    until(lambda: not readiness(many), "all are ready")


def test_settings_change_under_load_without_a_failed_call(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    app = App(secret)
    settings = place.directory / "sidecar.toml"
    good = settings.read_text()
    with Load(app, lambda: [many.address], concurrency=4, chunk_delay_ms=10) as load:
        load.wait_for(SERVED, 10)
        for number in range(3):
            settings.write_text(f"drain_s = {20 + number}\nmax_request_bytes = 100000\n{good}")
            many.send(signal.SIGHUP)
            line = f'result="applied"}} {number + 1}.0'
            until(lambda: asked(many, "/metrics").count(line) > WORKERS, "all reloaded")  # noqa: B023
            load.wait_for(SERVED, 10)
        settings.write_text(f"drain_s = true\n{good}")
        many.send(signal.SIGHUP)
        until(lambda: many.has_logged("settings_refused"), "the fault is told")
        settings.write_text(f'tls_ca = "/elsewhere"\n{good}')
        many.send(signal.SIGHUP)
        until(lambda: many.has_logged("settings_need_restart"), "it is told by name")
        load.wait_for(SERVED, 10)
    assert set(app.ended) == {SERVED}
    assert settle_up(place, key, app) == {"exact": app.ended[SERVED]}
    settings.write_text(good)


def test_a_worker_that_hangs_is_told_of(place: Site) -> None:
    many = place.sidecars["many"]
    until(lambda: not readiness(many), "all are ready")
    victim = pids(many)[1]
    os.kill(victim, signal.SIGSTOP)
    try:
        until(lambda: "worker 1: it does not answer" in readiness(many), "it is not ready")
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: not readiness(many), "all are ready again")


def test_draining_the_sidecar_empties_every_worker(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    budget = place.make_budget(key, 1_000 * MILLI_USD)
    app = App(secret)
    with Load(app, lambda: [many.address], concurrency=6) as load:
        load.wait_for(SERVED, 20)
    assert place.cli("sidecar", "drain", "many").returncode == 0
    until(lambda: readiness(many).count("draining") == WORKERS, "all of them drain")
    until(lambda: place.standing(budget).outstanding.nanos == 0, "all money is home")
    assert app.call(many.address).ended.startswith("503")
    assert place.cli("sidecar", "resume", "many").returncode == 0
    until(lambda: not readiness(many), "all admit calls again")
    until(lambda: app.call(many.address).ended == SERVED, "calls are served")


def test_stopping_ends_all_workers_and_closes_every_session(place: Site) -> None:
    many = place.sidecars["many"]
    until(lambda: all_serve(many), "every worker serves")
    workers = pids(many)
    assert many.stop() == 0
    assert all(map(is_gone, workers))
    shown = json.loads(place.cli("sidecar", "show", "many", "-o", "json").stdout)
    assert not shown.get("connected")
    place.start_sidecars()


def test_a_signal_to_the_whole_group_cuts_no_call(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    app = App(secret)
    with Load(app, lambda: [many.address], concurrency=6, chunk_delay_ms=30) as load:
        load.wait_for(SERVED, 12)
        # As systemd stops a service: it tells every process, and the supervisor tells them too.
        workers = pids(many)
        many.send(signal.SIGTERM)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        load.stop()
    assert many.wait_for_end() == 0
    # What reached the provider came back whole; what came later was refused by the kernel.
    assert set(app.ended) <= {SERVED, BROKEN}, app.ended
    assert settle_up(place, key, app) == {"exact": app.ended[SERVED]}
    place.start_sidecars()


def test_workers_do_not_outlive_a_supervisor_that_was_killed(place: Site) -> None:
    many = place.sidecars["many"]
    workers = pids(many)
    assert len(workers) == WORKERS
    many.kill()
    until(lambda: all(map(is_gone, workers)), "the workers drained and ended")
    place.start_sidecars()


def test_what_workers_owe_is_sent_when_there_are_fewer_of_them_or_none(place: Site) -> None:
    many = place.sidecars["many"]
    key, secret = place.make_key()
    app = App(secret)
    with Load(app, lambda: [many.address], concurrency=6) as load:
        load.wait_for(SERVED, 20)
        many.wire.hold(up=True, down=True)  # nothing is acknowledged from now on
        load.wait_for(SERVED, 20)
        workers = pids(many)
        os.kill(many.pid, signal.SIGSTOP)  # so that it starts none again
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        many.kill()
    until(lambda: all(map(is_gone, workers)), "all are gone")
    many.wire.heal()
    many.tell(BURSAR_WORKERS="1")
    place.start_sidecars()
    assert {path.name for path in many.home.glob("journal*")} == {"journal", "journal-2"}
    settle_up(place, key, app)
    many.stop()
    many.tell(BURSAR_WORKERS=str(WORKERS))
    place.start_sidecars()
