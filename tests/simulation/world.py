"""The whole: control planes, sidecars, provider, network and time, moved step by step.

A step is a name and three numbers. The numbers choose among what there is when the step runs
(which sidecar, which call, how many frames), so that any steps of a history can be left out and
the rest still means something.
"""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import NamedTuple

from msgspec import structs

from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change, ChangeKind
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.identity.records import KeyRecord, OrganizationRecord
from bursar_server.sidecars.records import SidecarRecord
from bursar_sidecar.identity import hash_of
from tests.simulation.control_process import ControlPlane, Stream, Time
from tests.simulation.database import EPOCH, Broken, Database, Tables
from tests.simulation.disk import Disk, Killed
from tests.simulation.oracle import Oracle
from tests.simulation.sidecar import Clock, Life, Sidecar

ORGANIZATION = 2
TEAM = 30
KEYS = {41: "bk-one", 42: "bk-two", 43: "bk-three"}
FIRST_SIDECAR = 50
MOST_SIDECARS = 5
MS = 1_000_000
MOST_ROUNDS = 80
"""Rounds to settle everything at the end; two or three dozen are enough when all is well."""


class Step(NamedTuple):
    """One thing that happens."""

    name: str
    a: int
    b: int
    c: int


class World:
    """One simulated installation."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.time = Time()
        self.database = Database(_tables(random, self.time))
        self.oracle = Oracle(self.database, self.time)
        tables = self.database.tables
        for budget in tables.budgets.values():
            self.oracle.highest_limit[budget.id] = budget.limit_nanos
        for key in tables.keys.values():
            self.oracle.budgets_of_key[key.id] = _applicable(key, tables)
        self.skews_ms = [random.randint(-20, 20) for _ in range(8)]
        self.planes: list[ControlPlane] = []
        self._new_plane()
        self.streams: list[Stream] = []
        self.sidecars: list[Sidecar] = []
        for number in range(random.randint(1, 3)):
            self._enrol(number, Disk(), random.randint(-400, 400), random.randint(-300, 300))
        for sidecar in self.sidecars:
            sidecar.start()

    def _enrol(self, number: int, disk: Disk, skew_ms: int, drift_ppm: int) -> Sidecar:
        record = SidecarRecord(
            FIRST_SIDECAR + number,
            ORGANIZATION,
            "acme",
            f"s{number}",
            False,
            b"",
            "",
            "",
            None,
            EPOCH,
        )
        clock = Clock(self.time, skew_ms, drift_ppm)
        sidecar = Sidecar(f"s{len(self.sidecars)}", record, clock, disk, self.oracle)
        self.sidecars.append(sidecar)
        return sidecar

    def _new_plane(self) -> None:
        skew = self.skews_ms[len(self.planes) % len(self.skews_ms)]
        self.planes.append(ControlPlane(self.database, self.time, skew))

    @property
    def plane(self) -> ControlPlane:
        """The process that new streams reach."""
        return self.planes[-1]

    def lives(self) -> list[Life]:
        """The sidecar processes that run."""
        return [s.life for s in self.sidecars if s.life is not None]

    # -- steps ---------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Do a step, and check everything after it. Raises Broken."""
        sidecar = self.sidecars[step.a % len(self.sidecars)]
        try:
            ACTIONS[step.name](self, sidecar, step)
        except Killed:
            self._dead(sidecar)
        self._after()

    def _after(self) -> None:
        for sidecar in self.sidecars:
            life = sidecar.life
            if life is not None:
                try:
                    life.look_at_lines()
                except Killed:
                    self._dead(sidecar)
        for plane in self.planes:
            if plane.refusals:
                raise Broken(f"3: an honest sidecar's frame was refused: {plane.refusals}")
        self.oracle.check(self.lives())

    def _call(self, sidecar: Sidecar, step: Step) -> None:
        if sidecar.life is None or sidecar.life.draining:
            return
        random = Random(step.c)
        ceiling = random.choice((1, 5, 10, 20, 30, 60))
        kind = random.choice(("final", "final", "final", "final", "error", "aborted", "unknown"))
        true = 0 if kind == "error" else random.randint(0, ceiling)
        if kind == "final" and random.random() < 0.1:
            true = ceiling + random.randint(1, 10)
        told = true if kind in ("final", "error") else random.randint(true, ceiling)
        if kind == "unknown":
            told = ceiling
        secret = list(KEYS.values())[step.b % len(KEYS)]
        sidecar.life.call(secret, ceiling, f"{kind}:{true}:{told}")

    def _finish(self, sidecar: Sidecar, step: Step) -> None:
        life = sidecar.life
        if life is not None and life.open:
            life.finish(life.open[step.b % len(life.open)])

    def _hang_up(self, sidecar: Sidecar, step: Step) -> None:
        life = sidecar.life
        if life is not None and life.waiting:
            life.hang_up(life.waiting[step.b % len(life.waiting)])

    def _speak(self, sidecar: Sidecar, _step: Step) -> None:
        if sidecar.life is not None:
            sidecar.life.speak()

    def _up(self, _sidecar: Sidecar, step: Step) -> None:
        streams = [stream for stream in self.streams if stream.up and stream.served]
        if streams:
            stream = streams[step.a % len(streams)]
            stream.plane.read(stream, 1 + step.b % 4)

    def _tick(self, _sidecar: Sidecar, _step: Step) -> None:
        for plane in self.planes:
            plane.tick()
        self._bury()

    def _answer(self, _sidecar: Sidecar, _step: Step) -> None:
        for plane in self.planes:
            plane.answer()

    def _hear(self, sidecar: Sidecar, step: Step) -> None:
        if sidecar.life is not None:
            sidecar.life.hear(1 + step.b % 6)

    def _beat(self, sidecar: Sidecar, _step: Step) -> None:
        if sidecar.life is not None:
            sidecar.life.beat()
            sidecar.life.sync()

    def _flow(self, sidecar: Sidecar, _step: Step) -> None:
        """Everything that is on its way arrives, for one sidecar."""
        life = sidecar.life
        if life is None:
            return
        if life.stream is None:
            self._connect(sidecar, _step)
            life.hear(100)
        life.speak()
        if life.stream is not None:
            life.stream.plane.read(life.stream, 100)
        for plane in self.planes:
            plane.answer()
            plane.tick()
        self._bury()
        life.hear(100)

    def _pass(self, _sidecar: Sidecar, step: Step) -> None:
        scale = (1, 20, 200, 1_500)[step.b % 4]
        self.time.now_ns += MS * scale * (1 + step.c % 10)

    def _sleep(self, _sidecar: Sidecar, step: Step) -> None:
        """Longer than any validity."""
        self.time.now_ns += MS * (20_000 + step.b % 40_000)

    def _connect(self, sidecar: Sidecar, _step: Step) -> None:
        life = sidecar.life
        if life is not None and life.stream is None and not life.closed:
            life.connect(self.plane, len(self.streams))
            if life.stream is not None:
                self.streams.append(life.stream)
            self._bury()

    def _cut(self, sidecar: Sidecar, step: Step) -> None:
        """A stream breaks: for both ends, for the sidecar alone, or for the control plane alone."""
        life = sidecar.life
        if life is None or life.stream is None:
            return
        stream, how = life.stream, step.b % 4
        if how in (0, 2):
            stream.plane.close(stream)
        if how == 0:
            stream.down.clear()
        if how in (0, 1, 3):
            life.lose_stream()
        if how == 3:
            # What was on its way up is lost; the control plane finds out later.
            stream.up.clear()

    def _notice(self, _sidecar: Sidecar, step: Step) -> None:
        """The control plane finds out that a stream's other end is gone."""
        used = {id(life.stream) for life in self.lives()}
        dead = [s for s in self.streams if s.served and id(s) not in used]
        if dead:
            stream = dead[step.b % len(dead)]
            stream.plane.close(stream)

    def _herd(self, sidecar: Sidecar, step: Step) -> None:
        """All streams break at once, and all sidecars come back."""
        for each in self.sidecars:
            if each.life is not None:
                self._cut(each, Step("cut", 0, step.b, 0))
                self._connect(each, step)

    # -- faults --------------------------------------------------------------------------------

    def _dead(self, sidecar: Sidecar) -> None:
        life = sidecar.life
        if life is not None:
            sidecar.life = None
            sidecar.disk.writes_until_kill = None

    def _kill(self, sidecar: Sidecar, step: Step) -> None:
        """kill -9, power loss, or the disk is gone; it starts again at once or later."""
        life = sidecar.life
        how = step.b % 8
        if life is not None and how in (0, 1):
            self._can_prove_nothing(life)
            if how == 0:
                sidecar.disk = Disk()
            else:
                sidecar.disk.lose_power(Random(step.c))
            sidecar.boots += 1
        self._dead(sidecar)
        if step.c % 2:
            sidecar.start()

    def _can_prove_nothing(self, life: Life) -> None:
        """What its journal says of its sessions is not the whole truth from now on."""
        unproven = self.oracle.unproven
        for attempt in self.oracle.attempts.values():
            if attempt.life is life:
                unproven.update(epoch for epoch, _n, _windows in attempt.parts)
        unproven.update(leg.epoch for leg in life.legs())
        unproven.update(prior.epoch for prior in life.roster._priors.values())

    def _clone(self, sidecar: Sidecar, step: Step) -> None:
        """A copy of the journal's directory is started beside the first process, or elsewhere."""
        if sidecar.life is None or len(self.sidecars) >= MOST_SIDECARS:
            return
        self._can_prove_nothing(sidecar.life)
        number = sidecar.record.id - FIRST_SIDECAR
        copy = self._enrol(number, sidecar.disk.copy(), step.b % 300, step.b % 200)
        if step.c % 2:
            copy.machine_name = sidecar.machine_name
            copy.boots = sidecar.boots
        copy.start()

    def _arm(self, sidecar: Sidecar, step: Step) -> None:
        """The process will end at one of its next writes, with part of it on the disk."""
        if sidecar.life is not None:
            sidecar.disk.writes_until_kill = step.b % 4
            sidecar.disk.torn_percent = (0, 30, 90, 100)[step.c % 4]

    def _start(self, sidecar: Sidecar, _step: Step) -> None:
        sidecar.disk.full = False
        sidecar.start()

    def _fill(self, sidecar: Sidecar, step: Step) -> None:
        sidecar.disk.full = bool(step.b % 3)

    def _drain(self, sidecar: Sidecar, step: Step) -> None:
        life = sidecar.life
        if life is not None and (life.draining or step.b % 4 == 0):
            life.drain()
            if life.closed:
                sidecar.life = None

    def _fault(self, _sidecar: Sidecar, step: Step) -> None:
        """The next commit goes wrong."""
        kinds = ("away", "lost_ack", "crash_before", "crash_after", "lost_ack", "away")
        self.database.faults = [kinds[step.b % len(kinds)]]

    def _depose(self, _sidecar: Sidecar, _step: Step) -> None:
        """Another control plane takes the shard; the old one does not know yet."""
        if len(self.planes) < 8:
            self._new_plane()

    def _bury(self) -> None:
        """A dead control plane's streams end; another process takes over."""
        for plane in self.planes:
            if not plane.alive:
                for stream in self.streams:
                    if stream.plane is plane:
                        stream.served = False
        if not self.plane.alive:
            self._new_plane()

    # -- what admins do ------------------------------------------------------------------------

    def _limit(self, _sidecar: Sidecar, step: Step) -> None:
        tables = self.database.tables.copy()
        ids = sorted(tables.budgets)
        budget = tables.budgets[ids[step.b % len(ids)]]
        limit = (0, 20, 60, 150, 300)[step.c % 5]
        tables.budgets[budget.id] = structs.replace(
            budget, limit_nanos=limit, version=budget.version + 1
        )
        self.database.tables = tables
        highest = self.oracle.highest_limit
        highest[budget.id] = max(highest[budget.id], limit)
        # Whoever serves the admin tells its own process; others learn it when they take over.
        self.plane.note(Change(budget.organization_id, ChangeKind.BUDGET, budget.id))

    def _revoke(self, _sidecar: Sidecar, step: Step) -> None:
        tables = self.database.tables.copy()
        hashes = sorted(tables.keys)
        key = tables.keys[hashes[step.b % len(hashes)]]
        if key.revoked_at is not None:
            return
        tables.keys[key.secret_hash] = structs.replace(key, revoked_at=EPOCH)
        tables.policy_version += 1
        self.database.tables = tables
        self.oracle.revoked_at[key.id] = self.time.now_ns
        self.plane.note(Change(ORGANIZATION, ChangeKind.KEY, key.id, (key.secret_hash,)))

    # -- the end -------------------------------------------------------------------------------

    def end(self) -> None:
        """Heal everything, finish and settle all calls, drain, and look whether all is right."""
        self.database.faults.clear()
        for sidecar in self.sidecars:
            sidecar.disk.full = False
            sidecar.disk.writes_until_kill = None
            sidecar.start()
        quiet = 0
        for round in range(MOST_ROUNDS):
            self.time.now_ns += 200 * MS
            for sidecar in self.sidecars:
                life = sidecar.life
                if life is None:
                    continue
                while life.open:
                    life.finish(life.open[0])
                life.beat()
                life.sync()
                self._flow(sidecar, Step("flow", 0, 0, 0))
                if round >= MOST_ROUNDS // 3:
                    life.drain()
                    if life.closed:
                        sidecar.life = None
            self._after()
            if not self.lives():
                quiet += 1
                break
        if not quiet:
            raise Broken("stranded: a sidecar could not end in an orderly way")
        self.oracle.settled_at_last()


