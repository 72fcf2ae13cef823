"""A thousand sidecars at once: the control plane restarts, all come back, and money is short.

    make simulate SIMULATE="--herd 1000"

One organization, two budgets that all calls draw on, and sidecars that hold a little each. It is
checked as every history is, at every commit; the checks over all sidecars run once a round.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from bursar_server.budgets.rules import WindowSpec
from tests.simulation import at_last, coverage
from tests.simulation.database import Broken
from tests.simulation.disk import Disk
from tests.simulation.world import MS, World

KEY: Final = "bk-one"
NANOS_OF_A_SIDECAR: Final = 5
"""Of the budget; a call takes one to six, so that not every second one can start."""
MOST_FRAMES_OF_A_ROUND: Final = 12
"""Of one sidecar, both ways and both sessions: nobody is asked again and again."""
MOST_ROUNDS: Final = 60
ROUND_MS: Final = 200


class Herd:
    """Sidecars that do everything at the same time."""

    def __init__(self, seed: int, count: int) -> None:
        self.random = Random(seed)
        self.world = world = World(seed)
        tables = world.database.tables
        for sidecar in world.sidecars:
            sidecar.life = None
        world.sidecars.clear()
        limit = count * NANOS_OF_A_SIDECAR
        wide = next(iter(tables.budgets.values()))
        tables.budgets.clear()
        for id, kind, scope in ((11, "organization", 2), (12, "team", 30)):
            tables.budgets[id] = type(wide)(
                id, f"b{id}", 2, "", kind, scope, "", (), (), limit, "USD",  # type: ignore[arg-type]
                WindowSpec("lifetime"), "hard", False, 1, wide.created_at, wide.created_at,
            )  # fmt: skip
            world.oracle.highest_limit[id] = limit
        world.oracle.budgets_of_key[41] = {11, 12}
        for number in range(count):
            skew, drift = self.random.randint(-400, 400), self.random.randint(-300, 300)
            world.enrol(number, Disk(), skew, drift).start()
        self.said = 0

    def run(self) -> str:
        """From the first start to the last goodbye; returns a line of figures. Raises Broken."""
        world = self.world
        for _ in range(3):
            self.round()
        self.call()
        for _ in range(4):
            self.round()
        before = world.plane
        before.alive = False
        world.bury()
        coverage.saw("all streams broke at once")
        for life in world.lives():
            life.lose_stream()
        self.call()
        rounds = self.until(self._nobody_waits)
        for life in world.lives():
            while life.open:
                life.finish(life.open[0])
        for life in world.lives():
            life.drain()
        drained = self.until(lambda: not world.lives())
        world.oracle.check([])
        at_last.settled_at_last(world.oracle)
        settled = max(window.settled for window in world.database.tables.windows.values())
        limit = world.oracle.highest_limit[11]
        return (
            f"{len(world.sidecars)} sidecars came back: answered after {rounds} rounds, drained "
            f"after {drained}; {settled} of {limit} spent; refused {dict(world.oracle.refusals)}"
        )

    def call(self) -> None:
        """Every sidecar has a call."""
        for life in self.world.lives():
            ceiling = self.random.randint(1, 6)
            life.call(KEY, ceiling, f"final:{ceiling}:{ceiling}")

    def until(self, done: Callable[[], bool]) -> int:
        """Rounds until it is done. Raises Broken."""
        for round in range(MOST_ROUNDS):
            if done():
                return round
            self.round()
        raise Broken(f"stranded: not done after {MOST_ROUNDS} rounds")

    def _nobody_waits(self) -> bool:
        return not any(life.waiting or life.asking for life in self.world.lives())

    def round(self) -> None:
        """All speak, one tick, all hear."""
        world = self.world
        world.time.now_ns += ROUND_MS * MS
        for sidecar in world.sidecars:
            life = sidecar.life
            if life is None:
                continue
            life.beat()
            life.sync()
            if life.stream is None:
                world.connect(sidecar)
                life.hear(100)
            life.speak()
            if life.stream is not None:
                world.plane.read(life.stream, 100)
        world.plane.answer()
        while world.plane.writer._inbox.qsize():
            world.plane.tick()
        world.plane.tick()
        for sidecar in world.sidecars:
            life = sidecar.life
            if life is not None:
                life.hear(100)
                if life.draining:
                    life.drain()
                    if life.closed:
                        sidecar.life = None
        world.after_step()
        said, self.said = self.said, world.frames()
        if self.said - said > MOST_FRAMES_OF_A_ROUND * len(world.sidecars):
            raise Broken(f"livelock: {self.said - said} frames in one round")
