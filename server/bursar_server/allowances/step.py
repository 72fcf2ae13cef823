"""One step of the lending state machine: facts first, then what they let come home, then grants.

Pure: the caller has read (and locked) the slice of the books that the step touches, and writes back
what changed. The same step runs over Postgres in production and over dictionaries in a simulation.

    post settlements -> adjust -> give back -> close or doubt -> resolve, pass time -> lend, recall
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bursar_server.allowances import arming, claims, life, recalling, rules, shadow
from bursar_server.allowances.ahead import Ahead
from bursar_server.allowances.claims import Claim, Healed
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.life import Passed, Terms
from bursar_server.allowances.records import EventRow, SessionRow, WindowRow
from bursar_server.allowances.resolutions import (
    CONNECTED,
    RETURNED,
    Resolution,
    Resolved,
    draws,
)
from bursar_server.allowances.tail import NO_TRAFFIC, Traffic, in_tail
from bursar_server.ledger import entries
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
    """By window: (limit in force, version of the budget) where a budget changed."""
    traffic: Callable[[Iterable[int]], Mapping[int, Traffic]]
    """What sessions last said of these windows."""
    holders: Callable[[Iterable[int]], Sequence[rules.Holder]]
    """What sessions last said they have free in these windows."""
    now: datetime
    now_ms: int
    lending: bool = True
    """Off: facts only."""
    resolutions: Sequence[Resolution] = ()
    """What people decided about sessions that do not come back."""
    connected: Collection[int] = ()
    """Sessions with an open stream."""
    tail: Collection[int] = ()
    """Windows that were in their tail until now."""
    claims: Collection[Claim] = ()
    """Grants that were proven."""
    ahead: Sequence[Ahead] = ()
    """Sessions to be lent from a window that has not begun."""
    served_ms: int = 0
    """The clock of service."""
    due: Collection[int] = ()
    """Sessions that may have been silent, or in doubt, for long enough."""
    terms: Terms = life.NEVER
    """How long that is."""


@dataclass(slots=True)
class Output:
    """What a step decided, besides the changed slice."""

    events: list[EventRow] = field(default_factory=list)
    decisions: rules.Decisions = field(default_factory=rules.Decisions)
    recalls: list[rules.Holder] = field(default_factory=list)
    losses: list[Posting] = field(default_factory=list)
    """What was lost, and taken back of it; debit account, currency and draw set are the caller's
    to fill in."""
    resolved: list[Resolved] = field(default_factory=list)
    tail: set[int] = field(default_factory=set)
    """Of the slice's windows those that are in their tail."""
    healed: list[Healed] = field(default_factory=list)
    """Grants that the database had forgotten."""
    is_tail_lost: bool = False
    """Whether that was news; the caller's to fill in."""
    passed: list[Passed] = field(default_factory=list)
    """What time did to sessions."""


def step(state: Slice, given: Input) -> Output:
    """Apply `given` to `state`. Raises FrameFault, and then the slice must be thrown away."""
    output = Output()
    for window_id, (limit, version) in given.limits.items():
        window = state.books.windows[window_id]
        # A temporary raise begins and ends without a new version.
        if (window.limit, window.budget_version) != (limit, version):
            state.books.set_limit(window_id, limit, version)
    _hear(state, given)
    _heal(state, given, output)
    _post(state, given, output)
    _give_back(state, given, output)
    _close(state, given, output)
    for resolution in given.resolutions:
        output.resolved.append(_resolve(state, resolution, given, output))
    for epoch in given.due:
        _pass_time(state, epoch, given, output)
    if given.lending:
        _lend(state, given, output)
    return output


def _hear(state: Slice, given: Input) -> None:
    for epoch, frame in given.frames:
        told = {epoch, *(s.session_epoch for s in frame.settlements)}
        for each in told.union(close.session_epoch for close in frame.closes):
            row = state.sessions.get(each)
            if row is not None:
                life.hear(row, given.served_ms)


def _heal(state: Slice, given: Input, output: Output) -> None:
    """Before the charges: what was lent for them covers them."""
    for claim in sorted(given.claims):
        # One that has ended is lent nothing: what it spent is posted, and what is left is nobody's.
        if state.sessions[claim.session_epoch].state == "open":
            forgotten = claims.restore(state.books, claim)
            if forgotten:
                output.healed.append(Healed(claim.session_epoch, claim.window_id, forgotten))


def _pass_time(state: Slice, epoch: int, given: Input, output: Output) -> None:
    row = state.sessions.get(epoch)
    if row is None or not life.is_due(row, given.served_ms, given.terms):
        return
    passed = life.pass_time(row, state.books, given.served_ms)
    if passed.lost:
        _post_losses(row, passed.held, 1, given.now, output)
    output.passed.append(passed)


