"""Computing again what calls cost: what was planned, accepted and posted."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from bursar_server.database.schema.columns import (
    created_column,
    id_column,
    metadata,
    organization_id_column,
)

# One re-rating. Its corrections name it.
reratings = Table(
    "reratings",
    metadata,
    organization_id_column(),
    id_column(),
    # planned, applying, applied.
    Column("state", Text, nullable=False, server_default=text("'planned'")),
    Column("since_at", DateTime(timezone=True), nullable=False),
    Column("until_at", DateTime(timezone=True), nullable=False),
    # Glob; '' is every one.
    Column("model", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    # A hash of all its lines.
    Column("etag", Text, nullable=False),
    # Its sums, by model, budget and version, and what was left out.
    Column("outcome", JSONB, nullable=False),
    created_column(),
    Column("accepted_at", DateTime(timezone=True)),
    Column("accepted_by", Text, nullable=False, server_default=text("''")),
    # How many of its lines are posted: the places up to it.
    Column("posted_count", BigInteger, nullable=False, server_default=text("0")),
    Column("applied_at", DateTime(timezone=True)),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    CheckConstraint("state IN ('planned','applying','applied')", name="state"),
)
# One at a time: two would correct the same entries twice.
Index(
    "reratings_applying_idx",
    reratings.c.organization_id,
    unique=True,
    postgresql_where=text("state = 'applying'"),
)

# What an accepted re-rating is to post, in the order of posting; gone once it is posted.
rerating_lines = Table(
    "rerating_lines",
    metadata,
    organization_id_column(),
    Column("rerating_id", BigInteger, primary_key=True, autoincrement=False),
    # From 1, without gaps.
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    # Whose ledger has the entry: the organization's, or the platform's.
    Column("ledger_id", BigInteger, nullable=False),
    Column("session_epoch", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    # To be posted on top.
    Column("amount_nanos", BigInteger, nullable=False),
    Column("price_version", Text, nullable=False),
    Column("priced_as", Text, nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "rerating_id"], ["reratings.organization_id", "reratings.id"]
    ),
)
