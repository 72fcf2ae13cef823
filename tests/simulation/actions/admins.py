"""What admins do."""

from msgspec import structs

from bursar_server.changes import Change, ChangeKind
from tests.simulation.coverage import saw
from tests.simulation.database import EPOCH
from tests.simulation.installation import ORGANIZATION
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def limit(world: World, _sidecar: Sidecar, step: Step) -> None:
    tables = world.database.tables.copy()
    ids = sorted(tables.budgets)
    budget = tables.budgets[ids[step.b % len(ids)]]
    limit = (0, 20, 60, 150, 300)[step.c % 5]
    if limit != budget.limit_nanos:
        saw(f"a limit was {'cut' if limit < budget.limit_nanos else 'raised'}")
    for window in tables.windows.values():
        exposed = window.settled + window.outstanding + window.in_doubt
        if window.row.budget_id == budget.id and limit < exposed:
            saw("a limit was cut below what was out and spent")
    tables.budgets[budget.id] = structs.replace(
        budget, limit_nanos=limit, version=budget.version + 1
    )
    change = Change(budget.organization_id, ChangeKind.BUDGET, budget.id)
    tables.record(change)
    world.database.tables = tables
    highest = world.oracle.highest_limit
    highest[budget.id] = max(highest[budget.id], limit)
    # Whoever serves the admin tells its own process, unless that is lost; others find it on record.
    if step.a % 4:
        world.plane.note(change)


def disable(world: World, _sidecar: Sidecar, step: Step) -> None:
    """A budget is disabled, or one that was is enabled again."""
    tables = world.database.tables.copy()
    ids = sorted(tables.budgets)
    budget = tables.budgets[ids[step.b % len(ids)]]
    saw(f"a budget was {'enabled again' if budget.disabled else 'disabled'}")
    tables.budgets[budget.id] = structs.replace(
        budget, disabled=not budget.disabled, version=budget.version + 1
    )
    change = Change(budget.organization_id, ChangeKind.BUDGET, budget.id)
    tables.record(change)
    world.database.tables = tables
    world.oracle.changed_at[budget.id] = world.time.now_ns
    if step.a % 4:
        world.plane.note(change)


def revoke(world: World, _sidecar: Sidecar, step: Step) -> None:
    tables = world.database.tables.copy()
    hashes = sorted(tables.keys)
    key = tables.keys[hashes[step.b % len(hashes)]]
    if key.revoked_at is not None:
        return
    saw("a key was revoked")
    tables.keys[key.secret_hash] = structs.replace(key, revoked_at=EPOCH)
    change = Change(ORGANIZATION, ChangeKind.KEY, key.id, (key.secret_hash,))
    tables.record(change)
    world.database.tables = tables
    world.oracle.revoked_at[key.id] = world.time.now_ns
    if step.a % 4:
        world.plane.note(change)


ACTIONS: dict[str, Action] = {"limit": limit, "revoke": revoke, "disable": disable}
THEMES = (
    {"limit": 6, "sleep": 1},
    {"disable": 4, "sleep": 1, "hear": 3, "depose": 1},
    {"revoke": 2, "sleep": 1, "call": 10, "hear": 3},
)
