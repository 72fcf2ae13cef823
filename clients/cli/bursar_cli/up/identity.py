"""Who Postgres runs as. It refuses to be root, and its tools refuse a user without a name."""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
PROBE_SECONDS = 30.0  # to run one program that prints its version; seconds only on a loaded disk
_OVERFLOW_ID = 65534  # what a user namespace shows for everybody it does not know


class IdentityError(RuntimeError):
    """No way was found to run Postgres; the text says what was tried."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A way to run a program as somebody fit for Postgres.

    `owner` is the (uid, gid) that its files must belong to, seen from outside.
    """

    name: str
    owner: tuple[int, int]
    options: list[str] = field(default_factory=list)

    def command(
        self,
        program: list[str],
        *,
        directory: Path | None = None,
        death_signal: int | None = None,
    ) -> list[str]:
        """The command line that runs `program` so; its process id is the program's own.

        With `death_signal` it must be started from the main thread: the kernel sends the signal
        when the *thread* that started it ends.
        """
        # -I and -S: nothing of the environment or of installed packages is loaded.
        line = [sys.executable, "-I", "-S", str(LAUNCHER), *self.options]
        if directory is not None:
            line += ["--directory", str(directory)]
        if death_signal is not None:
            line += ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
        return [*line, "--", *program]


def own_identity() -> Identity:
    """As we are."""
    return Identity("ourselves", (os.geteuid(), os.getegid()))


def namespace_identity() -> Identity:
    """A user namespace in which we are somebody else, while our files stay ours."""
    uid, gid = _named_user()
    options = ["--user-namespace", f"{uid}:{gid}"]
    return Identity("a user namespace", (os.geteuid(), os.getegid()), options)


def nobody_identities() -> list[Identity]:
    """Dropped from root to `nobody`; then the same with directories of root still in reach."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return []
    owner = (nobody.pw_uid, nobody.pw_gid)
    options = ["--user", f"{owner[0]}:{owner[1]}"]
    return [
        Identity("nobody", owner, options),
        Identity("nobody with file access", owner, [*options, "--keep-file-access"]),
    ]


def choose_identity(postgres: Path, directory: Path) -> Identity:
    """The first identity under which `postgres` runs inside `directory`.

    Raises IdentityError naming what was tried.
    """
    is_root = os.geteuid() == 0
    if not is_root and _has_name(os.geteuid()):
        candidates = [own_identity()]
    else:
        candidates = [namespace_identity(), *(nobody_identities() if is_root else [])]
    tried: list[str] = []
    for candidate in candidates:
        fault = _fault_of(candidate, postgres, directory)
        if fault is None:
            return candidate
        tried.append(f"as {candidate.name}: {fault}")
    raise IdentityError(
        f"Postgres cannot be run here ({'; '.join(tried)}). Run as an ordinary user, or set "
        "BURSAR_DATABASE_URL to a database elsewhere."
    )


def _fault_of(identity: Identity, postgres: Path, directory: Path) -> str | None:
    command = identity.command([str(postgres), "--version"], directory=directory)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"exit code {done.returncode}"


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _named_user() -> tuple[int, int]:
    """Anybody but root whom the password file knows: initdb looks its own name up."""
    entries = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    entries.sort(key=lambda entry: entry.pw_uid == _OVERFLOW_ID)
    return (entries[0].pw_uid, entries[0].pw_gid) if entries else (1000, 1000)
