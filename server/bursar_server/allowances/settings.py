"""How lending behaves: every limit and delay of it, with its reason."""

from typing import Annotated

import msgspec
from msgspec import Meta


class LendingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays in milliseconds; amounts in pieces."""

    valid_for_ms: Annotated[int, Meta(ge=3_000, le=3_600_000)] = 30_000
    """How long policy and allowances hold after the last applied frame was sent. Shorter cuts
    off a partitioned sidecar sooner, longer lets it go on through a longer outage. A sidecar speaks
    within a third of it and half a second, and takes silence over two thirds for a dead stream:
    below three seconds quiet streams would be given up."""
    need_tick_ms: int = 5
    """How long a transaction waits for company when a call waits for it."""
    idle_tick_ms: int = 150
    """How long settlements wait for company when no call waits: fewer, larger transactions. So the
    writer makes at most seven a second, which is below 0.01 a call from 700 calls/s on. It is also
    how late a renewal comes, and sidecars ask for one while they have 0.8 s of their traffic."""
    recall_again_ms: int = 50
    """How soon idle money is asked for again while a call still waits for it."""
    recall_empty_again_ms: int = 1_000
    """The same for a session that said it has nothing free: it says so again by itself when that
    changes, at the latest after a second. A hundred sidecars asked twenty times a second, all for
    one waiting call, would cost more than all they have to say otherwise."""
    contended_retry_ms: int = 1_000
    """The retry-after told when only reservations in flight are in the way."""
    ahead_ms: int = 5_000
    """How long before the end of a window sessions that use it are lent from the next one: several
    of their reports, which come once a second. Longer keeps money idle."""
    hold_idle_ms: int = 2_000
    """How long free money may lie idle in a sidecar when its window is in its tail. Shorter brings
    it home sooner, longer spares calls in quick succession their round trips; who waits for it
    recalls it anyway."""
    active_ms: int = 60_000
    """A session counts as a user of a window for this long after it last used it."""
    max_wait_ms: int = 60_000
    """The longest a need may ask to wait, whatever it says."""
    max_waiting_needs: int = 10_000
    """Waiting calls over all sessions; further needs are answered `contended` at once."""
    max_waiting_needs_of_session: int = 2_048
    """Waiting calls of one session, twice what a sidecar lets wait: one that asks for more must not
    take the room of the others."""
    max_inbox_frames: int = 4_096
    """Frames received and not yet applied; readers wait at it, which is back-pressure on TCP."""
    max_tick_frames: int = 512
    """Frames applied in one transaction: bounds its locks and how long others wait."""
    max_outbox_frames: int = 10_000
    """Frames waiting to be sent to one sidecar; one that does not read is cut off at it."""
    max_subscribed_keys: int = 100_000
    """Keys one session may ask for (wrong ones count): bounds the memory of a hostile sidecar."""
    apply_wait_ms: int = 2_000
    """How long the answer to a changed budget waits for the change to hold everywhere in the
    books; it is durable before."""
    resolve_after_ms: int = 1_830_000
    """How long a session must be silent before its money is in doubt, and people may decide about
    it: the longest call (30 minutes) and the lapse (30 seconds), after which it can't spend. Raise
    it together with `valid_for_ms`: it does not follow by itself, and must at least be more."""
    doubt_horizon_ms: int = 86_400_000
    """How long money stays in doubt before it counts as spent: a day, in which a machine that went
    down at night is looked after, and its journal found."""
    life_beat_ms: int = 15_000
    """How often time is told to sessions, and the clock of service written down: a crash forgets
    this much of a silence, which is little beside half an hour."""
    most_gap_ms: int = 60_000
    """The longest stretch between two commits that counts as service: an outage of the database,
    or a process that was stopped, is no silence of sidecars."""
    max_due_sessions: int = 256
    """Sessions that time ends in one transaction: bounds its locks after a long night."""
    max_streams_of_sidecar: int = 1_024
    """Streams open under one credential, which many processes may share: a quarter of what the
    server takes, so that one credential does not keep all others out."""
    max_unapplied_bytes: int = 16_777_216
    """Bytes of one session's frames that were received and not yet applied; its stream is read no
    further until they are, so that who floods fills its own connection, not the memory here."""
    max_unapplied_frames: int = 256
    """The same in frames: a small part of the inbox that all sessions share."""
    max_quarantined_of_stream: int = 16
    """Frames of one stream that could not be applied before it is cut off: each is kept for people
    to look at, and takes a transaction of its own."""
    boundary_look_ms: int = 1_000
    """How often the wall clock is looked at while a temporary raise is to begin or end: it may be
    set meanwhile, which no wait can know. Also how soon it is tried again if it can't be applied.
    Shorter costs a comparison a look."""
    hello_timeout_ms: int = 10_000
    """A stream that says nothing is closed after this."""
    stop_wait_ms: int = 5_000
    """How long the end of the process waits for a database that is away. Nothing is lost by giving
    up: what was not committed was not acknowledged either."""
    retry_first_ms: int = 50
    """First pause after the database failed."""
    retry_most_ms: int = 2_000
    """Longest pause after the database failed; it is tried for ever, for facts must be posted."""

    def __post_init__(self) -> None:
        if self.resolve_after_ms <= self.valid_for_ms:
            raise ValueError(
                f"resolve_after_ms: {self.resolve_after_ms} is not accepted: expected more than "
                f"valid_for_ms, which is {self.valid_for_ms}"
            )
