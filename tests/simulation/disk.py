"""A disk in memory: files that grow, what was synced of them, and every way they break.

`DiskPath` and `MemoryOs` stand in for the few calls that the journal makes, so that the real
journal writes, rotates, cuts back and recovers here.
"""

import itertools
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

from tests.simulation.coverage import saw

_INODES = itertools.count(1)


class Killed(BaseException):
    """The process ended at this point; nothing after it ran."""


@dataclass(slots=True)
class Disk:
    """The files of one sidecar's data directory."""

    files: dict[str, bytearray] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    full: bool = False
    writes_until_kill: int | None = None
    """Armed: the write that ends the process, counted down. 0 is the next one."""
    torn_percent: int = 100
    """How much of the write that ends the process reaches the file."""
    inode: int = field(default_factory=lambda: next(_INODES))
    """Of the lock file: a copy has another one."""

    def append(self, name: str, data: bytes) -> int:
        """Write; returns how many bytes the disk took. Raises OSError or Killed."""
        file = self.files[name]
        if self.writes_until_kill is not None:
            if self.writes_until_kill == 0:
                self.writes_until_kill = None
                taken = len(data) * self.torn_percent // 100
                file += data[:taken]
                if not taken:
                    saw("a process was killed by a write that did not reach the disk")
                elif taken < len(data):
                    saw("a process was killed by a write that reached the disk in part")
                else:
                    saw("a process was killed behind its write")
                raise Killed
            self.writes_until_kill -= 1
        if self.full:
            # Half of what was asked for still fits: the writer has to cut it back.
            taken = len(data) // 2
            file += data[:taken]
            if not taken:
                raise OSError(28, "No space left on device")
            return taken
        file += data
        return len(data)

    def lose_power(self, random: Random) -> bool:
        """Everything behind the last sync is kept in part, or not at all; whether any is gone."""
        lost = False
        for name, data in self.files.items():
            kept = self.synced.get(name, 0)
            if kept < len(data):
                size = random.randint(kept, len(data))
                lost = lost or size < len(data)
                del data[size:]
        return lost

    def copy(self) -> "Disk":
        """The same files on another disk."""
        return Disk({name: bytearray(data) for name, data in self.files.items()}, dict(self.synced))


class DiskPath:
    """What `pathlib.Path` is to the journal."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self.name = name

    def __truediv__(self, part: str) -> "DiskPath":
        return DiskPath(self.disk, part)

    def __lt__(self, other: "DiskPath") -> bool:
        return self.name < other.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.rpartition(".")[0]

    def with_suffix(self, suffix: str) -> "DiskPath":
        """The same name with another suffix."""
        return DiskPath(self.disk, self.stem + suffix)

    def rename(self, other: "DiskPath") -> None:
        """Move the file."""
        self.disk.files[other.name] = self.disk.files.pop(self.name)
        self.disk.synced[other.name] = self.disk.synced.pop(self.name, 0)

    def unlink(self) -> None:
        """Delete the file."""
        del self.disk.files[self.name]
        self.disk.synced.pop(self.name, None)

    def read_bytes(self) -> bytes:
        """All of it."""
        if self.name not in self.disk.files:
            raise FileNotFoundError(self.name)
        return bytes(self.disk.files[self.name])


class MemoryOs:
    """The calls of `os` that the journal makes, on disks in memory."""

    O_WRONLY = O_CREAT = O_EXCL = O_APPEND = O_CLOEXEC = O_RDWR = O_RDONLY = O_DIRECTORY = 0

    def __init__(self) -> None:
        self._open: dict[int, DiskPath] = {}
        self._last_fd = 2

    def open(self, path: DiskPath, _flags: int, _mode: int = 0) -> int:
        """A descriptor of a new file."""
        if path.disk.full:
            raise OSError(28, "No space left on device")
        path.disk.files.setdefault(path.name, bytearray())
        self._last_fd += 1
        self._open[self._last_fd] = path
        return self._last_fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append; returns how many bytes were taken."""
        path = self._open[fd]
        return path.disk.append(path.name, bytes(data))

    def ftruncate(self, fd: int, size: int) -> None:
        """Cut the file."""
        path = self._open[fd]
        del path.disk.files[path.name][size:]

    def fsync(self, fd: int) -> None:
        """What is written survives a power loss."""
        path = self._open.get(fd)
        if path is not None and path.name in path.disk.files:
            path.disk.synced[path.name] = len(path.disk.files[path.name])

    fdatasync = fsync

    def stat(self, fd: int) -> SimpleNamespace:
        """Of a lock, which `lock` made."""
        return SimpleNamespace(st_ino=-fd)

    def close(self, fd: int) -> None:
        """Forget a descriptor."""
        self._open.pop(fd, None)


def lock(directory: DiskPath) -> list[tuple[DiskPath, int]]:
    """The journal's directory; a disk here belongs to one process."""
    return [(directory, -directory.disk.inode)]


def segments(directory: DiskPath) -> list[DiskPath]:
    """The segments that still count."""
    names = sorted(name for name in directory.disk.files if name.endswith(".journal"))
    return [DiskPath(directory.disk, name) for name in names]


def last_number(directory: DiskPath) -> int:
    """The highest number a segment ever had."""
    return max((int(name.partition(".")[0]) for name in directory.disk.files), default=0)


def kept(directory: DiskPath) -> list[DiskPath]:
    """All segments, done or not."""
    return [DiskPath(directory.disk, name) for name in sorted(directory.disk.files)]
