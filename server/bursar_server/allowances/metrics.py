"""What lending counts."""

from prometheus_client import Counter, Gauge, Histogram

ENTRIES = Counter("bursar_entries_posted_total", "Ledger entries written.")
DUPLICATES = Counter(
    "bursar_settlements_repeated_total", "Settlements that came again and were not posted again."
)
VERDICTS = Counter("bursar_need_verdicts_total", "Answers to waiting calls.", ["outcome"])
RECALLS = Counter("bursar_recalls_total", "Requests to sidecars to give free money back.")
SOFT_CROSSINGS = Counter(
    "bursar_soft_limit_crossings_total", "Soft budgets whose spend crossed their limit."
)
SHADOW_REFUSALS = Counter(
    "bursar_shadow_refusals_total",
    "Calls that a shadow budget would have refused, for each such budget.",
)
OVERRUNS = Counter("bursar_overruns_total", "Entries that cost more than their allowances covered.")
SESSIONS_SILENT = Counter(
    "bursar_sessions_silent_total", "Sessions whose money is in doubt because they are silent."
)
SESSIONS_LOST = Counter(
    "bursar_sessions_lost_total", "Sessions whose money counts as spent for want of evidence."
)
LOST_TAILS = Counter(
    "bursar_ledger_tails_lost_total", "Times the database was found to have forgotten commits."
)
OF_EVENTS = {
    "soft_limit_crossed": SOFT_CROSSINGS,
    "overrun": OVERRUNS,
    "session_silent": SESSIONS_SILENT,
    "session_lost": SESSIONS_LOST,
}
"""Those that count events of a kind."""
QUARANTINED = Counter(
    "bursar_frames_quarantined_total", "Frames that could not be applied and were set aside."
)
RETRIES = Counter(
    "bursar_tick_retries_total", "Transactions of the writer that failed and were tried again."
)
TICK_SECONDS = Histogram(
    "bursar_tick_seconds",
    "Duration of the writer's transactions.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
WAITING = Gauge("bursar_waiting_needs", "Calls that wait for money to come home.")
SESSIONS = Gauge("bursar_live_sessions", "Sessions on open streams.")
