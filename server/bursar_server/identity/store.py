"""The only SQL on organizations, teams, projects, users, keys and admin keys."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import asyncpg
import msgspec

from bursar_server.changes import Change
from bursar_server.credentials import Credential
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import invalid, not_found
from bursar_server.identity.records import KeyRecord, OrganizationRecord, SpenderRecord
from bursar_server.names import parse_organization

__all__ = ["KeyRecord", "OrganizationRecord", "SpenderKind", "SpenderRecord"]

q = Queries.load(__package__)

MOST_CHANGES_KEPT = 10_000
"""Changes of an organization that stay on record: far more than a connected sidecar is ever behind;
one that is (or whose row was never written) begins anew and is told everything."""


class SpenderKind(StrEnum):
    """The three nouns inside an organization that keys spend for; one mechanism serves them."""

    TEAM = "team"
    PROJECT = "project"
    USER = "user"

    @property
    def table(self) -> str:
        """Its table, which is also the first part of its names: "teams"."""
        return f"{self.value}s"


# What a kind has besides what all of them have, under the names of SpenderRecord.
_FURTHER = {
    SpenderKind.TEAM: "'' AS team_slug",
    SpenderKind.PROJECT: (
        "coalesce((SELECT t.slug FROM teams AS t"
        " WHERE t.organization_id = s.organization_id AND t.id = s.team_id), '') AS team_slug"
    ),
    SpenderKind.USER: "s.email",
}
# What may be written to each table. Columns come from here, values are always parameters.
_COLUMNS = {
    "organizations": {"display_name", "disabled"},
    "teams": {"display_name", "metadata", "disabled"},
    "projects": {"display_name", "metadata", "disabled", "team_id"},
    "users": {"display_name", "metadata", "disabled", "email"},
    "keys": {
        "display_name",
        "metadata",
        "disabled",
        "team_id",
        "project_id",
        "user_id",
        "secret_hash",
        "secret_prefix",
        "allowed_models",
        "tags",
        "expires_at",
    },
}


def _names(table: str, values: Mapping[str, object]) -> list[str]:
    if not _COLUMNS[table].issuperset(values):
        raise ValueError(f"{table} has no such columns: {sorted(set(values) - _COLUMNS[table])}")
    return list(values)


async def organization_by_slug(connection: Connection, slug: str) -> OrganizationRecord | None:
    """The organization called `slug`, "platform" among them."""
    row = await connection.fetchrow(q.organization_by_slug, slug)
    return None if row is None else msgspec.convert(dict(row), OrganizationRecord)


async def organization_by_id(connection: Connection, id: int) -> OrganizationRecord | None:
    """The organization with this id."""
    row = await connection.fetchrow(q.organization_by_id, id)
    return None if row is None else msgspec.convert(dict(row), OrganizationRecord)


async def resolve_organization(
    connection: Connection, text: str, field: str = "organization"
) -> OrganizationRecord:
    """The organization that a request names; for "" the only one there is besides the platform.

    Raises INVALID_ARGUMENT for a malformed or missing name, NOT_FOUND if there is none such.
    """
    slug = parse_organization(text, field)
    if not slug:
        found = [
            str(row["slug"])
            for row in await connection.fetch(q.only_organizations, PLATFORM_ORGANIZATION_ID)
        ]
        if len(found) != 1:
            several = "there are several" if found else "there is none yet"
            raise invalid(field, "", f'"organizations/NAME" ({several})')
        slug = found[0]
    record = await organization_by_slug(connection, slug)
    if record is None:
        raise not_found("organization", f"organizations/{slug}")
    return record


async def organizations_page(
    connection: Connection, after: str, size: int
) -> list[OrganizationRecord]:
    """At most `size` organizations by name, the first one after `after`."""
    rows = await connection.fetch(q.organizations_page, after, size)
    return msgspec.convert([dict(row) for row in rows], list[OrganizationRecord])


async def insert_organization(
    connection: Connection, slug: str, display_name: str, currency: str
) -> int | None:
    """Make it; None if the name is taken."""
    id = await connection.fetchval(q.insert_organization, slug, display_name, currency)
    return None if id is None else int(id)


async def update_organization(
    connection: Connection, id: int, values: Mapping[str, object]
) -> None:
    """Set some of its columns."""
    assignments = ", ".join(
        f"{column} = ${place}" for place, column in enumerate(_names("organizations", values), 2)
    )
    await connection.execute(
        q.update_organization.format(assignments=assignments), id, *values.values()
    )


async def left_in_organization(connection: Connection, id: int) -> list[str]:
    """What keeps an organization from being deleted: "keys", "entries" ..."""
    return [str(row["kind"]) for row in await connection.fetch(q.left_in_organization, id)]


async def delete_organization(connection: Connection, id: int) -> None:
    """Remove an empty organization, the answers remembered for it, and its recorded changes."""
    await connection.execute(q.delete_requests, id)
    await connection.execute(q.delete_policy_changes, id)
    await connection.execute(q.delete_organization, id)


async def hold_policy(connection: Connection, organization_id: int) -> None:
    """First in a transaction that changes policy: it makes changes of one organization wait for
    each other, so that none is checked against what another is about to change."""
    await connection.execute(q.hold_policy, organization_id)


async def record_change(connection: Connection, change: Change) -> int:
    """Put a change on record, in the transaction that makes it; returns its policy version.

    It alone raises the version, so that each version has one row, which all processes can read.
    """
    return int(
        await connection.fetchval(
            q.record_change,
            change.organization_id,
            change.kind.value,
            change.id,
            list(change.secret_hashes),
            MOST_CHANGES_KEPT,
        )
    )


async def spender_by_slug(
    connection: Connection, kind: SpenderKind, organization_id: int, slug: str
) -> SpenderRecord | None:
    """One team, project or user."""
    query = q.spender_by_slug.format(table=kind.table, further=_FURTHER[kind])
    row = await connection.fetchrow(query, organization_id, slug)
    return None if row is None else msgspec.convert(dict(row), SpenderRecord)


async def spenders_page(
    connection: Connection, kind: SpenderKind, organization_id: int, after: str, size: int
) -> list[SpenderRecord]:
    """At most `size` of them by name, the first one after `after`."""
    query = q.spenders_page.format(table=kind.table, further=_FURTHER[kind])
    rows = await connection.fetch(query, organization_id, after, size)
    return msgspec.convert([dict(row) for row in rows], list[SpenderRecord])


async def hold_spender(
    connection: Connection, kind: SpenderKind | str, organization_id: int, slug: str
) -> int | None:
    """The id of a team, project, user or key ("key") that something new names: until the
    transaction ends it can't be deleted. None if there is none."""
    table = SpenderKind(kind).table if kind != "key" else "keys"
    id = await connection.fetchval(q.hold_spender.format(table=table), organization_id, slug)
    return None if id is None else int(id)


