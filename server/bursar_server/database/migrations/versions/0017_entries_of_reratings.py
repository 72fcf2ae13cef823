"""Find the corrections of a batch."""

from alembic import op

revision = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """An index of the few entries that are corrections."""
    op.execute(
        """
        CREATE INDEX entries_rerating_idx
        ON entries (organization_id, rerating_id) WHERE rerating_id IS NOT NULL
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
