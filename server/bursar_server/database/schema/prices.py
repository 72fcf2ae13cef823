"""What things cost: price lists and prices."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

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
    # builtin, imported, custom.
    Column("layer", Text, nullable=False),
    # Content hash of a snapshot or an imported list; a counter for custom lists.
    Column("version", Text, nullable=False),
    Column("source", Text, nullable=False),
    created_column(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "layer", "version"),
    CheckConstraint("layer IN ('builtin','imported','custom')", name="layer"),
)

# What one model costs for a stretch of time. Rows are never changed but to end them: a built-in or
# imported price expires when the next list comes; a custom one that is cut short or corrected is
# superseded, and what is left of its time is a row of its own, so that what was believed at any
# time about any other can be told.
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
    # When it was no longer believed. Null: it is.
    Column("superseded_at", DateTime(timezone=True)),
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

# Discounts, margins and fees. As with prices, one that is cut short is superseded.
price_contracts = Table(
    "price_contracts",
    metadata,
    organization_id_column(),
    id_column(),
    # What its name and version say: the same of what is left of it.
    Column("number", BigInteger, nullable=False),
    # Globs.
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("discount", Numeric),
    Column("margin", Numeric),
    Column("call_fee", Numeric),
    # Of the fee; '' without one.
    Column("currency", Text, nullable=False),
    Column("effective_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    created_column(),
    Column("superseded_at", DateTime(timezone=True)),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    CheckConstraint(
        "discount IS NOT NULL OR margin IS NOT NULL OR call_fee IS NOT NULL", name="terms"
    ),
    CheckConstraint("expires_at > effective_at", name="period"),
)
Index("price_contracts_number_idx", price_contracts.c.organization_id, price_contracts.c.number)

# What the scheduled fetch of a published list did last: one row, the platform's.
price_syncs = Table(
    "price_syncs",
    metadata,
    organization_id_column(),
    # SHA-256 of the address: what is known of one address says nothing of another.
    Column("url_hash", Text, nullable=False),
    # What the address named the content that was last taken over.
    Column("etag", Text, nullable=False, server_default=text("''")),
    # Of the list that was last taken over.
    Column("version", Text, nullable=False, server_default=text("''")),
    Column("attempted_at", DateTime(timezone=True), nullable=False),
    Column("outcome", Text, nullable=False, server_default=text("''")),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("succeeded_at", DateTime(timezone=True)),
    # Attempts in a row that came to nothing.
    Column("failures", Integer, nullable=False, server_default=text("0")),
    # Nobody looks before.
    Column("next_at", DateTime(timezone=True), nullable=False),
    # Of whoever looked last.
    Column("claim", UUID, nullable=False),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
)
