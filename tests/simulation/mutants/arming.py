"""Mutants of how new budgets are armed."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from bursar_server.allowances import arming
from bursar_server.allowances.armings import Armings
from bursar_server.allowances.windows import Windows
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def calls_in_flight_are_forgotten_while_arming() -> list[Replacement]:
    return [(arming, "is_older", lambda _row, _n: False)]


@mutant
def armed_before_the_last_ack() -> list[Replacement]:
    original = Armings.hear

    async def hear(self: Armings, connection: Any, sessions: Mapping[int, Any]) -> None:
        await original(self, connection, sessions)
        kept = await self._kept(connection)
        heard = {b for rows in kept.values() for b, row in rows.items() if row.last_n is not None}
        for rows in kept.values():
            for budget_id in heard & rows.keys():
                if rows[budget_id].last_n is None:
                    rows[budget_id] = structs.replace(rows[budget_id], last_n=0)

    return [(Armings, "hear", hear)]


@mutant
def a_new_budget_opens_with_nothing() -> list[Replacement]:
    async def opening(*_ignored: object) -> tuple[int, int]:
        return 0, 0

    return [(Windows, "_opening", staticmethod(opening))]
