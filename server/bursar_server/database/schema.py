"""The tables, as SQLAlchemy Core metadata: the one description that migrations must equal.

Every table of an organization leads with `organization_id`, in its primary key too, so that the
store can be spread by it. Amounts are whole nanos of the organization's currency. Enumerations
are text with a CHECK, so that a row can be read without the program.
"""

# Not a name a line: that would be a thirtieth of the lines that a file may have.
from sqlalchemy import (  # noqa: I001
    ARRAY, BigInteger, Boolean, CheckConstraint, Column, DateTime, ForeignKeyConstraint, Index,
    Integer, LargeBinary, MetaData, Sequence, SmallInteger, Table, Text, UniqueConstraint, text,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB, UUID

PLATFORM_ORGANIZATION_ID = 1
"""The built-in organization that holds what concerns all of them; the migration inserts it."""

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

ids = Sequence("ids", start=1000, metadata=metadata)
session_epochs = Sequence("session_epochs", metadata=metadata)

NOW = text("now()")
EMPTY_OBJECT = text("'{}'::jsonb")
EMPTY_ARRAY = text("'{}'::text[]")


def _id() -> Column[int]:
    # From one sequence for all nouns (see `ids`): an id never means two things, in a log or a URL.
    return Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')"))


def _organization_id() -> Column[int]:
    return Column("organization_id", BigInteger, primary_key=True, autoincrement=False)


def _created() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW)


def _updated() -> Column[object]:
    return Column("updated_at", DateTime(timezone=True), nullable=False, server_default=NOW)


