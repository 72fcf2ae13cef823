"""What earlier lives left in the journal: read, merged and judged.

Reading is idempotent: a record seen twice, or in two directories after an interrupted move, counts
once, because everything is keyed by (session epoch, n).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import structs

from bursar_sidecar.journal_records import (
    Acknowledged,
    CleanEnd,
    Grown,
    Header,
    Opened,
    OpenPart,
    Scan,
    SessionClosed,
    SessionOpened,
    Settled,
)

LIVE: Final = "live"
COMPLETE: Final = "complete"
TRUNCATED: Final = "truncated"


@dataclass(slots=True)
class RecoveredSession:
    """A session of an earlier life that is not closed."""

    epoch: int
    organization_id: int
    platform: bool
    last_n: int = 0
    journal: str = COMPLETE
    """COMPLETE: every dispatched call is in it. TRUNCATED: the tail may be missing."""
    unacknowledged: dict[int, bytes] = field(default_factory=dict)
    """n -> the Settlement message."""
    open: dict[int, tuple[OpenPart, Opened]] = field(default_factory=dict)
    """Calls that were dispatched and whose end is unknown."""
    handed_out: dict[int, tuple[Opened, bytes]] = field(default_factory=dict)
    """Calls that others carry and tell of, as far as records of them are left, each with its last
    Settlement message (b"" for none)."""
    acknowledged: set[int] = field(default_factory=set)
    proof: bytes = b""
    """What the control plane gave to prove it."""


class Recovery:
    """Gathers the records of earlier lives, segment by segment."""

    def __init__(self) -> None:
        self._sessions: dict[int, RecoveredSession] = {}
        self._closed: set[int] = set()

    def sessions(self) -> tuple[RecoveredSession, ...]:
        """Every session that still owes something or was never closed, oldest first."""
        found = []
        for epoch, session in sorted(self._sessions.items()):
            if epoch in self._closed:
                continue
            for n in session.acknowledged:
                session.unacknowledged.pop(n, None)
                session.open.pop(n, None)
            for n in session.unacknowledged:
                session.open.pop(n, None)
            found.append(session)
        return tuple(found)

    def read(self, segments: Iterable[Path], place: str) -> None:
        """Read one directory's segments, oldest first. Raises OSError.

        `place` is the directory on this boot of the machine, "" if that is not known: a journal
        that was written elsewhere or before is complete only if it was ended in an orderly way.
        """
        unproven: set[int] = set()
        for path in segments:
            self.read_segment(path.read_bytes(), place, unproven)
        self.truncate(unproven)

    def read_segment(self, data: bytes, place: str, unproven: set[int]) -> None:
        """Read one segment. `unproven` goes from segment to segment of a directory: the sessions
        whose tail may be missing so far."""
        live: set[int] = set()
        proven = clean = False
        scan = Scan(data)
        for record, _raw in scan:
            if isinstance(record, Header):
                live = self._header(record, unproven)
                proven = bool(place) and record.place == place
            clean = isinstance(record, CleanEnd)
            self._record(record, live)
        if clean:
            unproven -= live
        elif not proven:
            unproven |= live
        if scan.damage == "corrupt":
            unproven |= live

    def truncate(self, unproven: Iterable[int]) -> None:
        """After a directory's last segment: what is not proven by now never will be."""
        for epoch in unproven:
            self._sessions[epoch].journal = TRUNCATED

    def _header(self, header: Header, unproven: set[int]) -> set[int]:
        """Returns the sessions that were live when the segment began."""
        live = set()
        for row in header.sessions:
            session = self._session(row.epoch, row.organization_id, row.platform)
            session.last_n = max(session.last_n, row.last_n)
            session.proof = row.proof or session.proof
            if row.journal == LIVE:
                live.add(row.epoch)
            else:
                # A later life has judged it already.
                session.journal = row.journal
                unproven.discard(row.epoch)
        return live

    def _session(self, epoch: int, organization_id: int, platform: bool) -> RecoveredSession:
        if epoch not in self._sessions:
            self._sessions[epoch] = RecoveredSession(epoch, organization_id, platform)
        return self._sessions[epoch]

    def _record(self, record: object, live: set[int]) -> None:
        match record:
            case SessionOpened(epoch, organization_id, platform, proof):
                # Opened after it was closed: the number of another control plane, used again.
                self._closed.discard(epoch)
                self._sessions.pop(epoch, None)
                self._session(epoch, organization_id, platform).proof = proof
                live.add(epoch)
            case Opened(parts=parts):
                for part in parts:
                    if session := self._sessions.get(part.epoch):
                        _reserve(session, part, record, record.reserved_nanos)
                        session.last_n = max(session.last_n, part.n)
            case Grown(parts=numbers, reserved_nanos=reserved_nanos):
                for epoch, n in numbers:
                    session = self._sessions.get(epoch)
                    if session and n in session.open:
                        _reserve(session, *session.open[n], reserved_nanos)
            case Settled(epoch, n, settlement):
                if session := self._sessions.get(epoch):
                    # What follows its acknowledgement amends it, and is owed itself.
                    session.acknowledged.discard(n)
                    session.unacknowledged[n] = settlement
                    if handed_out := session.handed_out.get(n):
                        session.handed_out[n] = (handed_out[0], settlement)
                    session.last_n = max(session.last_n, n)
            case Acknowledged(epoch, numbers):
                if session := self._sessions.get(epoch):
                    session.acknowledged.update(numbers)
            case SessionClosed(epoch):
                self._closed.add(epoch)


def _reserve(session: RecoveredSession, part: OpenPart, opened: Opened, nanos: int) -> None:
    """What is reserved for a call only grows, whatever order records are read in."""
    known = session.open.get(part.n)
    most = max(nanos, opened.reserved_nanos, known[1].reserved_nanos if known else 0)
    opened = structs.replace(opened, reserved_nanos=most)
    session.open[part.n] = (part, opened)
    if opened.request_id:
        before = session.handed_out.get(part.n, (opened, b""))
        session.handed_out[part.n] = (opened, before[1])
