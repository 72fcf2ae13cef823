"""What a budget's first window had seen before the budget was made."""

from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the table, append-only as the ledger is."""
    op.execute(
        """
        CREATE TABLE opening_lines (
            organization_id bigint NOT NULL,
            budget_window_id bigint NOT NULL,
            amount_nanos bigint NOT NULL,
            entry_count bigint NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT opening_lines_pkey PRIMARY KEY (organization_id, budget_window_id),
            CONSTRAINT opening_lines_organization_id_budget_window_id_fkey
                FOREIGN KEY(organization_id, budget_window_id) REFERENCES budget_windows
                (organization_id, id),
            CONSTRAINT opening_lines_amount_check CHECK (amount_nanos >= 0)
        )
        """
    )
    op.execute(
        """
        CREATE TRIGGER opening_lines_are_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON opening_lines
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
