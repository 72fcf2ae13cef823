"""Since when a session's money is in doubt."""

from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make room for the time. Of what is in doubt already, it is not known."""
    op.execute("ALTER TABLE allowances ADD COLUMN in_doubt_since timestamptz")
    op.execute(
        """
        CREATE INDEX allowances_doubt_idx ON allowances (organization_id, in_doubt_since)
        WHERE in_doubt_since IS NOT NULL
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
