"""What steps do. Each module here has its own actions, how often they usually happen, and themes.

A feature brings its steps as one more module, with any of:

    ACTIONS   name of a step -> what it does
    USUAL     name -> weight, in every history
    THEMES    what goes wrong together in some histories: name -> weight, added to the usual
"""

from tests.simulation.actions import (
    admins,
    apps,
    clamped_calls,
    faults,
    forgetting,
    growing_calls,
    new_budgets,
    passing,
    prices,
    raises,
    silence,
    streams,
)
from tests.simulation.world import Action

MODULES = (
    apps,
    growing_calls,
    clamped_calls,
    streams,
    passing,
    faults,
    admins,
    silence,
    raises,
    new_budgets,
    prices,
    forgetting,
)
ACTIONS: dict[str, Action] = {}
USUAL: dict[str, int] = {}
THEMES: list[dict[str, int]] = []
for _module in MODULES:
    ACTIONS.update(_module.ACTIONS)
    USUAL.update(getattr(_module, "USUAL", {}))
    THEMES.extend(getattr(_module, "THEMES", ()))
