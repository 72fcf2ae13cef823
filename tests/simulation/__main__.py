"""Run any number of simulated histories: `make simulate SEEDS=100000`.

Prints a line now and then, the rate, and how often each fault happened and each branch of the
protocol was taken. A failure prints its seed and a shrunk history, which can be kept in a file and
run again.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.simulation import boundaries, coverage, herds, histories, mutants
from tests.simulation.driving import in_memory
from tests.simulation.recorded import record, recorded

SHOW_EVERY_S = 10.0
MOST_FAILURES = 20
MOST_SEEDS_OF_A_MUTANT = 1_500
"""No mutant lives that long: the toughest needed a few hundred."""


def simulate(first: int, count: int, keep: Path | None) -> int:
    """Run the histories of these seeds; returns how many failed."""
    began = shown = time.monotonic()
    failed = 0
    steps = 0
    for done, seed in enumerate(range(first, first + count), 1):
        failure = histories.fails(seed)
        steps += len(histories.history(seed))
        if failure is not None:
            failed += 1
            small = histories.shrink(failure)
            print(small, flush=True)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}.json").write_text(histories.written(small) + "\n")
            if failed >= MOST_FAILURES:
                print(f"seed {seed} was the last: that many failures have one cause")
                break
        now = time.monotonic()
        if now - shown >= SHOW_EVERY_S or done == count:
            shown = now
            rate = done / max(now - began, 1e-9)
            print(
                f"{done} histories, {steps} steps, {failed} failed, {rate:.0f} histories/s",
                flush=True,
            )
    print(f"what they reached:\n{coverage.report()}")
    return failed


def replay(path: Path) -> int:
    """Run a kept history; returns 1 if it fails."""
    kept = histories.read(path.read_text())
    what = histories.run(kept.seed, kept.steps)
    print(f"seed {kept.seed}, {len(kept.steps)} steps: {what or 'nothing broke'}")
    print(f"what it reached:\n{coverage.report()}")
    return 1 if what else 0


def every_boundary(first: int, count: int) -> int:
    """Kill a sidecar at each write of its journal, in the histories of these seeds."""
    killed = failed = 0
    for seed in range(first, first + count):
        times, broken = boundaries.every(seed, seed)
        killed, failed = killed + times, failed + len(broken)
        print("\n".join([*broken, f"{seed - first + 1} histories, {killed} deaths"]), flush=True)
    return failed


def kill_matrix(names: list[str]) -> int:
    """Print by which seed each mutant is caught, or by the history that was kept of it; returns how
    many survived."""
    survived = 0
    kept = {each.mutant: each.history for each in recorded().values()}
    print("| mutant | caught by seed | what was seen |")
    print("|---|---:|---|")
    for name in names:
        caught = "none | survived"
        with mutants.alive(name):
            if name in kept:
                what = histories.run(kept[name].seed, kept[name].steps)
                caught = f"kept | {what}" if what else caught
            for seed in range(MOST_SEEDS_OF_A_MUTANT if caught.startswith("none") else 0):
                failure = histories.fails(seed)
                if failure is not None:
                    caught = f"{seed} | {failure.what}"
                    break
        survived += caught.startswith("none")
        shown = caught.partition(" (after")[0]
        print(f"| {name.replace('_', ' ')} | {shown} |", flush=True)
    return survived


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--keep", type=Path, help="a directory for the histories that failed")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a kept history")
    parser.add_argument("--mutants", action="store_true", help="print the mutants' kill matrix")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="with this one alive")
    parser.add_argument("--herd", type=int, metavar="N", help="so many sidecars come back at once")
    parser.add_argument(
        "--boundaries", type=int, metavar="N", help="a death at every write, in so many histories"
    )
    parser.add_argument("--record", metavar="MUTANT", help="keep a history that it breaks")
    given = parser.parse_args()
    with in_memory():
        if given.record:
            path = record(given.record, MOST_SEEDS_OF_A_MUTANT)
            print(path or f"no history of {MOST_SEEDS_OF_A_MUTANT} seeds is broken by it")
            faults = int(path is None)
        elif given.mutants:
            faults = kill_matrix([given.mutant] if given.mutant else list(mutants.MUTANTS))
        elif given.mutant:
            with mutants.alive(given.mutant):
                faults = run(given)
        else:
            faults = run(given)
    sys.exit(1 if faults else 0)


def run(given: argparse.Namespace) -> int:
    """Run what was asked for on the programs as they are now."""
    if given.herd:
        print(herds.Herd(given.first, given.herd).run())
        return 0
    if given.boundaries:
        return every_boundary(given.first, given.boundaries)
    if given.replay is not None:
        return replay(given.replay)
    return simulate(given.first, given.seeds, given.keep)


if __name__ == "__main__":
    main()