shards = Table(
    "shards",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Raised by whoever takes the shard over; checked in each of the writer's transactions.
    Column("owner_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("owner", Text, nullable=False, server_default=text("''")),
    _updated(),
)

organizations = Table(
    "organizations",
    metadata,
    Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')")),
    Column("slug", Text, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("shard_id", Integer, nullable=False, server_default=text("0")),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    # Raised in the transaction of every change to its keys, budgets and what they name.
    Column("policy_version", BigInteger, nullable=False, server_default=text("1")),
    # Raised in the transaction of every change to its custom prices.
    Column("price_overlay_version", BigInteger, nullable=False, server_default=text("0")),
    _created(),
    _updated(),
    CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
    ForeignKeyConstraint(["shard_id"], ["shards.id"]),
)


# What an admin key must hash to, where none is given in the settings: one row, made at the first
# start. SHA-256, as for keys: the secret holds 256 random bits.
admin_keys = Table(
    "admin_keys",
    metadata,
    Column("id", BigInteger, primary_key=True, server_default=text("nextval('ids')")),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("secret_prefix", Text, nullable=False),
    _created(),
)


def _spender_table(name: str, *columns: Column[object]) -> Table:
    return Table(
        name,
        metadata,
        _organization_id(),
        _id(),
        Column("slug", Text, nullable=False),
        Column("display_name", Text, nullable=False),
        *columns,
        Column("metadata", JSONB, nullable=False, server_default=EMPTY_OBJECT),
        Column("disabled", Boolean, nullable=False, server_default=text("false")),
        _created(),
        _updated(),
        ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
        UniqueConstraint("organization_id", "slug"),
    )


teams = _spender_table("teams")
projects = _spender_table("projects", Column("team_id", BigInteger))
users = _spender_table("users", Column("email", Text, nullable=False, server_default=text("''")))
keys = _spender_table(
    "keys",
    Column("team_id", BigInteger),
    Column("project_id", BigInteger),
    Column("user_id", BigInteger),
    # SHA-256 of the secret: it holds 256 random bits, so a slow hash would protect nothing more.
    Column("secret_hash", LargeBinary, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("allowed_models", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("tags", ARRAY(Text), nullable=False, server_default=EMPTY_ARRAY),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
)
sidecars = Table(
    "sidecars",
    metadata,
    _organization_id(),
    _id(),
    Column("slug", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("build", Text, nullable=False, server_default=text("''")),
    Column("last_seen_at", DateTime(timezone=True)),
    _created(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "slug"),
)
# A secret leads to one row, whatever the organization: it is looked up before that is known.
Index("keys_secret_hash_idx", keys.c.secret_hash, unique=True)
Index("sidecars_secret_hash_idx", sidecars.c.secret_hash, unique=True)

# What was answered to a request id, so that a retry is answered alike.
requests = Table(
    "requests",
    metadata,
    _organization_id(),
    Column("request_id", UUID(as_uuid=True), primary_key=True),
    Column("method", Text, nullable=False),
    # SHA-256 of the request without its id: another content under the same id is refused.
    Column("content_hash", LargeBinary, nullable=False),
    # The name of what was made.
    Column("resource", Text, nullable=False),
    _created(),
)

budgets = Table(
    "budgets",
    metadata,
    _organization_id(),
    _id(),
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
    _created(),
    _updated(),
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
    CheckConstraint("enforcement IN ('hard','soft')", name="enforcement"),
)
Index("budgets_scope_idx", budgets.c.organization_id, budgets.c.scope_kind, budgets.c.scope_id)

# Every state a budget ever had, for the audit: written with the change, never changed.
budget_versions = Table(
    "budget_versions",
    metadata,
    _organization_id(),
    Column("budget_id", BigInteger, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("limit_nanos", BigInteger, nullable=False),
    Column("disabled", Boolean, nullable=False),
    # Who changed it: "admin".
    Column("actor", Text, nullable=False),
    _created(),
)

# A budget in one window. Only the writer of the organization's shard changes a row.
budget_windows = Table(
    "budget_windows",
    metadata,
    _organization_id(),
    _id(),
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
    # Hard: money is lent and the ceiling holds. Soft: only settled_nanos moves.
    Column("hard", Boolean, nullable=False),
    _created(),
    ForeignKeyConstraint(
        ["organization_id", "budget_id"], ["budgets.organization_id", "budgets.id"]
    ),
    UniqueConstraint("organization_id", "budget_id", "split_value", "start_at"),
    CheckConstraint(
        "outstanding_nanos >= 0 AND in_doubt_nanos >= 0 AND overrun_nanos >= 0", name="parts"
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
    _organization_id(),
    Column("budget_window_id", BigInteger, primary_key=True, autoincrement=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    _created(),
    ForeignKeyConstraint(
        ["organization_id", "budget_window_id"],
        ["budget_windows.organization_id", "budget_windows.id"],
    ),
    CheckConstraint("amount_nanos >= 0", name="amount"),
)

# One process life of a sidecar for one organization.
sessions = Table(
    "sessions",
    metadata,
    _organization_id(),
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
    _created(),
    Column("last_seen_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    # Entries of what was lost, and taken back of it: they have negative n, from -1 down.
    Column("lost_count", BigInteger, nullable=False, server_default=text("0")),
    # What was decided about its money, as a resolution says: spent, free; null: nothing.
    Column("decision", Text),
    UniqueConstraint("organization_id", "sidecar_id", "boot_id"),
    CheckConstraint("state IN ('open','fenced','closed')", name="state"),
)

# What one session was lent of one window: three totals that only grow.
allowances = Table(
    "allowances",
    metadata,
    _organization_id(),
    Column("session_epoch", BigInteger, primary_key=True),
    Column("budget_window_id", BigInteger, primary_key=True),
    Column("granted_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("returned_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("settled_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("in_doubt_nanos", BigInteger, nullable=False, server_default=text("0")),
    # The part of settled_nanos that was posted as lost and no evidence took back yet.
    Column("lost_nanos", BigInteger, nullable=False, server_default=text("0")),
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
Index("allowances_window_idx", allowances.c.organization_id, allowances.c.budget_window_id)

# What was decided about the money of a session that does not come back, and by whom. The writer of
# balances applies it; until then `applied_at` is null.
resolutions = Table(
    "resolutions",
    metadata,
    _organization_id(),
    _id(),
    Column("session_epoch", BigInteger, nullable=False),
    Column("decision", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    _created(),
    Column("applied_at", DateTime(timezone=True)),
    # '' or why it was not applied after all.
    Column("refusal", Text, nullable=False, server_default=text("''")),
    # What the session held: {budget window id: nanos}.
    Column("held", JSONB),
    CheckConstraint("decision IN ('spent','free')", name="decision"),
)

# Interned sets of budget windows: what a call drew on, named by each of its entries.
draw_sets = Table(
    "draw_sets",
    metadata,
    _organization_id(),
    _id(),
    # Ascending, without repeats.
    Column("budget_window_ids", ARRAY(BigInteger), nullable=False),
    UniqueConstraint("organization_id", "budget_window_ids"),
)

# The ledger: one row a call, the settlement and the double entry in one. Never updated or
# deleted: a trigger refuses it.
entries = Table(
    "entries",
    metadata,
    _organization_id(),
    Column("session_epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("k", Integer, primary_key=True, autoincrement=False),
    # final, provisional, released; lost has a negative n.
    Column("kind", Text, nullable=False),
    Column("debit_account", Text, nullable=False),
    Column("credit_account", Text, nullable=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reserved_nanos", BigInteger, nullable=False),
    # What no allowance covered, the largest over its budgets.
    Column("overrun_nanos", BigInteger, nullable=False, server_default=text("0")),
    Column("draw_set_id", BigInteger, nullable=False),
    Column("key_id", BigInteger),
    Column("team_id", BigInteger),
    Column("project_id", BigInteger),
    Column("user_id", BigInteger),
    Column("customer", Text, nullable=False),
    Column("app", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("requested_model", Text, nullable=False),
    Column("price_version", Text, nullable=False),
    Column("input_llm_tokens", BigInteger, nullable=False),
    Column("cached_input_llm_tokens", BigInteger, nullable=False),
    Column("cache_write_5m_llm_tokens", BigInteger, nullable=False),
    Column("cache_write_1h_llm_tokens", BigInteger, nullable=False),
    Column("output_llm_tokens", BigInteger, nullable=False),
    Column("reasoning_llm_tokens", BigInteger, nullable=False),
    Column("further_usage", JSONB),
    # '' when the usage is the provider's own.
    Column("estimate_reason", Text, nullable=False),
    Column("provider_request_id", Text, nullable=False),
    Column("http_status", SmallInteger, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("admitted_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    Column("posted_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("kind IN ('final','provisional','released','lost')", name="kind"),
    CheckConstraint("k > 0 OR amount_nanos >= 0 OR kind = 'lost'", name="amount"),
)
Index("entries_posted_idx", entries.c.organization_id, entries.c.posted_at)
Index("entries_admitted_idx", entries.c.organization_id, entries.c.admitted_at)
Index("entries_key_idx", entries.c.organization_id, entries.c.key_id)

# Frames that could not be applied, kept as they came, so that one of them never stops a shard.
quarantined_frames = Table(
    "quarantined_frames",
    metadata,
    _organization_id(),
    _id(),
    Column("session_epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("fault", Text, nullable=False),
    _created(),
)

# What people should know; written in the transaction that made it true.
events = Table(
    "events",
    metadata,
    _organization_id(),
    _id(),
    Column("kind", Text, nullable=False),
    Column("budget_id", BigInteger),
    Column("budget_window_id", BigInteger),
    Column("summary", Text, nullable=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    _created(),
    CheckConstraint("kind IN ('soft_limit_crossed','overrun','frame_quarantined')", name="kind"),
)

# One version of one layer of prices.
price_lists = Table(
    "price_lists",
    metadata,
    _organization_id(),
    _id(),
    # builtin, custom.
    Column("layer", Text, nullable=False),
    # Content hash of a snapshot; a counter for custom lists.
    Column("version", Text, nullable=False),
    Column("source", Text, nullable=False),
    _created(),
    ForeignKeyConstraint(["organization_id"], ["organizations.id"]),
    UniqueConstraint("organization_id", "layer", "version"),
    CheckConstraint("layer IN ('builtin','custom')", name="layer"),
)

# What one model costs from one instant on. Rows are never changed but to end them.
prices = Table(
    "prices",
    metadata,
    _organization_id(),
    _id(),
    Column("price_list_id", BigInteger, nullable=False),
    Column("layer", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    # As `bursar.pricing` writes it.
    Column("price", JSONB, nullable=False),
    Column("effective_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    _created(),
    ForeignKeyConstraint(
        ["organization_id", "price_list_id"], ["price_lists.organization_id", "price_lists.id"]
    ),
)
Index(
    "prices_model_idx",
    prices.c.organization_id,
    prices.c.layer,
    prices.c.provider,
    prices.c.model,
    prices.c.effective_at,
)
