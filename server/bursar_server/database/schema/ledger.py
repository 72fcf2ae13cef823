"""What was spent: draw sets, entries, frames set aside, events."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from bursar_server.database.schema.columns import (
    created_column,
    id_column,
    metadata,
    organization_id_column,
)

NO_IDS = text("'{}'::bigint[]")

# Interned sets of budget windows: what a call drew on, named by each of its entries.
draw_sets = Table(
    "draw_sets",
    metadata,
    organization_id_column(),
    id_column(),
    # Ascending, without repeats.
    Column("budget_window_ids", ARRAY(BigInteger), nullable=False),
    # Those of them that were armed while the call was under way: it counts in them, and drew on
    # no allowance of theirs.
    Column("armed_window_ids", ARRAY(BigInteger), nullable=False, server_default=NO_IDS),
    UniqueConstraint(
        "organization_id", "budget_window_ids", "armed_window_ids", name="draw_sets_windows_key"
    ),
)

# The ledger: one row a call, the settlement and the double entry in one. Never updated or
# deleted: a trigger refuses it.
entries = Table(
    "entries",
    metadata,
    organization_id_column(),
    Column("session_epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("k", Integer, primary_key=True, autoincrement=False),
    # final, provisional, released; lost has a negative n; correction is a later difference.
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
    # The shadow windows among what was drawn on whose budget would have refused the call, were it
    # hard; null for none. The same on all postings of a call.
    Column("would_refuse_window_ids", ARRAY(BigInteger)),
    # The price's currency, and how much of `currency` one of it was at admission ("0.92", or the
    # quotient "1/1.0842"); both '' where the price is in `currency`.
    Column("price_currency", Text, nullable=False, server_default=text("''")),
    Column("exchange_rate", Text, nullable=False, server_default=text("''")),
    # What else the price was chosen by: '' is the standard tier, no region, and not recorded.
    Column("service_tier", Text, nullable=False, server_default=text("''")),
    Column("region", Text, nullable=False, server_default=text("''")),
    Column("priced_as", Text, nullable=False, server_default=text("''")),
    # Of a correction: the batch it was posted in.
    Column("rerating_id", BigInteger),
    CheckConstraint("kind IN ('final','provisional','released','lost','correction')", name="kind"),
    CheckConstraint("(kind = 'correction') = (rerating_id IS NOT NULL)", name="rerating"),
    CheckConstraint("k > 0 OR amount_nanos >= 0 OR kind = 'lost'", name="amount"),
    CheckConstraint("(price_currency = '') = (exchange_rate = '')", name="exchange"),
)
Index("entries_posted_idx", entries.c.organization_id, entries.c.posted_at)
Index("entries_admitted_idx", entries.c.organization_id, entries.c.admitted_at)
Index("entries_key_idx", entries.c.organization_id, entries.c.key_id)
Index(
    "entries_rerating_idx",
    entries.c.organization_id,
    entries.c.rerating_id,
    postgresql_where=entries.c.rerating_id.is_not(None),
)

# Frames that could not be applied, kept as they came, so that one of them never stops a shard.
quarantined_frames = Table(
    "quarantined_frames",
    metadata,
    organization_id_column(),
    id_column(),
    Column("session_epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("fault", Text, nullable=False),
    created_column(),
)

# What people should know; written in the transaction that made it true.
events = Table(
    "events",
    metadata,
    organization_id_column(),
    id_column(),
    Column("kind", Text, nullable=False),
    Column("budget_id", BigInteger),
    Column("budget_window_id", BigInteger),
    Column("summary", Text, nullable=False),
    Column("amount_nanos", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    created_column(),
    CheckConstraint(
        "kind IN ('soft_limit_crossed','overrun','frame_quarantined','shadow_refusal',"
        "'session_silent','session_lost','ledger_tail_lost','prices_imported',"
        "'price_sync_failed')",
        name="kind",
    ),
)
