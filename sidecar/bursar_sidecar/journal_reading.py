"""Reads a journal for people: its records one by one, and what they prove of each session.

Takes no lock and changes nothing, so it may read the journal of a running sidecar, a copy, or one
that is damaged. It judges as a sidecar that started here and now would (`journal_recovery`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from bursar.v1 import charges_pb2
from bursar_sidecar.journal import DIRECTORY_NAME, LOCK_NAME, place_of
from bursar_sidecar.journal_files import DONE_SUFFIX, SEGMENT_SUFFIX
from bursar_sidecar.journal_records import (
    Acknowledged,
    CleanEnd,
    Grown,
    Header,
    Opened,
    Record,
    Scan,
    SessionClosed,
    SessionOpened,
    Settled,
)
from bursar_sidecar.journal_recovery import Recovery

CLOSED: Final = "closed"
OK: Final = "ok"
# How `Scan` calls damage -> what it means for the sum of the record.
_CHECKSUMS: Final = {"torn": "cut short", "corrupt": "wrong"}
_KIND_PREFIX: Final = "SETTLEMENT_KIND_"


class JournalReadError(Exception):
    """There is no journal to read; the message says where and why."""


class JournalRow(msgspec.Struct, frozen=True, rename="camel"):
    """One record, or one session's part of it. Amounts in nanos of the session's currency."""

    segment: str
    """The file, below the directory that was asked for."""
    offset: int
    """Where the record begins in it, in bytes."""
    kind: str
    """header, session opened, opened, grown, settled, acknowledged, session closed, clean end,
    damaged."""
    checksum: str
    """ok, "cut short" (an interrupted write) or "wrong"; of the last two nothing else is told."""
    session_epoch: int = 0
    n: int = 0
    """The reservation; of a header's session the highest one, of an acknowledgement the first."""
    numbers: int = 0
    """How many reservations an acknowledgement speaks of."""
    reserved_nanos: int | None = None
    cost_nanos: int | None = None
    window_ids: tuple[int, ...] = ()
    time: str = ""
    """RFC 3339, by the sidecar's wall clock: of admission (opened) or of the end (settled)."""
    outcome: str = ""
    """How a settled call ended; what a header says of a session's journal."""
    key_id: int = 0
    model: str = ""


class SessionSummary(msgspec.Struct, frozen=True, rename="camel"):
    """What the journal proves of one session."""

    session_epoch: int
    organization_id: int
    platform: bool
    state: str
    """closed: nothing is owed. complete: every dispatched call is here. truncated: the tail may be
    missing."""
    last_n: int
    opened: int
    """Calls with an open record here, whatever became of them."""
    settled: int
    acknowledged: int
    owed: int
    """Settlements that are to be sent (again)."""
    in_flight: int
    """Opened, with no end: posted at what was reserved if the process is gone."""
    in_flight_nanos: int
    """What is reserved for them."""
    torn_at: str
    """"00000001.journal:4096": where the first damage in a segment of this session begins."""


@dataclass(slots=True)
class _Tally:
    organization_id: int = 0
    platform: bool = False
    last_n: int = 0
    closed: bool = False
    opened: dict[int, int] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    torn_at: str = ""


class Reading:
    """One pass over a journal: iterate `rows()` to its end, then ask for `sessions()`."""

    def __init__(self, path: Path, *, boot_id: str, done: bool = False) -> None:
        """`path` is a segment, a journal directory, or a sidecar's data directory; `done` reads
        the segments too that owe nothing. Raises JournalReadError."""
        self._directories = _directories(path, done)
        self._root = path if path.is_dir() else path.parent
        self._boot_id = boot_id
        self._recovery = Recovery()
        self._tallies: dict[int, _Tally] = {}

    def rows(self) -> Iterator[JournalRow]:
        """Every record, oldest first. Raises JournalReadError."""
        for segments in self._directories:
            unproven: set[int] = set()
            place = _place(self._boot_id, segments[0].parent)
            for path in segments:
                data = _content(path)
                if data is not None:
                    yield from self._segment(str(path.relative_to(self._root)), data)
                    self._recovery.read_segment(data, place, unproven)
            self._recovery.truncate(unproven)

    def sessions(self) -> list[SessionSummary]:
        """What the records prove, by session; complete once `rows` is exhausted."""
        judged = {session.epoch: session.journal for session in self._recovery.sessions()}
        found = []
        for epoch, tally in sorted(self._tallies.items()):
            ended = tally.settled | tally.acknowledged
            in_flight = {n: nanos for n, nanos in tally.opened.items() if n not in ended}
            if tally.closed:
                in_flight = {}
            found.append(
                SessionSummary(
                    session_epoch=epoch,
                    organization_id=tally.organization_id,
                    platform=tally.platform,
                    state=judged.get(epoch, CLOSED),
                    last_n=tally.last_n,
                    opened=len(tally.opened),
                    settled=len(tally.settled),
                    acknowledged=len(tally.acknowledged),
                    owed=0 if tally.closed else len(tally.settled - tally.acknowledged),
                    in_flight=len(in_flight),
                    in_flight_nanos=sum(in_flight.values()),
                    torn_at=tally.torn_at,
                )
            )
        return found

    def _segment(self, name: str, data: bytes) -> Iterator[JournalRow]:
        scan = Scan(data)
        offset = 0
        live: set[int] = set()
        for record, raw in scan:
            self._count(record, live)
            for row in _rows(record):
                yield msgspec.structs.replace(row, segment=name, offset=offset)
            offset += len(raw)
        if scan.damage:
            for epoch in live:
                tally = self._tallies[epoch]
                tally.torn_at = tally.torn_at or f"{name}:{offset}"
            yield JournalRow(name, offset, "damaged", _CHECKSUMS[scan.damage])

    def _count(self, record: Record, live: set[int]) -> None:
        match record:
            case Header(sessions=sessions):
                for row in sessions:
                    tally = self._tallies.setdefault(row.epoch, _Tally())
                    tally.organization_id, tally.platform = row.organization_id, row.platform
                    tally.last_n = max(tally.last_n, row.last_n)
                    live.add(row.epoch)
            case SessionOpened(epoch, organization_id, platform):
                self._tallies[epoch] = _Tally(organization_id, platform)
                live.add(epoch)
            case Opened(parts=parts):
                for part in parts:
                    tally = self._tallies.setdefault(part.epoch, _Tally())
                    before = tally.opened.get(part.n, 0)
                    tally.opened[part.n] = max(before, record.reserved_nanos)
                    tally.last_n = max(tally.last_n, part.n)
            case Grown(parts=numbers, reserved_nanos=reserved_nanos):
                for epoch, n in numbers:
                    tally = self._tallies.setdefault(epoch, _Tally())
                    tally.opened[n] = max(tally.opened.get(n, 0), reserved_nanos)
                    tally.last_n = max(tally.last_n, n)
            case Settled(epoch, n, _):
                tally = self._tallies.setdefault(epoch, _Tally())
                tally.settled.add(n)
                tally.acknowledged.discard(n)  # it amends what was
                tally.last_n = max(tally.last_n, n)
            case Acknowledged(epoch, numbers):
                self._tallies.setdefault(epoch, _Tally()).acknowledged.update(numbers)
            case SessionClosed(epoch):
                self._tallies.setdefault(epoch, _Tally()).closed = True
                live.discard(epoch)


