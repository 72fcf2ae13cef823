"""Shadow budgets: what a hard one would have refused is counted."""

from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make room for the third kind of budget, and for what it counts."""
    op.execute(
        """
        ALTER TABLE budgets
            DROP CONSTRAINT budgets_enforcement_check,
            ADD CONSTRAINT budgets_enforcement_check
                CHECK (enforcement IN ('hard','soft','shadow'))
        """
    )
    op.execute(
        """
        ALTER TABLE budget_windows
            ADD COLUMN shadow boolean DEFAULT false NOT NULL,
            ADD COLUMN would_refuse_count bigint DEFAULT 0 NOT NULL,
            ADD COLUMN would_refuse_nanos bigint DEFAULT 0 NOT NULL,
            ADD CONSTRAINT budget_windows_shadow_check
                CHECK (NOT (hard AND shadow) AND would_refuse_count >= 0
                    AND (shadow OR would_refuse_count = 0 AND would_refuse_nanos = 0))
        """
    )
    op.execute("ALTER TABLE entries ADD COLUMN would_refuse_window_ids bigint[]")
    op.execute(
        """
        ALTER TABLE events
            DROP CONSTRAINT events_kind_check,
            ADD CONSTRAINT events_kind_check CHECK (kind IN
                ('soft_limit_crossed','overrun','frame_quarantined','shadow_refusal'))
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
