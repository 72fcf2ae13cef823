"""Faults of calls that begin with less than they asked for."""

from collections.abc import Iterator
from typing import Any

from bursar_sidecar import allowances, cashier, settlements
from bursar_sidecar.holds import Hold, Ticket
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def a_clamped_call_begins_after_the_lapse() -> list[Replacement]:
    def clamped(self: cashier.Cashier, ticket: Ticket) -> Hold | None:
        if isinstance(ticket.cause, Hold):
            return None
        for started in self._book.admit_clamped(ticket.waiter, self._clock.boot_ns()):
            assert started.reservation is not None
            ticket.hold = self._open(ticket.cause, started.reservation)
        return ticket.hold

    return [(cashier.Cashier, "_clamped", clamped)]


@mutant
def a_clamped_call_begins_with_what_is_not_there() -> list[Replacement]:
    original = allowances.Book._start

    def start(
        self: allowances.Book, waiter: allowances.Waiter, now: int
    ) -> Iterator[allowances.Waiter]:
        pools = [
            pool
            for leg, refs in self._sides(waiter.plan)
            for budget_id, _hard in refs
            if leg is not None and (pool := leg.current_pool(budget_id, now)) is not None
        ]
        lacking = [(p, max(0, waiter.least_nanos - p.free_nanos)) for p in pools if p.lent]
        if not waiter.clamped:
            lacking = []
        for pool, nanos in lacking:
            pool.granted_nanos += nanos
        yield from original(self, waiter, now)
        for pool, nanos in lacking:
            pool.granted_nanos -= nanos

    return [(allowances.Book, "_start", start)]


@mutant
def a_clamped_call_is_written_down_whole() -> list[Replacement]:
    original = settlements.open_record

    def open_record(call: Any, parts: Any, _ceiling_nanos: int) -> Any:
        return original(call, parts, call.ceiling_nanos)

    return [(settlements, "open_record", open_record)]
