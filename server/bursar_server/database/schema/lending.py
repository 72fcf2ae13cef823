"""What is lent: sessions, allowances, and decisions about money that does not come back."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from bursar_server.database.schema.columns import (
    NOW,
    created_column,
    id_column,
    metadata,
    organization_id_column,
)

# One process life of a sidecar for one organization.
sessions = Table(
    "sessions",
    metadata,
    organization_id_column(),
    Column("session_epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("sidecar_organization_id", BigInteger, nullable=False),
    Column("sidecar_id", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    # open, fenced, closed.
    Column("state", Text, nullable=False, server_default=text("'open'")),
    # The last frame applied.
    Column("applied_seq", BigInteger, nullable=False, server_default=text("0")),
    # How many distinct n were posted, and the highest of them.
    Column("settled_count", BigInteger, nullable=False, server_default=text("0")),
    Column("highest_settled_n", BigInteger, nullable=False, server_default=text("0")),
    # From CloseSession: how many n there were in all. Null: not said yet.
    Column("last_n", BigInteger),
    # What the journal proved when the session was given up: complete, truncated; null: alive.
    Column("journal", Text),
    created_column(),
    Column("last_seen_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    # Entries of what was lost, and taken back of it: they have negative n, from -1 down.
    Column("lost_count", BigInteger, nullable=False, server_default=text("0")),
    # What was decided about its money, as a resolution says: spent, free; null: nothing.
    Column("decision", Text),
    # What it admits by is never older than this policy: it said so, or it began later. With it,
    # the highest n that it admitted under an older one.
    Column("policy_version", BigInteger, nullable=False, server_default=text("0")),
    Column("policy_last_n", BigInteger, nullable=False, server_default=text("0")),
    # Since when it is silent, or in its stage, by the shard's served_ms.
    Column("quiet_since_ms", BigInteger, nullable=False, server_default=text("0")),
    # What time does to it: heard, doubted (its money is in doubt), over (nothing more).
    Column("stage", Text, nullable=False, server_default=text("'heard'")),
    UniqueConstraint("organization_id", "sidecar_id", "boot_id"),
    CheckConstraint("state IN ('open','fenced','closed')", name="state"),
    CheckConstraint("stage IN ('heard','doubted','over')", name="stage"),
)
Index("sessions_epoch_idx", sessions.c.session_epoch)
Index(
    "sessions_due_idx",
    sessions.c.stage,
    sessions.c.quiet_since_ms,
    postgresql_where=text("state <> 'closed' AND decision IS NULL AND stage <> 'over'"),
)
Index(
    "sessions_unclosed_idx",
    sessions.c.organization_id,
    sessions.c.session_epoch,
    postgresql_where=sessions.c.state != "closed",
)

# What one session was lent of one window: three totals that only grow.
allowances = Table(
    "allowances",
    metadata,
    organization_id_column(),
    Column("session_epoch", BigInteger, primary_key=True),
    Column("budget_window_id", BigInteger, primary_key=True),
    Column("granted_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("returned_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("settled_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("in_doubt_nanos", BigInteger, nullable=False, server_default=text("0")),
    # The part of settled_nanos that was posted as lost and no evidence took back yet.
    Column("lost_nanos", BigInteger, nullable=False, server_default=text("0")),
    # When the first of in_doubt_nanos came to be in doubt; null: nothing is.
    Column("in_doubt_since", DateTime(timezone=True)),
    CheckConstraint("lost_nanos >= 0", name="lost"),
    CheckConstraint(
        "granted_nanos >= 0 AND returned_nanos >= 0 AND returned_nanos <= granted_nanos"
        " AND in_doubt_nanos >= 0",
        name="totals",
    ),
    ForeignKeyConstraint(
        ["organization_id", "session_epoch"],
        ["sessions.organization_id", "sessions.session_epoch"],
    ),
    ForeignKeyConstraint(
        ["organization_id", "budget_window_id"],
        ["budget_windows.organization_id", "budget_windows.id"],
    ),
)
# A session is asked for by its epoch, which no other organization's has.
Index("allowances_session_idx", allowances.c.session_epoch, allowances.c.budget_window_id)
Index("allowances_window_idx", allowances.c.organization_id, allowances.c.budget_window_id)
# The few of which something is in doubt, for whoever asks for how long.
Index(
    "allowances_doubt_idx",
    allowances.c.organization_id,
    allowances.c.in_doubt_since,
    postgresql_where=allowances.c.in_doubt_since.is_not(None),
)

# What was decided about the money of a session that does not come back, and by whom. The writer of
# balances applies it; until then `applied_at` is null.
resolutions = Table(
    "resolutions",
    metadata,
    organization_id_column(),
    id_column(),
    Column("session_epoch", BigInteger, nullable=False),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    created_column(),
    Column("applied_at", DateTime(timezone=True)),
    # '' or why it was not applied after all.
    Column("refusal", Text, nullable=False, server_default=text("''")),
    # What the session held: {budget window id: nanos}.
    Column("held", JSONB),
    CheckConstraint("decision IN ('spent','free')", name="decision"),
)

# Budgets that were looked at when they were new: which policy they came with.
armings = Table(
    "armings",
    metadata,
    organization_id_column(),
    Column("budget_id", BigInteger, primary_key=True),
    Column("policy_version", BigInteger, nullable=False),
    Column("began_at", DateTime(timezone=True), nullable=False),
    # When each session that may spend knew it, or had lapsed. Null: not yet.
    Column("armed_at", DateTime(timezone=True)),
)
Index(
    "armings_unarmed_idx",
    armings.c.organization_id,
    armings.c.budget_id,
    postgresql_where=armings.c.armed_at.is_(None),
)

# Sessions that may have calls under way which such a budget must count; gone when they close.
arming_sessions = Table(
    "arming_sessions",
    metadata,
    organization_id_column(),
    Column("budget_id", BigInteger, primary_key=True),
    Column("session_epoch", BigInteger, primary_key=True),
    Column("policy_version", BigInteger, nullable=False),
    # The last call it admitted without knowing the budget. Null: it did not say so yet.
    Column("last_n", BigInteger),
)
Index("arming_sessions_session_idx", arming_sessions.c.session_epoch)
