"""Keys over gRPC: their secrets, their limits, their end."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import identity_pb2 as pb
from bursar.v1 import identity_pb2_grpc as rpc
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.credentials import secret_hash
from bursar_server.database.pool import Pool
from bursar_server.identity.key_service import KeyService
from bursar_server.identity.records import KeyRecord
from bursar_server.identity.store import key_by_secret_hash, keys_by_secret_hashes
from tests.postgres.conftest import Serve
from tests.postgres.refusals import refused
from tests.postgres.test_identity_spenders import ENTRY

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOW = datetime(2027, 3, 4, 5, 6, 7, tzinfo=UTC)


class StoppedClock:
    """It is always NOW."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    def monotonic_ms(self) -> int:
        return 0


class Keys(msgspec.Struct):
    """The stub, and the database behind it."""

    stub: Any
    pool: Pool

    async def create(self, request_id: str = "", **fields: Any) -> pb.CreateKeyResponse:
        answer: pb.CreateKeyResponse = await self.stub.CreateKey(
            pb.CreateKeyRequest(key=pb.Key(**fields), request_id=request_id)
        )
        return answer

    async def update(self, name: str, paths: list[str], **fields: Any) -> pb.Key:
        answer: pb.Key = await self.stub.UpdateKey(
            pb.UpdateKeyRequest(key=pb.Key(name=name, **fields), update_mask=FieldMask(paths=paths))
        )
        return answer

    async def found(self, secret: str) -> KeyRecord | None:
        async with self.pool.acquire() as connection:
            return await key_by_secret_hash(connection, secret_hash(secret))


@pytest.fixture
async def keys(pool: Pool, feed: ChangeFeed, serve: Serve) -> Keys:
    channel = await serve(
        (
            "bursar.v1.KeyService",
            lambda s: rpc.add_KeyServiceServicer_to_server(
                KeyService(pool, feed, StoppedClock()), s
            ),
        )
    )
    await pool.execute(
        "INSERT INTO organizations (id, slug, display_name, currency)"
        " VALUES (10, 'acme', 'Acme', 'EUR')"
    )
    for table in ("teams", "projects", "users"):
        await pool.execute(
            f"INSERT INTO {table} (organization_id, slug, display_name) VALUES (10, 'search', '')"
        )
    return Keys(rpc.KeyServiceStub(channel), pool)


def timestamp(time: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result


async def test_a_secret_is_told_once_and_kept_as_a_hash(
    keys: Keys, changes: list[Change], pool: Pool
) -> None:
    answer = await keys.create(display_name="Search in prod")
    key, secret = answer.key, answer.secret
    assert secret.startswith("bk-")
    assert len(secret) == 46
    assert key.secret_prefix == secret[:7]
    assert key.name.startswith("keys/k-")
    assert await keys.stub.GetKey(pb.GetKeyRequest(name=key.name)) == key
    row = await pool.fetchrow("SELECT keys::text AS all_of_it, id, secret_hash FROM keys")
    assert row is not None
    assert secret[7:] not in row["all_of_it"]
    assert row["secret_hash"] == secret_hash(secret)
    assert changes == [Change(10, ChangeKind.KEY, row["id"], (secret_hash(secret),))]


async def test_a_key_leads_to_all_that_it_spends_for(keys: Keys, pool: Pool) -> None:
    made = await keys.create(
        name="keys/prod",
        team="teams/search",
        project="projects/search",
        user="users/search",
        allowed_models=["gpt-4o*", "openai/*", "gpt-4o*"],
        tags=["env:prod", "env:prod"],
        metadata={"owner": "ada"},
        expire_time=timestamp(NOW + timedelta(days=90)),
    )
    assert made.key.team == "teams/search"
    assert made.key.project == "projects/search"
    assert made.key.user == "users/search"
    assert list(made.key.allowed_models) == ["gpt-4o*", "openai/*"]
    await pool.execute("UPDATE projects SET disabled = true")
    record = await keys.found(made.secret)
    assert record is not None
    assert (record.organization_id, record.organization_slug, record.currency) == (
        10,
        "acme",
        "EUR",
    )
    assert (record.team_slug, record.project_slug, record.user_slug) == ("search",) * 3
    assert (record.team_disabled, record.project_disabled, record.user_disabled) == (
        False,
        True,
        False,
    )
    assert record.team_id == await pool.fetchval("SELECT id FROM teams")
    assert record.tags == ["env:prod"]
    assert record.expires_at == NOW + timedelta(days=90)
    assert (record.revoked_at, record.disabled) == (None, False)


async def test_many_keys_are_found_at_once(keys: Keys, pool: Pool) -> None:
    secrets = [(await keys.create()).secret for _ in range(3)]
    hashes = [secret_hash(secret) for secret in secrets]
    async with pool.acquire() as connection:
        found = await keys_by_secret_hashes(connection, [*hashes, secret_hash("bk-other")])
    assert set(found) == set(hashes)
    assert await keys.found("bk-other") is None


async def test_a_repeated_create_tells_no_second_secret(keys: Keys, pool: Pool) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(keys.create(request_id, tags=["a"]) for _ in range(5)))
    assert len({answer.key.name for answer in answers}) == 1
    assert sorted(bool(answer.secret) for answer in answers) == [False] * 4 + [True]
    assert await pool.fetchval("SELECT count(*) FROM keys") == 1
    other = await refused(keys.create(request_id, tags=["b"]))
    assert other.reason == "REQUEST_ID_REUSED"


