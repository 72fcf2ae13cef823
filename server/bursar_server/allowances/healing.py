"""A committed tail that the database forgot: found, and restored from what sidecars prove.

A fail-over to a standby that lagged, or a restore, takes the books back to an older state. What
was lent since is out all the same. A session is taken up again by its own proof, a grant by its
own; the charges are sent again from the journals. A window of which grants were forgotten is
frozen, because others may have been granted from it that nobody has claimed yet: people thaw it.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from bursar.v1 import allowances_pb2
from bursar_server.allowances import restoring, store
from bursar_server.allowances.claims import Claim, Healed, unproven
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.hub import LiveSession
from bursar_server.allowances.proofs import Seal, SessionProof
from bursar_server.allowances.records import EventRow, WindowRow
from bursar_server.allowances.rules import Books
from bursar_server.database.pool import Connection
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import invalid
from bursar_server.sidecars.records import SidecarRecord

log = structlog.get_logger(__name__)

NUMBERS_SKIPPED: Final = 1_000
"""Of sessions and rows, whenever somebody takes the shard: more than a forgotten tail of seconds
can have used, so that none of them means two things."""
SPREAD: Final = 100_000
"""And so many more by chance: two that took the shard from the same state, one of them forgotten,
go on with different numbers."""
ONE_TAIL: Final = timedelta(minutes=1)
"""Proofs that come within this are of one lost tail: all sidecars come back within seconds."""
ASKED_AGAIN: Final = timedelta(hours=24)
"""So long sidecars keep what was acknowledged, and are asked for it."""


class Rewound(Exception):
    """The database counts fewer commits than this process made: it must be read anew."""


def event_of(healed: Healed, window: WindowRow, currency: str) -> EventRow:
    """What people should know of a grant that was restored."""
    return EventRow(
        organization_id=window.organization_id,
        kind="ledger_tail_lost",
        budget_id=window.budget_id,
        budget_window_id=window.id,
        summary=(
            f"a grant to session {healed.session_epoch} was forgotten: it is restored, and the"
            " budget lends nothing until it is thawed"
        ),
        amount_nanos=healed.granted,
        currency=currency,
    )


def warn_of_unproven(
    spoken: Iterable[tuple[LiveSession, Frame]], books: Books, claims: Collection[Claim]
) -> None:
    """A session that says more was granted to it than the books and its proofs say is believed
    nothing; that is told once. `books` are as they were before the frames."""
    for session, report in unproven(spoken, books, claims):
        if not session.overclaimed:
            session.overclaimed = True
            log.warning(
                "grant_unproven",
                sidecar=session.stream.name,
                session_epoch=session.session_epoch,
                budget_window_id=report.window_id,
                granted_nanos=books.of(session.session_epoch, report.window_id).granted,
                said_nanos=report.granted_seen,
            )


async def record(
    connection: Connection,
    shard_id: int,
    healed: Sequence[Healed],
    events: list[EventRow],
    now: datetime,
) -> bool:
    """Freeze the windows and write down that a tail was lost. True if that is news."""
    if not healed:
        return False
    await restoring.freeze_windows(connection, sorted({one.window_id for one in healed}), now)
    return await note(connection, shard_id, events, now)


async def note(
    connection: Connection, shard_id: int, events: list[EventRow], now: datetime
) -> bool:
    """Write down that a tail was lost, unless the same one was found already."""
    if not await restoring.note_lost_tail(connection, shard_id, now, now - ONE_TAIL):
        return False
    await restoring.skip_numbers(connection, NUMBERS_SKIPPED, SPREAD)
    events.append(
        EventRow(
            organization_id=PLATFORM_ORGANIZATION_ID,
            kind="ledger_tail_lost",
            budget_id=None,
            budget_window_id=None,
            summary="the database forgot what it had committed: sidecars send it again",
            amount_nanos=0,
            currency=await restoring.currency_of(connection, PLATFORM_ORGANIZATION_ID),
        )
    )
    return True


class Commits:
    """Counts the transactions of one owner of a shard, here and in the database."""

    def __init__(self, shard_id: int) -> None:
        self._shard_id = shard_id
        self._counted = 0
        self._committed = 0

    async def count(self, connection: Connection) -> None:
        """Count this transaction. Raises Rewound if those before it are forgotten."""
        self._counted = await restoring.count_commit(connection, self._shard_id)
        if self._counted <= self._committed:
            raise Rewound(f"{self._committed} were committed, {self._counted - 1} are known")

    def committed(self) -> None:
        """What was counted last is committed."""
        self._committed = self._counted


async def take_up(
    connection: Connection,
    shard_id: int,
    seal: Seal,
    sidecar: SidecarRecord,
    hello: allowances_pb2.Hello,
    now: datetime,
    served_ms: int,
) -> bool:
    """Take up the sessions that a Hello proves and the database forgot. True if that is news.

    Raises BursarError if an earlier session's number was given to another one since: its charges
    would be posted to that one.
    """
    restored = False
    for sealed in hello.session_proofs:
        proof = _own(seal, sealed, sidecar)
        if proof is not None and proof.boot_id == hello.boot_id:
            restored |= await restoring.restore_session(connection, proof, "open", now, served_ms)
    for number, prior in enumerate(hello.prior_sessions):
        proof = _own(seal, prior.proof, sidecar)
        if proof is None or proof.session_epoch != prior.session_epoch:
            continue
        if await restoring.restore_session(connection, proof, "fenced", now, served_ms):
            restored = True
        elif proof.boot_id != await restoring.boot_of_session(
            connection, proof.organization_id, proof.session_epoch
        ):
            raise invalid(
                f"hello.prior_sessions[{number}]", prior.session_epoch, "a number of its own"
            )
    if not restored:
        return False
    events: list[EventRow] = []
    is_news = await note(connection, shard_id, events, now)
    await store.save_events(connection, events, now)
    return is_news


def _own(seal: Seal, sealed: bytes, sidecar: SidecarRecord) -> SessionProof | None:
    proof = seal.read(sealed)
    if not isinstance(proof, SessionProof):
        return None
    mine = (proof.sidecar_organization_id, proof.sidecar_id)
    return proof if mine == (sidecar.organization_id, sidecar.id) else None
