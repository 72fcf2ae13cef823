"""Faults of the growth of a reservation."""

from collections.abc import Callable

from bursar_sidecar import (
    allowances,
    growing_calls,
    growth,
    journal_records,
    journal_recovery,
    pools,
)
from tests.simulation import flows
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


@mutant
def growth_is_not_written() -> list[Replacement]:
    def grown(_self: growing_calls.GrowingCalls, _hold: object, _by_nanos: int) -> None:
        """It is reserved, and that is all."""

    return [(growing_calls.GrowingCalls, "_grown", grown)]


@mutant
def a_stream_flows_before_it_grew() -> list[Replacement]:
    place = growth.Growth._place

    def later(self: growth.Growth, produced_bytes: int, elapsed_s: float) -> None:
        place(self, produced_bytes, elapsed_s)
        self.cut_at += 2 * growth.FIRST_OUTPUT

    return [(growth.Growth, "_place", later)]


@mutant
def a_stream_has_no_slack() -> list[Replacement]:
    return [(growth.Growth, "slack", lambda _self, _produced_bytes, _elapsed_s: 0)]


@mutant
def a_stream_that_was_cut_is_charged_by_a_guess() -> list[Replacement]:
    def guess(produced_bytes: int, **_known: object) -> int:
        return produced_bytes // 4

    return [(flows, "visible_bound", guess)]
