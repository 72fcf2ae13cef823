"""The rules of lending: pure, integer, without a clock of their own.

`Books` holds the balances that one transaction has locked. Its methods are the transitions of
the lending state machine; each keeps

    settled - overrun + outstanding + in_doubt <= ceiling        (hard windows)

and a grant needs `settled + outstanding + in_doubt + amount <= limit`. Posting a fact is never
refused: what no allowance covers is overrun. Three totals of a session in a window only grow and
are merged by maximum, so a repeated or late frame changes nothing:

    granted G    returned R    settled C
    overrun     V = max(0, C - (G - R))
    outstanding O = max(0, G - R - C) - in doubt

    lent:    G grows                       renewed: G grows again
    settled: C grows                       returned: R grows
    lost:    in doubt = what was outstanding; a late settlement takes it from there
    closed:  R grows to G - C
    resolved as spent:  C grows to G - R, as lost L; evidence takes its part of L, and of C, back
             before it settles or returns, so that C and R together never fall
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

LOW_WATER_PERCENT = 40
"""Free money under this share of what a session wants is filled up: it hides the round trip
(about a tick) behind the rest, and keeps frames rare."""
MOST_BALANCE = 2**62
"""What a balance counts up to, in nanos: more than four times the highest limit, and half of what
the store can hold. Entries post in full beyond it; but a few absurd ones (a broken sidecar's) must
not make a window too large to store, for then nobody's charges could be posted to it any more."""


class RuleViolation(Exception):
    """A frame that would break the totals; `field`, `value` and `expected` say how."""

    def __init__(self, field_name: str, value: object, expected: str) -> None:
        super().__init__(f"{field_name} is {value!r}, expected {expected}")
        self.field_name = field_name
        self.value = value
        self.expected = expected


@dataclass(slots=True)
class WindowBalance:
    """A budget in one window; amounts in nanos."""

    id: int
    budget_id: int
    hard: bool
    limit: int
    ceiling: int
    settled: int = 0
    outstanding: int = 0
    in_doubt: int = 0
    overrun: int = 0
    budget_version: int = 1
    shadow: bool = False
    would_refuse_count: int = 0
    would_refuse_nanos: int = 0
    changed: bool = False
    crossed: bool = False
    frozen: bool = False
    """Grants of it were forgotten: nothing is lent until people say so."""

    @property
    def available(self) -> int:
        """What may still be granted; negative after a cut or an overrun."""
        left = self.limit - self.settled - self.outstanding - self.in_doubt
        return min(left, 0) if self.frozen else left

    @property
    def attainable(self) -> int:
        """What could be granted if every reservation in flight came home unspent."""
        return self.limit - self.settled - self.in_doubt

    def ratchet(self) -> None:
        """Let the ceiling fall with what came home, never below the limit."""
        committed = self.settled - self.overrun + self.outstanding + self.in_doubt
        self.ceiling = max(self.limit, min(self.ceiling, committed))


@dataclass(slots=True)
class Totals:
    """What one session was lent of one window; amounts in nanos."""

    granted: int = 0
    returned: int = 0
    settled: int = 0
    in_doubt: int = 0
    lost: int = 0
    """The part of `settled` that was decided, not told."""
    changed: bool = False

    @property
    def held(self) -> int:
        """What the session may still spend, in doubt or not."""
        return max(0, self.granted - self.returned - self.settled)

    @property
    def overrun(self) -> int:
        """What was settled beyond what was lent."""
        return max(0, self.settled - (self.granted - self.returned))


@dataclass(slots=True)
class Books:
    """The balances one transaction works on, keyed by window and by (session epoch, window)."""

    windows: dict[int, WindowBalance] = field(default_factory=dict)
    totals: dict[tuple[int, int], Totals] = field(default_factory=dict)

    def of(self, session_epoch: int, window_id: int) -> Totals:
        """The session's totals in the window, empty if it was never lent anything."""
        totals = self.totals.get((session_epoch, window_id))
        if totals is None:
            totals = self.totals[session_epoch, window_id] = Totals()
        return totals

    def grant(self, session_epoch: int, window_id: int, amount: int) -> None:
        """Lend; raises RuleViolation if it does not fit."""
        window = self.windows[window_id]
        if amount < 0 or not window.hard or amount > window.available:
            raise RuleViolation("grant", amount, f"0 to {window.available}")
        totals = self.of(session_epoch, window_id)
        self.move(window, totals, granted=amount)

    def give_back(self, session_epoch: int, window_id: int, returned: int) -> int:
        """Take note that the session gave back `returned` in all; returns what that freed.

        Raises RuleViolation if it is more than was ever lent.
        """
        totals = self.of(session_epoch, window_id)
        if returned > totals.granted:
            raise RuleViolation("returned_nanos", returned, f"at most {totals.granted}")
        if returned <= totals.returned:
            return 0
        window = self.windows[window_id]
        before = window.outstanding
        self.move(window, totals, returned=returned - totals.returned)
        window.ratchet()
        return before - window.outstanding

    def post(self, session_epoch: int, window_ids: Iterable[int], amount: int) -> int:
        """Post a fact to every window it draws on; returns the largest overrun it made."""
        overrun = 0
        for window_id in window_ids:
            window = self.windows[window_id]
            settled_before = window.settled
            counted = min(amount, MOST_BALANCE - settled_before)
            window.settled += counted
            window.changed = True
            if window.hard:
                totals = self.of(session_epoch, window_id)
                left = totals.granted - totals.returned - totals.settled
                if not totals.in_doubt and 0 <= counted <= left:
                    # Almost every call, and what the general way below comes to for it.
                    totals.settled += counted
                    window.outstanding -= counted
                    totals.changed = True
                else:
                    overrun_before = window.overrun
                    self.move(window, totals, settled=counted)
                    overrun = max(overrun, window.overrun - overrun_before)
                if window.ceiling != window.limit:
                    window.ratchet()
            elif not window.shadow and settled_before <= window.limit < window.settled:
                window.crossed = True
        return overrun

    def adjust(self, window_ids: Iterable[int], amount: int, *, doubted: int | None = None) -> None:
        """Post a later difference of a fact: it moves what is settled, not what was lent.

        `doubted` is the session of the fact if its journal is cut. What then comes home may have
        been spent on calls that the cut hides: it goes back to the session, in doubt.
        """
        for window_id in window_ids:
            window = self.windows[window_id]
            counted = min(amount, MOST_BALANCE - window.settled)
            window.settled += counted
            if window.hard and counted > 0:
                window.overrun += counted
            elif window.hard and doubted is not None:
                self.move(window, self.of(doubted, window_id), granted=-counted)
                self.doubt(doubted)
            window.ratchet()
            window.changed = True

    def close(self, session_epoch: int) -> None:
        """Free what a session still holds: all its reservations are settled."""
        for (epoch, window_id), totals in self.totals.items():
            if epoch == session_epoch and totals.held:
                window = self.windows[window_id]
                self.move(window, totals, returned=totals.held)
                window.ratchet()

    def doubt(self, session_epoch: int) -> None:
        """Hold what a session was lent as in doubt: its journal can't prove what it spent."""
        for (epoch, window_id), totals in self.totals.items():
            if epoch == session_epoch and totals.held > totals.in_doubt:
                window = self.windows[window_id]
                moved = totals.held - totals.in_doubt
                totals.in_doubt += moved
                window.in_doubt += moved
                window.outstanding -= moved
                totals.changed = window.changed = True

    def held_by(self, session_epoch: int) -> dict[int, int]:
        """What a session holds, outstanding and in doubt, by window."""
        return {
            window_id: totals.held
            for (epoch, window_id), totals in self.totals.items()
            if epoch == session_epoch and totals.held
        }

    def lose(self, session_epoch: int) -> dict[int, int]:
        """Count all that a session holds as spent; returns what that was, by window."""
        held = self.held_by(session_epoch)
        for window_id, amount in held.items():
            totals, window = self.totals[session_epoch, window_id], self.windows[window_id]
            window.settled += amount
            self.move(window, totals, settled=amount)
            totals.lost += amount
            window.ratchet()
        return held

    def lost_by(self, session_epoch: int) -> dict[int, int]:
        """What of a session is counted as lost, by window."""
        return {
            window_id: totals.lost
            for (epoch, window_id), totals in self.totals.items()
            if epoch == session_epoch and totals.lost
        }

    def find(self, session_epoch: int, window_ids: Iterable[int], amount: int) -> dict[int, int]:
        """Take back what was lost in these windows, at most `amount` in each, because evidence
        tells what became of it; the caller posts or returns that much at once. Returns what was
        taken back, by window."""
        found: dict[int, int] = {}
        for window_id in window_ids:
            totals = self.totals.get((session_epoch, window_id))
            if totals is None or not totals.lost or amount <= 0:
                continue
            back = found[window_id] = min(amount, totals.lost)
            totals.lost -= back
            window = self.windows[window_id]
            window.settled -= back
            self.move(window, totals, settled=-back)
        return found

    def set_limit(self, window_id: int, limit: int, budget_version: int) -> None:
        """Apply a changed limit: grants follow it at once, the ceiling as money comes home."""
        window = self.windows[window_id]
        committed = window.settled - window.overrun + window.outstanding + window.in_doubt
        window.limit = limit
        window.ceiling = max(limit, committed)
        window.budget_version = budget_version
        window.changed = True

    def move(
        self,
        window: WindowBalance,
        totals: Totals,
        *,
        granted: int = 0,
        returned: int = 0,
        settled: int = 0,
    ) -> None:
        """Let a session's totals grow, and what the window holds of them with it."""
        held, overrun, doubt = totals.held, totals.overrun, totals.in_doubt
        totals.granted += granted
        totals.returned += returned
        totals.settled += settled
        # What is settled or returned late can no longer be in doubt.
        totals.in_doubt = min(doubt, totals.held)
        window.in_doubt += totals.in_doubt - doubt
        window.outstanding += (totals.held - totals.in_doubt) - (held - doubt)
        window.overrun += totals.overrun - overrun
        totals.changed = window.changed = True


@dataclass(slots=True, frozen=True)
class NeedLine:
    """One window a waiting call draws on; amounts in nanos."""

    window_id: int
    amount: int
    least: int
    want: int


@dataclass(slots=True, frozen=True)
class Need:
    """One call that waits: all lines or none. Times on the server's monotonic clock, ms."""

    session_epoch: int
    need_id: int
    lines: tuple[NeedLine, ...]
    deadline_ms: int
    growth: bool = False
    """A call that runs already, and must be cut if it can't grow."""
    window_ids: tuple[int, ...] = ()
    """Those of its lines; and the most that one of them asks for. They follow."""
    most: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_ids", tuple([line.window_id for line in self.lines]))
        object.__setattr__(self, "most", max((line.amount for line in self.lines), default=0))


@dataclass(slots=True, frozen=True)
class Want:
    """What a session would like to have free in a window; amounts in nanos."""

    session_epoch: int
    window_id: int
    free: int
    want: int


@dataclass(slots=True, frozen=True)
class Holder:
    """What a connected session last said it has free in a window."""

    session_epoch: int
    window_id: int
    free: int
    idle_ms: int
    silent: bool = False
    """Whether it was asked for it and has said nothing since: its process may be gone."""


@dataclass(slots=True)
class Decisions:
    """What lending decided in one step."""

    granted: list[Need] = field(default_factory=list)
    clamped: list[Need] = field(default_factory=list)
    """Lent less than they asked for, and at least what they can do with."""
    exhausted: list[tuple[Need, list[int]]] = field(default_factory=list)
    contended: list[tuple[Need, list[int]]] = field(default_factory=list)
    waiting: list[Need] = field(default_factory=list)
    stale: list[Need] = field(default_factory=list)
    """Growth in a window that is closed."""
    shortage: dict[int, int] = field(default_factory=dict)
    """By window: what the calls that wait lack."""
    touched: set[tuple[int, int]] = field(default_factory=set)
    """(session epoch, window) whose granted total grew."""


def lend(
    books: Books,
    needs: Iterable[Need],
    wants: Iterable[Want],
    users: Mapping[int, int],
    now_ms: int,
    tail: Collection[int] = (),
) -> Decisions:
    """Serve growth, then waiting calls, in their order, then what is wanted ahead of need.

    `users` says for each window how many sessions used it lately; windows in their `tail` are
    lent call by call. A call that does not fit blocks the windows it is short of for those
    behind it, so that a large one is not overtaken for ever, and in its other windows what it
    asks for is kept for it; its wait is bounded, and so is that. `exhausted` is said only when the
    money is not there even if every reservation came home.
    """
    decisions = Decisions()
    line_up = _Line(books)
    attainable, frozen, blocked = line_up.attainable, line_up.frozen, line_up.blocked
    for need in sorted(needs, key=lambda need: not need.growth):
        if line_up.keeps_waiting(need, decisions, now_ms):
            continue
        hard = [line for line in need.lines if books.windows[line.window_id].hard]
        gone = [x.window_id for x in hard if attainable[x.window_id] < min(x.least, x.amount)]
        if gone:
            decisions.exhausted.append((need, gone))
            continue
        if frozen and (cold := [x.window_id for x in hard if x.window_id in frozen]):
            decisions.contended.append((need, cold))  # waiting does not help it
            continue
        short = [x for x in hard if x.window_id in blocked or line_up.free(x.window_id) < x.amount]
        if short and _can_clamp(line_up, need, hard, now_ms):
            for line in hard:
                fits = min(line.amount, line_up.free(line.window_id))
                books.grant(need.session_epoch, line.window_id, fits)
                decisions.touched.add((need.session_epoch, line.window_id))
            decisions.clamped.append(need)
            continue
        if short and now_ms >= need.deadline_ms:
            decisions.contended.append((need, [line.window_id for line in short]))
            continue
        if short:
            line_up.put_off(need, decisions)
            continue
        for line in hard:
            extra = 0
            if line.window_id not in tail:
                rest = line_up.free(line.window_id) - line.amount
                extra = min(line.want, _share(rest, users, line.window_id))
            books.grant(need.session_epoch, line.window_id, line.amount + extra)
            decisions.touched.add((need.session_epoch, line.window_id))
        decisions.granted.append(need)
    for want in wants:
        window = books.windows[want.window_id]
        if want.window_id in line_up.blocked or want.window_id in tail or not window.hard:
            continue
        if want.free * 100 >= want.want * LOW_WATER_PERCENT:
            continue
        extra = min(
            want.want - want.free, _share(line_up.free(want.window_id), users, want.window_id)
        )
        if extra > 0:
            books.grant(want.session_epoch, want.window_id, extra)
            decisions.touched.add((want.session_epoch, want.window_id))
    return decisions


class _Line:
    """What the calls that wait in one step keep from those behind them."""

    def __init__(self, books: Books) -> None:
        self.books = books
        hard = [window for window in books.windows.values() if window.hard]
        self.attainable = {window.id: window.attainable for window in hard}
        """By hard window: lending moves what is outstanding, and so never this."""
        self.frozen = {window.id for window in hard if window.frozen}
        self.blocked: set[int] = set()
        """Windows that somebody before is short of."""
        self._least_attainable = min(self.attainable.values(), default=0)
        self._claimed: dict[int, int] = {}

    def free(self, window_id: int) -> int:
        """What nobody before asks for; negative where they lack something."""
        return self.books.windows[window_id].available - self._claimed.get(window_id, 0)

    def keeps_waiting(self, need: Need, decisions: Decisions, now_ms: int) -> bool:
        """Whether nothing is to be decided about a call, because it is behind others for a window
        of which even all it asks for may still come home.

        Thousands may wait: this is what a step does for nearly all of them, and comes to what the
        general way would for them.
        """
        if self.blocked.isdisjoint(need.window_ids) or now_ms >= need.deadline_ms or self.frozen:
            return False
        if need.most > self._least_attainable:
            return False
        self.put_off(need, decisions)
        return True

    def put_off(self, need: Need, decisions: Decisions) -> None:
        """A call waits: what it asks for is kept for it, and nobody overtakes it where it is
        short."""
        decisions.waiting.append(need)
        windows, claimed, blocked = self.books.windows, self._claimed, self.blocked
        for line in need.lines:
            window_id = line.window_id
            window = windows[window_id]
            if not window.hard:
                continue
            claimed[window_id] = asked = claimed.get(window_id, 0) + line.amount
            available = window.available
            if window_id in blocked or available < asked:
                blocked.add(window_id)
                decisions.shortage[window_id] = max(0, asked - available)


def _can_clamp(line_up: _Line, need: Need, hard: list[NeedLine], now_ms: int) -> bool:
    """Whether a call that may be clamped is to start with less now.

    At once where all it asks for will never be there; else when it has waited long enough, instead
    of being told to come again. It takes nothing that an earlier call waits for.
    """
    is_time = now_ms >= need.deadline_ms or any(
        line_up.attainable[line.window_id] < line.amount for line in hard
    )
    return is_time and all(
        line.window_id not in line_up.blocked and line_up.free(line.window_id) >= line.least
        for line in hard
    )


def _share(available: int, users: Mapping[int, int], window_id: int) -> int:
    """What one session may get ahead of need: all for a single user, else a 2N-th of the rest."""
    sessions = users.get(window_id, 1)
    return max(0, available if sessions <= 1 else available // (2 * sessions))
