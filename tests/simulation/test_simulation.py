"""Histories of fixed and of fresh seeds, and the mutants that they must catch."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation import coverage, histories, mutants
from tests.simulation.driving import in_memory
from tests.simulation.recorded import recorded

FIXED = 900
"""The same seeds in every run."""
FRESH = 300
"""Other seeds in every run."""
PIECES = 6
MOST_SEEDS_OF_A_MUTANT = 1_500
RECORDED = recorded()


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with in_memory():
        yield


def hold(seeds: list[int]) -> None:
    for seed in seeds:
        failure = histories.fails(seed)
        if failure is not None:
            pytest.fail(str(histories.shrink(failure)))


@pytest.mark.parametrize("piece", range(PIECES))
def test_histories_of_fixed_seeds_break_nothing(piece: int) -> None:
    hold(list(range(piece, FIXED, PIECES)))


@pytest.mark.parametrize("piece", range(2))
def test_histories_of_fresh_seeds_break_nothing(piece: int) -> None:
    # A failure names its seed: the run can be repeated with `make simulate SEEDS=1 FIRST=<seed>`.
    first = int(os.environ.get("BURSAR_SIMULATION_SEED") or secrets.randbits(40))
    hold([first + seed for seed in range(piece, FRESH, 2)])


def test_the_fixed_seeds_reach_every_fault_and_every_branch() -> None:
    coverage.forget()
    missing = list(coverage.EVENTS)
    for seed in range(FIXED):
        histories.fails(seed)
        missing = [event for event in missing if not coverage.SEEN[event]]
        if not missing:
            return
    pytest.fail(f"never seen in {FIXED} histories: {missing}")


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    # First by the history that was kept of it: some need many seeds to be met by chance.
    kept = [each.history for each in RECORDED.values() if each.mutant == name]
    with mutants.alive(name):
        if any(histories.run(history.seed, history.steps) for history in kept):
            return
        for seed in range(MOST_SEEDS_OF_A_MUTANT):
            if histories.fails(seed) is not None:
                return
    pytest.fail(f"{name} lived through {MOST_SEEDS_OF_A_MUTANT} histories")


@pytest.mark.parametrize("name", RECORDED)
def test_a_history_that_once_broke_an_invariant_does_so_no_more(name: str) -> None:
    history = RECORDED[name].history
    assert histories.run(history.seed, history.steps) == ""


def test_a_failure_is_shrunk_and_replays_from_what_was_printed(tmp_path: Path) -> None:
    with mutants.alive("grants_as_deltas"):
        failure = next(f for f in map(histories.fails, range(100)) if f is not None)
        small = histories.shrink(failure)
        assert len(small.steps) < len(failure.steps)
        path = tmp_path / "failure.json"
        path.write_text(str(small).partition('FILE"\n')[2])
        kept = histories.read(path.read_text())
        assert histories.run(kept.seed, kept.steps) == small.what
    assert histories.run(small.seed, small.steps) == ""


def test_a_seed_always_means_the_same_history() -> None:
    with mutants.alive("grants_as_deltas"):
        assert histories.fails(3) == histories.fails(3)
