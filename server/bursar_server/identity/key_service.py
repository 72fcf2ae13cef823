"""KeyService: translate, one transaction, answer. Secrets leave here once and are never kept."""

from collections.abc import Collection
from datetime import datetime

from bursar.v1 import identity_pb2 as pb
from bursar.v1.identity_pb2_grpc import KeyServiceServicer
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import Clock
from bursar_server.credentials import new_credential
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import already_exists, failed_precondition, not_found
from bursar_server.grpc_server.context import Context
from bursar_server.identity import store
from bursar_server.identity.messages import key_to_proto
from bursar_server.identity.records import KeyRecord
from bursar_server.identity.rules import (
    platform_refuses,
    validate_expiry,
    validate_metadata,
    validate_tags,
)
from bursar_server.identity.spender_service import held_id
from bursar_server.identity.store import SpenderKind
from bursar_server.names import (
    format_name,
    masked_fields,
    new_slug,
    page_size,
    page_token_after,
    parse_name,
    parse_optional_name,
    place_of_page,
    validate_display_name,
    validate_globs,
)
from bursar_server.request_ids import content_hash, remember, remembered

UPDATABLE = ("display_name", "allowed_models", "metadata", "tags", "expire_time", "disabled")


class KeyService(KeyServiceServicer):
    """Keys of an organization."""

    def __init__(self, pool: Pool, feed: ChangeFeed, clock: Clock) -> None:
        self._pool = pool
        self._feed = feed
        self._clock = clock

    async def GetKey(self, request: pb.GetKeyRequest, context: Context) -> pb.Key:
        slug = parse_name("keys", request.name)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            return key_to_proto(await _key(connection, owner.id, slug))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        size, after = page_size(request.page_size), place_of_page(request.page_token, request)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            keys = await store.keys_page(
                connection,
                owner.id,
                after,
                size + 1,
                team_id=await _filter(connection, SpenderKind.TEAM, owner.id, request.team),
                project_id=await _filter(
                    connection, SpenderKind.PROJECT, owner.id, request.project
                ),
                user_id=await _filter(connection, SpenderKind.USER, owner.id, request.user),
            )
        return pb.ListKeysResponse(
            keys=[key_to_proto(key) for key in keys[:size]],
            next_page_token=(
                page_token_after(keys[size - 1].slug, request) if len(keys) > size else ""
            ),
        )

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: Context
    ) -> pb.CreateKeyResponse:
        wanted = request.key
        slug = parse_optional_name("keys", wanted.name, "key.name") or new_slug("k")
        values = _values(wanted, slug, UPDATABLE, self._clock.now())
        credential, content = new_credential("bk"), content_hash(request)
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(
                connection, wanted.organization, "key.organization"
            )
            if owner.id == PLATFORM_ORGANIZATION_ID:
                raise platform_refuses("it has no keys")
            await store.hold_policy(connection, owner.id)
            memory = (owner.id, request.request_id, "CreateKey", content)
            before = await remembered(connection, *memory)
            if before is not None:
                key = await _key(connection, owner.id, parse_name("keys", before))
                return pb.CreateKeyResponse(key=key_to_proto(key))
            values |= await _links(connection, owner.id, wanted)
            values |= {"secret_hash": credential.hash, "secret_prefix": credential.prefix}
            if await store.insert_spender(connection, "keys", owner.id, slug, values) is None:
                raise already_exists("key", wanted.name)
            await remember(connection, *memory, format_name("keys", slug))
            key = await _key(connection, owner.id, slug)
            change = await _record(connection, key)
        self._feed.publish(change)
        return pb.CreateKeyResponse(key=key_to_proto(key), secret=credential.secret)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Context) -> pb.Key:
        wanted = request.key
        slug = parse_name("keys", wanted.name, "key.name")
        fields = masked_fields(request.update_mask, UPDATABLE)
        values = _values(wanted, slug, fields, self._clock.now())
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(
                connection, wanted.organization, "key.organization"
            )
            await store.hold_policy(connection, owner.id)
            id = (await _key(connection, owner.id, slug)).id
            await store.update_spender(connection, "keys", owner.id, id, values)
            key = await _key(connection, owner.id, slug)
            change = await _record(connection, key)
        self._feed.publish(change)
        return key_to_proto(key)

    async def RotateKey(
        self, request: pb.RotateKeyRequest, context: Context
    ) -> pb.RotateKeyResponse:
        slug = parse_name("keys", request.name)
        credential = new_credential("bk")
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            await store.hold_policy(connection, owner.id)
            before = await _key(connection, owner.id, slug)
            if before.revoked_at is not None:
                raise failed_precondition(
                    "KEY_REVOKED",
                    f"{request.name} was revoked for good: make a new key",
                    {"name": request.name},
                )
            await store.set_key_secret(connection, owner.id, before.id, credential)
            key = await _key(connection, owner.id, slug)
            change = await _record(connection, key, before.secret_hash)
        self._feed.publish(change)
        return pb.RotateKeyResponse(key=key_to_proto(key), secret=credential.secret)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.Key:
        slug = parse_name("keys", request.name)
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            await store.hold_policy(connection, owner.id)
            id = (await _key(connection, owner.id, slug)).id
            await store.revoke_key(connection, owner.id, id)
            key = await _key(connection, owner.id, slug)
            change = await _record(connection, key)
        self._feed.publish(change)
        return key_to_proto(key)

    async def DeleteKey(
        self, request: pb.DeleteKeyRequest, context: Context
    ) -> pb.DeleteKeyResponse:
        slug = parse_name("keys", request.name)
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            await store.hold_policy(connection, owner.id)
            key = await _key(connection, owner.id, slug)
            by = await store.names_of_key(connection, owner.id, key.id)
            if by:
                way = "revoke it" if by == "entries" else "delete them first, or revoke it"
                raise failed_precondition(
                    "KEY_IN_USE",
                    f"{by} of {owner.name} name {request.name}: {way}",
                    {"name": request.name, "named_by": by},
                )
            await store.delete_spender(connection, "keys", owner.id, key.id)
            change = await _record(connection, key)
        self._feed.publish(change)
        return pb.DeleteKeyResponse()


