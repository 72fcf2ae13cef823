"""What a journal still holds, acknowledged or not: to be said again when the other side forgot it.

Reads the segments twice, one at a time: first which sessions there were, then their settlements.
Segments that are pruned meanwhile are passed over.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bursar_sidecar.journal_records import (
    Header,
    Opened,
    Record,
    Scan,
    SessionOpened,
    Settled,
)
from bursar_sidecar.journal_recovery import COMPLETE, TRUNCATED


@dataclass(slots=True)
class KeptSession:
    """A session of which the journal holds something."""

    epoch: int
    organization_id: int
    last_n: int = 0
    journal: str = COMPLETE
    proof: bytes = b""


def segments_of(directory: Path) -> list[Path]:
    """What may hold rows, oldest first: done segments and those that are not."""
    names = [*directory.glob("*.done"), *directory.glob("*.journal")]
    return sorted(names, key=lambda path: path.stem)


def _read(path: Path) -> bytes:
    """A segment, which may be done since it was listed, or pruned: then it is empty."""
    for each in (path, path.with_suffix(".done")):
        with contextlib.suppress(FileNotFoundError):
            return each.read_bytes()
    return b""


class Kept:
    """The rows of some directories."""

    def __init__(self, directories: Iterable[Path], unwritten: bytes = b"") -> None:
        """`unwritten` are records that no disk took yet."""
        self._unwritten = unwritten
        self._segments = [path for each in directories for path in segments_of(each)]
        self.sessions: dict[int, KeptSession] = {}
        for record in self._records():
            self._note(record)

    def settlements(self) -> Iterator[Settled]:
        """Every settlement, oldest first; one may come twice."""
        for record in self._records():
            if isinstance(record, Settled) and record.epoch in self.sessions:
                yield record

    def _records(self) -> Iterator[Record]:
        for path in self._segments:
            data = _read(path)
            for record, _raw in Scan(data):
                yield record
        for record, _raw in Scan(self._unwritten):
            yield record

    def _note(self, record: Record) -> None:
        match record:
            case Header(sessions=rows):
                for row in rows:
                    known = self._session(row.epoch, row.organization_id)
                    known.last_n = max(known.last_n, row.last_n)
                    known.proof = row.proof or known.proof
                    if row.journal == TRUNCATED:
                        known.journal = TRUNCATED
            case SessionOpened(epoch, organization_id, _platform, proof):
                self.sessions.pop(epoch, None)  # the number of another control plane
                self._session(epoch, organization_id).proof = proof
            case Opened(parts=parts):
                for part in parts:
                    if session := self.sessions.get(part.epoch):
                        session.last_n = max(session.last_n, part.n)
            case Settled(epoch, n, _):
                if session := self.sessions.get(epoch):
                    session.last_n = max(session.last_n, n)

    def _session(self, epoch: int, organization_id: int) -> KeptSession:
        return self.sessions.setdefault(epoch, KeptSession(epoch, organization_id))
