"""Calls that can do with a shorter answer than they ask for."""

from random import Random

from tests.simulation.installation import KEYS
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def clampable(world: World, sidecar: Sidecar, step: Step) -> None:
    if sidecar.life is None or sidecar.life.draining:
        return
    random = Random(step.c)
    ceiling = random.choice((20, 60, 150, 700))
    least = random.choice((1, 5, ceiling // 2))
    kind = random.choice(("final", "final", "final", "aborted", "unknown"))
    true = random.randint(0, ceiling)
    told = true if kind == "final" else random.randint(true, ceiling)
    secret = list(KEYS.values())[step.b % len(KEYS)]
    sidecar.life.call(secret, ceiling, f"{kind}:{true}:{told}:{ceiling}:{least}")


ACTIONS: dict[str, Action] = {"clampable": clampable}
USUAL = {"clampable": 8}
THEMES = (
    {"clampable": 40, "finish": 20, "arm": 2, "start": 2},
    {"clampable": 40, "pass": 15, "cut": 3, "beat": 10},
)
