"""One step of the lending state machine: facts first, then what they let come home, then grants.

Pure: the caller has read (and locked) the slice of the books that the step touches, and writes back
what changed. The same step runs over Postgres in production and over dictionaries in a simulation.

    post settlements -> adjust -> give back -> close or doubt -> lend, recall
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bursar_server.allowances import rules
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.records import EventRow, SessionRow, WindowRow
from bursar_server.ledger.entries import Posting


class FrameFault(Exception):
    """What was gathered can't be applied, whatever the database's health; says why."""


@dataclass(slots=True)
class Slice:
    """The part of the books that a step works on; changed in place."""

    sessions: dict[int, SessionRow]
    windows: dict[int, WindowRow]
    books: rules.Books


@dataclass(slots=True)
class Input:
    """What a step works on. Times: `now` of the day, `now_ms` of the monotonic clock."""

    frames: Sequence[tuple[int, Frame]]
    """By the session that spoke, in the order of arrival."""
    postings: Sequence[Posting]
    """Planned from the frames' settlements; their overrun is filled in here."""
    needs: Sequence[rules.Need]
    """Calls that wait, in the order they came."""
    limits: Mapping[int, tuple[int, int]]
    """By window: (limit, version of the budget) where a budget changed."""
    users: Callable[[Iterable[int]], Mapping[int, int]]
    """How many sessions used each of these windows lately."""
    holders: Callable[[Iterable[int]], Sequence[rules.Holder]]
    """What sessions last said they have free in these windows."""
    now: datetime
    now_ms: int
    lending: bool = True
    """Off: facts only."""


@dataclass(slots=True)
class Output:
    """What a step decided, besides the changed slice."""

    events: list[EventRow] = field(default_factory=list)
    decisions: rules.Decisions = field(default_factory=rules.Decisions)
    recalls: list[rules.Holder] = field(default_factory=list)


def step(state: Slice, given: Input) -> Output:
    """Apply `given` to `state`. Raises FrameFault, and then the slice must be thrown away."""
    output = Output()
    for window_id, (limit, version) in given.limits.items():
        if state.books.windows[window_id].budget_version != version:
            state.books.set_limit(window_id, limit, version)
    _post(state, given.postings, output)
    _give_back(state, given.frames)
    _close(state, given.frames)
    if given.lending:
        _lend(state, given, output)
    return output


def _post(state: Slice, postings: Sequence[Posting], output: Output) -> None:
    adjustments: dict[tuple[int, int, tuple[int, ...]], int] = defaultdict(int)
    for entry in postings:
        settlement = entry.settlement
        if entry.k > 0:
            call = (settlement.session_epoch, settlement.n, settlement.budget_window_ids)
            adjustments[call] += entry.amount_nanos
            continue
        row = state.sessions.get(settlement.session_epoch)
        if row is None:
            raise FrameFault(f"session {settlement.session_epoch} is gone")
        row.settled_count += 1
        row.highest_settled_n = max(row.highest_settled_n, settlement.n)
        entry.overrun_nanos = state.books.post(
            settlement.session_epoch, settlement.budget_window_ids, entry.amount_nanos
        )
        if entry.overrun_nanos:
            output.events.append(_overrun_event(entry, state.books))
    for (epoch, _, window_ids), difference in adjustments.items():
        is_cut = state.sessions[epoch].journal == "truncated"
        state.books.adjust(window_ids, difference, doubted=epoch if is_cut else None)
    currencies = {p.settlement.organization_id: p.currency for p in postings}
    for window in state.books.windows.values():
        if window.crossed:
            organization_id = state.windows[window.id].organization_id
            output.events.append(
                EventRow(
                    organization_id=organization_id,
                    kind="soft_limit_crossed",
                    budget_id=window.budget_id,
                    budget_window_id=window.id,
                    summary="the spend of a soft budget crossed its limit",
                    amount_nanos=window.settled,
                    currency=currencies[organization_id],
                )
            )


def _overrun_event(entry: Posting, books: rules.Books) -> EventRow:
    settlement = entry.settlement
    worst = max(
        (books.windows[w] for w in settlement.budget_window_ids if books.windows[w].hard),
        key=lambda window: window.overrun,
    )
    return EventRow(
        organization_id=settlement.organization_id,
        kind="overrun",
        budget_id=worst.budget_id,
        budget_window_id=worst.id,
        summary=f"charge {settlement.session_epoch}-{settlement.n} cost more than was lent for it",
        amount_nanos=entry.overrun_nanos,
        currency=entry.currency,
    )


def _give_back(state: Slice, frames: Iterable[tuple[int, Frame]]) -> None:
    for epoch, frame in frames:
        for report in frame.reports:
            if not state.books.windows[report.window_id].hard:
                continue
            try:
                state.books.give_back(epoch, report.window_id, report.returned)
            except rules.RuleViolation as violation:
                raise FrameFault(f"usage of {report.window_id}: {violation}") from violation


def _close(state: Slice, frames: Iterable[tuple[int, Frame]]) -> None:
    for _, frame in frames:
        for close in frame.closes:
            row = state.sessions[close.session_epoch]
            if close.last_n < row.highest_settled_n and row.state != "closed":
                # More is settled than the journal knows of: its end is missing, whatever it says.
                row.journal = "truncated"
            row.last_n = max(row.last_n or 0, close.last_n, row.highest_settled_n)
            if row.state == "open":
                row.state = "fenced"
    for row in state.sessions.values():
        if row.last_n is None or row.state == "closed":
            continue
        if row.journal == "truncated":
            # Calls may be missing behind the torn tail: what is left is in doubt, not free.
            state.books.doubt(row.session_epoch)
        elif row.settled_count >= row.last_n:
            state.books.close(row.session_epoch)
            row.state = "closed"


def _lend(state: Slice, given: Input, output: Output) -> None:
    books = state.books
    # The last report of a session on a window holds; an older one in the batch is overtaken.
    wants: dict[tuple[int, int], rules.Want] = {}
    for epoch, frame in given.frames:
        if state.sessions[epoch].state != "open":
            continue
        for report in frame.reports:
            end_at = state.windows[report.window_id].end_at
            if end_at is not None and end_at <= given.now:
                continue
            key = (epoch, report.window_id)
            # What was granted since the sidecar looked is free, too.
            unseen = max(0, books.of(*key).granted - report.granted_seen)
            wants[key] = rules.Want(*key, report.free + unseen, report.want)
    users = given.users(books.windows)
    output.decisions = rules.lend(books, given.needs, wants.values(), users, given.now_ms)
    shortage = dict(output.decisions.shortage)
    for window in books.windows.values():
        if window.hard and window.available < 0:
            shortage[window.id] = shortage.get(window.id, 0) - window.available
    output.recalls = rules.choose_recalls(
        shortage, output.decisions.waiting, given.holders(shortage)
    )
