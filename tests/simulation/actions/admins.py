"""What admins do."""

from datetime import timedelta

from msgspec import structs

from bursar_server.allowances.settings import LendingSettings
from bursar_server.changes import Change, ChangeKind
from tests.simulation.coverage import saw
from tests.simulation.database import EPOCH, Decision
from tests.simulation.disk import Killed
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import MS, Action, Step, World


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
    raised = sum(each.amount_nanos for each in budget.raises)
    highest[budget.id] = max(highest[budget.id], limit + raised)
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
    world.oracle.newcomers.excuse(budget.id)
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
    change = Change(key.organization_id, ChangeKind.KEY, key.id, (key.secret_hash,))
    tables.record(change)
    world.database.tables = tables
    world.oracle.revoked_at[key.id] = world.time.now_ns
    if step.a % 4:
        world.plane.note(change)


def resolve(world: World, _sidecar: Sidecar, step: Step) -> None:
    """People decide about a session that does not come back: what it holds is spent, or free."""
    plane, tables = world.plane, world.database.tables
    holding = {epoch for (epoch, _window), lent in tables.allowances.items() if lent.held}
    silent_since = plane.clock.now() - timedelta(milliseconds=RESOLVE_AFTER_MS)
    # As `ledger.resolving` checks it.
    candidates = [
        session
        for epoch, session in sorted(tables.sessions.items())
        if epoch in holding
        and epoch not in plane.hub.sessions
        and (session.state == "fenced" or session.seen_at <= silent_since)
    ]
    if candidates:
        session = candidates[step.b % len(candidates)]
        decide(world, session.epoch, "free" if step.c % 3 == 0 else "spent")
        if step.c % 2:
            # It is heard of again, between the decision and what applies it.
            for each in world.sidecars:
                if each.life and any(leg.epoch == session.epoch for leg in each.life.legs()):
                    world.connect(each)
        if step.c % 4:
            world.plane.tick()
            world.bury()


def decide(world: World, epoch: int, decision: str) -> None:
    """Put a decision on record, and tell who lends."""
    tables = world.database.tables.copy()
    id = len(tables.resolutions) + 1
    tables.resolutions[id] = Decision(
        id, tables.sessions[epoch].organization_id, epoch, decision, world.plane.clock.now()
    )
    world.database.tables = tables
    world.plane.resolve(id)


def vanish(world: World, sidecar: Sidecar, _step: Step) -> None:
    """A sidecar is cut off for longer than the longest call may last."""
    saw("a sidecar was away for longer than the longest call")
    for each in world.sidecars:
        try:
            while each.life is not None and each.life.open:
                each.life.finish(each.life.open[0])
        except Killed:
            world.dead(each)
    if sidecar.life is not None and sidecar.life.stream is not None:
        sidecar.life.stream.plane.close(sidecar.life.stream)
        sidecar.life.lose_stream()
    world.time.now_ns += MS * (RESOLVE_AFTER_MS + 1_000)


RESOLVE_AFTER_MS = LendingSettings().resolve_after_ms
ACTIONS: dict[str, Action] = {
    "limit": limit,
    "revoke": revoke,
    "disable": disable,
    "resolve": resolve,
    "vanish": vanish,
}
THEMES = (
    {"limit": 6, "sleep": 1},
    {"resolve": 8, "kill": 5, "speak": 6, "vanish": 3, "cut": 3},
    {"resolve": 8, "vanish": 4, "clone": 2, "kill": 4, "finish": 8},
    {"disable": 4, "sleep": 1, "hear": 3, "depose": 1},
    {"revoke": 2, "sleep": 1, "call": 10, "hear": 3},
)
