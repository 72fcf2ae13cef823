"""Mutants of what is posted of a charge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from bursar_server.allowances import tick
from bursar_server.ledger import entries
from bursar_sidecar import (
    prior,
)
from tests.simulation.database import Tables
from tests.simulation.mutants.registry import Replacement, mutant

OLDER_BUILD: Replacement = (prior, "TRUNCATED", "never")
"""A sidecar that posts the open calls of a cut journal provisionally, as older builds do."""


def _postings(change: Callable[[Tables, entries.Settlement], entries.Settlement | None]) -> Any:
    original = tick.Tick._postings

    async def postings(self: tick.Tick, connection: Any, batch: tick.Batch, *rest: Any) -> Any:
        frames = []
        for session, frame in batch.frames:
            changed = [change(connection, settlement) for settlement in frame.settlements]
            kept = tuple(settlement for settlement in changed if settlement is not None)
            frames.append((session, structs.replace(frame, settlements=kept)))
        return await original(self, connection, structs.replace(batch, frames=frames), *rest)

    return [(tick.Tick, "_postings", postings)]


@mutant
def no_deduplication() -> list[Replacement]:
    original = entries.plan
    return [(entries, "plan", lambda settlements, _so_far: original(settlements, {}))]


@mutant
def fencing_drops_settlements() -> list[Replacement]:
    def change(tables: Tables, settlement: entries.Settlement) -> entries.Settlement | None:
        return settlement if tables.sessions[settlement.session_epoch].state == "open" else None

    replaced: list[Replacement] = _postings(change)
    return replaced


@mutant
def selectors_run_again_over_history() -> list[Replacement]:
    def change(tables: Tables, settlement: entries.Settlement) -> entries.Settlement | None:
        budgets = {tables.windows[w].row.budget_id for w in settlement.budget_window_ids}
        current: dict[int, int] = {}
        for id, window in sorted(tables.windows.items()):
            if window.row.budget_id in budgets:
                current[window.row.budget_id] = id
        return structs.replace(settlement, budget_window_ids=tuple(sorted(current.values())))

    replaced: list[Replacement] = _postings(change)
    return replaced


@mutant
def a_final_is_dropped_after_its_provisional() -> list[Replacement]:
    original = entries.plan

    def plan(
        settlements: Sequence[entries.Settlement],
        so_far: Mapping[tuple[int, int], entries.PostedSoFar],
    ) -> list[entries.Posting]:
        fresh = [s for s in settlements if (s.session_epoch, s.n) not in so_far]
        return original(fresh, so_far)

    return [(entries, "plan", plan), OLDER_BUILD]