def _resolve(state: Slice, resolution: Resolution, given: Input, output: Output) -> Resolved:
    epoch = resolution.session_epoch
    row = state.sessions[epoch]
    if epoch in given.connected:
        return Resolved(resolution, {}, CONNECTED)
    if resolution.returned:
        return Resolved(resolution, {}, RETURNED)
    if row.state == "open":
        # Should its process wake up after all: it is told, and begins a new session.
        row.state = "fenced"
    row.decision = resolution.decision
    if resolution.spent:
        held = state.books.lose(epoch)
        _post_losses(row, held, 1, given.now, output)
    else:
        held = state.books.held_by(epoch)
        state.books.close(epoch)
    return Resolved(resolution, held)


def _post_losses(
    row: SessionRow, amounts: Mapping[int, int], sign: int, now: datetime, output: Output
) -> None:
    for amount, window_ids in draws(amounts):
        row.lost_count += 1
        output.losses.append(
            entries.lost(
                row.organization_id,
                row.session_epoch,
                row.lost_count,
                sign * amount,
                window_ids,
                now,
            )
        )


def _find(
    state: Slice, epoch: int, window_ids: Iterable[int], amount: int, now: datetime, output: Output
) -> None:
    """Evidence for `amount` came: what was lost of it is lost no more."""
    row = state.sessions.get(epoch)
    if row is not None and row.lost_count:
        _post_losses(row, state.books.find(epoch, window_ids, amount), -1, now, output)


def _post(state: Slice, given: Input, output: Output) -> None:
    postings = given.postings
    shadows = shadow.Judge(state.books)
    adjustments: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], int] = defaultdict(int)
    for entry in postings:
        settlement = entry.settlement
        if entry.k > 0:
            shadows.adjust(entry)
            call = (settlement.session_epoch, settlement.n)
            adjustments[*call, entry.lent_window_ids, entry.armed_window_ids] += entry.amount_nanos
            continue
        row = state.sessions.get(settlement.session_epoch)
        if row is None:
            raise FrameFault(f"session {settlement.session_epoch} is gone")
        row.settled_count += 1
        row.highest_settled_n = max(row.highest_settled_n, settlement.n)
        if row.last_n is not None and settlement.n > row.last_n:
            # More was opened than the session said: it is closed once those are settled, too.
            row.last_n = settlement.n
            row.state = "fenced"
        if row.lost_count:
            _find(
                state,
                settlement.session_epoch,
                settlement.budget_window_ids,
                entry.amount_nanos,
                given.now,
                output,
            )
        # Before it counts itself.
        shadows.judge(entry)
        entry.overrun_nanos = state.books.post(
            settlement.session_epoch, entry.lent_window_ids, entry.amount_nanos
        )
        if entry.armed_window_ids:
            arming.count(state.books, entry.armed_window_ids, entry.amount_nanos)
        if entry.overrun_nanos:
            output.events.append(_overrun_event(entry, state.books))
    for (epoch, _, window_ids, armed_ids), difference in adjustments.items():
        row = state.sessions[epoch]
        is_cut = row.journal == "truncated" and row.decision != "free"
        state.books.adjust(window_ids, difference, doubted=epoch if is_cut else None)
        state.books.adjust(armed_ids, difference)
        if is_cut and row.decision == "spent":
            # It was decided what such money is.
            _post_losses(row, state.books.lose(epoch), 1, given.now, output)
    currencies = {p.settlement.organization_id: p.currency for p in postings}
    for window in state.books.windows.values():
        if window.crossed:
            organization_id = state.windows[window.id].organization_id
            output.events.append(
                EventRow(
                    organization_id=organization_id,
                    kind="shadow_refusal" if window.shadow else "soft_limit_crossed",
                    budget_id=window.budget_id,
                    budget_window_id=window.id,
                    summary="a shadow budget would have refused its first call in this window"
                    if window.shadow
                    else "the spend of a soft budget crossed its limit",
                    amount_nanos=window.would_refuse_nanos if window.shadow else window.settled,
                    currency=currencies[organization_id],
                )
            )


