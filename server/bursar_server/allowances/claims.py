"""What sidecars claim to have been granted, and can prove. Pure."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from bursar_server.allowances.frames import Frame, Report
from bursar_server.allowances.hub import LiveSession
from bursar_server.allowances.proofs import GrantProof
from bursar_server.allowances.rules import Books


class Claim(NamedTuple):
    """A proven grant: what the session holds at least of the window, in nanos."""

    session_epoch: int
    window_id: int
    granted: int


class Healed(NamedTuple):
    """A forgotten grant that was restored, in nanos."""

    session_epoch: int
    window_id: int
    granted: int


def restore(books: Books, claim: Claim) -> int:
    """Believe a grant that was forgotten: it is out, whether it fits or not, and nothing more is
    lent from the window. Returns by how much that raised what was granted."""
    window, totals = books.windows[claim.window_id], books.of(claim.session_epoch, claim.window_id)
    forgotten = claim.granted - totals.granted
    if not window.hard or forgotten <= 0:
        return 0
    books.move(window, totals, granted=forgotten)
    committed = window.settled - window.overrun + window.outstanding + window.in_doubt
    window.ceiling = max(window.ceiling, committed)
    window.frozen = True
    return forgotten


def claims_of(spoken: Iterable[tuple[LiveSession, Frame]]) -> dict[Claim, GrantProof]:
    """What the reports of these frames prove. A proof of something else proves nothing."""
    claims: dict[Claim, GrantProof] = {}
    for session, frame in spoken:
        for report in frame.reports:
            if report.proof and session.seal is not None:
                proof = session.seal.read(report.proof)
                if isinstance(proof, GrantProof) and session.is_of(proof, report.window_id):
                    claims[Claim(session.session_epoch, report.window_id, proof.granted)] = proof
    return claims


def unproven(
    spoken: Iterable[tuple[LiveSession, Frame]], books: Books, claims: Collection[Claim]
) -> Iterator[tuple[LiveSession, Report]]:
    """Reports of more than was granted, by these books and what is proven besides."""
    proven: dict[tuple[int, int], int] = {}
    for epoch, window_id, granted in claims:
        proven[epoch, window_id] = max(granted, proven.get((epoch, window_id), 0))
    for session, frame in spoken:
        for report in frame.reports:
            place = (session.session_epoch, report.window_id)
            if report.granted_seen > max(books.of(*place).granted, proven.get(place, 0)):
                yield session, report
