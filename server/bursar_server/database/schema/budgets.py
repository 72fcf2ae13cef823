"""Budgets, their versions and their windows."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from bursar_server.database.schema.columns import (
    EMPTY_ARRAY,
    created_column,
    id_column,
    metadata,
    organization_id_column,
    updated_column,
)

# What counts, and how much of it there may be.
budgets = Table(
    "budgets",
    metadata,
    organization_id_column(),
    id_column(),
    Column("slug", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("scope_kind", Text, nullable=False),
    # The id of the organization, team, project, user or key.
    Column("scope_id", BigInteger, nullable=False),
    Column("models", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("providers", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("limit_nanos", BigInteger, nullable=False),
    # calendar, every, from_first_call, lifetime.
    Column("window_kind", Text, nullable=False),
    # second ... year; null for a lifetime.
    Column("window_unit", Text),
    # N of every and from_first_call; null otherwise.
    Column("window_count", Integer),
    # Of calendar windows; 0 is the natural beginning.
    Column("window_anchor", Integer, nullable=False, server_default=text("0")),
    # Where the first window of `every` begins; null otherwise.
    Column("window_start_at", DateTime(timezone=True)),
    Column("time_zone", Text, nullable=False, server_default=text("'UTC'")),
    Column("enforcement", Text, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    created_column(),
    updated_column(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "slug"),
    CheckConstraint("limit_nanos >= 0", name="limit"),
    CheckConstraint(
        "scope_kind IN ('platform','organization','team','project','user','key')",
        name="scope_kind",
    ),
    CheckConstraint(
        "window_kind IN ('calendar','every','from_first_call','lifetime')", name="window_kind"
    ),
    CheckConstraint("enforcement IN ('hard','soft','shadow')", name="enforcement"),
)
Index("budgets_scope_idx", budgets.c.organization_id, budgets.c.scope_kind, budgets.c.scope_id)

# Every state a budget ever had, for the audit: written with the change, never changed.
budget_versions = Table(
    "budget_versions",
    metadata,
    organization_id_column(),
    Column("budget_id", BigInteger, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("limit_nanos", BigInteger, nullable=False),
    Column("disabled", Boolean, nullable=False),
    # Who changed it: "admin".
    Column("actor", Text, nullable=False),
    created_column(),
)

# A limit that is higher for a while.
budget_raises = Table(
    "budget_raises",
    metadata,
    organization_id_column(),
    id_column(),
    Column("slug", Text, nullable=False),
    Column("budget_id", BigInteger, nullable=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("start_at", DateTime(timezone=True), nullable=False),
    Column("end_at", DateTime(timezone=True), nullable=False),
    # Ended early.
    Column("cancelled_at", DateTime(timezone=True)),
    Column("reason", Text, nullable=False),
    # Who decided it: "admin".
    Column("actor", Text, nullable=False),
    # As the writer of the shard last applied it.
    Column("phase", Text, nullable=False, server_default=text("'scheduled'")),
    created_column(),
    ForeignKeyConstraint(
        ["organization_id", "budget_id"], ["budgets.organization_id", "budgets.id"]
    ),
    UniqueConstraint("organization_id", "slug"),
    CheckConstraint("amount_nanos > 0", name="amount"),
    CheckConstraint("start_at < end_at", name="time"),
    CheckConstraint("phase IN ('scheduled','running','over')", name="phase"),
)
Index(
    "budget_raises_open_idx",
    budget_raises.c.organization_id,
    budget_raises.c.budget_id,
    postgresql_where=budget_raises.c.phase != "over",
)

# Each step in the life of a raise, for the audit. Never changed: a trigger refuses it.
budget_raise_steps = Table(
    "budget_raise_steps",
    metadata,
    organization_id_column(),
    id_column(),
    Column("budget_id", BigInteger, nullable=False),
    Column("raise_id", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("effective_at", DateTime(timezone=True), nullable=False),
    # The budget's limit from then on, with the raises that count then.
    Column("limit_nanos", BigInteger, nullable=False),
    # Who did it: "admin", or "clock".
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    created_column(),
    CheckConstraint("kind IN ('made','began','ended','cancelled')", name="kind"),
)
Index(
    "budget_raise_steps_raise_idx",
    budget_raise_steps.c.organization_id,
    budget_raise_steps.c.raise_id,
)

# A budget in one window. Only the writer of the organization's shard changes a row.
budget_windows = Table(
    "budget_windows",
    metadata,
    organization_id_column(),
    id_column(),
    Column("budget_id", BigInteger, nullable=False),
    # For budgets with one balance per value of a tag; '' is the whole budget.
    Column("split_value", Text, nullable=False, server_default=text("''")),
    Column("start_at", DateTime(timezone=True), nullable=False),
    # Null: without end.
    Column("end_at", DateTime(timezone=True)),
    # The budget's limit as the writer last applied it, and the version of the budget it is of.
    Column("limit_nanos", BigInteger, nullable=False),
    Column("budget_version", BigInteger, nullable=False),
    # What the books may reach: the limit, or after a cut what was committed then; it falls with
    # what comes home.
    Column("ceiling_nanos", BigInteger, nullable=False),
    # S, O, D, V.
    Column("settled_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("outstanding_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("in_doubt_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("overrun_nanos", BigInteger, nullable=False, server_default=text("0")),
    # Hard: money is lent and the ceiling holds. Soft or shadow: only settled_nanos moves.
    Column("hard", Boolean, nullable=False),
    created_column(),
    # Shadow: what a hard budget would have refused is counted: calls, and what they cost.
    Column("shadow", Boolean, nullable=False, server_default=text("false")),
    Column("would_refuse_count", BigInteger, nullable=False, server_default=text("0")),
    Column("would_refuse_nanos", BigInteger, nullable=False, server_default=text("0")),
    # When it was found that the database had forgotten grants of it: nothing is lent until its
    # budget is thawed, later than this.
    Column("frozen_at", DateTime(timezone=True)),
    ForeignKeyConstraint(
        ["organization_id", "budget_id"], ["budgets.organization_id", "budgets.id"]
    ),
    UniqueConstraint("organization_id", "budget_id", "split_value", "start_at"),
    CheckConstraint(
        "outstanding_nanos >= 0 AND in_doubt_nanos >= 0 AND overrun_nanos >= 0", name="parts"
    ),
    CheckConstraint(
        "NOT (hard AND shadow) AND would_refuse_count >= 0"
        " AND (shadow OR would_refuse_count = 0 AND would_refuse_nanos = 0)",
        name="shadow",
    ),
    # The second guard behind the writer's own: a grant that does not fit cannot be committed. A
    # posted fact moves money from outstanding to settled, or raises settled and overrun alike, so
    # it never trips this.
    CheckConstraint(
        "NOT hard OR settled_nanos - overrun_nanos + outstanding_nanos + in_doubt_nanos"
        " <= ceiling_nanos",
        name="ceiling",
    ),
)

# What a budget's first window had seen before the budget was made: one line, written as the window
# begins, so that its settled amount stays the sum of what is on record. Never changed: a trigger
# refuses it.
opening_lines = Table(
    "opening_lines",
    metadata,
    organization_id_column(),
    Column("budget_window_id", BigInteger, primary_key=True, autoincrement=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    created_column(),
    ForeignKeyConstraint(
        ["organization_id", "budget_window_id"],
        ["budget_windows.organization_id", "budget_windows.id"],
    ),
    CheckConstraint("amount_nanos >= 0", name="amount"),
)

# Who let a frozen budget lend again, and why.
thaws = Table(
    "thaws",
    metadata,
    organization_id_column(),
    id_column(),
    Column("budget_id", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    created_column(),
)
