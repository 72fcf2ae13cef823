"""Faults put into the cores on purpose, one at a time: the simulation must catch each.

A mutant is a list of attributes that are replaced while it lives. Nothing of this is in the
programs; a mutant that no history notices means that the invariants or the histories are too weak.
A feature brings its mutants as one more module here.
"""

from tests.simulation.mutants import (
    arming,
    clamping,
    growth,
    holding,
    journals,
    lending,
    lost_tails,
    posting,
    raising,
    time_passing,
)
from tests.simulation.mutants.registry import MUTANTS, Replacement, alive, living, mutant

MODULES = (
    lending, posting, holding, growth, clamping, journals, time_passing, raising, arming,
    lost_tails,
)  # fmt: skip
"""Those whose mutants are registered."""
__all__ = ["MODULES", "MUTANTS", "Replacement", "alive", "living", "mutant"]
