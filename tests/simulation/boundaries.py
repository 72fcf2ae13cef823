"""A sidecar is killed at every write of its journal, one history for each.

The histories of some seeds are run once to count the writes of each sidecar's journal, and then
again and again: killed before the k-th write, in the middle of it, and behind it, before anything
after it happened. Every one must end with nothing overspent, lost or stranded.
"""

from typing import Final

from tests.simulation import histories, playing
from tests.simulation.database import Broken
from tests.simulation.disk import Disk
from tests.simulation.world import Step, World

TORN_PERCENT: Final = (0, 50, 100)
"""Of the write that ends the process, what reaches the disk."""


class CountedDisk(Disk):
    """Counts its writes, and ends the process at one of them."""

    writes = 0
    kill_at = -1

    def append(self, name: str, data: bytes) -> int:
        """As of any disk. Raises OSError or Killed."""
        if self.writes == self.kill_at:
            self.writes_until_kill = 0
        self.writes += 1
        return super().append(name, data)


def steps_of(seed: int) -> list[Step]:
    """A history without other deaths: whoever is killed starts again a little later."""
    quiet = {"call", "finish", "flow", "pass", "speak", "up", "tick", "answer", "hear", "beat"}
    return [step for step in histories.history(seed) if step.name in quiet]


def run(seed: int, victim: int, kill_at: int, torn_percent: int) -> tuple[str, int]:
    """Kill the victim at one of its writes; returns what broke, and how many writes it made."""
    done = 0
    world = World(seed, CountedDisk)
    disk = world.sidecars[victim % len(world.sidecars)].disk
    assert isinstance(disk, CountedDisk)
    disk.torn_percent = torn_percent
    disk.kill_at = kill_at
    try:
        for step in steps_of(seed):
            playing.take(world, step)
            for sidecar in world.sidecars:
                sidecar.start()
            done += 1
        playing.end(world)
    except Broken as broken:
        return f"{broken} (after step {done})", disk.writes
    return "", disk.writes


def every(seed: int, victim: int) -> tuple[int, list[str]]:
    """Kill the victim at each of its writes; returns how often, and what broke."""
    what, writes = run(seed, victim, -1, 100)
    broken = [f"without a kill: {what}"] if what else []
    for kill_at in range(writes):
        for torn in TORN_PERCENT:
            what, _ = run(seed, victim, kill_at, torn)
            if what:
                broken.append(f"seed {seed}, sidecar {victim}, write {kill_at}, {torn} %: {what}")
    return writes * len(TORN_PERCENT), broken
