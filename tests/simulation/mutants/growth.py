"""Faults of the growth of a reservation."""

from collections.abc import Callable

from bursar_sidecar import allowances, journal_records, journal_recovery, pools
from tests.simulation.mutants.late_writing import written_with_the_settlement
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def growth_is_written_after_the_flow() -> list[Replacement]:
    return written_with_the_settlement("grown")


@mutant
def growth_is_not_recovered() -> list[Replacement]:
    original = journal_recovery.Recovery._record

    def record(self: journal_recovery.Recovery, each: object, live: set[int]) -> None:
        if not isinstance(each, journal_records.Grown):
            original(self, each, live)

    return [(journal_recovery.Recovery, "_record", record)]


def _grow(
    check: Callable[[pools.Pool, int], bool], *, without_first: bool = False
) -> list[Replacement]:
    def grow(self: allowances.Book, held: allowances.Reservation, by: int, now: int) -> bool:
        drawn = [pool for part in held.parts for pool in part.pools][without_first:]
        if not self.is_current(held) or not all(check(p, by) for p in drawn if p.lent):
            return False
        for pool in drawn:
            pool.take(by, now)
        held.ceiling_nanos += by
        return True

    return [(allowances.Book, "_grow", grow)]


@mutant
def growth_ignores_a_pool() -> list[Replacement]:
    return _grow(lambda pool, by: pool.free_nanos >= by, without_first=True)


@mutant
def growth_takes_what_was_promised() -> list[Replacement]:
    return _grow(lambda pool, by: pool.free_nanos + pool.reserved_nanos >= by)


@mutant
def growth_outlives_its_session() -> list[Replacement]:
    return [(allowances.Book, "is_current", lambda _self, _reservation: True)]
