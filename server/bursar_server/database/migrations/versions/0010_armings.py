"""New budgets over those who spend already, and the calls they must count."""

from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the tables, and room in draw sets for budgets that calls did not know of."""
    op.execute(
        """
        ALTER TABLE draw_sets
            ADD COLUMN armed_window_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
            DROP CONSTRAINT draw_sets_organization_id_budget_window_ids_key,
            ADD CONSTRAINT draw_sets_windows_key
                UNIQUE (organization_id, budget_window_ids, armed_window_ids)
        """
    )
    op.execute(
        """
        CREATE TABLE armings (
            organization_id bigint NOT NULL,
            budget_id bigint NOT NULL,
            policy_version bigint NOT NULL,
            began_at timestamptz NOT NULL,
            armed_at timestamptz,
            CONSTRAINT armings_pkey PRIMARY KEY (organization_id, budget_id)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX armings_unarmed_idx ON armings (organization_id, budget_id)
            WHERE armed_at IS NULL
        """
    )
    op.execute(
        """
        CREATE TABLE arming_sessions (
            organization_id bigint NOT NULL,
            budget_id bigint NOT NULL,
            session_epoch bigint NOT NULL,
            policy_version bigint NOT NULL,
            last_n bigint,
            CONSTRAINT arming_sessions_pkey
                PRIMARY KEY (organization_id, budget_id, session_epoch)
        )
        """
    )
    op.execute("CREATE INDEX arming_sessions_session_idx ON arming_sessions (session_epoch)")


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
