"""The whole: control planes, sidecars, provider, network and time. What steps do is in `actions`.

A step is a name and three numbers. The numbers choose among what there is when the step runs
(which sidecar, which call, how many frames), so that any steps of a history can be left out and
the rest still means something.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import NamedTuple

from bursar_server.sidecars.records import SidecarRecord
from tests.simulation.control_process import ControlPlane, Stream, Time
from tests.simulation.coverage import saw
from tests.simulation.database import EPOCH, Broken, Database
from tests.simulation.disk import Disk, Killed
from tests.simulation.installation import (
    FIRST_SIDECAR,
    ORGANIZATION,
    SECOND_ORGANIZATION,
    applicable,
    tables_of,
)
from tests.simulation.oracle import Oracle
from tests.simulation.sidecar import Life, Sidecar
from tests.simulation.stepped import Clock

MIXED = 0.25
"""Of the worlds, how many begin with some programs of an older build."""
SHARED = 0.35
"""Of the worlds, how many have a second organization under the same platform."""
MOST_SIDECARS = 5
MOST_PLANES = 8
MINUTES_OF_A_BEAT = 20
MS = 1_000_000


class Step(NamedTuple):
    """One thing that happens."""

    name: str
    a: int
    b: int
    c: int


class World:
    """One simulated installation."""

    def __init__(self, seed: int, disk: Callable[[], Disk] = Disk) -> None:
        # Whatever a feature draws for itself comes from a Random of its own, not from this one:
        # recorded histories name a seed, and it must go on meaning the same world.
        random = Random(seed)
        self.time = Time()
        others = Random(seed ^ 0x0126)
        shared = others.random() < SHARED
        self.database = Database(tables_of(random, self.time, others if shared else None))
        self.oracle = Oracle(self.database, self.time)
        tables = self.database.tables
        for budget in tables.budgets.values():
            self.oracle.highest_limit[budget.id] = budget.limit_nanos
        for key in tables.keys.values():
            self.oracle.budgets_of_key[key.id] = applicable(key, tables)
        self.skews_ms = [random.randint(-20, 20) for _ in range(8)]
        self.planes: list[ControlPlane] = []
        builds = Random(seed ^ 0x01D)
        mixed = self.mixed = builds.random() < MIXED
        self.new_plane(older=mixed and builds.random() < 0.5)
        self.streams: list[Stream] = []
        self.sidecars: list[Sidecar] = []
        for number in range(random.randint(1, 3)):
            self.enrol(number, disk(), random.randint(-400, 400), random.randint(-300, 300))
        for number in range(len(self.sidecars), len(self.sidecars) + shared):
            self.enrol(number, disk(), 0, others.randint(-300, 300), SECOND_ORGANIZATION)
        for sidecar in self.sidecars:
            sidecar.older = mixed and builds.random() < 0.5
            sidecar.start()

    def enrol(
        self,
        number: int,
        disk: Disk,
        skew_ms: int,
        drift_ppm: int,
        organization_id: int = ORGANIZATION,
    ) -> Sidecar:
        """Another machine with a sidecar; those of one number share a credential."""
        record = SidecarRecord(
            FIRST_SIDECAR + number,
            organization_id,
            self.database.tables.organizations[organization_id].slug,
            f"s{number}",
            False,
            False,
            b"",
            "",
            "",
            None,
            EPOCH,
        )
        clock = Clock(self.time, skew_ms, drift_ppm)
        if drift_ppm:
            saw(f"a clock ran {'fast' if drift_ppm > 0 else 'slow'}")
        sidecar = Sidecar(f"s{len(self.sidecars)}", record, clock, disk, self.oracle)
        self.sidecars.append(sidecar)
        return sidecar

    def new_plane(self, *, older: bool = False) -> None:
        """Another process takes the shard."""
        skew = self.skews_ms[len(self.planes) % len(self.skews_ms)]
        self.planes.append(ControlPlane(self.database, self.time, skew, older=older))

    @property
    def plane(self) -> ControlPlane:
        """The process that new streams reach."""
        return self.planes[-1]

    def lives(self) -> list[Life]:
        """The sidecar processes that run."""
        return [s.life for s in self.sidecars if s.life is not None]

    def frames(self) -> int:
        """How many frames were said on all streams, either way."""
        return sum(stream.said for stream in self.streams)

    def after_step(self) -> None:
        """What follows from any step, and everything that must hold. Raises Broken."""
        for sidecar in self.sidecars:
            life = sidecar.life
            if life is not None:
                try:
                    life.look_at_lines()
                except Killed:
                    self.dead(sidecar)
        for plane in self.planes:
            if plane.refusals:
                raise Broken(f"3: an honest sidecar's frame was refused: {plane.refusals}")
        self.oracle.check(self.lives())

    def connect(self, sidecar: Sidecar) -> None:
        """A new stream, to the process that streams reach now."""
        life = sidecar.life
        if life is not None and life.stream is None and not life.closed:
            life.connect(self.plane, len(self.streams))
            if life.stream is not None:
                self.streams.append(life.stream)
            self.bury()

    def flow(self, sidecar: Sidecar) -> None:
        """Everything that is on its way arrives, for one sidecar."""
        life = sidecar.life
        if life is None:
            return
        if life.stream is None:
            self.connect(sidecar)
            life.hear(100)
        life.speak()
        if life.stream is not None:
            life.stream.plane.read(life.stream, 100)
        for plane in self.planes:
            plane.answer()
            plane.tick()
        self.bury()
        life.hear(100)

    def is_mixed(self) -> bool:
        """Whether a program of an older build ran: it proves nothing of what was forgotten."""
        return self.mixed

    def thaw(self) -> None:
        """People let frozen budgets lend again."""
        tables = self.database.tables.copy()
        for id, window in tables.windows.items():
            tables.windows[id] = replace(window, frozen=False)
        self.database.tables = tables

    def age(self, minutes: int) -> None:
        """Time passes, and the control plane serves all the while."""
        for _ in range(0, minutes, MINUTES_OF_A_BEAT):
            self.time.now_ns += MINUTES_OF_A_BEAT * 60_000 * MS
            for plane in self.planes:
                plane.tick()
            self.bury()

    def dead(self, sidecar: Sidecar) -> None:
        """Its process is gone."""
        life = sidecar.life
        if life is not None:
            sidecar.life = None
            sidecar.disk.writes_until_kill = None

    def bury(self) -> None:
        """A dead control plane's streams end; another process takes over."""
        for plane in self.planes:
            if not plane.alive:
                for stream in self.streams:
                    if stream.plane is plane:
                        stream.served = False
        if not self.plane.alive:
            self.new_plane(older=self.plane.older)

    def can_prove_nothing(self, life: Life) -> None:
        """What its journal says of its sessions is not the whole truth from now on."""
        unproven, unkept = self.oracle.unproven, self.oracle.unkept
        for attempt in self.oracle.attempts.values():
            if attempt.life.machine is life.machine:
                unkept.update(epoch for epoch, _n, _windows in attempt.parts)
            if attempt.life is life:
                unproven.update(epoch for epoch, _n, _windows in attempt.parts)
        unproven.update(leg.epoch for leg in life.legs())
        unproven.update(prior.epoch for prior in life.roster._priors.values())


Action = Callable[[World, Sidecar, Step], None]
"""What a step does, to the sidecar that it names."""
