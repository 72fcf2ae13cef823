"""What was decided about the money of a session that does not come back."""

from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the table, and room in the ledger for what is posted as lost."""
    op.execute(
        """
        ALTER TABLE sessions
            ADD COLUMN lost_count bigint DEFAULT 0 NOT NULL,
            ADD COLUMN decision text
        """
    )
    op.execute(
        """
        ALTER TABLE allowances
            ADD COLUMN lost_nanos bigint DEFAULT 0 NOT NULL,
            ADD CONSTRAINT allowances_lost_check CHECK (lost_nanos >= 0)
        """
    )
    op.execute(
        """
        ALTER TABLE entries
            DROP CONSTRAINT entries_kind_check,
            DROP CONSTRAINT entries_amount_check,
            ADD CONSTRAINT entries_kind_check
                CHECK (kind IN ('final','provisional','released','lost')),
            ADD CONSTRAINT entries_amount_check
                CHECK (k > 0 OR amount_nanos >= 0 OR kind = 'lost')
        """
    )
    op.execute(
        """
        CREATE TABLE resolutions (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            session_epoch bigint NOT NULL,
            decision text NOT NULL,
            reason text NOT NULL,
            actor text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            applied_at timestamptz,
            refusal text DEFAULT '' NOT NULL,
            held jsonb,
            CONSTRAINT resolutions_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT resolutions_decision_check CHECK (decision IN ('spent','free'))
        )
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