async def insert_spender(
    connection: Connection,
    table: str,
    organization_id: int,
    slug: str,
    values: Mapping[str, object],
) -> int | None:
    """Make a team, project, user or key; None if the name is taken."""
    columns = ["organization_id", "slug", *_names(table, values)]
    query = q.insert_row.format(
        table=table,
        columns=", ".join(columns),
        values=", ".join(f"${place}" for place in range(1, len(columns) + 1)),
    )
    id = await connection.fetchval(query, organization_id, slug, *values.values())
    return None if id is None else int(id)


async def update_spender(
    connection: Connection,
    table: str,
    organization_id: int,
    id: int,
    values: Mapping[str, object],
) -> None:
    """Set some columns of a team, project, user or key."""
    assignments = ", ".join(
        f"{column} = ${place}" for place, column in enumerate(_names(table, values), 3)
    )
    query = q.update_row.format(table=table, assignments=assignments)
    await connection.execute(query, organization_id, id, *values.values())


async def names_of_spender(
    connection: Connection, kind: SpenderKind, organization_id: int, id: int
) -> str:
    """What still names it: "keys", "budgets", "projects" or "entries"; "" if nothing does."""
    query = q.names_of_spender.format(column=f"{kind.value}_id", kind=kind.value)
    return str(await connection.fetchval(query, organization_id, id) or "")


