"""The whole model: windows, and the sidecars that draw on them.

A sidecar's steps and local invariants depend on that sidecar alone, so each distinct sidecar is
worked out once and known by a number; a state is the number of its windows and those of its
sidecars. Sidecars are alike: their order is forgotten (symmetry reduction).
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.simulation.formal.checker import Move, State
from tests.simulation.formal.control_steps import control_steps
from tests.simulation.formal.invariants import (
    CEILING,
    ENTRIES,
    GUARD,
    RULES,
    WITHIN_LIMIT,
    fell,
    local_faults,
    truth,
)
from tests.simulation.formal.parts import (
    Amounts,
    Bounds,
    Fate,
    Kind,
    Mutant,
    Phase,
    Pool,
    Process,
    Session,
    Sidecar,
    Step,
)
from tests.simulation.formal.sidecar_steps import sidecar_steps


class Window(NamedTuple):
    """A budget in one window, at the control plane."""

    limit: int
    ceiling: int
    highest: int
    """The highest limit there ever was."""
    settled: int = 0
    late: int = 0
    """Overrun by adjustments and corrections; the rest of V follows from the totals."""
    changed: int = 0
    """Which of the bounds' limit changes happened, one bit each."""


class Sums(NamedTuple):
    """What one sidecar adds to each window, and how much of the bounds it used."""

    held: Amounts
    in_doubt: Amounts
    overrun: Amounts
    entries: Amounts
    truth: Amounts
    crashes: int
    corrections: int
    calls: int
    fault: str


class Effect(NamedTuple):
    """What a step does to the windows; equal effects are worked out once."""

    kind: Kind
    need: Amounts
    posted: Amounts
    late: Amounts


class Leap(NamedTuple):
    """A sidecar's step with the number of what it leads to."""

    words: str
    after: int
    effect: Effect
    fault: str


Known = tuple[int, Effect, Amounts, Amounts, Amounts, Amounts, Amounts]
"""Windows, effect; held, in doubt and overrun before it; held and overrun after it."""
NAMES = "ABCDE"
Windows = tuple[Window, ...]