async def _record(connection: Connection, key: KeyRecord, *former_hashes: bytes) -> Change:
    hashes = (key.secret_hash, *former_hashes)
    change = Change(key.organization_id, ChangeKind.KEY, key.id, hashes)
    await store.record_change(connection, change)
    return change


async def _key(connection: Connection, organization_id: int, slug: str) -> KeyRecord:
    key = await store.key_by_slug(connection, organization_id, slug)
    if key is None:
        raise not_found("key", format_name("keys", slug))
    return key


async def _filter(
    connection: Connection, kind: SpenderKind, organization_id: int, name: str
) -> int | None:
    slug = parse_optional_name(kind.table, name, kind.value)
    if not slug:
        return None
    record = await store.spender_by_slug(connection, kind, organization_id, slug)
    if record is None:
        raise not_found(kind, name)
    return record.id


async def _links(connection: Connection, organization_id: int, wanted: pb.Key) -> dict[str, object]:
    """Whom the key spends for, each held against deletion."""
    names = {
        SpenderKind.TEAM: wanted.team,
        SpenderKind.PROJECT: wanted.project,
        SpenderKind.USER: wanted.user,
    }
    return {
        f"{kind}_id": await held_id(connection, kind, organization_id, name, f"key.{kind}")
        for kind, name in names.items()
    }


def _values(wanted: pb.Key, slug: str, fields: Collection[str], now: datetime) -> dict[str, object]:
    """The columns that `fields` of `wanted` become."""
    values: dict[str, object] = {}
    if "display_name" in fields:
        text = validate_display_name(wanted.display_name, "key.display_name")
        values["display_name"] = text or slug
    if "allowed_models" in fields:
        values["allowed_models"] = validate_globs(wanted.allowed_models, "key.allowed_models")
    if "metadata" in fields:
        values["metadata"] = validate_metadata(wanted.metadata, "key.metadata")
    if "tags" in fields:
        values["tags"] = validate_tags(wanted.tags, "key.tags")
    if "expire_time" in fields:
        given = wanted.HasField("expire_time")
        values["expires_at"] = (
            validate_expiry(wanted.expire_time, "key.expire_time", now) if given else None
        )
    if "disabled" in fields:
        values["disabled"] = wanted.disabled
    return values
