"""What moves between sidecars and control planes, and how streams break."""

from tests.simulation.coverage import saw
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def speak(world: World, sidecar: Sidecar, _step: Step) -> None:
    if sidecar.life is not None:
        sidecar.life.speak()


def up(world: World, _sidecar: Sidecar, step: Step) -> None:
    streams = [stream for stream in world.streams if stream.up and stream.served]
    if streams:
        stream = streams[step.a % len(streams)]
        if all(life.stream is not stream for life in world.lives()):
            saw("frames of an older stream arrived late")
        stream.plane.read(stream, 1 + step.b % 4)


def tick(world: World, _sidecar: Sidecar, _step: Step) -> None:
    for plane in world.planes:
        plane.tick()
    world.bury()


def answer(world: World, _sidecar: Sidecar, _step: Step) -> None:
    for plane in world.planes:
        plane.answer()


def hear(world: World, sidecar: Sidecar, step: Step) -> None:
    if sidecar.life is not None:
        sidecar.life.hear(1 + step.b % 6)


def beat(world: World, sidecar: Sidecar, _step: Step) -> None:
    if sidecar.life is not None:
        sidecar.life.beat()
        sidecar.life.sync()


def flow(world: World, sidecar: Sidecar, _step: Step) -> None:
    world.flow(sidecar)


def connect(world: World, sidecar: Sidecar, _step: Step) -> None:
    world.connect(sidecar)


def cut(world: World, sidecar: Sidecar, step: Step) -> None:
    """A stream breaks: for both ends, for the sidecar alone, or for the control plane alone."""
    life = sidecar.life
    if life is None or life.stream is None:
        return
    stream, how = life.stream, step.b % 4
    saw(
        (
            "a stream broke for both ends",
            "a stream broke for the sidecar alone",
            "a stream broke for the control plane alone",
            "frames on their way up were lost",
        )[how]
    )
    if how in (0, 2):
        stream.plane.close(stream)
    if how == 0:
        stream.down.clear()
    if how in (0, 1, 3):
        life.lose_stream()
    if how == 3:
        # What was on its way up is lost; the control plane finds out later.
        stream.up.clear()


def notice(world: World, _sidecar: Sidecar, step: Step) -> None:
    """The control plane finds out that a stream's other end is gone."""
    used = {id(life.stream) for life in world.lives()}
    dead = [s for s in world.streams if s.served and id(s) not in used]
    if dead:
        stream = dead[step.b % len(dead)]
        saw("the control plane noticed a dead stream")
        stream.plane.close(stream)


def herd(world: World, sidecar: Sidecar, step: Step) -> None:
    """All streams break at once, and all sidecars come back."""
    saw("all streams broke at once")
    for each in world.sidecars:
        if each.life is not None:
            cut(world, each, Step("cut", 0, step.b, 0))
            world.connect(each)


def part(world: World, sidecar: Sidecar, step: Step) -> None:
    """One way between a sidecar and the control plane is dead, or both are well again."""
    link = sidecar.link
    link.up, link.down = (step.b % 3 != 0, step.b % 3 != 1)
    if not link.up:
        saw("the way up was dead for a while")
    if not link.down:
        saw("the way down was dead for a while")


ACTIONS: dict[str, Action] = {
    "speak": speak, "up": up, "tick": tick, "answer": answer, "hear": hear, "beat": beat,
    "flow": flow, "connect": connect, "cut": cut, "notice": notice, "herd": herd, "part": part,
}  # fmt: skip
USUAL = {
    "speak": 4, "up": 4, "tick": 4, "answer": 2, "hear": 4, "beat": 5, "flow": 30, "connect": 2,
}  # fmt: skip
"""`flow` is what usually happens, the rest breaks it up."""
THEMES = (
    {"cut": 6, "notice": 2, "speak": 6, "up": 6, "hear": 6, "connect": 4},
    {"herd": 3, "sleep": 1, "pass": 6},
    {"part": 4, "pass": 15, "notice": 2, "connect": 4},
    {"part": 6, "sleep": 2, "speak": 6, "up": 4, "hear": 6},
)
