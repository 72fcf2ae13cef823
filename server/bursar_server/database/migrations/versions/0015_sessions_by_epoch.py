"""Sessions and their allowances are found by the epoch alone, however many there were."""

from alembic import op

revision = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Index what each step of lending asks for."""
    op.execute("CREATE INDEX sessions_epoch_idx ON sessions (session_epoch)")
    op.execute(
        "CREATE INDEX allowances_session_idx ON allowances (session_epoch, budget_window_id)"
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
