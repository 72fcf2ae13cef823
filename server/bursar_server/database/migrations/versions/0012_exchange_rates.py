"""Exchange rates, and the one that made an entry's amount."""

from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the table, which is append-only, and the entries' columns; older entries have none."""
    op.execute(
        """
        CREATE TABLE exchange_rates (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            base_currency text NOT NULL,
            quote_currency text NOT NULL,
            rate numeric,
            effective_at timestamptz NOT NULL,
            source text NOT NULL,
            actor text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT exchange_rates_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT exchange_rates_organization_id_fkey
                FOREIGN KEY(organization_id) REFERENCES organizations (id),
            CONSTRAINT exchange_rates_base_currency_check CHECK (base_currency ~ '^[A-Z]{3}$'),
            CONSTRAINT exchange_rates_quote_currency_check CHECK (quote_currency ~ '^[A-Z]{3}$'),
            CONSTRAINT exchange_rates_pair_check CHECK (base_currency <> quote_currency),
            CONSTRAINT exchange_rates_rate_check CHECK (rate > 0)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX exchange_rates_pair_idx
        ON exchange_rates (organization_id, base_currency, quote_currency, effective_at)
        """
    )
    op.execute(
        """
        CREATE TRIGGER exchange_rates_are_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON exchange_rates
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )
    op.execute(
        """
        ALTER TABLE entries
            ADD COLUMN price_currency text DEFAULT '' NOT NULL,
            ADD COLUMN exchange_rate text DEFAULT '' NOT NULL,
            ADD CONSTRAINT entries_exchange_check
                CHECK ((price_currency = '') = (exchange_rate = ''))
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
