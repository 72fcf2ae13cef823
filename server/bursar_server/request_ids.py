"""Request ids: a repeated Create gets the answer of the first one.

It owns the table `requests`. Both functions run in the transaction that makes the thing, so that
the thing and the memory of it are there together or not at all.
"""

import hashlib
import uuid

from google.protobuf.message import Message

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.errors import BursarError, Status, invalid

q = Queries.load("bursar_server.database", "request_ids.sql")


def parse_request_id(text: str, field: str = "request_id") -> uuid.UUID | None:
    """The id, None where there is none."""
    if not text:
        return None
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    # UUID() also takes braces, "urn:" and missing hyphens: one form is enough.
    if parsed is None or str(parsed) != text.lower():
        raise invalid(field, text, "a UUID such as 3d0ca315-aff9-4fc2-be61-3b76b9a2d798, or empty")
    return parsed


def content_hash(request: Message) -> bytes:
    """SHA-256 of a request without its id, the same on every process that knows the same fields."""
    plain = type(request)()
    plain.CopyFrom(request)
    plain.ClearField("request_id")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).digest()


async def remembered(
    connection: Connection, organization_id: int, request_id: str, method: str, content: bytes
) -> str | None:
    """The name of what this request made before; None if it is new, or has no id.

    Until the transaction ends, others with the same id wait: the second of two simultaneous
    repeats sees what the first one made. Raises ALREADY_EXISTS (REQUEST_ID_REUSED) when the id
    came with another method or content.
    """
    parsed = parse_request_id(request_id)
    if parsed is None:
        return None
    await connection.execute(q.lock_request, f"{organization_id}/{parsed}")
    row = await connection.fetchrow(q.request, organization_id, parsed)
    if row is None:
        return None
    if row["method"] != method or row["content_hash"] != content:
        raise BursarError(
            Status.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
            f"request_id: {parsed} was used before, with another content; "
            "a new request needs a new id",
            metadata={"field": "request_id"},
        )
    return str(row["resource"])


async def remember(
    connection: Connection,
    organization_id: int,
    request_id: str,
    method: str,
    content: bytes,
    resource: str,
) -> None:
    """Keep that this request made `resource` (a name, such as "teams/search")."""
    parsed = parse_request_id(request_id)
    if parsed is not None:
        await connection.execute(
            q.insert_request, organization_id, parsed, method, content, resource
        )
