"""Those of the simulation's mutants that need other words over a real Postgres."""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from bursar_server.allowances import policy, store, tick
from bursar_server.database.pool import Connection
from bursar_server.ledger import entries
from tests.simulation.mutants import Replacement

_HELD_BY_THE_SILENT = """
    SELECT a.session_epoch, a.budget_window_id
    FROM allowances AS a JOIN sessions AS s USING (organization_id, session_epoch)
    WHERE s.last_seen_at < now() - interval '30 seconds'
"""
_HELD_BY_EARLIER_LIVES = """
    SELECT a.session_epoch, a.budget_window_id
    FROM allowances AS a JOIN sessions AS s USING (organization_id, session_epoch)
    WHERE s.sidecar_id = $1
"""


async def _free(connection: Connection, which: str, *given: Any) -> None:
    for row in await connection.fetch(which, *given):
        held = await connection.fetchval(
            "SELECT granted_nanos - returned_nanos - settled_nanos FROM allowances"
            " WHERE session_epoch = $1 AND budget_window_id = $2", *row,
        )  # fmt: skip
        if held > 0:
            await connection.execute(
                "UPDATE allowances SET returned_nanos = returned_nanos + $3"
                " WHERE session_epoch = $1 AND budget_window_id = $2", *row, held,
            )  # fmt: skip
            await connection.execute(
                "UPDATE budget_windows SET outstanding_nanos = outstanding_nanos - $2"
                " WHERE id = $1", row["budget_window_id"], held,
            )  # fmt: skip


def release_on_expiry() -> list[Replacement]:
    """Who was not heard of for 30 seconds holds nothing any more."""
    original = store.check_shard

    async def check_shard(connection: Connection, shard_id: int) -> int:
        await _free(connection, _HELD_BY_THE_SILENT)
        return await original(connection, shard_id)

    return [(store, "check_shard", check_shard)]


def disk_loss_is_a_return() -> list[Replacement]:
    """Who begins anew without naming earlier lives held nothing in them."""
    original = store.open_session

    async def open_session(
        connection: Connection, organization_id: int, owner_id: int, sidecar_id: int, *rest: Any
    ) -> Any:
        await _free(connection, _HELD_BY_EARLIER_LIVES, sidecar_id)
        return await original(connection, organization_id, owner_id, sidecar_id, *rest)

    return [(store, "open_session", open_session)]


def a_deposed_owner_writes_on() -> list[Replacement]:
    """Nobody looks whose the shard is."""
    original = tick.Tick.apply

    async def apply(self: tick.Tick, connection: Connection, *rest: Any, **named: Any) -> Any:
        self.owner_epoch = await store.check_shard(connection, self.shard_id)
        return await original(self, connection, *rest, **named)

    return [(tick.Tick, "apply", apply)]


def who_comes_later_catches_up_on_nothing() -> list[Replacement]:
    """A limit that changed while nobody was connected is not looked for as somebody comes."""

    async def catch_up(
        self: policy.PolicyDesk, _: Connection, organization_id: int, version: int
    ) -> None:
        self._handed_on[organization_id] = version

    return [(policy.PolicyDesk, "_catch_up", catch_up)]


Change = Callable[[entries.Settlement, Any, list[int]], entries.Settlement | None]


def _postings(change: Change) -> list[Replacement]:
    original = tick.Tick._postings

    async def postings(
        self: tick.Tick, connection: Connection, batch: tick.Batch, sessions: Any, *rest: Any
    ) -> Any:
        windows = [row["id"] for row in await connection.fetch("SELECT id FROM budget_windows")]
        frames = []
        for session, frame in batch.frames:
            changed = [
                change(settlement, sessions.get(settlement.session_epoch), windows)
                for settlement in frame.settlements
            ]
            kept = tuple(settlement for settlement in changed if settlement is not None)
            frames.append((session, structs.replace(frame, settlements=kept)))
        changed_batch = structs.replace(batch, frames=frames)
        return await original(self, connection, changed_batch, sessions, *rest)

    return [(tick.Tick, "_postings", postings)]


def fencing_drops_settlements() -> list[Replacement]:
    """What a fenced session settles is not posted."""
    return _postings(lambda charge, row, _: charge if row and row.state == "open" else None)


def selectors_run_again_over_history() -> list[Replacement]:
    """A charge counts in all budgets that there are when it comes."""
    return _postings(
        lambda charge, _, windows: structs.replace(charge, budget_window_ids=tuple(sorted(windows)))
    )