async def test_a_rotated_key_has_a_new_secret_alone(keys: Keys, changes: list[Change]) -> None:
    made = await keys.create(name="keys/prod")
    changes.clear()
    rotated = await keys.stub.RotateKey(pb.RotateKeyRequest(name="keys/prod"))
    assert rotated.secret != made.secret
    assert rotated.key.secret_prefix == rotated.secret[:7]
    assert await keys.found(made.secret) is None
    found = await keys.found(rotated.secret)
    assert found is not None
    assert found.slug == "prod"
    (change,) = changes
    assert set(change.secret_hashes) == {secret_hash(made.secret), secret_hash(rotated.secret)}


async def test_a_revoked_key_is_revoked_for_good(keys: Keys, changes: list[Change]) -> None:
    made = await keys.create(name="keys/prod")
    revoke = pb.RevokeKeyRequest(name="keys/prod")
    first = await keys.stub.RevokeKey(revoke)
    assert first.revoke_time.seconds > 0
    assert (await keys.stub.RevokeKey(revoke)).revoke_time == first.revoke_time
    assert changes[-1].secret_hashes == (secret_hash(made.secret),)
    record = await keys.found(made.secret)
    assert record is not None
    assert record.revoked_at is not None
    refusal = await refused(keys.stub.RotateKey(pb.RotateKeyRequest(name="keys/prod")))
    assert (refusal.code, refusal.reason) == (PRECONDITION, "KEY_REVOKED")


async def test_masked_fields_change_and_others_stay(keys: Keys) -> None:
    made = await keys.create(name="keys/prod", tags=["a"], metadata={"b": "c"})
    changed = await keys.update(
        "keys/prod",
        ["tags", "disabled", "expire_time"],
        tags=["x"],
        disabled=True,
        expire_time=timestamp(NOW + timedelta(seconds=1)),
    )
    assert (list(changed.tags), changed.disabled, dict(changed.metadata)) == (
        ["x"],
        True,
        {"b": "c"},
    )
    assert changed.expire_time.ToDatetime(UTC) == NOW + timedelta(seconds=1)
    cleared = await keys.update("keys/prod", ["expire_time", "tags"])
    assert not cleared.HasField("expire_time")
    assert list(cleared.tags) == []
    assert cleared.secret_prefix == made.key.secret_prefix


@pytest.mark.parametrize(
    "path", ["team", "project", "user", "name", "secret_prefix", "revoke_time"]
)
async def test_whom_a_key_spends_for_never_changes(keys: Keys, path: str) -> None:
    await keys.create(name="keys/prod")
    refusal = await refused(keys.update("keys/prod", [path]))
    assert (refusal.code, refusal.fields) == (INVALID, ["update_mask"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "prod"}, "key.name"),
        ({"name": "keys/Prod"}, "key.name"),
        ({"team": "search"}, "key.team"),
        ({"project": "teams/search"}, "key.project"),
        ({"allowed_models": ["x"] * 65}, "key.allowed_models"),
        ({"allowed_models": ["gpt", ""]}, "key.allowed_models[1]"),
        ({"allowed_models": ["gpt 4"]}, "key.allowed_models[0]"),
        ({"allowed_models": ["*" * 9]}, "key.allowed_models[0]"),
        ({"allowed_models": ["x" * 257]}, "key.allowed_models[0]"),
        ({"tags": [f"t{n}" for n in range(65)]}, "key.tags"),
        ({"tags": ["a", "b,c"]}, "key.tags[1]"),
        ({"tags": [" a"]}, "key.tags[0]"),
        ({"tags": ["x" * 257]}, "key.tags[0]"),
        ({"metadata": {"k": "\x00"}}, "key.metadata[k]"),
        ({"expire_time": timestamp(NOW)}, "key.expire_time"),
        ({"expire_time": Timestamp(seconds=2**62)}, "key.expire_time"),
        ({"expire_time": Timestamp(seconds=-(2**62))}, "key.expire_time"),
        ({"expire_time": Timestamp(seconds=2_000_000_000, nanos=-1)}, "key.expire_time"),
    ],
)
async def test_a_bad_key_is_refused_by_field(
    keys: Keys, fields: dict[str, Any], field: str, pool: Pool
) -> None:
    refusal = await refused(keys.create(**fields))
    assert (refusal.code, refusal.fields) == (INVALID, [field])
    assert await pool.fetchval("SELECT count(*) FROM keys") == 0


