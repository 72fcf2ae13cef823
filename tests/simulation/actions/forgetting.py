"""The database forgets: a fail-over to a standby that lagged."""

from tests.simulation.actions import new_budgets
from tests.simulation.coverage import saw
from tests.simulation.honesty import Honesty
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


class Unheard(Honesty):
    """What a process says that does not know yet that its database went back."""

    def told(self, *_said: object) -> None:
        """Whatever it is."""


def forget(world: World, _sidecar: Sidecar, step: Step) -> None:
    # What admins do is kept here, so what the writer made of it must not be forgotten.
    budgets = world.database.tables.budgets
    is_new = max(budgets) >= new_budgets.FIRST or any(b.raises for b in budgets.values())
    if world.is_mixed() or is_new or not world.database.forget(1 + step.b % 12):
        return
    saw("the database forgot its last commits")
    world.database.faults.clear()  # who finds it out lives long enough to write it down
    world.oracle.tail_lost()
    for plane in world.planes:
        plane.honesty = Unheard()


def thaw(world: World, _sidecar: Sidecar, _step: Step) -> None:
    world.thaw()


ACTIONS: dict[str, Action] = {"forget": forget, "thaw": thaw}
THEMES = (
    {"forget": 2, "flow": 10, "thaw": 1},
    {"forget": 1, "kill": 3, "start": 3, "cut": 2, "flow": 10},
    {"forget": 2, "fault": 3, "speak": 6, "up": 4, "tick": 4},
)
