"""A breadth-first search over all states of a model: the first fault found is a nearest one."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

State = tuple[int, ...]


class Move(NamedTuple):
    """One step that a model can take: in words, where it leads, and the rule it breaks, if any."""

    words: str
    state: State
    fault: str


class Model(Protocol):
    """What can be searched. States are hashable; `canonical` maps symmetric ones onto one."""

    def initial(self) -> State: ...

    def moves(self, state: State) -> Iterator[Move]: ...

    def canonical(self, state: State) -> State: ...

    def fault_of(self, state: State) -> str:
        """The rule that the state itself breaks, or ''."""
        ...


@dataclass(slots=True, frozen=True)
class Counterexample:
    """The rule that was broken, and the shortest way there, step by step."""

    fault: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join([*lines, f"     broken: {self.fault}"])


@dataclass(slots=True, frozen=True)
class Search:
    """What a search saw. `exhausted`: every state within the bounds was visited."""

    states: int
    transitions: int
    depth: int
    seconds: float
    exhausted: bool
    counterexample: Counterexample | None


def search(model: Model, most_states: int) -> Search:
    """Visit every reachable state, or stop at the first broken rule or after `most_states`."""
    started = time.perf_counter()
    first = model.canonical(model.initial())
    parents: dict[State, State] = {first: first}
    queue = deque([first])
    transitions = depth = 0
    left_in_level, exhausted = 1, True

    def result(counterexample: Counterexample | None) -> Search:
        seconds = time.perf_counter() - started
        whole = exhausted and counterexample is None
        return Search(len(parents), transitions, depth, seconds, whole, counterexample)

    if fault := model.fault_of(first):
        return result(Counterexample(fault, ()))
    while queue:
        if not left_in_level:
            depth, left_in_level = depth + 1, len(queue)
        left_in_level -= 1
        state = queue.popleft()
        for move in model.moves(state):
            transitions += 1
            after = model.canonical(move.state)
            is_new = after not in parents
            fault = move.fault or (model.fault_of(after) if is_new else "")
            if fault:
                return result(Counterexample(fault, _way_to(model, parents, state, fault)))
            if is_new:
                parents[after] = state
                queue.append(after)
        if len(parents) > most_states:
            exhausted = False
            break
    return result(None)


def _way_to(model: Model, parents: dict[State, State], last: State, fault: str) -> tuple[str, ...]:
    """Walk the shortest way again from the start, so that the parties keep their names."""
    way = [last]
    while parents[way[-1]] != way[-1]:
        way.append(parents[way[-1]])
    way.reverse()
    steps = []
    state = model.initial()
    for target in way[1:]:
        move = next(m for m in model.moves(state) if model.canonical(m.state) == target)
        steps.append(move.words)
        state = move.state
    for move in model.moves(state):
        if fault in (move.fault, model.fault_of(model.canonical(move.state))):
            return (*steps, move.words)
    raise AssertionError("a broken rule was not found again on the way to it")
