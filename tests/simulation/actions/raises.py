"""What admins do with limits for a while."""

from datetime import timedelta

from msgspec import structs

from bursar_server.budgets.rules import TemporaryRaise, phase_at
from bursar_server.changes import Change, ChangeKind
from tests.simulation.coverage import saw
from tests.simulation.sidecar import Sidecar
from tests.simulation.world import Action, Step, World


def raise_for_a_while(world: World, _sidecar: Sidecar, step: Step) -> None:
    """A limit is to be higher from now or soon on, for seconds or for minutes."""
    if world.oracle.forgot:
        return
    tables = world.database.tables.copy()
    ids = sorted(tables.budgets)
    budget = tables.budgets[ids[step.b % len(ids)]]
    start_at = world.plane.clock.now() + timedelta(seconds=(0, 0, 3, 30)[step.b // 8 % 4])
    raised = TemporaryRaise(
        id=step.a + 256 * len(budget.raises),
        amount_nanos=(20, 60, 150, 300)[step.c % 4],
        start_at=start_at,
        end_at=start_at + timedelta(seconds=(2, 10, 60, 300)[step.c // 4 % 4]),
    )
    saw("a limit was raised for a while")
    tables.budgets[budget.id] = structs.replace(budget, raises=(*budget.raises, raised))
    world.database.tables = tables
    world.oracle.highest_limit[budget.id] += raised.amount_nanos
    world.plane.note(Change(budget.organization_id, ChangeKind.BUDGET, budget.id))


def cancel(world: World, _sidecar: Sidecar, step: Step) -> None:
    """The oldest raise of a budget that is not over is ended."""
    tables, now = world.database.tables.copy(), world.plane.clock.now()
    raised = [
        b for b in tables.budgets.values() if any(phase_at(r, now) != "over" for r in b.raises)
    ]
    if not raised:
        return
    budget = raised[step.b % len(raised)]
    first = next(r for r in budget.raises if phase_at(r, now) != "over")
    saw("a temporary raise was cancelled")
    tables.budgets[budget.id] = structs.replace(
        budget,
        raises=tuple(
            structs.replace(r, cancelled_at=now) if r is first else r for r in budget.raises
        ),
    )
    world.database.tables = tables
    world.plane.note(Change(budget.organization_id, ChangeKind.BUDGET, budget.id))


ACTIONS: dict[str, Action] = {"raise": raise_for_a_while, "cancel_raise": cancel}
THEMES = ({"raise": 4, "cancel_raise": 1, "sleep": 2, "limit": 1, "depose": 1},)