def _rows(record: Record) -> Iterable[JournalRow]:
    """A record as it is told; where it stands is filled in by the caller."""

    def row(kind: str, **facts: object) -> JournalRow:
        return msgspec.structs.replace(JournalRow("", 0, kind, OK), **facts)

    match record:
        case Header(sessions=()):
            return [row("header")]
        case Header(sessions=sessions):
            return [
                row("header", session_epoch=each.epoch, n=each.last_n, outcome=each.journal)
                for each in sessions
            ]
        case SessionOpened(epoch=epoch):
            return [row("session opened", session_epoch=epoch)]
        case Opened(parts=parts):
            return [
                row(
                    "opened",
                    session_epoch=part.epoch,
                    n=part.n,
                    window_ids=part.window_ids,
                    reserved_nanos=record.reserved_nanos,
                    time=_time(record.admitted_at),
                    key_id=record.key_id,
                    model=record.model,
                )
                for part in parts
            ]
        case Grown(parts=numbers, reserved_nanos=reserved_nanos):
            return [
                row("grown", session_epoch=epoch, n=n, reserved_nanos=reserved_nanos)
                for epoch, n in numbers
            ]
        case Settled(epoch, n, settlement):
            return [row("settled", session_epoch=epoch, n=n, **_settlement(settlement))]
        case Acknowledged(epoch, numbers):
            first = min(numbers, default=0)
            return [row("acknowledged", session_epoch=epoch, n=first, numbers=len(numbers))]
        case SessionClosed(epoch=epoch):
            return [row("session closed", session_epoch=epoch)]
        case CleanEnd():
            return [row("clean end")]


def _settlement(raw: bytes) -> dict[str, object]:
    try:
        told = charges_pb2.Settlement.FromString(raw)
    except DecodeError:
        return {"outcome": "unreadable"}
    name = charges_pb2.SettlementKind.Name(told.kind)
    return {
        "outcome": name.removeprefix(_KIND_PREFIX).lower(),
        "window_ids": tuple(told.budget_window_ids),
        "reserved_nanos": told.reserved_nanos,
        "cost_nanos": told.cost_nanos,
        "time": _time(told.finish_time.ToNanoseconds()),
        "key_id": told.key_id,
        "model": told.model,
    }


def _time(wall_ns: int) -> str:
    stamp = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{wall_ns % 1_000_000_000 // 1_000_000:03d}Z"


def _place(boot_id: str, directory: Path) -> str:
    lock = directory / LOCK_NAME
    return place_of(boot_id, lock) if lock.exists() else ""


def _directories(path: Path, done: bool) -> list[list[Path]]:
    """The segments to read, oldest first, by directory."""
    if path.is_file():
        return [[path]]
    if not path.is_dir():
        raise JournalReadError(f"{path} does not exist")
    try:
        own = _segments(path, done)
        if own:
            return [own]
        # The data directory: the journal, and those that were begun beside a locked one.
        below = sorted(each for each in path.glob(f"{DIRECTORY_NAME}*") if each.is_dir())
        found = [segments for each in below if (segments := _segments(each, done))]
    except OSError as error:
        raise JournalReadError(f"{path} can't be read: {error.strerror}") from error
    if not found:
        raise JournalReadError(f"{path} holds no journal (no *{SEGMENT_SUFFIX})")
    return found


def _segments(directory: Path, done: bool) -> list[Path]:
    # By iterdir, since glob is silent about what may not be read.
    suffixes = (SEGMENT_SUFFIX, DONE_SUFFIX) if done else (SEGMENT_SUFFIX,)
    return sorted(each for each in directory.iterdir() if each.suffix in suffixes)


def _content(path: Path) -> bytes | None:
    """The bytes of a segment as it is now; None if a running sidecar has deleted it since."""
    for each in (path, path.with_suffix(DONE_SUFFIX)):
        try:
            return each.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise JournalReadError(f"{each} can't be read: {error.strerror}") from error
    return None
