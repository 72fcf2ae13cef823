"""The rows that lending works on, and what it has to tell. Pure."""

import hashlib
from datetime import UTC, datetime

import msgspec


class SessionRow(msgspec.Struct):
    """A session, as the writer works on it."""

    organization_id: int
    session_epoch: int
    state: str
    applied_seq: int
    settled_count: int
    highest_settled_n: int
    last_n: int | None
    journal: str | None
    lost_count: int = 0
    """Entries of what was lost, and taken back of it."""
    decision: str | None = None
    """What was decided about its money, by people or by time: spent or free."""
    policy_version: int = 0
    """What it admits by is never older than this."""
    policy_last_n: int = 0
    """The highest n that it admitted under an older one."""
    quiet_since_ms: int = 0
    """Since when it is silent, or in its stage, on the clock of service."""
    stage: str = "heard"
    """heard, doubted, over: what time did to it."""

    @property
    def is_closed(self) -> bool:
        """Whether every call is settled and all money came home."""
        return self.state == "closed"


class WindowRow(msgspec.Struct, frozen=True):
    """When a budget's window runs; what it holds is in WindowBalance."""

    id: int
    organization_id: int
    budget_id: int
    start_at: datetime
    end_at: datetime | None


class EventRow(msgspec.Struct, frozen=True):
    """Something people should know."""

    organization_id: int
    kind: str
    budget_id: int | None
    budget_window_id: int | None
    summary: str
    amount_nanos: int
    currency: str


def window_id(organization_id: int, budget_id: int, start_at: datetime) -> int:
    """The id of a budget's window. It follows from what the window is, so that one that the
    database forgot is the same when it begins again; 60 bits."""
    at = start_at.astimezone(UTC).isoformat(timespec="microseconds")
    words = f"{organization_id}/{budget_id}/{at}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 4
