"""Follows a file that another program appends lines to, and that is rotated or truncated meanwhile.

No event loop and no timing of its own: `read` gives the lines that are new, `remember` writes down
how far all that was given has been taken, so that a restart goes on from there. A line may be given
twice (after a crash between the two), and is never left out while its file is there: whoever takes
lines has to bear repetitions.
"""

import hashlib
import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
import structlog

from bursar_sidecar.clock import NANOS_PER_SECOND, Clock

log = structlog.get_logger("bursar.envoy")

MAX_READ_BYTES: Final = 1_048_576
"""Of each file, at one look; a longer line is passed over."""
FIRST_READ_BYTES: Final = 64 * 1024 * 1024
"""Of a file that was never read: its end. What is before it is of calls that ended long ago."""
MOST_FILES: Final = 4
"""Files that are followed at a time: the present one, and those that it was before."""
MOST_NAMES: Final = 1_000
"""Names in the file's directory that are looked at for what it was called before."""
MOST_SIBLINGS: Final = 16
"""Of them, those that are opened to see."""
ROTATED_QUIET_S: Final = 60
"""How long after its last line a file that was moved away is followed: its writer goes on with it
until it is told to open another."""
HEAD_BYTES: Final = 256
"""Of a file's beginning, by which it is known again: a truncated one begins with other lines."""
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")
MAX_PLACE_BYTES: Final = 16_384


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    """How far one file was read."""

    device: int
    inode: int
    offset: int
    head: str
    """SHA-256 of the first bytes, as far as they were read."""
    head_bytes: int


class _Places(msgspec.Struct, forbid_unknown_fields=True):
    files: list[_Place]


_places = msgspec.json.Decoder(_Places)


class _File:
    """One file that is followed."""

    def __init__(self, descriptor: int, now: int) -> None:
        self.descriptor = descriptor
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.offset = 0
        self.head = b""
        self.skipping = False
        """Within a line that is too long."""
        self.grew_at = now
        """Nanoseconds of `Clock.boot_ns`."""

    def size(self) -> int:
        """Bytes in it."""
        return os.fstat(self.descriptor).st_size

    def modified(self) -> int:
        """When it was last written to, in nanoseconds of the wall clock."""
        return os.fstat(self.descriptor).st_mtime_ns

    def place(self) -> _Place:
        """How far it was read."""
        known = hashlib.sha256(self.head).hexdigest()
        return _Place(*self.identity, self.offset, known, len(self.head))

    def is_at(self, place: _Place) -> bool:
        """Whether it is the file that was read so far."""
        if self.size() < place.offset or place.head_bytes > HEAD_BYTES:
            return False
        head = os.pread(self.descriptor, place.head_bytes, 0)
        return len(head) == place.head_bytes and hashlib.sha256(head).hexdigest() == place.head

    def close(self) -> None:
        os.close(self.descriptor)


