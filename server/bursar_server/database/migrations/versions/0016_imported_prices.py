"""The layer of imported prices, and what the sync of it did last."""

from alembic import op

revision = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Let a list be imported; make the table of the sync."""
    op.execute("ALTER TABLE price_lists DROP CONSTRAINT price_lists_layer_check")
    op.execute(
        """
        ALTER TABLE price_lists ADD CONSTRAINT price_lists_layer_check
            CHECK (layer IN ('builtin','imported','custom'))
        """
    )
    op.execute(
        """
        CREATE TABLE price_syncs (
            organization_id bigint NOT NULL,
            url_hash text NOT NULL,
            etag text DEFAULT '' NOT NULL,
            version text DEFAULT '' NOT NULL,
            attempted_at timestamptz NOT NULL,
            outcome text DEFAULT '' NOT NULL,
            detail text DEFAULT '' NOT NULL,
            succeeded_at timestamptz,
            failures integer DEFAULT 0 NOT NULL,
            next_at timestamptz NOT NULL,
            claim uuid NOT NULL,
            CONSTRAINT price_syncs_pkey PRIMARY KEY (organization_id),
            CONSTRAINT price_syncs_organization_id_fkey
                FOREIGN KEY(organization_id) REFERENCES organizations (id)
        )
        """
    )
    op.execute("ALTER TABLE events DROP CONSTRAINT events_kind_check")
    op.execute(
        """
        ALTER TABLE events ADD CONSTRAINT events_kind_check
            CHECK (kind IN ('soft_limit_crossed','overrun','frame_quarantined','shadow_refusal',
                            'session_silent','session_lost','ledger_tail_lost','prices_imported',
                            'price_sync_failed'))
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
