"""A ledger of any size, made fast: whole in every figure, so that a verification must find it so.

Rows go through the schema by COPY (entries) and by statements over what was copied (balances), with
every constraint and trigger in force. Half of the budgets are hard; every call draws on three
windows; a share of the calls is released, provisional, or provisional and found out later.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from bursar_server.database.pool import Pool

SESSIONS: Final = 40
WINDOWS: Final = 60
DRAW_SETS: Final = 200
LIMIT_NANOS: Final = 10**18
ORGANIZATION: Final = 5_000
NOW: Final = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
BATCH: Final = 50_000

_COLUMNS: Final = (
    "organization_id", "session_epoch", "n", "k", "kind", "debit_account", "credit_account",
    "amount_nanos", "currency", "reserved_nanos", "draw_set_id", "customer", "app", "run", "tags",
    "provider", "model", "requested_model", "price_version", "input_llm_tokens",
    "cached_input_llm_tokens", "cache_write_5m_llm_tokens", "cache_write_1h_llm_tokens",
    "output_llm_tokens", "reasoning_llm_tokens", "estimate_reason", "provider_request_id",
    "http_status", "stream", "admitted_at", "finished_at", "posted_at",
)  # fmt: skip


def _postings(number: int) -> list[tuple[int, str, int]]:
    """(k, kind, nanos) of the call with this number: all kinds, in fixed shares."""
    cost = 1_000 + number * 7_919 % 900_000
    if number % 97 == 0:
        return [(0, "released", 0)]
    if number % 101 == 0:
        return [(0, "provisional", cost)]
    if number % 103 == 0:
        return [(0, "provisional", cost), (1, "provisional", -cost), (2, "final", cost - 500)]
    if number % 107 == 0:
        return [(0, "provisional", cost), (1, "provisional", -cost), (2, "final", cost + 500)]
    return [(0, "final", cost)]


def _entries(calls: int, draw_sets: list[int]) -> Iterator[tuple[Any, ...]]:
    of_session = -(-calls // SESSIONS)
    for number in range(calls):
        epoch, n = divmod(number, of_session)
        for k, kind, nanos in _postings(number):
            credit = "provisional" if kind == "provisional" else "payable/openai"
            yield (
                ORGANIZATION, epoch + 1, n + 1, k, kind, "spend/acme", credit, nanos, "USD",
                1_000_000, draw_sets[number * 31 % len(draw_sets)], "customer-7", "app/1.0", "",
                ["team:search"], "openai", "gpt-4o-mini", "openai/gpt-4o-mini",
                "builtin@1f0c9a55d2e1", 812, 0, 0, 0, 233, 0, "",
                "chatcmpl-9tPq2ZrA4l1mVd", 200, True, NOW, NOW, NOW,
            )  # fmt: skip


async def fill(pool: Pool, calls: int) -> int:
    """Make an organization whose sidecars made so many calls; returns the count of entries."""
    await pool.execute(
        "INSERT INTO organizations (id, slug, display_name, currency)"
        " VALUES ($1, 'acme', 'Acme', 'USD')",
        ORGANIZATION,
    )
    await pool.execute(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " SELECT $1, 'b-' || i, '', 'organization', $1, $2, 'lifetime',"
        " CASE i % 2 WHEN 0 THEN 'hard' ELSE 'soft' END FROM generate_series(1, $3::int) AS i",
        ORGANIZATION, LIMIT_NANOS, WINDOWS,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO budget_windows (organization_id, budget_id, start_at, limit_nanos,"
        " budget_version, ceiling_nanos, hard)"
        " SELECT organization_id, id, $2, limit_nanos, 1, limit_nanos, enforcement = 'hard'"
        " FROM budgets WHERE organization_id = $1",
        ORGANIZATION, NOW,
    )  # fmt: skip
    windows = [
        row["id"]
        for row in await pool.fetch(
            "SELECT id FROM budget_windows WHERE organization_id = $1 ORDER BY id", ORGANIZATION
        )
    ]
    sets = sorted(
        {
            tuple(sorted({windows[i * step % WINDOWS] for step in (1, 7, 13)}))
            for i in range(DRAW_SETS)
        }
    )
    draw_sets = [
        await pool.fetchval(
            "INSERT INTO draw_sets (organization_id, budget_window_ids) VALUES ($1, $2)"
            " RETURNING id",
            ORGANIZATION, list(drawn),
        )
        for drawn in sets
    ]  # fmt: skip
    count = 0
    batch: list[tuple[Any, ...]] = []
    for row in _entries(calls, draw_sets):
        batch.append(row)
        count += 1
        if len(batch) == BATCH:
            await _copy(pool, batch)
            batch = []
    await _copy(pool, batch)
    for statement in _BALANCES:
        await pool.execute(statement, ORGANIZATION, timeout=3_600)
    return count


async def _copy(pool: Pool, rows: list[tuple[Any, ...]]) -> None:
    async with pool.acquire() as connection:
        await connection.copy_records_to_table("entries", records=rows, columns=_COLUMNS)


# Every session was lent what it settled and 500 more of each hard window.
_BALANCES: Final = (
    "INSERT INTO sessions (organization_id, session_epoch, sidecar_organization_id, sidecar_id,"
    " boot_id, settled_count, highest_settled_n)"
    " SELECT $1, session_epoch, $1, session_epoch, 'boot-' || session_epoch, count(*), max(n)"
    " FROM entries WHERE organization_id = $1 AND k = 0 GROUP BY session_epoch",
    "INSERT INTO allowances (organization_id, session_epoch, budget_window_id, granted_nanos,"
    " settled_nanos)"
    " SELECT $1, session_epoch, w.id, sum(amount) + 500, sum(amount)"
    " FROM (SELECT session_epoch, draw_set_id, sum(amount_nanos) AS amount FROM entries"
    "       WHERE organization_id = $1 AND k = 0 GROUP BY session_epoch, draw_set_id) AS e"
    " JOIN draw_sets AS t ON t.organization_id = $1 AND t.id = e.draw_set_id"
    " JOIN budget_windows AS w ON w.organization_id = $1 AND w.id = ANY(t.budget_window_ids)"
    "  AND w.hard"
    " GROUP BY session_epoch, w.id",
    "UPDATE budget_windows AS w SET settled_nanos = s.settled, overrun_nanos = s.overrun"
    " FROM (SELECT w.id, sum(e.amount) AS settled,"
    "              CASE WHEN w.hard THEN coalesce(sum(e.added), 0) ELSE 0 END AS overrun"
    "       FROM (SELECT draw_set_id, sum(amount) AS amount, sum(greatest(added, 0)) AS added"
    "             FROM (SELECT draw_set_id, session_epoch, n, sum(amount_nanos) AS amount,"
    "                          sum(amount_nanos) FILTER (WHERE k > 0) AS added FROM entries"
    "                   WHERE organization_id = $1 GROUP BY draw_set_id, session_epoch, n) AS c"
    "             GROUP BY draw_set_id) AS e"
    "       JOIN draw_sets AS t ON t.organization_id = $1 AND t.id = e.draw_set_id"
    "       JOIN budget_windows AS w ON w.organization_id = $1 AND w.id = ANY(t.budget_window_ids)"
    "       GROUP BY w.id, w.hard) AS s"
    " WHERE w.organization_id = $1 AND w.id = s.id",
    "UPDATE budget_windows AS w SET outstanding_nanos = a.held"
    " FROM (SELECT budget_window_id, sum(granted_nanos - settled_nanos) AS held FROM allowances"
    "       WHERE organization_id = $1 GROUP BY budget_window_id) AS a"
    " WHERE w.organization_id = $1 AND w.id = a.budget_window_id",
)