def _tables(random: Random, time: Time) -> Tables:
    tables = Tables()
    for id, slug in ((PLATFORM_ORGANIZATION_ID, "platform"), (ORGANIZATION, "acme")):
        tables.organizations[id] = OrganizationRecord(
            id, slug, slug, "USD", 0, False, 1, 0, EPOCH, EPOCH
        )
    # A little ago: a control plane whose clock is late would else look for spend before it.
    created = EPOCH + timedelta(microseconds=time.now_ns // 1000 - 100_000)
    lifetime = WindowSpec("lifetime")

    def short() -> WindowSpec:
        return WindowSpec("every", "second", random.choice((5, 20, 60)))

    def add(id: int, kind: str, scope_id: int, window: WindowSpec, *, soft: bool = False) -> None:
        organization = PLATFORM_ORGANIZATION_ID if kind == "platform" else ORGANIZATION
        tables.budgets[id] = BudgetRecord(
            id, f"b{id}", organization, "", kind, scope_id, "", (), (),  # type: ignore[arg-type]
            random.choice((40, 100, 250, 600)), "USD", window, "soft" if soft else "hard",
            False, 1, created, created,
        )  # fmt: skip

    add(11, "organization", ORGANIZATION, short() if random.random() < 0.5 else lifetime)
    if random.random() < 0.7:
        add(12, "team", TEAM, lifetime)
    if random.random() < 0.6:
        add(13, "key", 41, short())
    if random.random() < 0.4:
        add(14, "key", 42, lifetime, soft=True)
    if random.random() < 0.4:
        add(
            15, "platform", PLATFORM_ORGANIZATION_ID, short() if random.random() < 0.3 else lifetime
        )
    for id, secret in KEYS.items():
        team = TEAM if id != 43 else None
        tables.keys[hash_of(secret)] = KeyRecord(
            id, f"k{id}", "", ORGANIZATION, "acme", False, "USD", team, "t" if team else "", False,
            None, "", False, None, "", False, [], [], {}, None, None, False, hash_of(secret), "",
            EPOCH, EPOCH,
        )  # fmt: skip
    return tables


def _applicable(key: KeyRecord, tables: Tables) -> set[int]:
    """The budgets a call of the key falls under, worked out the plain way."""
    scopes = {
        ("platform", PLATFORM_ORGANIZATION_ID), ("organization", ORGANIZATION), ("key", key.id),
        ("team", key.team_id),
    }  # fmt: skip
    return {b.id for b in tables.budgets.values() if (b.scope_kind, b.scope_id) in scopes}


Action = Callable[[World, Sidecar, Step], None]
ACTIONS: dict[str, Action] = {
    "call": World._call,
    "finish": World._finish,
    "hang_up": World._hang_up,
    "speak": World._speak,
    "up": World._up,
    "tick": World._tick,
    "answer": World._answer,
    "hear": World._hear,
    "beat": World._beat,
    "flow": World._flow,
    "pass": World._pass,
    "sleep": World._sleep,
    "connect": World._connect,
    "cut": World._cut,
    "notice": World._notice,
    "herd": World._herd,
    "kill": World._kill,
    "arm": World._arm,
    "start": World._start,
    "fill": World._fill,
    "drain": World._drain,
    "fault": World._fault,
    "depose": World._depose,
    "clone": World._clone,
    "limit": World._limit,
    "revoke": World._revoke,
}
