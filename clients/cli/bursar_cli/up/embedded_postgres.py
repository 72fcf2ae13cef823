"""A Postgres of our own in a data directory: made on first use, started, seen through crashes.

What it keeps there: `postgres/` (the cluster), `postgres.json` (port, password, name; mode 0600),
`postgres.lock`, and `run/` (the unix socket, mode 0700).
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bursar_cli.up import leftovers
from bursar_cli.up.identity import Identity, IdentityError, choose_identity
from bursar_cli.up.ports import free_port, is_free
from bursar_cli.up.postgres_binaries import Binaries, BinariesError, find_binaries
from bursar_cli.up.postgres_probe import accepts_connections
from bursar_cli.up.private_files import (
    DirectoryInUseError,
    DirectoryLock,
    read_json_object,
    write_private_json,
)

HOST = "127.0.0.1"
USER = "bursar"
DATABASE = "bursar"

READY_SECONDS = 60.0  # recovery after a crash replays at most max_wal_size; this is ample
READY_POLL_SECONDS = 0.02
SETUP_SECONDS = 120.0  # initdb takes one second; minutes only on a very slow disk
FAST_STOP_SECONDS = 15.0  # for the checkpoint of a clean stop
QUICK_STOP_SECONDS = 5.0  # for a stop without one, before the processes are killed
LEFTOVER_SECONDS = 10.0  # for an earlier server's children to notice that it died
SOCKET_PATH_LIMIT = 107  # bytes of a unix socket's path on Linux
LOG_TAIL_LINES = 8  # told when a start fails

# Modest: beside it run the programs it serves, on the same machine. Nothing acknowledged is lost:
# fsync and synchronous_commit stay on.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

_HBA = """\
# Everybody proves the password; nobody comes from another machine.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


class EmbeddedPostgresError(RuntimeError):
    """Postgres could not be made, started or stopped; the text says why."""


