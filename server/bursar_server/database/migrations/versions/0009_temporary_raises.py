"""Temporary raises of a limit, and each step of their lives."""

from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the tables; the steps are append-only."""
    op.execute(
        """
        CREATE TABLE budget_raises (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            slug text NOT NULL,
            budget_id bigint NOT NULL,
            amount_nanos bigint NOT NULL,
            start_at timestamptz NOT NULL,
            end_at timestamptz NOT NULL,
            cancelled_at timestamptz,
            reason text NOT NULL,
            actor text NOT NULL,
            phase text DEFAULT 'scheduled' NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT budget_raises_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT budget_raises_organization_id_budget_id_fkey
                FOREIGN KEY(organization_id, budget_id) REFERENCES budgets (organization_id, id),
            CONSTRAINT budget_raises_organization_id_slug_key UNIQUE (organization_id, slug),
            CONSTRAINT budget_raises_amount_check CHECK (amount_nanos > 0),
            CONSTRAINT budget_raises_time_check CHECK (start_at < end_at),
            CONSTRAINT budget_raises_phase_check
                CHECK (phase IN ('scheduled','running','over'))
        )
        """
    )
    op.execute(
        """
        CREATE INDEX budget_raises_open_idx ON budget_raises (organization_id, budget_id)
        WHERE phase <> 'over'
        """
    )
    op.execute(
        """
        CREATE TABLE budget_raise_steps (
            organization_id bigint NOT NULL,
            id bigint DEFAULT nextval('ids') NOT NULL,
            budget_id bigint NOT NULL,
            raise_id bigint NOT NULL,
            kind text NOT NULL,
            effective_at timestamptz NOT NULL,
            limit_nanos bigint NOT NULL,
            actor text NOT NULL,
            reason text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT budget_raise_steps_pkey PRIMARY KEY (organization_id, id),
            CONSTRAINT budget_raise_steps_kind_check
                CHECK (kind IN ('made','began','ended','cancelled'))
        )
        """
    )
    op.execute(
        """
        CREATE INDEX budget_raise_steps_raise_idx
        ON budget_raise_steps (organization_id, raise_id)
        """
    )
    op.execute(
        """
        CREATE TRIGGER budget_raise_steps_are_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON budget_raise_steps
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )


def downgrade() -> None:
    """A ledger is not migrated backwards."""
    raise RuntimeError("a ledger is not migrated backwards")
