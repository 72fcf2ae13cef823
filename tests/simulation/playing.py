"""A history is played: step by step, and healed at its end."""

from tests.simulation import at_last
from tests.simulation.actions import ACTIONS
from tests.simulation.database import Broken
from tests.simulation.disk import Killed
from tests.simulation.limits import check_limits
from tests.simulation.liveness import MOST_ROUNDS_TO_MONEY, Probes
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import MS, Step, World

PAST_EVERYTHING_MINUTES = 26 * 60
"""The silence and the horizon."""
MOST_ROUNDS = 60
"""Rounds to end everything; two or three dozen are enough when all is well."""
ROUNDS_TO_HEAL = 15
"""Earlier sessions are settled and closed in them."""


def take(world: World, step: Step) -> None:
    """Do a step, and check everything after it. Raises Broken."""
    sidecar = world.sidecars[step.a % len(world.sidecars)]
    try:
        ACTIONS[step.name](world, sidecar, step)
    except Killed:
        world.dead(sidecar)
    world.after_step()


def end(world: World) -> None:
    """Heal everything, finish and settle all calls, drain, and look whether all is right."""
    world.database.faults.clear()
    world.thaw()
    for sidecar in world.sidecars:
        sidecar.empty_disk()
        sidecar.link.up = sidecar.link.down = True
        sidecar.disk.writes_until_kill = None
        sidecar.start()
    for _ in range(ROUNDS_TO_HEAL):
        _round(world)
    world.thaw()  # those that were claimed meanwhile
    probes = Probes(world)
    probes.call()
    for round in range(1, MOST_ROUNDS_TO_MONEY + 1):
        _round(world, finish=False)
        probes.look(round)
        probes.count_frames()
    for _ in range(MOST_ROUNDS):
        _round(world, drain=True)
        if all(sidecar.ended for sidecar in world.sidecars):
            break
    else:
        raise Broken("stranded: a sidecar could not end in an orderly way")
    at_last.settled_at_last(world.oracle)
    world.plane.tick()
    check_limits(world.database.tables, world.plane.clock.now(), applied=True)
    world.age(PAST_EVERYTHING_MINUTES)
    at_last.nothing_is_held_for_ever(world.oracle)


def _round(world: World, *, finish: bool = True, drain: bool = False) -> None:
    world.time.now_ns += 200 * MS
    for sidecar in world.sidecars:
        if not sidecar.ended:
            sidecar.start()
        try:
            _turn(world, sidecar, finish=finish, drain=drain)
        except Killed:
            world.dead(sidecar)
    world.after_step()


def _turn(world: World, sidecar: Sidecar, *, finish: bool, drain: bool) -> None:
    life = sidecar.life
    if life is None:
        return
    while finish and life.open:
        life.finish(life.open[0])
    life.beat()
    life.sync()
    world.flow(sidecar)
    if drain:
        life.drain()
        if life.closed:
            sidecar.life, sidecar.ended = None, True
