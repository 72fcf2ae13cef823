"""Prices change while calls are on their way."""

from random import Random

from bursar_server.changes import Change, ChangeKind
from tests.simulation.coverage import saw
from tests.simulation.installation import KEYS_OF, ORGANIZATION
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def price(world: World, _sidecar: Sidecar, step: Step) -> None:
    """The operator puts another price on record."""
    tables = world.database.tables.copy()
    tables.prices = (*tables.prices, 1 + step.b % 8)
    change = Change(ORGANIZATION, ChangeKind.PRICES, len(tables.prices))
    tables.record(change)
    world.database.tables = tables
    world.oracle.priced(len(tables.prices))
    saw("a price changed")
    if step.a % 4:
        world.plane.note(change)


def buy(world: World, sidecar: Sidecar, step: Step) -> None:
    """A call whose worst case and charge follow from the price in force where it is made."""
    life = sidecar.life
    if life is None or life.draining or sidecar.record.organization_id != ORGANIZATION:
        return
    random = Random(step.c)
    most = random.choice((1, 3, 6, 12))
    used = random.randint(0, most)
    if random.random() < 0.1:
        # The bound was wrong: more was made than could be.
        used = most + random.randint(1, 2)
    secrets = list(KEYS_OF[ORGANIZATION].values())
    life.call(secrets[step.b % len(secrets)], 0, f"priced:{most}:{used}")


ACTIONS: dict[str, Action] = {"price": price, "buy": buy}
THEMES = (
    {"price": 6, "buy": 40, "finish": 10, "hear": 6, "speak": 6},
    {"price": 4, "buy": 30, "part": 3, "pass": 10, "finish": 8, "kill": 2, "start": 3},
)
