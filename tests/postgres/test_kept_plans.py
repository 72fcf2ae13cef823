"""Plans that Postgres made while a table was empty, and keeps until the table is analyzed.

A control plane on a new ledger prepares its statements before there are rows. A step that then
reads a whole table takes longer with each call, until every call waits for it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bursar_server.allowances import store
from bursar_server.allowances.control import SHARD_ID
from bursar_server.database.pool import Pool, transaction
from bursar_server.ledger.posting import QUERIES as POSTING

KEYS = {
    "entries": ("organization_id", "session_epoch", "n"),
    "sessions": ("session_epoch",),
    "allowances": ("session_epoch",),
    "budget_windows": ("id",),
    "draw_sets": ("id",),
}
"""By growing table: what its rows are found by."""
OF_A_STEP = {
    name: getattr(store.QUERIES, name)
    for name in (
        "sessions_for_tick",
        "save_sessions",
        "windows_held_by",
        "current_windows",
        "windows_by_ids",
        "lock_windows",
        "totals",
        "totals_of_sessions",
        "save_windows",
        "save_totals",
        "draw_set",
        "session_allowances",
        "books_of_sessions",
    )
} | {"entries_so_far": POSTING.entries_so_far}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All steps of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def kept_plan(pool: Pool, statement: str) -> list[dict[str, Any]]:
    """The steps of what Postgres would keep of a statement in the writer's transaction, whatever
    its parameters."""
    count = max(int(number) for number in re.findall(r"\$(\d+)", statement))
    nothing = ", ".join(["NULL"] * count)
    async with transaction(pool) as connection:
        await store.take_shard(connection, SHARD_ID, "tests")
        await store.check_shard(connection, SHARD_ID)
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE kept AS {statement.rstrip().rstrip(';')}")
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE kept({nothing})")
        await connection.execute("DEALLOCATE kept")
    return list(nodes(json.loads(text)[0]["Plan"]))


@pytest.mark.parametrize("name", OF_A_STEP)
async def test_a_step_finds_rows_of_growing_tables_by_their_keys(name: str, pool: Pool) -> None:
    plan = await kept_plan(pool, OF_A_STEP[name])
    reads = [
        node for node in plan if node.get("Relation Name") in KEYS and "Scan" in node["Node Type"]
    ]
    for read in reads:
        found_by = read.get("Index Cond") or read.get("Recheck Cond") or ""
        for column in KEYS[read["Relation Name"]]:
            assert re.search(rf"\b(budget_)?{column}\b", found_by), read
    assert reads or name in ("save_totals", "draw_set")
