"""Calls that reserve little at first and grow ahead of what flows."""

from random import Random

from tests.simulation.installation import KEYS
from tests.simulation.plans import target_of
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def stream(world: World, sidecar: Sidecar, step: Step) -> None:
    if sidecar.life is None or sidecar.life.draining:
        return
    random = Random(step.c)
    ceiling = random.choice((1, 5, 10))
    target = ceiling + random.choice((5, 10, 20, 60))
    kind = random.choice(("final", "final", "final", "aborted", "unknown"))
    true = random.randint(0, target)
    told = true if kind == "final" else random.randint(true, target)
    if kind == "final" and random.random() < 0.1:
        told = true = target + random.randint(1, 10)
    secret = list(KEYS.values())[step.b % len(KEYS)]
    sidecar.life.call(secret, ceiling, f"{kind}:{true}:{told}:{target}")


def grow(world: World, sidecar: Sidecar, step: Step) -> None:
    life = sidecar.life
    held = life.open if life is not None else []
    growing = [
        each for each in held if each.ticket is None and target_of(each) > each.ceiling_nanos
    ]
    if life is not None and growing:
        life.grow(growing[step.b % len(growing)], (1, 4, 10, 100)[step.c % 4])


ACTIONS: dict[str, Action] = {"stream": stream, "grow": grow}
USUAL = {"stream": 8, "grow": 16}
THEMES = (
    {"stream": 25, "grow": 40, "arm": 3, "start": 3},
    {"stream": 25, "grow": 40, "pass": 10},
    {"stream": 30, "grow": 90, "clone": 5, "flow": 40},
)
