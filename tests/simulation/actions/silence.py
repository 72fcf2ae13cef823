"""Hours pass: what silent sessions hold is in doubt, and then counts as spent."""

from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def age(world: World, _sidecar: Sidecar, step: Step) -> None:
    """Past the silence, or past the horizon too; the journals of the dead stay where they are."""
    world.age((40, 40, 24 * 60 + 80)[step.b % 3])


ACTIONS: dict[str, Action] = {"age": age}
THEMES = (
    {"age": 4, "kill": 5, "start": 3, "cut": 2, "notice": 1},
    {"age": 3, "arm": 4, "start": 4, "speak": 6, "up": 2, "limit": 2},
    {"age": 3, "clone": 2, "fault": 3, "depose": 1},
)
