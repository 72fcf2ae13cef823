"""What things cost: price lists and prices."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from bursar_server.database.schema.columns import (
    created_column,
    id_column,
    metadata,
    organization_id_column,
)

# One version of one layer of prices.
price_lists = Table(
    "price_lists",
    metadata,
    organization_id_column(),
    id_column(),
    # builtin, custom.
    Column("layer", Text, nullable=False),
    # Content hash of a snapshot; a counter for custom lists.
    Column("version", Text, nullable=False),
    Column("source", Text, nullable=False),
    created_column(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "layer", "version"),
    CheckConstraint("layer IN ('builtin','custom')", name="layer"),
)

# What one model costs from one instant on. Rows are never changed but to end them.
prices = Table(
    "prices",
    metadata,
    organization_id_column(),
    id_column(),
    Column("price_list_id", BigInteger, nullable=False),
    Column("layer", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    # As `bursar.pricing` writes it.
    Column("price", JSONB, nullable=False),
    Column("effective_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    created_column(),
    ForeignKeyConstraint(
        ["organization_id", "price_list_id"], ["price_lists.organization_id", "price_lists.id"]
    ),
)
Index(
    "prices_model_idx",
    prices.c.organization_id,
    prices.c.layer,
    prices.c.provider,
    prices.c.model,
    prices.c.effective_at,
)
