"""From rows to the messages of the contract."""

from datetime import datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import identity_pb2
from bursar_server.identity.records import KeyRecord, OrganizationRecord, SpenderRecord
from bursar_server.identity.store import SpenderKind
from bursar_server.names import format_name

Spender = TypeVar("Spender", identity_pb2.Team, identity_pb2.Project, identity_pb2.User)


def timestamp(time: datetime) -> Timestamp:
    """A time as the wire has it."""
    result = Timestamp()
    result.FromDatetime(time)
    return result


def organization_to_proto(record: OrganizationRecord) -> identity_pb2.Organization:
    """An organization."""
    return identity_pb2.Organization(
        name=record.name,
        display_name=record.display_name,
        currency=record.currency,
        disabled=record.disabled,
        create_time=timestamp(record.created_at),
        update_time=timestamp(record.updated_at),
    )


def spender_to_proto(
    message: type[Spender], kind: SpenderKind, organization: str, record: SpenderRecord
) -> Spender:
    """A team, project or user; `organization` is the name of theirs."""
    result = message(
        name=format_name(kind.table, record.slug),
        organization=organization,
        display_name=record.display_name,
        metadata=record.metadata,
        disabled=record.disabled,
        create_time=timestamp(record.created_at),
        update_time=timestamp(record.updated_at),
    )
    if isinstance(result, identity_pb2.Project):
        result.team = format_name("teams", record.team_slug)
    if isinstance(result, identity_pb2.User):
        result.email = record.email
    return result


def key_to_proto(record: KeyRecord) -> identity_pb2.Key:
    """A key, without its secret."""
    return identity_pb2.Key(
        name=format_name("keys", record.slug),
        organization=format_name("organizations", record.organization_slug),
        display_name=record.display_name,
        team=format_name("teams", record.team_slug),
        project=format_name("projects", record.project_slug),
        user=format_name("users", record.user_slug),
        allowed_models=record.allowed_models,
        metadata=record.metadata,
        tags=record.tags,
        expire_time=timestamp(record.expires_at) if record.expires_at else None,
        disabled=record.disabled,
        revoke_time=timestamp(record.revoked_at) if record.revoked_at else None,
        secret_prefix=record.secret_prefix,
        create_time=timestamp(record.created_at),
        update_time=timestamp(record.updated_at),
    )
