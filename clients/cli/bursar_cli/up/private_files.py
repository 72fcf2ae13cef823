"""Files that only their owner may read, and a lock on a directory."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class DirectoryInUseError(RuntimeError):
    """Another process holds the directory."""


def write_private(path: Path, content: str) -> None:
    """Write a file of mode 0600 so that a reader, and a crash, sees all of it or the old one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_private_json(path: Path, content: object) -> None:
    """`write_private` with JSON that people can read too."""
    write_private(path, json.dumps(content, indent=2) + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in `path`; empty if there is no such file.

    Raises ValueError naming the file if it holds anything else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


class DirectoryLock:
    """Holds a directory for this process; the kernel lets go when the process ends, however."""

    def __init__(self, path: Path) -> None:
        """Take the lock file `path`. Raises DirectoryInUseError."""
        # Not inherited by children: Python opens files so.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            by = f" by process {holder}" if holder else ""
            raise DirectoryInUseError(f"{path.parent} is in use{by}; give another") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
