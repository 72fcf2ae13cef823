"""What finds and heals a committed tail that the database forgot."""

from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Count the commits, keep a key that proves what was told, and let windows be frozen."""
    op.execute(
        """
        ALTER TABLE shards
            ADD COLUMN commit_count bigint DEFAULT 0 NOT NULL,
            ADD COLUMN proof_key bytea,
            ADD COLUMN lost_tails bigint DEFAULT 0 NOT NULL,
            ADD COLUMN tail_lost_at timestamptz
        """
    )
    op.execute("ALTER TABLE budget_windows ADD COLUMN frozen_at timestamptz")
    op.execute(
        """
        CREATE TABLE thaws (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            budget_id bigint NOT NULL,
            reason text NOT NULL,
            actor text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT thaws_pkey PRIMARY KEY (organization_id, id)
        )
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
