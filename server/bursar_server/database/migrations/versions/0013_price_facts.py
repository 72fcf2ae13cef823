"""What else a charge was priced by, and room for corrections of it."""

from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Keep service tier, region and the names of the price; let corrections be posted."""
    op.execute(
        """
        ALTER TABLE entries
            ADD COLUMN service_tier text DEFAULT '' NOT NULL,
            ADD COLUMN region text DEFAULT '' NOT NULL,
            ADD COLUMN priced_as text DEFAULT '' NOT NULL,
            ADD COLUMN rerating_id bigint,
            DROP CONSTRAINT entries_kind_check,
            ADD CONSTRAINT entries_kind_check
                CHECK (kind IN ('final','provisional','released','lost','correction')),
            ADD CONSTRAINT entries_rerating_check
                CHECK ((kind = 'correction') = (rerating_id IS NOT NULL))
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
