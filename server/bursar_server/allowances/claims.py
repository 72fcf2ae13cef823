"""What sidecars claim to have been granted, and can prove. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from bursar_server.allowances.frames import Frame
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
