"""The journal: what this sidecar owes, on disk before it is true in memory.

Owns one directory, locked exclusively. An open record is written before the first byte of a call
goes upstream, a settlement before its reservation is settled in memory: plain writes, which a
process death keeps. A thread syncs them a few milliseconds later, off the path; after a power loss
the tail counts as truncated. Refuses to admit what it could not record.

Format and recovery are described in `docs/journal.md`.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bursar_sidecar import journal_records as records
from bursar_sidecar.journal_files import (
    DONE_SUFFIX,
    SEGMENT_SUFFIX,
    last_number_in,
    segments_in,
    sync_directory,
)
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_recovery import LIVE, RecoveredSession, Recovery

DIRECTORY_NAME: Final = "journal"
LOCK_NAME: Final = "lock"
# A sidecar that finds the journal locked takes the next name; so many that hang at once on one
# machine are a fault of something else.
MAX_DIRECTORIES: Final = 64
# Numbers in one acknowledgement record: far below MAX_RECORD_BYTES.
MAX_ACKNOWLEDGED_NUMBERS: Final = 4_096
# How long a shutdown waits for the last sync; a disk that hangs must not keep the process.
CLOSE_TIMEOUT_S: Final = 5.0


class JournalError(Exception):
    """A record could not be written; the call it was for must not start."""


class JournalFullError(JournalError):
    """A cap is reached: unacknowledged bytes or open calls."""


class JournalLockedError(JournalError):
    """Every directory this sidecar may use is locked by another process."""


def machine_boot_id() -> str:
    """Identifies this boot of the machine: after another boot the journal's tail is not proven.

    Empty where the kernel does not tell; then only an orderly shutdown proves completeness.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Journal:
    """An open journal. Not thread-safe: all calls come from the event loop's thread."""

    def __init__(self, data_directory: Path, *, boot_id: str, limits: JournalLimits) -> None:
        """Lock a directory, read what earlier lives left, and begin a segment that holds it all.

        Raises JournalLockedError or OSError.
        """
        self._limits = limits
        self.fault = ""
        """Why nothing may be admitted now; "" when all is well."""
        self._opened: dict[tuple[int, int], bytes] = {}
        self._open_bytes = 0
        self._unacknowledged: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._unwritten: dict[tuple[int, int], bytes] = {}
        self._late: list[bytes] = []
        """Acknowledged before they could be written: still to be kept."""
        self._sessions: dict[int, records.SessionRow] = {}
        self._owed: dict[int, int] = {}
        self._paths: dict[int, Path] = {}
        self.unacknowledged_bytes = 0
        self._fd = -1
        self._size = 0
        self._broken = True
        self._sync = _Sync(limits)
        locks = _lock(data_directory)
        self._locks = [fd for _path, fd in locks]
        self.directories = [path for path, _fd in locks]
        self.directory = self.directories[0]
        places = [place_of(boot_id, fd) for fd in self._locks]
        self._place = places[0]
        recovery = Recovery()
        left = [segments_in(path) for path, _fd in locks]
        for segments, place in zip(left, places, strict=True):
            recovery.read(segments, place)
        self.recovered: tuple[RecoveredSession, ...] = recovery.sessions()
        self._number = last_number_in(self.directory)
        self._adopt()
        self._start_segment()
        os.fsync(self._fd)
        sync_directory(self.directory)
        for path in [path for segments in left for path in segments]:
            path.rename(path.with_suffix(DONE_SUFFIX))
        self._sync.start(self.directories)

    # -- what the path writes ------------------------------------------------------------------

    def session_opened(
        self, epoch: int, organization_id: int, platform: bool, proof: bytes = b""
    ) -> None:
        """A session began. Raises JournalError; then nothing may be reserved in it."""
        opened = records.SessionOpened(epoch, organization_id, platform, proof)
        self._append(records.encode(opened))
        self._sessions[epoch] = records.SessionRow(epoch, organization_id, platform, 0, LIVE, proof)

    def opened(self, record: records.Opened) -> None:
        """A call is about to go upstream. Raises JournalError; then it must not."""
        if self.fault or self._sync.fault:
            raise JournalError(self.fault or self._sync.fault)
        if len(self._opened) >= self._limits.open_calls:
            raise JournalFullError(f"{len(self._opened)} calls are open, the most there may be")
        if self.unacknowledged_bytes >= self._limits.unacknowledged_bytes:
            raise JournalFullError(
                f"{self.unacknowledged_bytes} bytes of settlements are not acknowledged yet, "
                "the most there may be"
            )
        if self._open_bytes >= self._limits.open_bytes:
            raise JournalFullError(
                f"{self._open_bytes} bytes describe calls that are open, the most there may be"
            )
        if self._sync.behind >= self._limits.waiting_segments:
            raise JournalFullError(f"{self._sync.behind} segments wait for the disk")
        raw = records.encode(record)
        self._append(raw)
        for part in record.parts:
            self._hold((part.epoch, part.n), raw)
            row = self._sessions[part.epoch]
            if part.n > row.last_n:
                row.last_n = part.n

    def grown(self, record: records.Opened) -> None:
        """More is reserved for an open call: its open record as it is now.

        Raises JournalError; then what is reserved is what was before. The caps are those of new
        calls: one that runs is not cut for them.
        """
        if self.fault or self._sync.fault:
            raise JournalError(self.fault or self._sync.fault)
        parts = tuple((part.epoch, part.n) for part in record.parts)
        self._append(records.encode(records.Grown(parts, record.reserved_nanos)))
        raw = records.encode(record)
        for key in parts:
            self._hold(key, raw)

    def settled(self, settlements: Sequence[records.Settled]) -> None:
        """How a call ended. Never raises: what can't be written is kept, and stops admission."""
        raws = [records.encode(settlement) for settlement in settlements]
        written = True
        try:
            self._append(b"".join(raws))
        except JournalError:
            written = False
        for settlement, raw in zip(settlements, raws, strict=True):
            key = (settlement.epoch, settlement.n)
            self._let_go(key)
            if amended := self._unacknowledged.get(key):
                self._paid(*amended)
            self._unacknowledged[key] = (raw, self._number)
            self._owed[self._number] += 1
            self.unacknowledged_bytes += len(raw)
            if not written:
                self._unwritten[key] = raw

    def acknowledged(self, epoch: int, numbers: Iterable[int]) -> None:
        """The control plane has committed these settlements. Never raises.

        If the record can't be written they are sent again after a restart, which does no harm.
        """
        told = []
        for n in numbers:
            owed = self._unacknowledged.pop((epoch, n), None)
            if late := self._unwritten.pop((epoch, n), None):
                self._late += (late, records.encode(records.Acknowledged(epoch, (n,))))
            if owed is None:
                continue
            self._paid(*owed)
            told.append(n)
        for start in range(0, len(told), MAX_ACKNOWLEDGED_NUMBERS):
            part = tuple(told[start : start + MAX_ACKNOWLEDGED_NUMBERS])
            self._append_if_possible(records.Acknowledged(epoch, part))
        self._finish_segments()

    def session_closed(self, epoch: int) -> None:
        """The control plane closed a session. Never raises."""
        if self._sessions.pop(epoch, None) is None:
            return
        for key in [key for key in self._opened if key[0] == epoch]:
            self._let_go(key)
        self.acknowledged(epoch, [n for each, n in self._unacknowledged if each == epoch])
        self._append_if_possible(records.SessionClosed(epoch))

    @property
    def late(self) -> bytes:
        """Records of what was acknowledged before a disk took it."""
        return b"".join(self._late)

    def is_live(self, epoch: int) -> bool:
        """Whether a session is not closed."""
        return epoch in self._sessions

    def is_owed(self, epoch: int, n: int) -> bool:
        """Whether a settlement waits for its acknowledgement."""
        return (epoch, n) in self._unacknowledged

    def retry(self) -> None:
        """After a fault: begin a new segment with everything that is owed. Never raises."""
        self.fault = self.fault or self._sync.fault
        if not self.fault:
            return
        try:
            self._start_segment(everything=True)
        except OSError as error:
            self.fault = _explain(error)
            return
        self._unwritten.clear()
        self._late.clear()
        self._sync.fault = ""
        self.fault = ""

    @property
    def open_calls(self) -> int:
        """How many open records have no settlement yet (in both sessions of a call: two)."""
        return len(self._opened)

    @property
    def open_rows(self) -> Iterable[bytes]:
        """They, as they are written."""
        return self._opened.values()

    def close(self) -> None:
        """End in an orderly way: everything synced, and marked so. Never raises."""
        self._append_if_possible(records.CleanEnd())
        self._sync.stop()
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
            os.close(self._fd)
        for fd in self._locks:
            os.close(fd)

    # -- segments ------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what earlier lives owe; `_start_segment` writes it."""
        for session in self.recovered:
            self._sessions[session.epoch] = records.SessionRow(
                session.epoch,
                session.organization_id,
                session.platform,
                session.last_n,
                session.journal,
                session.proof,
            )
            for n, settlement in session.unacknowledged.items():
                raw = records.encode(records.Settled(session.epoch, n, settlement))
                self._unacknowledged[session.epoch, n] = (raw, 0)
                self.unacknowledged_bytes += len(raw)
            for n, (part, opened) in session.open.items():
                self._hold((session.epoch, n), records.encode(_only(opened, part)))

    def _hold(self, key: tuple[int, int], raw: bytes) -> None:
        self._open_bytes += len(raw) - len(self._opened.get(key, b""))
        self._opened[key] = raw

    def _let_go(self, key: tuple[int, int]) -> None:
        self._open_bytes -= len(self._opened.pop(key, b""))

    def _paid(self, raw: bytes, number: int) -> None:
        self.unacknowledged_bytes -= len(raw)
        self._owed[number] -= 1

    def _start_segment(self, *, everything: bool = False) -> None:
        """Begin a segment: header, open calls, and (after a fault or restart) what is owed.

        Raises OSError; then the old segment stays the current one.
        """
        number = self._number + 1
        everything = everything or self._fd < 0
        header = records.Header(records.FORMAT_VERSION, self._place, tuple(self._sessions.values()))
        parts = [records.encode(header), *dict.fromkeys(self._opened.values())]
        if everything:
            parts += [raw for raw, _number in self._unacknowledged.values()]
            parts += self._late
        data = b"".join(parts)
        path = self.directory / f"{number:08d}{SEGMENT_SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        if everything:
            self._owed = dict.fromkeys(self._owed, 0)
            self._unacknowledged = {
                key: (raw, number) for key, (raw, _number) in self._unacknowledged.items()
            }
        self._owed[number] = len(self._unacknowledged) if everything else 0
        self._paths[number] = path
        old, self._fd, self._number, self._size = self._fd, fd, number, len(data)
        self._broken = False
        self._sync.follow(fd, old)
        self._finish_segments()

    def _append(self, raw: bytes) -> None:
        try:
            if self._broken or self._size >= self._limits.segment_bytes:
                crowded = len(self._paths) >= self._limits.live_segments
                self._start_segment(everything=self._broken or crowded)
            written = os.write(self._fd, raw)
            if written != len(raw):
                self._cut_back()
                raise OSError(f"only {written} of {len(raw)} bytes were written")
        except OSError as error:
            self.fault = _explain(error)
            raise JournalError(self.fault) from error
        self._size += written
        self._sync.ask()

    def _append_if_possible(self, record: records.Record) -> None:
        if not self.fault:
            with contextlib.suppress(JournalError):
                self._append(records.encode(record))

    def _cut_back(self) -> None:
        """Remove half a record; a segment that can't be cut is left for a new one."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = True

    def _finish_segments(self) -> None:
        """Hand segments that owe nothing to the keeper; strictly from the oldest on."""
        for number in sorted(self._paths):
            if number == self._number or self._owed[number]:
                return
            del self._owed[number]
            self._sync.finish(self._paths.pop(number))


def _only(opened: records.Opened, part: records.OpenPart) -> records.Opened:
    """An open record that speaks of one part alone."""
    return records.Opened(
        (part,), *(getattr(opened, name) for name in opened.__struct_fields__[1:])
    )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _explain(error: OSError) -> str:
    return f"the journal can't be written: {error.strerror or error}"


def _lock(data_directory: Path) -> list[tuple[Path, int]]:
    """The first free directory, and every other one that somebody left behind."""
    locked: list[tuple[Path, int]] = []
    for number in range(1, MAX_DIRECTORIES + 1):
        path = data_directory / (DIRECTORY_NAME if number == 1 else f"{DIRECTORY_NAME}-{number}")
        if not path.exists() and locked:
            break
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        locked.append((path, fd))
    if not locked:
        raise JournalLockedError(f"{MAX_DIRECTORIES} journals under {data_directory} are locked")
    return locked


def place_of(boot_id: str, lock: int | Path) -> str:
    """Names this boot of the machine and this very directory; "" where the boot is not known.

    A copy of a journal lies elsewhere (its lock file is another inode): the process that writes the
    first one may live on, so that a copy proves nothing about what was dispatched since.
    """
    return f"{boot_id}/{os.stat(lock).st_ino}" if boot_id else ""


class _Sync:
    """A thread that syncs, closes and prunes, so that the path waits for no disk."""

    def __init__(self, limits: JournalLimits) -> None:
        self.fault = ""
        self._limits = limits
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._asked = False
        self._stopping = threading.Event()
        self._fd = -1
        self._old: list[int] = []
        self._finished: list[Path] = []
        self.behind = 0
        """Segments that owe nothing and are not renamed yet."""
        self._thread: threading.Thread | None = None
        self._directories: list[Path] = []

    def start(self, directories: list[Path]) -> None:
        """Serve the first directory, prune them all."""
        self._directories = directories
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Something was written."""
        if not self._asked:
            self._asked = True
            self._wake.set()

    def follow(self, fd: int, old: int) -> None:
        """The current segment is now `fd`; `old` is to be synced and closed."""
        with self._lock:
            self._fd = fd
            if old >= 0:
                self._old.append(old)
        self.ask()

    def finish(self, path: Path) -> None:
        """A segment owes nothing any more."""
        with self._lock:
            self._finished.append(path)
            self.behind += 1
        self.ask()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            if not self._thread.is_alive():
                self._once()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            self._stopping.wait(self._limits.sync_every_s)
            self._asked = False
            self._once()

    def _once(self) -> None:
        with self._lock:
            fd, old, finished = self._fd, self._old, self._finished
            self._old, self._finished = [], []
        try:
            for each in old:
                os.fdatasync(each)
                os.close(each)
            os.fdatasync(fd)
            if old:
                sync_directory(self._directories[0])
            for path in finished:
                path.rename(path.with_suffix(DONE_SUFFIX))
            if finished:
                self._prune()
                with self._lock:
                    self.behind -= len(finished)
        except OSError as error:
            self.fault = _explain(error)

    def _prune(self) -> None:
        """Delete acknowledged segments that are too old or too many."""
        oldest = time.time() - self._limits.keep_acknowledged_s
        kept = 0
        done = [path for each in self._directories for path in each.glob(f"*{DONE_SUFFIX}")]
        for path in sorted(done, key=lambda path: path.name, reverse=True):
            status = path.stat()
            kept += status.st_size
            if status.st_mtime < oldest or kept > self._limits.keep_bytes:
                path.unlink()
