"""The only SQL on sidecars; it reads sessions and allowances to show them."""

from collections.abc import Iterable, Sequence

import msgspec

from bursar_server.credentials import Credential
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.sidecars.records import HeldRecord, SessionRecord, SidecarRecord

__all__ = ["HeldRecord", "SessionRecord", "SidecarRecord"]

q = Queries.load(__package__)


async def _sidecars(connection: Connection, condition: str, *values: object) -> list[SidecarRecord]:
    rows = await connection.fetch(q.sidecars.format(condition=condition), *values)
    return msgspec.convert([dict(row) for row in rows], list[SidecarRecord])


async def sidecar_by_secret_hash(
    connection: Connection, secret_hash: bytes
) -> SidecarRecord | None:
    """The sidecar whose credential has this SHA-256, disabled or not: the caller decides."""
    found = await _sidecars(connection, "s.secret_hash = $1", secret_hash)
    return found[0] if found else None


async def sidecar_by_id(
    connection: Connection, organization_id: int, id: int
) -> SidecarRecord | None:
    """The sidecar with this id, disabled or not."""
    found = await _sidecars(connection, "s.organization_id = $1 AND s.id = $2", organization_id, id)
    return found[0] if found else None


async def sidecar_by_slug(
    connection: Connection, organization_id: int, slug: str
) -> SidecarRecord | None:
    """The sidecar "sidecars/`slug`" of an organization."""
    found = await _sidecars(
        connection, "s.organization_id = $1 AND s.slug = $2", organization_id, slug
    )
    return found[0] if found else None


async def sidecars_page(
    connection: Connection, organization_id: int, after: str, size: int
) -> list[SidecarRecord]:
    """At most `size` sidecars by name, the first one after `after`."""
    condition = "s.organization_id = $1 AND s.slug > $2 ORDER BY s.slug LIMIT $3"
    return await _sidecars(connection, condition, organization_id, after, size)


async def insert_sidecar(
    connection: Connection,
    organization_id: int,
    slug: str,
    credential: Credential,
    *,
    disabled: bool,
) -> int | None:
    """Enrol a sidecar; None if the name is taken."""
    id = await connection.fetchval(
        q.insert_sidecar, organization_id, slug, disabled, credential.hash, credential.prefix
    )
    return None if id is None else int(id)


async def set_sidecar_secret(
    connection: Connection, organization_id: int, id: int, credential: Credential
) -> None:
    """Replace a sidecar's credential."""
    await connection.execute(
        q.set_sidecar_secret, organization_id, id, credential.hash, credential.prefix
    )


async def set_sidecar_disabled(
    connection: Connection, organization_id: int, id: int, disabled: bool
) -> None:
    """Refuse a sidecar, or accept it again."""
    await connection.execute(q.set_sidecar_disabled, organization_id, id, disabled)


async def set_sidecar_draining(
    connection: Connection, organization_id: int, id: int, draining: bool
) -> None:
    """Empty a sidecar, or let it admit calls again."""
    await connection.execute(q.set_sidecar_draining, organization_id, id, draining)


async def live_sessions(
    connection: Connection, sidecar_organization_id: int, sidecar_ids: Sequence[int]
) -> list[SessionRecord]:
    """The sessions of these sidecars that are not closed, by sidecar and epoch."""
    rows = await connection.fetch(q.live_sessions, sidecar_organization_id, list(sidecar_ids))
    return msgspec.convert([dict(row) for row in rows], list[SessionRecord])


async def held(connection: Connection, sessions: Iterable[SessionRecord]) -> list[HeldRecord]:
    """What these sessions were lent, by session and budget."""
    pairs = [(session.organization_id, session.session_epoch) for session in sessions]
    rows = await connection.fetch(
        q.held, [organization for organization, _ in pairs], [epoch for _, epoch in pairs]
    )
    return msgspec.convert([dict(row) for row in rows], list[HeldRecord])
