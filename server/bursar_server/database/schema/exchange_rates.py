"""What currencies are worth in each other."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Numeric,
    Table,
    Text,
)

from bursar_server.database.schema.columns import (
    created_column,
    id_column,
    metadata,
    organization_id_column,
)

# Rates as they were recorded; a trigger refuses to change one. Of a pair, in either direction, the
# newest effective at an instant holds, then the one recorded last.
exchange_rates = Table(
    "exchange_rates",
    metadata,
    organization_id_column(),
    id_column(),
    Column("base_currency", Text, nullable=False),
    Column("quote_currency", Text, nullable=False),
    # How much of the quote currency one of the base currency is; null: from then on those recorded
    # here before hold no more.
    Column("rate", Numeric),
    Column("effective_at", DateTime(timezone=True), nullable=False),
    Column("source", Text, nullable=False),
    Column("actor", Text, nullable=False),
    created_column(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    CheckConstraint("base_currency ~ '^[A-Z]{3}$'", name="base_currency"),
    CheckConstraint("quote_currency ~ '^[A-Z]{3}$'", name="quote_currency"),
    CheckConstraint("base_currency <> quote_currency", name="pair"),
    CheckConstraint("rate > 0", name="rate"),
)
Index(
    "exchange_rates_pair_idx",
    exchange_rates.c.organization_id,
    exchange_rates.c.base_currency,
    exchange_rates.c.quote_currency,
    exchange_rates.c.effective_at,
)
