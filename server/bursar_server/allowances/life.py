"""What time does to a session that is not heard of. Pure.

    heard --silent past lapse plus the longest call--> doubted --past the horizon--> over

Time alone frees nothing: silence moves what is outstanding to in doubt and ends the session for
spending; the horizon counts what is in doubt as spent, as a decision of people would. Evidence that
comes at any stage is honoured, and makes the session heard again. A session that nobody ever spoke
in, and that was lent nothing, is closed: there is nothing to wait for. Should it have had calls
after all (its first words were lost, or the database forgot them), then it is closed no more until
they are settled.

Silence is counted by a clock that runs only while the shard is served: while no control plane
commits, no sidecar can speak. A stretch between two commits counts up to a limit, so that an outage
of the database, or a process that was stopped, does not count either.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from bursar_server.allowances.records import EventRow, SessionRow
from bursar_server.allowances.rules import Books

HEARD: Final = "heard"
DOUBTED: Final = "doubted"
OVER: Final = "over"

HORIZON: Final = "horizon"
"""Who decided, where time did."""


class Terms(msgspec.Struct, frozen=True):
    """How long each stage lasts, in milliseconds of service."""

    silent_after_ms: int
    doubt_horizon_ms: int


SILENT: Final = "the session was silent for too long"
DECIDED: Final = "it was decided what becomes of the session's money"
REPLACED: Final = "a newer life of the sidecar began"
"""Why a session may not spend any more, as it is told."""


NEVER: Final = Terms(2**62, 2**62)
"""Time does nothing."""


class Passed(msgspec.Struct, frozen=True):
    """What time did to a session."""

    row: SessionRow
    held: Mapping[int, int]
    """What it held, by window."""
    lost: bool
    """It is counted as spent now; else it is in doubt."""
    fenced: bool
    """It was open before."""


class ServedClock:
    """How long a shard was served, in milliseconds, whoever owned it."""

    def __init__(self, served_ms: int, now_ms: int, most_gap_ms: int) -> None:
        """`served_ms` as it is on record; `now_ms` is a monotonic clock's."""
        self._served_ms = served_ms
        self._at_ms = now_ms
        self._most_gap_ms = most_gap_ms

    def read(self, now_ms: int) -> int:
        """What it shows; since the last commit it goes on for a bounded time only."""
        return self._served_ms + min(max(0, now_ms - self._at_ms), self._most_gap_ms)

    def committed(self, now_ms: int) -> None:
        """A transaction was committed: the shard was served until now."""
        self._served_ms, self._at_ms = self.read(now_ms), now_ms


def why_fenced(row: SessionRow) -> str:
    """Why a session that did not close itself may not spend."""
    if row.decision is not None:
        return DECIDED
    # Only a newer life says how an earlier one's journal ended.
    return SILENT if row.journal is None else REPLACED


def hear(row: SessionRow, served_ms: int) -> None:
    """Something came from a session, or was proven of it."""
    row.quiet_since_ms = served_ms
    if row.stage == OVER:
        row.stage = HEARD


def doubt(row: SessionRow, books: Books, served_ms: int) -> None:
    """Hold what a session was lent as in doubt, and let the horizon begin."""
    books.doubt(row.session_epoch)
    if row.stage != DOUBTED:
        row.stage, row.quiet_since_ms = DOUBTED, served_ms


def is_due(row: SessionRow, served_ms: int, terms: Terms) -> bool:
    """Whether a stage of the session has lasted long enough."""
    if row.state == "closed" or row.decision is not None or row.stage == OVER:
        return False
    lasts_ms = terms.silent_after_ms if row.stage == HEARD else terms.doubt_horizon_ms
    return served_ms - row.quiet_since_ms >= lasts_ms


def pass_time(row: SessionRow, books: Books, served_ms: int) -> Passed:
    """End the stage that a due session is in; all its totals are in `books`.

    The caller posts what is lost, and says what happened.
    """
    epoch, was_open = row.session_epoch, row.state == "open"
    held = books.held_by(epoch)
    if was_open and not row.applied_seq and not row.settled_count and not _was_lent(books, epoch):
        # Its process ended between Hello and its first word.
        row.state, row.last_n, row.stage = "closed", 0, OVER
        return Passed(row, {}, lost=False, fenced=True)
    if was_open:
        # Should it wake up after all: it is told, and begins a new session.
        row.state = "fenced"
    if not held:
        row.stage = OVER
    elif row.stage == HEARD:
        doubt(row, books, served_ms)
        return Passed(row, held, lost=False, fenced=was_open)
    else:
        books.lose(epoch)
        row.decision, row.stage = "spent", OVER
        return Passed(row, held, lost=True, fenced=was_open)
    return Passed(row, {}, lost=False, fenced=was_open)


def events_of(passed: Passed, currency: str) -> list[EventRow]:
    """What people should know of it: nothing where no money was held."""
    if not passed.held:
        return []
    epoch = passed.row.session_epoch
    event = EventRow(
        organization_id=passed.row.organization_id,
        kind="session_lost" if passed.lost else "session_silent",
        budget_id=None,
        budget_window_id=None,
        summary=(
            f"no evidence came of what session {epoch} spent: what it held is posted as spent"
            if passed.lost
            else f"session {epoch} is silent: what it holds is in doubt"
        ),
        # Budgets lie within one another: what the widest of them is short of.
        amount_nanos=max(passed.held.values()),
        currency=currency,
    )
    return [event]


def _was_lent(books: Books, session_epoch: int) -> bool:
    return any(
        totals.granted for (epoch, _), totals in books.totals.items() if epoch == session_epoch
    )
