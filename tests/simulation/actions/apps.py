"""What apps do: call, get their answer, give up."""

from random import Random

from tests.simulation.coverage import saw
from tests.simulation.installation import KEYS_OF
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def call(world: World, sidecar: Sidecar, step: Step) -> None:
    if sidecar.life is None or sidecar.life.draining:
        return
    random = Random(step.c)
    ceiling = random.choice((1, 5, 10, 20, 30, 60))
    kind = random.choice(("final", "final", "final", "final", "error", "aborted", "unknown"))
    true = 0 if kind == "error" else random.randint(0, ceiling)
    if kind == "final" and random.random() < 0.1:
        true = ceiling + random.randint(1, 10)
    told = true if kind in ("final", "error") else random.randint(true, ceiling)
    if kind == "unknown":
        told = ceiling
    mine = sidecar.record.organization_id
    owner = mine
    if random.random() < 0.02:
        owner = random.choice(sorted(KEYS_OF))
        if owner != mine:
            saw("a key of another organization was used")
    secrets = list(KEYS_OF[owner].values())
    secret = secrets[step.b % len(secrets)]
    sidecar.life.call(secret, ceiling, f"{kind}:{true}:{told}")


def finish(world: World, sidecar: Sidecar, step: Step) -> None:
    life = sidecar.life
    if life is not None and life.open:
        life.finish(life.open[step.b % len(life.open)])


def hang_up(world: World, sidecar: Sidecar, step: Step) -> None:
    life = sidecar.life
    if life is None:
        return
    if step.c % 2:
        # The answer comes in the very moment in which the app leaves.
        world.flow(sidecar)
        admitted = [t for t in life.waiting if t.hold is not None]
        if admitted and life is sidecar.life:
            life.hang_up(admitted[0])
    elif life.waiting:
        life.hang_up(life.waiting[step.b % len(life.waiting)])


ACTIONS: dict[str, Action] = {"call": call, "finish": finish, "hang_up": hang_up}
USUAL = {"call": 30, "finish": 18, "hang_up": 1}