async def test_a_key_of_nobody_known_is_refused(keys: Keys) -> None:
    for field in ("team", "project", "user"):
        refusal = await refused(keys.create(**{field: f"{field}s/nobody"}))
        assert (refusal.code, refusal.reason) == (NOT_FOUND, f"{field.upper()}_NOT_FOUND")
    refusal = await refused(keys.create(organization="organizations/platform"))
    assert refusal.reason == "PLATFORM_RESERVED"


async def test_keys_come_in_pages_by_whom_they_spend_for(keys: Keys) -> None:
    for slug, team in (("c", "teams/search"), ("a", "teams/search"), ("b", "")):
        await keys.create(name=f"keys/{slug}", team=team)

    async def names(**fields: Any) -> list[str]:
        answer = await keys.stub.ListKeys(pb.ListKeysRequest(**fields))
        return [key.name for key in answer.keys]

    assert await names() == ["keys/a", "keys/b", "keys/c"]
    assert await names(team="teams/search") == ["keys/a", "keys/c"]
    assert await names(team="teams/search", user="users/search") == []
    first = await keys.stub.ListKeys(pb.ListKeysRequest(team="teams/search", page_size=1))
    rest = pb.ListKeysRequest(team="teams/search", page_size=1, page_token=first.next_page_token)
    answer = await keys.stub.ListKeys(rest)
    assert [key.name for key in answer.keys] == ["keys/c"]
    assert answer.next_page_token == ""
    other_list = pb.ListKeysRequest(page_token=first.next_page_token)
    assert (await refused(keys.stub.ListKeys(other_list))).fields == ["page_token"]
    unknown = await refused(keys.stub.ListKeys(pb.ListKeysRequest(project="projects/none")))
    assert (unknown.code, unknown.reason) == (NOT_FOUND, "PROJECT_NOT_FOUND")


async def test_a_key_that_spent_is_kept(keys: Keys, pool: Pool, changes: list[Change]) -> None:
    made = await keys.create(name="keys/prod")
    delete = pb.DeleteKeyRequest(name="keys/prod")
    id = await pool.fetchval("SELECT id FROM keys")
    await pool.execute(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES (10, 'b', '', 'key', $1, 1, 'lifetime', 'hard')",
        id,
    )
    assert (await refused(keys.stub.DeleteKey(delete))).metadata["named_by"] == "budgets"
    await pool.execute("DELETE FROM budgets")
    await pool.execute(ENTRY.format(column="key_id"), 10, id)
    refusal = await refused(keys.stub.DeleteKey(delete))
    assert (refusal.code, refusal.reason) == (PRECONDITION, "KEY_IN_USE")
    assert "revoke it" in refusal.message
    await keys.create(name="keys/unused")
    changes.clear()
    await keys.stub.DeleteKey(pb.DeleteKeyRequest(name="keys/unused"))
    assert len(changes) == 1
    gone = await refused(keys.stub.GetKey(pb.GetKeyRequest(name="keys/unused")))
    assert gone.code is NOT_FOUND
    assert await keys.found(made.secret) is not None


async def test_a_team_is_not_deleted_under_a_new_key(keys: Keys, pool: Pool) -> None:
    """The key's transaction holds the team: whoever deletes it waits, and then sees the key."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM teams FOR UPDATE")
        creating = asyncio.create_task(keys.create(team="teams/search"))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while not await pool.fetchval(waiting):
                pass  # the query itself lets the others run
        await connection.execute("DELETE FROM teams")
    refusal = await refused(creating)
    assert (refusal.code, refusal.reason) == (NOT_FOUND, "TEAM_NOT_FOUND")
    assert await pool.fetchval("SELECT count(*) FROM keys") == 0
