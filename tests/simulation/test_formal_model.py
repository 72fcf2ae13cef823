"""The protocol's formal model: every state within small bounds, and every mutant caught."""

import pytest

from tests.simulation.formal.checker import search
from tests.simulation.formal.configurations import CAUGHT_IN, MOST_STATES, SMALL
from tests.simulation.formal.parts import Bounds, Mutant
from tests.simulation.formal.report import heading, line
from tests.simulation.formal.state_space import World

SEEN_IF = {
    "crashes": "dies;",
    "grown_to": "journals the growth",
    "excess": "above its W",
    "corrections": "is corrected, by 1",
    "returns": "the control plane hears that",
    "voids": "provably never sent",
    "lapses": "lets its validity lapse",
    "fences": "fences",
    "drains": "is closed at call 1",
    "silence": "was silent for too long",
    "horizon": "is posted as spent",
    "evidence": "own usage",
    "recovery": "is found again",
    "ticks": "the tick commits",
}
"""What must have happened somewhere in a search whose bounds allow it, or it proves nothing."""
MUTANTS = [mutant for mutant in Mutant if mutant is not Mutant.NONE]


@pytest.mark.parametrize("bounds", SMALL, ids=lambda bounds: bounds.name)
def test_no_reachable_state_breaks_a_rule(bounds: Bounds) -> None:
    world = World(bounds)
    found = search(world, MOST_STATES)
    print(f"{heading()}\n{line(bounds, found)}")
    assert found.counterexample is None, f"\n{found.counterexample}"
    assert found.exhausted, f"more than {MOST_STATES} states: the bounds are too wide for a test"
    seen = world.steps_seen()
    lacking = [
        words
        for feature, words in SEEN_IF.items()
        if getattr(bounds, feature) and not any(words in step for step in seen)
    ]
    assert lacking == [], "the search was to include these steps and never came to them"


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_rule_is_caught(mutant: Mutant) -> None:
    found = search(World(CAUGHT_IN[mutant], mutant), MOST_STATES)
    assert found.counterexample is not None, f"{mutant} survived {found.states} states"
    assert found.counterexample.steps


def test_a_counterexample_is_the_shortest_and_in_plain_words() -> None:
    mutant = Mutant.OVERRUN_LENT_AGAIN
    found = search(World(CAUGHT_IN[mutant], mutant), MOST_STATES)
    assert str(found.counterexample) == SHORTEST


SHORTEST = """\
  1. the control plane grants sidecar A 1 of window 0
  2. sidecar A hears that it was granted 1 in all of window 0
  3. sidecar A journals and dispatches call 1 with W 1 on windows 0
  4. sidecar A settles call 1 at 2, above its W 1
  5. the final of call 1 of sidecar A is posted: 2
  6. the control plane grants sidecar B 1 of window 0
     broken: 2: a grant left settled + outstanding + in doubt above the limit"""
