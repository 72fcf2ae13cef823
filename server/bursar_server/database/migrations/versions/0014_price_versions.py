"""What was believed of prices and when; contracts; re-ratings and their lines."""

from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Let prices be superseded; make the tables of contracts and re-ratings."""
    op.execute("ALTER TABLE prices ADD COLUMN superseded_at timestamptz")
    op.execute(
        """
        CREATE TABLE price_contracts (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            number bigint NOT NULL,
            provider text NOT NULL,
            model text NOT NULL,
            discount numeric,
            margin numeric,
            call_fee numeric,
            currency text NOT NULL,
            effective_at timestamptz NOT NULL,
            expires_at timestamptz,
            reason text NOT NULL,
            actor text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            superseded_at timestamptz,
            CONSTRAINT price_contracts_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT price_contracts_organization_id_fkey
                FOREIGN KEY(organization_id) REFERENCES organizations (id),
            CONSTRAINT price_contracts_terms_check
                CHECK (discount IS NOT NULL OR margin IS NOT NULL OR call_fee IS NOT NULL),
            CONSTRAINT price_contracts_period_check CHECK (expires_at > effective_at)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX price_contracts_number_idx
        ON price_contracts (organization_id, number)
        """
    )
    _make_reratings()


def _make_reratings() -> None:
    op.execute(
        """
        CREATE TABLE reratings (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            state text DEFAULT 'planned' NOT NULL,
            since_at timestamptz NOT NULL,
            until_at timestamptz NOT NULL,
            model text NOT NULL,
            reason text NOT NULL,
            actor text NOT NULL,
            etag text NOT NULL,
            outcome jsonb NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            accepted_at timestamptz,
            accepted_by text DEFAULT '' NOT NULL,
            posted_count bigint DEFAULT 0 NOT NULL,
            applied_at timestamptz,
            CONSTRAINT reratings_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT reratings_organization_id_fkey
                FOREIGN KEY(organization_id) REFERENCES organizations (id),
            CONSTRAINT reratings_state_check CHECK (state IN ('planned','applying','applied'))
        )
        """
    )
    op.execute(
        """
        CREATE UNIQUE INDEX reratings_applying_idx
        ON reratings (organization_id) WHERE state = 'applying'
        """
    )
    op.execute(
        """
        CREATE TABLE rerating_lines (
            organization_id bigint NOT NULL,
            rerating_id bigint NOT NULL,
            place bigint NOT NULL,
            ledger_id bigint NOT NULL,
            session_epoch bigint NOT NULL,
            n bigint NOT NULL,
            amount_nanos bigint NOT NULL,
            price_version text NOT NULL,
            priced_as text NOT NULL,
            CONSTRAINT rerating_lines_pkey
                PRIMARY KEY (organization_id, rerating_id, place),
            CONSTRAINT rerating_lines_organization_id_rerating_id_fkey
                FOREIGN KEY(organization_id, rerating_id)
                REFERENCES reratings (organization_id, id)
        )
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