async def delete_spender(connection: Connection, table: str, organization_id: int, id: int) -> None:
    """Remove a team, project, user or key."""
    await connection.execute(q.delete_spender.format(table=table), organization_id, id)


async def _keys(connection: Connection, condition: str, *values: object) -> list[KeyRecord]:
    rows: Sequence[asyncpg.Record] = await connection.fetch(
        q.keys.format(condition=condition), *values
    )
    return msgspec.convert([dict(row) for row in rows], list[KeyRecord])


async def key_by_secret_hash(connection: Connection, secret_hash: bytes) -> KeyRecord | None:
    """The key whose secret has this SHA-256, whatever its state: the caller decides."""
    keys = await _keys(connection, "k.secret_hash = $1", secret_hash)
    return keys[0] if keys else None


async def keys_by_secret_hashes(
    connection: Connection, secret_hashes: Sequence[bytes]
) -> dict[bytes, KeyRecord]:
    """As `key_by_secret_hash`, for many in one query; those that lead nowhere are left out."""
    keys = await _keys(connection, "k.secret_hash = ANY($1::bytea[])", list(secret_hashes))
    return {key.secret_hash: key for key in keys}


async def key_by_slug(connection: Connection, organization_id: int, slug: str) -> KeyRecord | None:
    """The key "keys/`slug`" of an organization."""
    keys = await _keys(connection, "k.organization_id = $1 AND k.slug = $2", organization_id, slug)
    return keys[0] if keys else None


async def keys_page(
    connection: Connection,
    organization_id: int,
    after: str,
    size: int,
    *,
    team_id: int | None = None,
    project_id: int | None = None,
    user_id: int | None = None,
) -> list[KeyRecord]:
    """At most `size` keys by name, the first one after `after`; only those of the ids given."""
    return await _keys(
        connection,
        "k.organization_id = $1 AND k.slug > $2"
        " AND ($4::bigint IS NULL OR k.team_id = $4)"
        " AND ($5::bigint IS NULL OR k.project_id = $5)"
        " AND ($6::bigint IS NULL OR k.user_id = $6)"
        " ORDER BY k.slug LIMIT $3",
        organization_id,
        after,
        size,
        team_id,
        project_id,
        user_id,
    )


async def names_of_key(connection: Connection, organization_id: int, id: int) -> str:
    """What still names a key: "entries" or "budgets"; "" if nothing does."""
    if await connection.fetchval(q.key_has_entries, organization_id, id):
        return "entries"
    return "budgets" if await connection.fetchval(q.key_has_budgets, organization_id, id) else ""


async def set_key_secret(
    connection: Connection, organization_id: int, id: int, credential: Credential
) -> None:
    """Replace a key's secret."""
    await connection.execute(
        q.set_key_secret, organization_id, id, credential.hash, credential.prefix
    )


async def revoke_key(connection: Connection, organization_id: int, id: int) -> None:
    """Revoke a key, if it is not."""
    await connection.execute(q.revoke_key, organization_id, id)


async def admin_key_hashes(connection: Connection) -> list[bytes]:
    """The hashes of the admin keys that are accepted; none before the first start."""
    return [bytes(row["secret_hash"]) for row in await connection.fetch(q.admin_key_hashes)]


async def insert_first_admin_key(connection: Connection, credential: Credential) -> bool:
    """Keep the hash of the first admin key; False if another process was faster."""
    await connection.execute(q.lock_admin_keys)
    if await admin_key_hashes(connection):
        return False
    await connection.execute(q.insert_admin_key, credential.hash, credential.prefix)
    return True
