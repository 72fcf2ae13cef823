"""What changed with each policy version, and which version each session admits by."""

from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the table and the columns."""
    op.execute(
        """
        CREATE TABLE policy_changes (
            organization_id bigint NOT NULL,
            policy_version bigint NOT NULL,
            kind text NOT NULL,
            subject_id bigint NOT NULL,
            secret_hashes bytea[] NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            effective_at timestamptz,
            CONSTRAINT policy_changes_pkey PRIMARY KEY (organization_id, policy_version)
        )
        """
    )
    op.execute(
        """
        CREATE INDEX policy_changes_subject_idx
            ON policy_changes (organization_id, kind, subject_id, policy_version)
        """
    )
    op.execute(
        """
        CREATE INDEX policy_changes_pending_idx ON policy_changes (organization_id, policy_version)
            WHERE effective_at IS NULL
        """
    )
    op.execute(
        """
        ALTER TABLE sessions
            ADD COLUMN policy_version bigint DEFAULT 0 NOT NULL,
            ADD COLUMN policy_last_n bigint DEFAULT 0 NOT NULL
        """
    )
    op.execute(
        """
        CREATE INDEX sessions_unclosed_idx ON sessions (organization_id, session_epoch)
            WHERE state <> 'closed'
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
