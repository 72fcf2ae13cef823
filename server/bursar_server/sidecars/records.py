"""The rows of sidecars, and of what they hold, as they are shown."""

from datetime import datetime

import msgspec


class SidecarRecord(msgspec.Struct, frozen=True):
    """An enrolled sidecar."""

    id: int
    organization_id: int
    organization_slug: str
    slug: str
    disabled: bool
    draining: bool
    secret_hash: bytes
    secret_prefix: str
    build: str
    last_seen_at: datetime | None
    created_at: datetime


class HeldRecord(msgspec.Struct, frozen=True):
    """What one session was lent of one budget's window."""

    session_epoch: int
    budget_slug: str
    window_start_at: datetime
    currency: str
    granted_nanos: int
    returned_nanos: int
    settled_nanos: int
    in_doubt_nanos: int
    in_doubt_since: datetime | None
    budget_window_id: int


class SessionRecord(msgspec.Struct, frozen=True):
    """One session of a sidecar that still holds money or unsettled calls."""

    sidecar_id: int
    session_epoch: int
    organization_id: int
    organization_slug: str
    state: str
    settled_count: int
    last_seen_at: datetime
