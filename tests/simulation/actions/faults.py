"""What breaks: processes, disks, commits; and what starts again."""

from random import Random

from tests.simulation.coverage import saw
from tests.simulation.disk import Disk
from tests.simulation.installation import FIRST_SIDECAR
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import MOST_PLANES, MOST_SIDECARS, Action, Step, World


def kill(world: World, sidecar: Sidecar, step: Step) -> None:
    """kill -9, power loss, or the disk is gone; it starts again at once or later."""
    life = sidecar.life
    how = step.b % 8
    if life is not None and how in (0, 1):
        world.can_prove_nothing(life)
        if how == 0:
            saw("a disk was lost")
            sidecar.disk = Disk()
        else:
            saw("a machine lost power")
            if sidecar.disk.lose_power(Random(step.c)):
                saw("a power loss cut a journal")
        sidecar.boots += 1
    elif life is not None:
        saw("a process was killed")
    world.dead(sidecar)
    if step.c % 2:
        sidecar.start()


def clone(world: World, sidecar: Sidecar, step: Step) -> None:
    """A copy of the journal's directory is started beside the first process, or elsewhere."""
    if sidecar.life is None or len(world.sidecars) >= MOST_SIDECARS:
        return
    world.can_prove_nothing(sidecar.life)
    number = sidecar.record.id - FIRST_SIDECAR
    copy = world.enrol(
        number, sidecar.disk.copy(), step.b % 300, step.b % 200, sidecar.record.organization_id
    )
    saw(f"a disk was copied {'on its' if step.c % 2 else 'to another'} machine")
    copy.older = sidecar.older
    if step.c % 2:
        copy.machine_name = sidecar.machine_name
        copy.boots = sidecar.boots
    copy.start()


def arm(world: World, sidecar: Sidecar, step: Step) -> None:
    """The process will end at one of its next writes, with part of it on the disk."""
    sidecar.disk.writes_until_kill = step.b % 4
    sidecar.disk.torn_percent = (0, 30, 90, 100)[step.c % 4]
    if sidecar.life is None:
        sidecar.disk.writes_until_kill = step.b % 2
        sidecar.start()


def start(world: World, sidecar: Sidecar, _step: Step) -> None:
    sidecar.empty_disk()
    sidecar.start()


def fill(world: World, sidecar: Sidecar, step: Step) -> None:
    if step.b % 3:
        sidecar.disk.full = True
    else:
        sidecar.empty_disk()


def drain(world: World, sidecar: Sidecar, step: Step) -> None:
    life = sidecar.life
    if life is not None and (life.draining or step.b % 4 == 0):
        life.drain()
        if life.closed:
            saw("a sidecar ended in an orderly way")
            sidecar.life = None


def fault(world: World, _sidecar: Sidecar, step: Step) -> None:
    """The next commit goes wrong."""
    kinds = ("away", "lost_ack", "crash_before", "crash_after", "lost_ack", "away")
    world.database.faults = [kinds[step.b % len(kinds)]]


def depose(world: World, _sidecar: Sidecar, _step: Step) -> None:
    """Another control plane takes the shard; the old one does not know yet."""
    if len(world.planes) < MOST_PLANES:
        saw("a second owner took the shard")
        world.new_plane()


def replace(world: World, sidecar: Sidecar, step: Step) -> None:
    """A roll-out, or its undoing: one program is stopped and started as another build."""
    if world.oracle.forgot:
        return  # an older build can't prove what was forgotten
    saw("a program was replaced by another build")
    world.mixed = True
    if step.b % 3:
        world.dead(sidecar)
        sidecar.older = not sidecar.older
        sidecar.start()
    elif len(world.planes) < MOST_PLANES:
        world.new_plane(older=not world.plane.older)


ACTIONS: dict[str, Action] = {
    "kill": kill, "clone": clone, "arm": arm, "start": start, "fill": fill, "drain": drain,
    "fault": fault, "depose": depose, "replace": replace,
}  # fmt: skip
USUAL = {"start": 2}
THEMES = (
    {"kill": 5, "speak": 8, "up": 2, "start": 3},
    {"arm": 6, "start": 5, "beat": 4},
    {"arm": 8, "kill": 2, "finish": 10},
    {"fault": 6, "tick": 4, "up": 4, "speak": 4},
    {"depose": 3, "fault": 2, "cut": 2, "notice": 1},
    {"fill": 5, "start": 3, "beat": 4, "arm": 1},
    {"fill": 5, "start": 3, "kill": 3, "finish": 10},
    {"drain": 4, "start": 6},
    {"replace": 4, "speak": 4, "up": 4},
    {"replace": 2, "clone": 5, "call": 20, "speak": 10, "up": 10, "tick": 6, "finish": 10},
    {"clone": 3, "speak": 8, "up": 6, "hear": 4, "kill": 1},
    {"clone": 6, "speak": 20, "up": 20, "tick": 8, "finish": 20, "call": 30},
)
