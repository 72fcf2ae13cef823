"""Run any number of simulated histories: `make simulate SEEDS=100000`.

Prints a line now and then, and the rate; a failure prints its seed and a shrunk history.
"""

import argparse
import sys
import time
from collections import Counter

from tests.simulation import histories, mutants
from tests.simulation.driving import in_memory

SHOW_EVERY_S = 10.0
MOST_SEEDS_OF_A_MUTANT = 1_500
"""No mutant lives that long: the toughest needed a few hundred."""


def simulate(first: int, count: int) -> int:
    """Run the histories of these seeds; returns how many failed."""
    began = shown = time.monotonic()
    failed = 0
    steps = 0
    for done, seed in enumerate(range(first, first + count), 1):
        failure = histories.fails(seed)
        steps += len(histories.history(seed))
        if failure is not None:
            failed += 1
            print(histories.shrink(failure), flush=True)
        now = time.monotonic()
        if now - shown >= SHOW_EVERY_S or done == count:
            shown = now
            rate = done / max(now - began, 1e-9)
            print(
                f"{done} histories, {steps} steps, {failed} failed, {rate:.0f} histories/s",
                flush=True,
            )
    return failed


def kill_matrix() -> int:
    """Print by which seed each mutant is caught; returns how many survived."""
    survived = 0
    print("| mutant | caught by seed | what was seen | also seen |")
    print("|---|---:|---|---|")
    for name in mutants.MUTANTS:
        seen: Counter[str] = Counter()
        first = ""
        for seed in range(MOST_SEEDS_OF_A_MUTANT):
            with mutants.alive(name):
                failure = histories.fails(seed)
            if failure is not None:
                first = first or f"{seed} | {failure.what.partition(' (after')[0]}"
                seen[failure.what.partition(":")[0]] += 1
                if sum(seen.values()) == 5:
                    break
        survived += not first
        others = ", ".join(f"{kind} ({times})" for kind, times in sorted(seen.items()))
        print(f"| {name.replace('_', ' ')} | {first or 'none | survived'} | {others} |", flush=True)
    return survived


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutants", action="store_true", help="print the mutants' kill matrix")
    given = parser.parse_args()
    with in_memory():
        faults = kill_matrix() if given.mutants else simulate(given.first, given.seeds)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