class World:
    """A model for the checker: the protocol within bounds, or one of its mutants."""

    def __init__(
        self,
        bounds: Bounds,
        mutant: Mutant = Mutant.NONE,
        rules: frozenset[str] = RULES,
    ) -> None:
        self.bounds, self.mutant, self.rules = bounds, mutant, rules
        self._sidecars: list[Sidecar] = []
        self._numbers: dict[Sidecar, int] = {}
        self._sums: list[Sums] = []
        self._leaps: list[list[Leap] | None] = []
        self._dropped: dict[int, int] = {}
        self._windows: list[Windows] = []
        self._window_numbers: dict[Windows, int] = {}
        self._applied: dict[Known, tuple[int, str] | None] = {}

    def initial(self) -> State:
        windows = tuple(Window(limit, limit, limit) for limit in self.bounds.limits)
        session = Session(pools=tuple(Pool() for _ in windows))
        sidecar = self._number(Sidecar((session,)))
        return (self._window_number(windows), *(sidecar for _ in range(self.bounds.sidecars)))

    def canonical(self, state: State) -> State:
        return (state[0], *sorted(state[1:]))

    def fault_of(self, state: State) -> str:
        sums = [self._sums[number] for number in state[1:]]
        for one in sums:
            if one.fault:
                return one.fault
        for place, window in enumerate(self._windows[state[0]]):
            if sum(one.truth[place] for one in sums) > window.highest:
                return self._watched(WITHIN_LIMIT)
            if sum(one.entries[place] for one in sums) != window.settled:
                return self._watched(ENTRIES)
        return ""

    def steps_seen(self) -> set[str]:
        """In words, the steps of every sidecar that was visited."""
        return {leap.words for leaps in self._leaps if leaps for leap in leaps}

    def _watched(self, fault: str) -> str:
        return fault if fault in self.rules else ""

    def moves(self, state: State) -> Iterator[Move]:
        sums = [self._sums[number] for number in state[1:]]
        crashes = self.bounds.crashes - sum(one.crashes for one in sums)
        corrections = self.bounds.corrections - sum(one.corrections for one in sums)
        calls = self.bounds.all_calls - sum(one.calls for one in sums)
        held = _total([one.held for one in sums])
        doubt = _total([one.in_doubt for one in sums])
        overrun = _total([one.overrun for one in sums])
        for place in range(1, len(state)):
            if place > 1 and state[place] == state[place - 1]:
                continue  # The same moves as its twin's.
            was = sums[place - 1]
            for leap in self._leaps_of(state[place]):
                now = self._sums[leap.after]
                if now is not was and (
                    now.crashes - was.crashes > crashes
                    or now.corrections - was.corrections > corrections
                    or now.calls - was.calls > calls
                ):
                    continue
                windows, fault = state[0], leap.fault
                if leap.effect.kind is not Kind.INSIDE or leap.effect.need:
                    held_after = _moved(held, was.held, now.held)
                    overrun_after = _moved(overrun, was.overrun, now.overrun)
                    known = (windows, leap.effect, held, doubt, overrun, held_after, overrun_after)
                    applied = self._apply(known)
                    if applied is None:
                        continue
                    windows, fault = applied[0], fault or applied[1]
                after = (windows, *state[1:place], leap.after, *state[place + 1 :])
                yield Move(leap.words.format(me=f"sidecar {NAMES[place - 1]}"), after, fault)
        yield from self._of_the_control_plane(state, held, overrun)

    def _of_the_control_plane(
        self, state: State, held: Amounts, overrun: Amounts
    ) -> Iterator[Move]:
        """A changed limit; the death of the control plane, which forgets what is not committed."""
        windows = self._windows[state[0]]
        for bit, (place, limit) in enumerate(self.bounds.limit_changes):
            window = windows[place]
            if window.changed & 1 << bit:
                continue
            committed = window.settled - window.late - overrun[place] + held[place]
            changed = window._replace(
                limit=limit,
                ceiling=max(limit, committed),
                highest=max(limit, window.highest),
                changed=window.changed | 1 << bit,
            )
            number = self._window_number((*windows[:place], changed, *windows[place + 1 :]))
            words = f"the limit of window {place} becomes {limit}, it was {window.limit}"
            yield Move(words, (number, *state[1:]), "")
        if self.bounds.ticks:
            after = (state[0], *(self._without_tick(number) for number in state[1:]))
            if after != state:
                words = "the control plane dies and starts again: what was not committed is gone"
                yield Move(words, after, "")

    def _apply(self, known: Known) -> tuple[int, str] | None:
        """Windows after an effect, and the rule it breaks; None where the guard refuses it."""
        if known in self._applied:
            return self._applied[known]
        number, effect, held, doubt, overrun, held_after, overrun_after = known
        windows = []
        fault = ""
        refused = False
        for place, window in enumerate(self._windows[number]):
            need = effect.need[place] if effect.need else 0
            if need > self._available(window, held[place], doubt[place], overrun[place]):
                refused = True
                break
            late = window.late + (effect.late[place] if effect.late else 0)
            settled = window.settled + (effect.posted[place] if effect.posted else 0)
            grew = effect.kind is Kind.GRANT and held_after[place] > held[place]
            if grew and settled + held_after[place] > window.limit:
                fault = self._watched(GUARD)
            committed = settled - late - overrun_after[place] + held_after[place]
            ceiling = window.ceiling
            if effect.kind in (Kind.FACT, Kind.HOME):
                ceiling = max(window.limit, min(ceiling, committed))
            if committed > ceiling:
                fault = fault or self._watched(CEILING)
            windows.append(window._replace(settled=settled, late=late, ceiling=ceiling))
        result = None if refused else (self._window_number(tuple(windows)), fault)
        self._applied[known] = result
        return result

    def _available(self, window: Window, held: int, doubt: int, overrun: int) -> int:
        """limit - S - O - D, and how mutants get it wrong."""
        available = window.limit - window.settled - held
        if self.mutant is Mutant.OVERRUN_LENT_AGAIN:
            return available + window.late + overrun
        if self.mutant is Mutant.DOUBT_FORGOTTEN:
            return available + doubt
        if self.mutant is Mutant.CUT_IGNORED:
            return available + window.highest - window.limit
        return available

    def _leaps_of(self, number: int) -> list[Leap]:
        leaps = self._leaps[number]
        if leaps is None:
            leaps = self._leaps[number] = self._work_out(self._sidecars[number])
        return leaps

    def _work_out(self, sidecar: Sidecar) -> list[Leap]:
        steps = [
            *sidecar_steps(sidecar, self.bounds, self.mutant),
            *control_steps(sidecar, self.bounds, self.mutant),
        ]
        return [self._leap(sidecar, step) for step in steps if step.after != sidecar or step.posted]

    def _leap(self, sidecar: Sidecar, step: Step) -> Leap:
        effect = Effect(step.kind, step.need, step.posted, step.late)
        return Leap(
            step.words, self._number(step.after), effect, self._watched(fell(sidecar, step.after))
        )

    def _without_tick(self, number: int) -> int:
        if number not in self._dropped:
            sidecar = self._sidecars[number]
            sessions = tuple(
                session._replace(
                    pools=tuple(pool._replace(uncommitted=0) for pool in session.pools)
                )
                for session in sidecar.sessions
            )
            self._dropped[number] = self._number(sidecar._replace(sessions=sessions))
        return self._dropped[number]

    def _window_number(self, windows: Windows) -> int:
        number = self._window_numbers.setdefault(windows, len(self._windows))
        if number == len(self._windows):
            self._windows.append(windows)
        return number

    def _number(self, sidecar: Sidecar) -> int:
        number = self._numbers.setdefault(sidecar, len(self._sidecars))
        if number == len(self._sidecars):
            self._sidecars.append(sidecar)
            self._leaps.append(None)
            self._sums.append(self._sum(sidecar))
        return number

    def _sum(self, sidecar: Sidecar) -> Sums:
        sessions = sidecar.sessions
        places = range(len(self.bounds.limits))
        calls = [call for session in sessions for call in session.calls]
        faults = local_faults(sidecar, self.mutant)
        return Sums(
            held=tuple(sum(s.pools[w].held for s in sessions) for w in places),
            in_doubt=tuple(
                sum(s.pools[w].held for s in sessions if s.phase is Phase.IN_DOUBT) for w in places
            ),
            overrun=tuple(sum(s.pools[w].overrun for s in sessions) for w in places),
            entries=tuple(
                sum(call.amount for call in calls if w in call.draw)
                + sum(s.pools[w].written_off for s in sessions)
                for w in places
            ),
            truth=tuple(
                sum(
                    max(0, truth(call, self.mutant) + min(0, call.corrected))
                    for call in calls
                    if w in call.draw
                )
                for w in places
            ),
            crashes=sum(1 for s in sessions if s.process is Process.DOWN),
            corrections=sum(1 for call in calls if call.corrected),
            calls=sum(1 for call in calls if call.fate is not Fate.VOID),
            fault=next((f for f in faults if f in self.rules), ""),
        )


def _total(vectors: list[Amounts]) -> Amounts:
    return tuple(map(sum, zip(*vectors, strict=True)))


def _moved(total: Amounts, was: Amounts, now: Amounts) -> Amounts:
    if was is now or was == now:
        return total
    return tuple(t - w + n for t, w, n in zip(total, was, now, strict=True))