def _overrun_event(entry: Posting, books: rules.Books) -> EventRow:
    settlement = entry.settlement
    worst = max(
        (books.windows[w] for w in entry.lent_window_ids if books.windows[w].hard),
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


def _give_back(state: Slice, given: Input, output: Output) -> None:
    for epoch, frame in given.frames:
        for report in frame.reports:
            if not state.books.windows[report.window_id].hard:
                continue
            totals = state.books.of(epoch, report.window_id)
            if totals.lost and totals.returned < report.returned <= totals.granted:
                found = report.returned - totals.returned
                _find(state, epoch, (report.window_id,), found, given.now, output)
            try:
                state.books.give_back(epoch, report.window_id, report.returned)
            except rules.RuleViolation as violation:
                raise FrameFault(f"usage of {report.window_id}: {violation}") from violation


def _close(state: Slice, given: Input, output: Output) -> None:
    for _, frame in given.frames:
        for close in frame.closes:
            row = state.sessions[close.session_epoch]
            if close.last_n < row.highest_settled_n and row.state != "closed":
                # More is settled than the journal knows of: its end is missing, whatever it says.
                row.journal = "truncated"
            row.last_n = max(row.last_n or 0, close.last_n, row.highest_settled_n)
            # Also one that is closed: time closes who was never heard of, and a lost tail forgets
            # that he was. It is closed again once those are settled, too.
            if row.state == "open" or row.settled_count < row.last_n:
                row.state = "fenced"
    for row in state.sessions.values():
        if row.last_n is None or row.state == "closed":
            continue
        if row.journal == "truncated":
            # Calls may be missing behind the torn tail: what is left is in doubt, not free.
            life.doubt(row, state.books, given.served_ms)
        elif row.settled_count >= row.last_n:
            # Every call is accounted for, so what else was posted as lost was never spent.
            lost = state.books.lost_by(row.session_epoch)
            for window_id, amount in lost.items():
                state.books.find(row.session_epoch, (window_id,), amount)
            _post_losses(row, lost, -1, given.now, output)
            state.books.close(row.session_epoch)
            row.state = "closed"


def _is_closed(state: Slice, need: rules.Need, now: datetime) -> bool:
    """Whether a window that growth draws on is over for the session: it holds nothing in it.

    A call may grow in the window of its admission after that ended, for what it has set aside
    keeps the window open; where nothing is out any more, the rest may be carried over already.
    """
    return any(
        (end_at := state.windows[line.window_id].end_at) is not None
        and end_at <= now
        and not state.books.of(need.session_epoch, line.window_id).held
        for line in need.lines
    )


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
    # A session that was fenced or closed in this very step is lent nothing more: nobody would give
    # it back.
    needs: list[rules.Need] = []
    stale: list[rules.Need] = []
    for need in given.needs:
        if state.sessions[need.session_epoch].state == "open":
            is_late = need.growth and _is_closed(state, need, given.now)
            (stale if is_late else needs).append(need)
    traffic = given.traffic(books.windows)
    output.tail = _tail(state, given, needs, traffic)
    users = {window_id: one.sessions for window_id, one in traffic.items()}
    told: set[tuple[int, int]] = set()
    for one in given.ahead:
        key = (one.session_epoch, one.window_id)
        if state.sessions[one.session_epoch].state != "open" or books.of(*key).granted:
            continue
        told.add(key)
        if key not in wants:
            wants[key] = rules.Want(*key, 0, one.want)
        # Whoever uses the window that ends is counted on to use the next one.
        following = users.get(one.window_id, 1)
        users[one.window_id] = max(following, users.get(one.after_window_id, 1))
    output.decisions = rules.lend(books, needs, wants.values(), users, given.now_ms, output.tail)
    output.decisions.touched |= told
    output.decisions.stale = stale
    shortage = dict(output.decisions.shortage)
    for window in books.windows.values():
        if window.hard and window.available < 0:
            shortage[window.id] = shortage.get(window.id, 0) - window.available
    output.recalls = recalling.choose_recalls(
        shortage, output.decisions.waiting, given.holders(shortage)
    )
    # All that is free comes home as a window enters its tail.
    entered = sorted(output.tail.difference(given.tail))
    asked = {(holder.session_epoch, holder.window_id) for holder in output.recalls}
    output.recalls += [
        holder
        for holder in given.holders(entered)
        if (holder.session_epoch, holder.window_id) not in asked
    ]


def _tail(
    state: Slice, given: Input, needs: Iterable[rules.Need], traffic: Mapping[int, Traffic]
) -> set[int]:
    asked: dict[int, int] = {}
    if any(not traffic.get(window_id, NO_TRAFFIC).call for window_id in state.books.windows):
        for need in needs:
            for line in need.lines:
                asked[line.window_id] = max(asked.get(line.window_id, 0), line.amount)
    return {
        window.id
        for window in state.books.windows.values()
        if ((end_at := state.windows[window.id].end_at) is None or end_at > given.now)
        and in_tail(
            window,
            traffic.get(window.id, NO_TRAFFIC),
            call=asked.get(window.id, 0),
            was=window.id in given.tail,
        )
    }
