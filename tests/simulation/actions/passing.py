"""Time passes."""

from tests.simulation.coverage import saw
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import MS, Action, Step, World


def pass_on(world: World, _sidecar: Sidecar, step: Step) -> None:
    scale = (1, 20, 200, 1_500)[step.b % 4]
    world.time.now_ns += MS * scale * (1 + step.c % 10)


def sleep(world: World, _sidecar: Sidecar, step: Step) -> None:
    """Longer than any validity."""
    saw("nothing ran for longer than any validity")
    world.time.now_ns += MS * (31_000 + step.b % 40_000)


ACTIONS: dict[str, Action] = {"pass": pass_on, "sleep": sleep}
USUAL = {"pass": 12}
THEMES = (
    {"pass": 25, "finish": 10},
    {"pass": 15, "speak": 8, "up": 8, "tick": 8, "hear": 8},
    {"sleep": 4, "call": 20, "beat": 4},
)
