"""After healing: whoever asks for money that is there gets it, soon, and nobody talks for ever."""

from random import Random

from bursar_server.budgets.rules import window_at
from tests.simulation.coverage import saw
from tests.simulation.database import NOTHING, Broken, Tables
from tests.simulation.disk import Killed
from tests.simulation.installation import KEYS_OF
from tests.simulation.sidecar import Life
from tests.simulation.world import World

PROBE = 1
"""What the last calls of a history need."""
ROOM = 8
"""They are only expected to start where so much is neither spent nor out of reach."""
MOST_ROUNDS_TO_MONEY = 9
"""Of everything that is on its way: key, need, recall, what came back, grant; some of them again
where a window ends meanwhile. It is less than a call waits."""
MOST_FRAMES = 24
"""That one sidecar and the control plane say to each other in 200 ms without new calls."""


class Probes:
    """One small call of each sidecar, after everything was healed and settled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._expected: dict[int, tuple[Life, int]] = {}
        self._frames = world.frames()

    def call(self) -> None:
        """Every sidecar makes a call that must be admitted."""
        world = self._world
        for number, life in enumerate(world.lives()):
            if life.draining:
                continue
            secrets = KEYS_OF[life.machine.record.organization_id]
            id, secret = Random(number).choice(sorted(secrets.items()))
            if not self._is_there(id, life):
                saw("a last call found no room")
                continue
            self._expected[number] = (life, len(life.open))
            try:
                life.call(secret, PROBE, f"final:{PROBE}:{PROBE}")
            except Killed:
                world.dead(life.machine)
                life.machine.start()

    def _is_there(self, key_id: int, life: Life) -> bool:
        oracle, tables = self._world.oracle, self._world.database.tables
        if key_id in oracle.revoked_at:
            return False
        here = {leg.epoch for life in self._world.lives() for leg in life.legs()}
        now = self._world.plane.clock.now()
        budgets = tables.budgets
        for budget_id in oracle.budgets_of_key[key_id]:
            if budgets[budget_id].disabled or not budgets[budget_id].hard:
                continue
            # A session that overran asks for what it is short of besides.
            pools = [p for leg in life.legs() for p in leg.by_budget.get(budget_id, ())]
            short = sum(max(0, -pool.free_nanos) for pool in pools)
            room = budgets[budget_id].limit_nanos
            windows = [(id, w) for id, w in tables.windows.items() if w.row.budget_id == budget_id]
            if not windows:
                # It begins with the call, and with what it finds spent.
                spec, made_at = budgets[budget_id].window, budgets[budget_id].created_at
                since = window_at(spec, now, created_at=made_at).start_at
                room -= oracle.newcomers.opening(tables, budget_id, since)
            for window_id, window in windows:
                row = window.row
                if row.start_at > now:
                    continue
                if row.end_at is None or now < row.end_at:
                    elsewhere = _held_elsewhere(tables, window_id, here)
                    room = min(room, window.limit - window.settled - elsewhere)
            if room - short < ROOM:
                return False
        return True

    def look(self, round: int) -> None:
        """Whether all of them were admitted in time. Raises Broken."""
        for number, (life, before) in list(self._expected.items()):
            if life.machine.life is not life:
                del self._expected[number]
            elif len(life.open) > before:
                saw("a last call was admitted")
                del self._expected[number]
            elif round >= MOST_ROUNDS_TO_MONEY:
                raise Broken(
                    f"liveness: {life.machine.name} was not lent {PROBE} in {round} rounds, though "
                    f"{ROOM} and more are there"
                )

    def count_frames(self) -> None:
        """Nobody talks without end. Raises Broken."""
        frames, self._frames = self._frames, self._world.frames()
        said = self._frames - frames
        if said > MOST_FRAMES * max(1, len(self._world.lives())):
            raise Broken(f"livelock: {said} frames in one round, and nothing is asked for")


def _held_elsewhere(tables: Tables, window_id: int, here: set[int]) -> int:
    return sum(
        tables.allowances.get((epoch, window_id), NOTHING).held
        for epoch in tables.sessions
        if epoch not in here
    )
