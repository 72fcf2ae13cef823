"""`bursar up` with a real Postgres and a real simulated provider; server and sidecar stand-ins."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bursar_cli.up import leftovers
from tests.fakes.until import DEADLINE_S, until

# Serves 200 on every address it is given, and writes down when it is told to stop.
STAND_IN = """
import http.server, json, os, signal, sys, threading
name, addresses = sys.argv[1], [os.environ[variable] for variable in sys.argv[2:]]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({key: value for key, value in os.environ.items() if "BURSAR" in key})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
def stop(number, frame):
    with open(os.environ["EVENTS"], "a") as events:
        events.write(name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
for address in addresses:
    host, port = address.split(":")
    threading.Thread(target=Server((host, int(port)), Handler).serve_forever).start()
"""

ENROLMENT = """
import json, sys
asked = json.load(sys.stdin)
for name in asked["sidecars"]:
    asked["sidecar_keys"].setdefault(name, "bs-" + name)
if asked["demo"]:
    asked["app_keys"].setdefault("keys/k-demo", "bk-demo")
print(json.dumps({"sidecar_keys": asked["sidecar_keys"], "app_keys": asked["app_keys"]}))
"""

RUNNER = """
import json, sys, typer
from pathlib import Path
from bursar_cli.up.assembly import Options, Programs
from bursar_cli.up.command import run_up
given = json.loads(sys.argv[1])
programs = Programs(**given.pop("programs"))
paths = {name: Path(given.pop(name)) for name in ("data_dir", "ready_file")}
try:
    run_up(Options(**paths, **given, programs=programs))
except typer.Exit as error:
    sys.exit(error.exit_code)
"""

ANY_PORTS = dict.fromkeys(
    (
        *("grpc_port", "http_port", "provider_port"),
        *("sidecar_port", "sidecar_grpc_port", "sidecar_admin_port"),
    ),
    0,
)


class Up:
    """One `bursar up` in a directory, started as often as a test likes."""

    def __init__(self, home: Path) -> None:
        self.data_dir = home / "data"
        self.ready_file = home / "ready.json"
        self.events = home / "events"
        self.process: subprocess.Popen[str] | None = None

    def start(self, **changes: Any) -> None:
        stand_in = [sys.executable, "-c", STAND_IN]
        programs: dict[str, Any] = {
            "server": [*stand_in, "server", "BURSAR_HTTP_ADDRESS"],
            "sidecar": [
                *stand_in,
                "sidecar",
                "BURSAR_SIDECAR_HTTP_ADDRESS",
                "BURSAR_SIDECAR_ADMIN_ADDRESS",
            ],
            "enrolment": [sys.executable, "-c", ENROLMENT],
            **changes.pop("programs", {}),
        }
        given = {
            "data_dir": str(self.data_dir),
            "ready_file": str(self.ready_file),
            "programs": programs,
            **ANY_PORTS,
            **changes,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "EVENTS": str(self.events)},
        )

    def ready(self) -> dict[str, Any]:
        """What the ready file says, once it is there."""

        def look() -> dict[str, Any] | None:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(self.output())
            return self.told()

        return until(look, "the ready file")

    def told(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.ready_file.read_text())
        except FileNotFoundError:
            return None
        return found

    def started_again(self, name: str, old: int) -> dict[str, Any]:
        """What the ready file says once `name` is another process."""

        def look() -> dict[str, Any] | None:
            told = self.told()
            return told if told and told["pids"].get(name, old) != old else None

        return until(look, f"another process for {name}")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def output(self) -> str:
        """All it said, once it ended."""
        assert self.process is not None
        return self.process.communicate(timeout=DEADLINE_S)[0]

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.output()


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bursar-test-"))
    directory.chmod(0o711)
    yield directory
    # What a killed supervisor left is still writing until it ended.
    pids = read_pids(directory / "data")
    until(lambda: not any(leftovers.command_line(pid) for pid in pids), "the end of all parts")
    shutil.rmtree(directory)


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    running = Up(home)
    yield running
    running.end()


def read_pids(data_dir: Path) -> list[int]:
    try:
        return [pid for pid, _ in json.loads((data_dir / "pids.json").read_text()).values()]
    except FileNotFoundError:
        return []


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def database_url(data_dir: Path) -> str:
    kept = json.loads((data_dir / "postgres.json").read_text())
    return f"postgresql://bursar:{kept['password']}@127.0.0.1:{kept['port']}/bursar"


def query(data_dir: Path, statement: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(database_url(data_dir))
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(run())


def test_all_comes_up_and_the_ready_file_says_where(up: Up) -> None:
    up.start(sidecars=2)
    ready = up.ready()
    assert set(ready["pids"]) == {
        "supervisor",
        "postgres",
        "server",
        "provider",
        "sidecar-1",
        "sidecar-2",
    }
    assert len(ready["sidecars"]) == 2
    assert ready["sidecar"] == ready["sidecars"][0]
    assert ready["admin_key"].startswith("ba-")
    assert ready["demo_key"] == "bk-demo"
    seen = get(f"{ready['http']}/readyz")
    assert seen["BURSAR_GRPC_ADDRESS"] == ready["grpc"]
    assert seen["BURSAR_ADMIN_KEY"] == ready["admin_key"]
    assert seen["BURSAR_DATABASE_URL"] == database_url(up.data_dir)
    sidecar = get(f"{ready['sidecars'][1]}/healthz")
    assert sidecar["BURSAR_ADDRESS"] == ready["grpc"]
    assert sidecar["BURSAR_SIDECAR_KEY"] == "bs-sidecar-2"
    assert f"{ready['provider']}/v1" in Path(sidecar["BURSAR_CONFIG"]).read_text()
    assert get(f"{ready['provider']}/simulated/totals")["calls"] == 0
    for path in (up.ready_file, up.data_dir / "secrets.json", up.data_dir / "ready.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["postgres", "server", "provider", "sidecar-1"])
def test_what_is_killed_comes_back_on_the_same_port_with_the_same_data(up: Up, name: str) -> None:
    up.start()
    before = up.ready()
    query(up.data_dir, "CREATE TABLE kept AS SELECT 7 AS seven")
    os.kill(before["pids"][name], signal.SIGKILL)
    after = up.started_again(name, before["pids"][name])
    unchanged = {key for key in before if key != "pids"}
    assert {key: after[key] for key in unchanged} == {key: before[key] for key in unchanged}
    assert query(up.data_dir, "SELECT seven FROM kept")[0]["seven"] == 7
    assert get(f"{after['sidecar']}/healthz")
    assert get(f"{after['http']}/readyz")
    assert get(f"{after['provider']}/simulated/totals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_in_order(up: Up, number: signal.Signals) -> None:
    up.start(sidecars=2)
    pids = up.ready()["pids"]
    up.signal(number)
    output = up.output()
    assert up.process is not None
    assert up.process.returncode == 0, output
    assert output.rstrip().endswith("stopped")
    assert up.events.read_text().split() == ["sidecar", "sidecar", "server"]
    assert not any(leftovers.command_line(pid) for pid in pids.values())
    assert not up.ready_file.exists()
    log = (up.data_dir / "logs" / "postgres.log").read_text()
    assert "database system is shut down" in log.splitlines()[-1]


def test_after_a_kill_of_the_supervisor_all_ends_and_comes_back_as_it_was(up: Up) -> None:
    up.start()
    before = up.ready()
    query(up.data_dir, "CREATE TABLE kept AS SELECT 7 AS seven")
    up.signal(signal.SIGKILL)
    up.output()
    up.start()

    def ready_again() -> dict[str, Any] | None:
        told = up.told()
        is_new = told is not None and told["pids"]["supervisor"] != before["pids"]["supervisor"]
        return told if is_new else None

    after = until(ready_again, "the second ready file")
    assert not any(leftovers.command_line(pid) for pid in before["pids"].values())
    for key in set(before) - {"pids"}:
        assert after[key] == before[key]
    assert query(up.data_dir, "SELECT seven FROM kept")[0]["seven"] == 7


def test_two_on_one_directory_refuse_and_two_directories_get_along(up: Up, home: Path) -> None:
    up.start()
    ready = up.ready()
    second = Up(home)
    second.start()
    output = second.output()
    assert second.process is not None
    assert second.process.returncode == 1
    assert f"in use by process {ready['pids']['supervisor']}" in output
    assert up.told() == ready
    elsewhere = Up(home / "elsewhere")
    elsewhere.data_dir.parent.mkdir(mode=0o711)
    try:
        elsewhere.start()
        assert elsewhere.ready()["grpc"] != ready["grpc"]
        elsewhere.signal(signal.SIGTERM)
        elsewhere.output()
    finally:
        elsewhere.end()


def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log(up: Up) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('the moon is in the wrong house')"]
    up.start(programs={"server": failing})
    output = up.output()
    assert up.process is not None
    assert up.process.returncode == 1
    assert "server ended with code 1" in output
    assert "the moon is in the wrong house" in output
    assert "Traceback" not in output
    assert read_pids(up.data_dir) == []


def test_a_refused_enrolment_is_told(up: Up) -> None:
    refusing = [sys.executable, "-c", "import sys; sys.exit('the key is not known')"]
    up.start(programs={"enrolment": refusing})
    assert "setting up failed: the key is not known" in up.output()


def test_a_database_elsewhere_is_used_as_it_is(up: Up) -> None:
    url = "postgresql://somebody:secret@127.0.0.1:0/elsewhere"
    up.start(database_url=url, demo=False)
    ready = up.ready()
    assert "postgres" not in ready["pids"]
    assert ready["demo_key"] == ""
    assert get(f"{ready['http']}/readyz")["BURSAR_DATABASE_URL"] == url
    assert not (up.data_dir / "postgres").exists()


def test_a_port_that_was_asked_for_and_is_taken_is_refused(up: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up.start(grpc_port=port)
        assert f"port {port} of 127.0.0.1, asked for grpc, is taken" in up.output()


def test_stopping_while_it_starts_leaves_nothing(up: Up) -> None:
    silent = [sys.executable, "-c", "import signal; signal.pause()"]
    up.start(programs={"server": silent})
    kept = up.data_dir / "pids.json"
    until(lambda: kept.exists() and "server" in kept.read_text(), "the server's process")
    pids = read_pids(up.data_dir)
    up.signal(signal.SIGINT)
    up.output()
    assert up.process is not None
    assert up.process.returncode == 0
    assert not any(leftovers.command_line(pid) for pid in pids)
