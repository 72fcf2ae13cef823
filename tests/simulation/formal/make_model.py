"""`make model`: search all bounds, then show that each mutant is caught, and what it does."""

import sys

from tests.simulation.formal.checker import search
from tests.simulation.formal.configurations import (
    CAUGHT_IN,
    LARGE,
    MOST_STATES,
    MOST_STATES_BY_HAND,
    SMALL,
)
from tests.simulation.formal.invariants import OVERSPENT
from tests.simulation.formal.parts import Bounds, Mutant
from tests.simulation.formal.report import heading, line
from tests.simulation.formal.state_space import World

CHOICES = {"small": SMALL, "large": LARGE}


def search_all(several: tuple[Bounds, ...]) -> bool:
    """Search each of the bounds; whether all were exhausted and nothing was broken."""
    sound = True
    print(heading(), flush=True)
    for bounds in several:
        found = search(World(bounds), MOST_STATES_BY_HAND)
        print(line(bounds, found), flush=True)
        if found.counterexample:
            print(found.counterexample)
        sound &= found.exhausted
    return sound


def kill_matrix() -> bool:
    """A table of the mutants in Markdown; whether all were caught."""
    all_caught = True
    print("| mutant | bounds | caught after | by rule | money overspent after |")
    print("|---|---|---|---|---|", flush=True)
    for mutant in Mutant:
        if mutant is Mutant.NONE:
            continue
        bounds = CAUGHT_IN[mutant]
        caught = search(World(bounds, mutant), MOST_STATES).counterexample
        spent = search(World(bounds, mutant, OVERSPENT), MOST_STATES).counterexample
        rule = caught.fault if caught else "**SURVIVED**"
        after = f"{len(caught.steps)} steps" if caught else ""
        damage = f"{len(spent.steps)} steps" if spent else "not within the bounds"
        print(f"| {mutant} | {bounds.name} | {after} | {rule} | {damage} |", flush=True)
        all_caught &= caught is not None
    return all_caught


def main(arguments: list[str]) -> int:
    """Search the `small` or `large` bounds, or go through the `mutants`."""
    asked = arguments or ["small", "mutants"]
    if unknown := set(asked) - {*CHOICES, "mutants"}:
        print(f"bounds is {', '.join(unknown)!r}, expected small, large or mutants")
        return 2
    good = [kill_matrix() if one == "mutants" else search_all(CHOICES[one]) for one in asked]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
