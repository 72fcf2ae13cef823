"""Histories that chance would not make: a herd, and a death at every write of a journal."""

from collections.abc import Iterator

import pytest

from tests.simulation import boundaries, herds, mutants
from tests.simulation.driving import in_memory

SEEDS_OF_BOUNDARIES = 6


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with in_memory():
        yield


def test_a_thousand_sidecars_come_back_at_once_and_money_is_short() -> None:
    herd = herds.Herd(1, 1_000)
    figures = herd.run()
    assert herd.world.oracle.refusals, figures
    assert figures.startswith("1000 sidecars came back")


@pytest.mark.parametrize("seed", range(SEEDS_OF_BOUNDARIES))
def test_a_death_at_any_write_of_a_journal_loses_nothing(seed: int) -> None:
    killed, broken = boundaries.every(seed, seed)
    assert killed > 20
    assert broken == []


def test_a_record_that_is_written_too_late_is_found_by_a_death_at_some_write() -> None:
    with mutants.alive("journal_after_dispatch"):
        assert any(boundaries.every(seed, seed)[1] for seed in range(SEEDS_OF_BOUNDARIES))
