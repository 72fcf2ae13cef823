"""Calls that reserve little at first and grow ahead of what flows."""

from random import Random

from bursar_sidecar.growth import LEAST_SLACK
from bursar_sidecar.produced import CUT_SLACK_LLM_TOKENS
from tests.simulation.flows import FLOW, LLM_TOKENS_A_NANO
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
        each
        for each in held
        if each.ticket is None
        and target_of(each) > each.ceiling_nanos
        and not each.opened.run.startswith(FLOW)
    ]
    if life is not None and growing:
        life.grow(growing[step.b % len(growing)], (1, 4, 10, 100)[step.c % 4])


def progress(world: World, sidecar: Sidecar, step: Step) -> None:
    """A call of a model whose worst case is many times what it costs."""
    if sidecar.life is None or sidecar.life.draining:
        return
    random = Random(step.c)
    worst = random.choice((30, 200, 2_000))
    least = random.choice((0, 0, 4))
    whole = random.randint(1, min(worst, 120) * LLM_TOKENS_A_NANO)
    size = random.choice((10, 10, 15, 40))
    late = random.randint(0, CUT_SLACK_LLM_TOKENS)
    secret = list(KEYS.values())[step.b % len(KEYS)]
    plan = f"{FLOW}:0:0:{worst}:{least}:{whole}:{size}:{late}"
    sidecar.life.call(secret, worst, plan)


def produce(world: World, sidecar: Sidecar, step: Step) -> None:
    """Providers produce, in pieces that a moment holds."""
    life = sidecar.life
    if life is None or not life.flows:
        return
    random = Random(step.c)
    for hold in (
        list(life.flows) if step.a % 3 == 0 else [list(life.flows)[step.b % len(life.flows)]]
    ):
        for _ in range(random.choice((1, 8, 40))):
            if hold in life.flows:
                life.produce(hold, random.randint(1, LEAST_SLACK - CUT_SLACK_LLM_TOKENS))


ACTIONS: dict[str, Action] = {
    "stream": stream, "grow": grow, "progress": progress, "produce": produce,
}  # fmt: skip
USUAL = {"stream": 8, "grow": 16, "progress": 8, "produce": 16}
THEMES = (
    {"stream": 25, "grow": 40, "arm": 3, "start": 3},
    {"stream": 25, "grow": 40, "pass": 10},
    {"stream": 30, "grow": 90, "clone": 5, "flow": 40},
    {"progress": 25, "produce": 60, "pass": 4, "flow": 20},
    {"progress": 25, "produce": 60, "kill": 3, "start": 3, "arm": 2},
)
