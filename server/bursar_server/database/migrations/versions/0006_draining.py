"""Sidecars that are to be emptied before they are taken away."""

from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE sidecars ADD COLUMN draining boolean DEFAULT false NOT NULL")


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