class LogTail:
    """Follows one file by its path."""

    def __init__(self, path: Path, place: Path, clock: Clock) -> None:
        """`place` is the file in which is kept how far it was read."""
        self._path = path
        self._place = place
        self._clock = clock
        self._files: list[_File] = []
        """The oldest first."""
        self._begun = False
        self._lock = Lock()
        """The thread that reads may outlast who waited for it."""
        self._closed = False
        self.truncations = 0
        self.overlong = 0
        """Lines that were passed over."""
        self._fault = ""

    def read(self) -> list[bytes]:
        """The whole lines that are new, without their ends, in the order in which they were
        written. What can't be read now is tried again at the next look."""
        with self._lock:
            if self._closed:
                return []
            try:
                if not self._begun:
                    self._begin()
                self._follow()
            except OSError as error:
                self._failed(error)
            lines: list[bytes] = []
            for file in self._files:
                try:
                    lines += self._lines(file)
                except OSError as error:
                    self._failed(error)
            self._leave_quiet_ones()
            return lines

    def remember(self) -> None:
        """All lines that were given have been taken."""
        with self._lock:
            places = _Places([file.place() for file in self._files])
            beside = self._place.with_name(self._place.name + ".new")
            try:
                beside.write_bytes(msgspec.json.encode(places))
                beside.replace(self._place)
            except OSError as error:
                self._failed(error)  # lines may be given again, which whoever takes them bears

    def behind(self) -> int:
        """Bytes that were written and not read."""
        with self._lock:
            return sum(max(0, file.size() - file.offset) for file in self._files)

    def close(self) -> None:
        """Follow no more."""
        with self._lock:
            self._closed = True
            for file in self._files:
                file.close()
            self._files = []

    # -- which files -----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Find what was followed before, under whatever names it has now."""
        places = self._places()
        if not places:
            if file := self._open(self._path):
                file.offset = max(0, file.size() - FIRST_READ_BYTES)
                file.skipping = file.offset > 0
                self._files = [file]
            self._begun = True
            return
        known = {(place.device, place.inode): place for place in places}
        found: list[_File] = []
        latest = -1
        for path in self._siblings():
            file = self._open(path)
            if file is None:
                continue
            place = known.get(file.identity)
            if place is not None and file.is_at(place):
                file.offset = place.offset
                file.head = os.pread(file.descriptor, place.head_bytes, 0)
                latest = max(latest, file.modified())
            found.append(file)
        if latest < 0:
            log.warning("envoy_log_missed", path=str(self._path))
        # The present one last; what is older than what was read, and was not read, was left behind.
        wanted = [file for file in found if self._is_wanted(file, file.modified(), latest)]
        self._files = sorted(wanted, key=self._by_age)[-MOST_FILES:]
        for file in found:
            if file not in self._files:
                file.close()
        self._begun = True

    def _is_wanted(self, file: _File, modified: int, latest: int) -> bool:
        return bool(file.offset) or modified >= latest >= 0 or self._is_present(file)

    def _places(self) -> list[_Place]:
        try:
            with self._place.open("rb") as opened:
                return _places.decode(opened.read(MAX_PLACE_BYTES)).files[-MOST_FILES:]
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("envoy_log_place_unreadable", path=str(self._place), error=str(error))
            return []

    def _siblings(self) -> list[Path]:
        """The file, and what it may have been renamed to: those that were last written to."""
        found: list[tuple[int, Path]] = []
        with os.scandir(self._path.parent) as names:
            for one in islice(names, MOST_NAMES):
                if one.name.startswith(self._path.name) and not one.name.endswith(_COMPRESSED):
                    with suppress(FileNotFoundError):  # moved on while we looked
                        if one.is_file(follow_symlinks=False):
                            written_at = one.stat(follow_symlinks=False).st_mtime_ns
                            found.append((written_at, self._path.parent / one.name))
        return [path for _, path in sorted(found)[-MOST_SIBLINGS:]]

    def _is_present(self, file: _File) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        return file.identity == (status.st_dev, status.st_ino)

    def _follow(self) -> None:
        """The file of the path is another one than before: also those that came and were moved away
        between two looks."""
        if self._files and self._is_present(self._files[-1]):
            return
        known = {file.identity for file in self._files}
        latest = max((file.modified() for file in self._files), default=-1)
        new = []
        for path in self._siblings() if known else (self._path,):
            file = self._open(path)
            if file is None:
                continue
            if file.identity not in known and self._is_wanted(file, file.modified(), latest):
                new.append(file)
            else:
                file.close()
        self._files += sorted(new, key=self._by_age)
        while len(self._files) > MOST_FILES:
            self._files.pop(0).close()

    def _by_age(self, file: _File) -> tuple[bool, int]:
        return self._is_present(file), file.modified()

    def _open(self, path: Path) -> _File | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        return _File(descriptor, self._clock.boot_ns())

    def _leave_quiet_ones(self) -> None:
        now = self._clock.boot_ns()
        for file in self._files[:-1]:
            if now - file.grew_at >= ROTATED_QUIET_S * NANOS_PER_SECOND:
                self._files.remove(file)
                file.close()

    # -- what is in them -------------------------------------------------------------------------

    def _lines(self, file: _File) -> list[bytes]:
        size = file.size()
        if size < file.offset or os.pread(file.descriptor, len(file.head), 0) != file.head:
            self.truncations += 1
            file.offset, file.head, file.skipping = 0, b"", False
        if size == file.offset:
            return []
        data = os.pread(file.descriptor, MAX_READ_BYTES, file.offset)
        end = data.rfind(b"\n") + 1
        if not end and len(data) < MAX_READ_BYTES:
            return []  # a line that is being written
        file.grew_at = self._clock.boot_ns()
        self._know_again(file)
        if not end:
            self.overlong += not file.skipping
            file.skipping = True
            file.offset += len(data)
            return []
        lines = data[: end - 1].split(b"\n")
        if file.skipping:
            file.skipping = False
            del lines[0]
        file.offset += end
        return [line for line in lines if line]

    def _know_again(self, file: _File) -> None:
        if len(file.head) < HEAD_BYTES:
            file.head = os.pread(file.descriptor, HEAD_BYTES, 0)

    def _failed(self, error: OSError) -> None:
        if str(error) != self._fault:
            self._fault = str(error)
            log.warning("envoy_log_unreadable", path=str(self._path), error=str(error))
