"""Histories: made from a seed, run, and cut down to what still fails; kept and read as JSON."""

import json
import traceback
from random import Random
from typing import NamedTuple

from tests.simulation import playing
from tests.simulation.actions import THEMES, USUAL
from tests.simulation.database import Broken
from tests.simulation.world import Step, World

LENGTHS = (30, 60, 120, 200)
WARM = 0.8
"""Of the histories, how many begin with sidecars that serve already."""
WARM_UP = ["flow", "flow", "flow", "call", "call", "call", "call", "call", "flow", "flow"]


class Failure(NamedTuple):
    """A history that broke an invariant."""

    seed: int
    what: str
    steps: list[Step]

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.what}\n"
            f"{len(self.steps)} steps; keep what follows in a file and run\n"
            'make simulate SIMULATE="--replay FILE"\n'
            f"{written(self)}"
        )


def written(failure: Failure) -> str:
    """A history as a file holds it: JSON, one step a line."""
    steps = ",\n".join(f"  {json.dumps(step)}" for step in failure.steps)
    what = json.dumps(failure.what)
    return f'{{"seed": {failure.seed}, "what": {what}, "steps": [\n{steps}\n]}}'


def read(text: str) -> Failure:
    """What `written` wrote; further fields are somebody else's. Raises ValueError."""
    held = json.loads(text)
    return Failure(held["seed"], held["what"], [Step(*step) for step in held["steps"]])


def history(seed: int) -> list[Step]:
    """The steps of a seed. A history has only some of the faults, so that others get far."""
    random = Random(seed ^ 0x5EED)
    weights = dict(USUAL)
    for theme in random.sample(THEMES, random.choice((0, 1, 2, 2, 3, 4))):
        for name, weight in theme.items():
            weights[name] = weights.get(name, 0) + weight
    names = random.choices(list(weights), list(weights.values()), k=random.choice(LENGTHS))
    if random.random() < WARM:
        # Everybody knows the keys: the steps that follow find calls that can start.
        names = WARM_UP + names
    return [
        Step(name, random.getrandbits(8), random.getrandbits(16), random.getrandbits(16))
        for name in names
    ]


def run(seed: int, steps: list[Step]) -> str:
    """Run steps in the world of a seed; returns what broke, "" when nothing did."""
    done = 0
    try:
        world = World(seed)
        for step in steps:
            playing.take(world, step)
            done += 1
        playing.end(world)
    except Broken as broken:
        return f"{broken} (after step {done})"
    except Exception as error:  # noqa: BLE001  # whatever is raised is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.name}:{place.lineno}, after step {done})"
    return ""


def fails(seed: int) -> Failure | None:
    """Run the history of a seed."""
    steps = history(seed)
    what = run(seed, steps)
    return Failure(seed, what, steps) if what else None


def kind(what: str) -> str:
    """The invariant of a failure."""
    return what.partition(":")[0]


def shrink(failure: Failure) -> Failure:
    """Leave steps out while it still fails in the same way: ever smaller pieces."""
    steps, what = failure.steps, failure.what
    size = max(1, len(steps) // 2)
    while True:
        at, cut = 0, False
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            again = run(failure.seed, fewer)
            if again and kind(again) == kind(what):
                steps, what, cut = fewer, again, True
            else:
                at += size
        if size == 1 and not cut:
            return Failure(failure.seed, what, steps)
        size = max(1, size // 2)
