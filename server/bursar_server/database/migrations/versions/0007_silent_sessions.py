"""How long a session was silent, by a clock that counts only while the control plane served."""

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make room for the clock, for what it says of each session, and for the events of it."""
    op.execute("ALTER TABLE shards ADD COLUMN served_ms bigint DEFAULT 0 NOT NULL")
    op.execute(
        """
        ALTER TABLE sessions
            ADD COLUMN quiet_since_ms bigint DEFAULT 0 NOT NULL,
            ADD COLUMN stage text DEFAULT 'heard' NOT NULL,
            ADD CONSTRAINT sessions_stage_check CHECK (stage IN ('heard','doubted','over'))
        """
    )
    op.execute(
        """
        CREATE INDEX sessions_due_idx ON sessions (stage, quiet_since_ms)
        WHERE state <> 'closed' AND decision IS NULL AND stage <> 'over'
        """
    )
    op.execute(
        """
        ALTER TABLE events
            DROP CONSTRAINT events_kind_check,
            ADD CONSTRAINT events_kind_check CHECK (kind IN
                ('soft_limit_crossed','overrun','frame_quarantined','shadow_refusal','session_silent',
                 'session_lost','ledger_tail_lost'))
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
