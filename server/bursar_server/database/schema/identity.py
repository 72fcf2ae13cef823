"""Who spends and who speaks: shards, organizations, spenders, sidecars, answered requests."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from bursar_server.database.schema.columns import (
    EMPTY_ARRAY,
    EMPTY_OBJECT,
    created_column,
    id_column,
    metadata,
    organization_id_column,
    updated_column,
)

shards = Table(
    "shards",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Raised by whoever takes the shard over; checked in each of the writer's transactions.
    Column("owner_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("owner", Text, nullable=False, server_default=text("''")),
    updated_column(),
    # How long it was served, whoever owned it: the clock by which sessions are silent.
    Column("served_ms", BigInteger, nullable=False, server_default=text("0")),
    # Transactions of its writer: a database that counts fewer than the writer has forgotten some.
    Column("commit_count", BigInteger, nullable=False, server_default=text("0")),
    # What proves to a later owner what was told to sidecars; made by the first.
    Column("proof_key", LargeBinary),
    # How often a forgotten tail was found, and when last.
    Column("lost_tails", BigInteger, nullable=False, server_default=text("0")),
    Column("tail_lost_at", DateTime(timezone=True)),
)

organizations = Table(
    "organizations",
    metadata,
    Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')")),
    Column("slug", Text, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("shard_id", Integer, nullable=False, server_default=text("0")),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    # Raised in the transaction of every change that sidecars are told of: see policy_changes.
    Column("policy_version", BigInteger, nullable=False, server_default=text("1")),
    # Raised in the transaction of every change to its custom prices.
    Column("price_overlay_version", BigInteger, nullable=False, server_default=text("0")),
    created_column(),
    updated_column(),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    ForeignKeyConstraint(["shard_id"], ["shards.id"]),
)

# What changed with each policy version, written in the transaction of the change: whoever serves
# sidecars reads here what to tell them, so that no crash between a commit and its announcement
# loses anything. The latest ones are kept.
policy_changes = Table(
    "policy_changes",
    metadata,
    organization_id_column(),
    Column("policy_version", BigInteger, primary_key=True, autoincrement=False),
    # organization, team, project, user, key, budget, prices, sidecar.
    Column("kind", Text, nullable=False),
    # The id of the one that changed.
    Column("subject_id", BigInteger, nullable=False),
    # Of a key: the hashes that mean something else now.
    Column("secret_hashes", ARRAY(LargeBinary), nullable=False),
    created_column(),
    # When no sidecar could act on what was before any more. Null: not known yet.
    Column("effective_at", DateTime(timezone=True)),
)
Index(
    "policy_changes_subject_idx",
    policy_changes.c.organization_id,
    policy_changes.c.kind,
    policy_changes.c.subject_id,
    policy_changes.c.policy_version,
)
Index(
    "policy_changes_pending_idx",
    policy_changes.c.organization_id,
    policy_changes.c.policy_version,
    postgresql_where=policy_changes.c.effective_at.is_(None),
)


# What an admin key must hash to, where none is given in the settings: one row, made at the first
# start. SHA-256, as for keys: the secret holds 256 random bits.
admin_keys = Table(
    "admin_keys",
    metadata,
    Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')")),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("secret_prefix", Text, nullable=False),
    created_column(),
)


def _spender_table(name: str, *columns: Column[object]) -> Table:
    return Table(
        name,
        metadata,
        organization_id_column(),
        id_column(),
        Column("slug", Text, nullable=False),
        Column("display_name", Text, nullable=False),
        *columns,
        Column("metadata", JSONB, nullable=False, server_default=EMPTY_OBJECT),
        Column("disabled", Boolean, nullable=False, server_default=text("false")),
        created_column(),
        updated_column(),
        ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
        UniqueConstraint("organization_id", "slug"),
    )


teams = _spender_table("teams")
projects = _spender_table("projects", Column("team_id", BigInteger))
users = _spender_table("users", Column("email", Text, nullable=False, server_default=text("''")))
keys = _spender_table(
    "keys",
    Column("team_id", BigInteger),
    Column("project_id", BigInteger),
    Column("user_id", BigInteger),
    # SHA-256 of the secret: it holds 256 random bits, so a slow hash would protect nothing more.
    Column("secret_hash", LargeBinary, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("allowed_models", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("tags", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
)
sidecars = Table(
    "sidecars",
    metadata,
    organization_id_column(),
    id_column(),
    Column("slug", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("build", Text, nullable=False, server_default=text("''")),
    Column("last_seen_at", DateTime(timezone=True)),
    created_column(),
    # To be emptied: it admits nothing and gives back what it holds.
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "slug"),
)
# A secret leads to one row, whatever the organization: it is looked up before that is known.
Index("keys_secret_hash_idx", keys.c.secret_hash, unique=True)
Index("sidecars_secret_hash_idx", sidecars.c.secret_hash, unique=True)

# What was answered to a request id, so that a retry is answered alike.
requests = Table(
    "requests",
    metadata,
    organization_id_column(),
    Column("request_id", UUID(as_uuid=True), primary_key=True),
    Column("method", Text, nullable=False),
    # SHA-256 of the request without its id: another content under the same id is refused.
    Column("content_hash", LargeBinary, nullable=False),
    # The name of what was made.
    Column("resource", Text, nullable=False),
    created_column(),
)