class EmbeddedPostgres:
    """One server. `prepare`, then either run `command()` yourself or use `start` and `stop`.

    Not safe to share between threads.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        binaries: Binaries | None = None,
        identity: Identity | None = None,
    ) -> None:
        """`port` 0 takes the port of last time, or any free one. `settings` go over SETTINGS.

        `binaries` and `identity` are found where they are not given.
        """
        self.data_dir = data_dir.absolute()
        self.cluster = self.data_dir / "postgres"
        self.port = 0
        self._asked_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._binaries = binaries
        self._identity = identity
        self._password = ""
        self._cluster_name = ""
        self.socket_dir = self.data_dir / "run"
        self._lock: DirectoryLock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """`postgresql://` address of the database, password included: not for logs."""
        return self.url_of(DATABASE)

    @property
    def pid(self) -> int | None:
        """Process id of the server that `start` started."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        """Where `start` sends what the server says."""
        return self.data_dir / "logs" / "postgres.log"

    def url_of(self, database: str) -> str:
        """The address of another database on this server."""
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def prepare(self) -> None:
        """Lock the directory, see off what an earlier life left, make the cluster if there is none.

        Call it before every start. Blocks for about a second the first time.
        Raises EmbeddedPostgresError.
        """
        try:
            self._prepare()
        except (
            BinariesError,
            DirectoryInUseError,
            IdentityError,
            OSError,
            subprocess.SubprocessError,
            ValueError,
        ) as error:
            raise EmbeddedPostgresError(f"embedded Postgres: {error}") from error

    def _prepare(self) -> None:
        # Others may pass through, to what they own inside, but not look.
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        if self._lock is None:
            self._lock = DirectoryLock(self.data_dir / "postgres.lock")
        if self._binaries is None:
            self._binaries = find_binaries(self._existing_major())
        if self._identity is None:
            self._identity = choose_identity(self._binaries.postgres, self.data_dir)
        kept = read_json_object(self.data_dir / "postgres.json")
        self._cluster_name = str(kept.get("cluster_name") or f"bursar-{secrets.token_hex(8)}")
        self._password = str(kept.get("password") or secrets.token_urlsafe(32))
        self._see_off_leftovers()
        self._choose_port(int(kept.get("port") or 0))
        self._choose_socket_dir(kept.get("socket_dir"))
        self._keep()
        is_new = self._existing_major() is None
        if is_new:
            self._make_cluster()
        self._own(self.cluster)
        self._write_configuration()
        if kept.get("password") is None and not is_new:
            self._single_user(self.cluster, [self._password_statement()])

    def command(self) -> list[str]:
        """The command line of the prepared server. It ends when the thread that started it ends.

        Start it from the main thread, standard error to a log. SIGINT stops it cleanly.
        """
        assert self._binaries is not None, "prepare() first"
        assert self._identity is not None
        return self._identity.command(
            [str(self._binaries.postgres), "-D", str(self.cluster)],
            directory=self.data_dir,
            death_signal=signal.SIGINT,
        )

    def is_ready(self) -> bool:
        """Whether the server takes connections now."""
        return accepts_connections(HOST, self.port, USER, DATABASE)

    def start(self) -> None:
        """Prepare, start, and wait until connections are taken.

        Call it from the main thread: the server stops when the thread that started it ends.
        Raises EmbeddedPostgresError.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError("embedded Postgres must be started from the main thread")
        self.prepare()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None:
                raise self._start_error(f"ended with code {self._process.returncode}")
            if time.monotonic() >= deadline:
                self.stop()
                raise self._start_error(f"took no connections within {READY_SECONDS:g} s")
            time.sleep(READY_POLL_SECONDS)

    def stop(self) -> None:
        """Stop cleanly; less cleanly if that takes too long. Lets go of the directory."""
        process = self._process
        if process is not None:
            for number, seconds in (
                (signal.SIGINT, FAST_STOP_SECONDS),
                (signal.SIGQUIT, QUICK_STOP_SECONDS),
            ):
                if process.poll() is None:
                    process.send_signal(number)
                    try:
                        process.wait(seconds)
                    except subprocess.TimeoutExpired:
                        continue
            self.kill()
        self.release()

    def kill(self) -> None:
        """`kill -9` of the server. Its children end on their own; `prepare` waits for them."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def release(self) -> None:
        """Let go of the directory, and of the socket's where that is elsewhere."""
        if self.socket_dir.parent != self.data_dir:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _start_error(self, what: str) -> EmbeddedPostgresError:
        lines = self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "".join(f"\n  {line}" for line in lines)
        return EmbeddedPostgresError(f"embedded Postgres {what}; {self.log_path} ends:{tail}")

    def _existing_major(self) -> int | None:
        try:
            return int((self.cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _see_off_leftovers(self) -> None:
        """Make sure that no process of this cluster lives, and no lock file of a dead one stays.

        A server whose supervisor was killed is on its way down; the children of a killed server
        notice within moments unless they are in the middle of a statement. Killing them is safe
        then: nobody shares their memory any more, and the next start recovers from the log.
        """
        gone = leftovers.see_off(
            lambda: leftovers.processes(self._is_ours),
            (
                (None, LEFTOVER_SECONDS / 2),
                (signal.SIGINT, LEFTOVER_SECONDS / 2),
                (signal.SIGQUIT, QUICK_STOP_SECONDS),
                (signal.SIGKILL, QUICK_STOP_SECONDS),
            ),
        )
        if not gone:
            raise OSError(f"processes of an earlier server on {self.cluster} do not end")
        # Postgres takes a lock file for live when any process has the id in it, and after a
        # crash, in a container most of all, that id may be somebody else's by now. The file also
        # guards the old server's shared memory; nobody is left to use that.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _is_ours(self, arguments: list[str]) -> bool:
        # The server by its arguments; its children by the title that Postgres gives them.
        if arguments[0].startswith(f"postgres: {self._cluster_name}"):
            return True
        is_server = Path(arguments[0]).name == "postgres"
        return is_server and arguments[1:3] == ["-D", str(self.cluster)]

    def _choose_port(self, last: int) -> None:
        if self._asked_port:
            if not is_free(HOST, self._asked_port):
                raise OSError(f"port {self._asked_port} of {HOST} is taken")
            self.port = self._asked_port
        elif last and is_free(HOST, last):
            self.port = last
        else:
            self.port = free_port(HOST)

    def _choose_socket_dir(self, last: Any) -> None:
        """In the data directory, unless that makes the path longer than the kernel takes."""
        name = f".s.PGSQL.{self.port}"
        directory = self.data_dir / "run"
        if len(os.fsencode(directory / name)) > SOCKET_PATH_LIMIT:
            directory = Path(str(last)) if last else Path()
            if not (last and directory.is_dir() and directory.parent != self.data_dir):
                directory = Path(tempfile.mkdtemp(prefix="bursar-"))
        directory.mkdir(mode=0o700, exist_ok=True)
        self.socket_dir = directory
        for stale in (name, f"{name}.lock"):
            (directory / stale).unlink(missing_ok=True)
        self._own(directory)
        directory.chmod(0o700)

    def _keep(self) -> None:
        write_private_json(
            self.data_dir / "postgres.json",
            {
                "port": self.port,
                "password": self._password,
                "cluster_name": self._cluster_name,
                "socket_dir": str(self.socket_dir),
            },
        )

    def _own(self, directory: Path) -> None:
        """Give `directory` and all in it to the identity, if it belongs to somebody else."""
        assert self._identity is not None
        uid, gid = self._identity.owner
        if os.geteuid() != 0 or directory.stat().st_uid == uid:
            return
        for parent, directories, files in os.walk(directory):
            for name in (*directories, *files):
                os.chown(Path(parent) / name, uid, gid, follow_symlinks=False)
        # Last, so that an interrupted run is seen to be unfinished.
        os.chown(directory, uid, gid)

    def _make_cluster(self) -> None:
        """Make the cluster beside its place and move it there whole: a half-made one never counts.

        Sorting is by bytes, the same on every machine; the database speaks UTF-8.
        """
        assert self._binaries is not None
        partial = self.data_dir / "postgres.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._own(partial)
        program = [str(self._binaries.initdb), "-D", str(partial), "-U", USER]
        # `trust` lets nobody in: the rules are replaced below, before any server runs.
        program += ["--no-locale", "--encoding=UTF8", "--auth=trust", "--no-instructions"]
        self._run(program)
        (partial / "pg_hba.conf").write_text(_HBA)
        with (partial / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = 'bursar.conf'\n")
        self._single_user(partial, [self._password_statement(), f"CREATE DATABASE {DATABASE}"])
        partial.rename(self.cluster)

    def _write_configuration(self) -> None:
        settings = {
            **self._settings,
            "port": str(self.port),
            "cluster_name": self._cluster_name,
            "unix_socket_directories": str(self.socket_dir),
        }
        lines = ["# Written anew at every start; what comes after its include wins over it."]
        for name, value in settings.items():
            if not re.fullmatch(r"[a-z_.]+", name):
                raise ValueError(f"setting {name!r}: expected letters and underscores")
            lines.append("{} = '{}'".format(name, value.replace("'", "''")))
        path = self.cluster / "bursar.conf"
        path.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0 and self._identity is not None:
            os.chown(path, *self._identity.owner)

    def _password_statement(self) -> str:
        # The password is of our own making and holds no quote.
        return f"ALTER ROLE {USER} PASSWORD '{self._password}'"

    def _single_user(self, cluster: Path, statements: list[str]) -> None:
        """Run statements in a server of one session, which needs no login and no port."""
        assert self._binaries is not None
        program = [str(self._binaries.postgres), "--single", "-D", str(cluster)]
        program += ["-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "postgres"]
        self._run(program, given="".join(f"{statement}\n" for statement in statements))

    def _run(self, program: list[str], given: str = "") -> None:
        assert self._identity is not None
        done = subprocess.run(
            self._identity.command(program, directory=self.data_dir),
            input=given,
            capture_output=True,
            text=True,
            timeout=SETUP_SECONDS,
        )
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:])
            raise OSError(f"{Path(program[0]).name} failed with code {done.returncode}: {said}")
