"""Budgets are made over keys that are in use."""

from datetime import timedelta

from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change, ChangeKind
from tests.simulation.database import EPOCH
from tests.simulation.installation import ORGANIZATION, TEAM
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World

FIRST = 100
MOST = 3


def make_budget(world: World, _sidecar: Sidecar, step: Step) -> None:
    made = [id for id in world.database.tables.budgets if id >= FIRST]
    if len(made) >= MOST or world.oracle.forgot:
        return
    tables = world.database.tables.copy()
    id = FIRST + len(made)
    kind, scope_id = (("organization", ORGANIZATION), ("team", TEAM), ("key", 41))[step.b % 3]
    now = EPOCH + timedelta(microseconds=world.time.now_ns // 1000)
    # It looks back ten seconds, or begins now.
    since = now - timedelta(seconds=10) if step.c % 2 else None
    window = WindowSpec("every", "second", 30, start_at=since)
    if step.c % 3 == 0:
        window = WindowSpec("lifetime")
    tables.budgets[id] = BudgetRecord(
        id, f"b{id}", ORGANIZATION, "", kind, scope_id, "", (), (),  # type: ignore[arg-type]
        (60, 150, 400)[step.a % 3], "USD", window, "hard" if step.c % 5 else "soft", False, 1,
        now, now,
    )  # fmt: skip
    change = Change(ORGANIZATION, ChangeKind.BUDGET, id)
    tables.record(change)
    world.database.tables = tables
    keys = {
        key.id
        for key in tables.keys.values()
        if key.organization_id == ORGANIZATION
        and (kind == "organization" or scope_id in (key.id, key.team_id))
    }
    oracle = world.oracle
    oracle.highest_limit[id] = tables.budgets[id].limit_nanos
    oracle.changed_at[id] = world.time.now_ns
    for key_id in keys:
        oracle.budgets_of_key[key_id].add(id)
    oracle.newcomers.made(id, keys)
    if step.a % 4:
        world.plane.note(change)


ACTIONS: dict[str, Action] = {"make_budget": make_budget}
THEMES = (
    {"make_budget": 3, "call": 10, "finish": 4, "cut": 1, "notice": 1},
    {"make_budget": 2, "sleep": 1, "kill": 2, "start": 2, "speak": 6, "up": 4},
)
