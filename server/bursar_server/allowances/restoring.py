"""The SQL of lost tails: counted, found, and restored."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from bursar_server.allowances.proofs import GrantProof, SessionProof
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

QUERIES = Queries.load(__package__, "restoring.sql")


async def count_commit(connection: Connection, shard_id: int) -> int:
    """Count this transaction; returns how many the shard had with it."""
    return int(await connection.fetchval(QUERIES.count_commit, shard_id))


async def proof_key(connection: Connection, shard_id: int) -> bytes:
    """The key that seals what sidecars are told."""
    return bytes(await connection.fetchval(QUERIES.proof_key, shard_id))


async def lost_tails(connection: Connection, shard_id: int, since: datetime) -> int:
    """How often a lost tail was found, if the last time is not longer ago; else 0."""
    return int(await connection.fetchval(QUERIES.lost_tails, shard_id, since) or 0)


async def note_lost_tail(
    connection: Connection, shard_id: int, now: datetime, unless_since: datetime
) -> bool:
    """Count a lost tail, unless one was found since then. Returns whether it was counted."""
    row = await connection.fetchval(QUERIES.note_lost_tail, shard_id, now, unless_since)
    return row is not None


async def skip_numbers(connection: Connection, least: int, spread: int) -> None:
    """Leave numbers out that a forgotten tail may have used: at least so many, and by chance up to
    `spread` more. Not undone by a rollback."""
    await connection.execute(QUERIES.skip_numbers, least, spread)


async def currency_of(connection: Connection, organization_id: int) -> str:
    """The currency an organization is kept in."""
    return str(await connection.fetchval(QUERIES.currency_of, organization_id))


async def restore_session(
    connection: Connection, proof: SessionProof, state: str, now: datetime, served_ms: int
) -> bool:
    """Take a session up again that the database forgot. Returns whether it was not there, nor
    another one with its number."""
    row = await connection.fetchval(
        QUERIES.restore_session,
        proof.organization_id,
        proof.session_epoch,
        proof.sidecar_organization_id,
        proof.sidecar_id,
        proof.boot_id,
        state,
        now,
        served_ms,
    )
    if row is not None:
        await connection.execute(QUERIES.skip_to_epoch, proof.session_epoch)
    return row is not None


async def boot_of_session(
    connection: Connection, organization_id: int, session_epoch: int
) -> str | None:
    """The boot id of a session, if it is there."""
    boot_id = await connection.fetchval(QUERIES.boot_of_session, organization_id, session_epoch)
    return None if boot_id is None else str(boot_id)


async def restore_windows(
    connection: Connection, proofs: Iterable[GrantProof], now: datetime
) -> None:
    """Begin windows again that the database forgot; not where its budget has another one now."""
    for proof in proofs:
        await connection.execute(
            QUERIES.restore_window,
            proof.organization_id,
            proof.window_id,
            proof.budget_id,
            proof.start_at,
            proof.end_at,
            now,
        )


async def freeze_windows(connection: Connection, window_ids: Sequence[int], now: datetime) -> None:
    """Lend nothing from these windows until their budgets are thawed."""
    await connection.execute(QUERIES.freeze_windows, list(window_ids), now)
