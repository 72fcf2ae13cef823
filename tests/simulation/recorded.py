"""Histories that once broke something, cut down, each a file in `recorded`.

A file may name the mutant that brings its fault back: with that one alive the history fails, and
without it never again. `make simulate SIMULATE="--record MUTANT"` finds one and writes it.
"""

import json
from pathlib import Path
from typing import Final, NamedTuple

from tests.simulation import histories, mutants

DIRECTORY: Final = Path(__file__).parent / "recorded"


class Recorded(NamedTuple):
    """One of them."""

    mutant: str
    """"" where no mutant brings its fault back."""
    history: histories.Failure


def recorded() -> dict[str, Recorded]:
    """All of them, by the name of the file."""
    found = {}
    for path in sorted(DIRECTORY.glob("*.json")):
        text = path.read_text()
        found[path.stem] = Recorded(json.loads(text)["mutant"], histories.read(text))
    return found


def record(mutant: str, most_seeds: int) -> Path | None:
    """Find a history that the mutant breaks, cut it down, and keep it; None if none does."""
    for seed in range(most_seeds):
        with mutants.alive(mutant):
            failure = histories.fails(seed)
            small = histories.shrink(failure) if failure is not None else None
        if small is not None and not histories.run(small.seed, small.steps):
            path = DIRECTORY / f"{mutant}.json"
            held = histories.written(small)
            path.write_text(f'{{"mutant": {json.dumps(mutant)}, {held.removeprefix("{")}\n')
            return path
    return None
