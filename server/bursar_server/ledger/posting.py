"""Posting: planned entries, written once.

The settlement row is the ledger entry: debit and credit account stand on it. An entry that is there
already stops the transaction: then somebody else writes this ledger.
"""

import re
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.ledger.entries import PostedSoFar, Posting, Settlement

QUERIES = Queries.load(__package__, "posting.sql")


async def posted_so_far(
    connection: Connection, organization_id: int, settlements: Sequence[Settlement]
) -> dict[tuple[int, int], PostedSoFar]:
    """What the ledger holds of these settlements' identities."""
    if not settlements:
        return {}
    rows = await connection.fetch(
        QUERIES.entries_so_far,
        organization_id,
        [s.session_epoch for s in settlements],
        [s.n for s in settlements],
    )
    return {
        (row["session_epoch"], row["n"]): PostedSoFar(
            row["last_k"],
            row["amount_nanos"],
            row["final"],
            tuple(row["would_refuse_window_ids"] or ()),
            tuple(row["budget_window_ids"]),
            tuple(row["armed_window_ids"]),
        )
        for row in rows
    }


async def spent_before(
    connection: Connection,
    organization_id: int,
    since: datetime,
    scope: tuple[str, int],
    models: Sequence[str],
    providers: Sequence[str],
    *,
    posted_since: datetime | None,
) -> tuple[int, int]:
    """(nanos, entries) of a scope's calls admitted since then that a selector chooses; and of those
    posted since `posted_since`, whenever they were admitted.

    `scope` is a kind and an id, `models` are globs.
    """
    row = await connection.fetchrow(
        QUERIES.spent_before,
        organization_id,
        since,
        *scope,
        "|".join(glob_pattern(glob) for glob in models),
        list(providers),
        posted_since,
    )
    assert row is not None  # an aggregate always has a row
    return int(row["amount_nanos"]), int(row["entry_count"])


async def spent_by_all_before(
    connection: Connection,
    since: datetime,
    scope: tuple[str, int],
    models: Sequence[str],
    providers: Sequence[str],
) -> tuple[int, int]:
    """As `spent_before`, of all organizations together that keep their books in the currency of
    `scope`, the platform; what others spent can't be counted without exchange rates."""
    row = await connection.fetchrow(
        QUERIES.spent_by_all_before,
        scope[1],
        since,
        "|".join(glob_pattern(glob) for glob in models),
        list(providers),
    )
    assert row is not None  # an aggregate always has a row
    return int(row["amount_nanos"]), int(row["entry_count"])


def glob_pattern(glob: str) -> str:
    """A glob as a POSIX pattern of the whole name (PostgreSQL manual, 9.7.3)."""
    wild = {"*": ".*", "?": "."}
    return "^" + "".join(wild.get(c) or re.escape(c) for c in glob) + "$"


async def write(connection: Connection, postings: Sequence[Posting], posted_at: datetime) -> None:
    """Write entries, of one organization or several.

    COPY, because it takes the driver and Postgres less than an INSERT of arrays.

    Raises RuntimeError if one of them exists already: then somebody else writes this ledger, and
    the transaction must not commit.
    """
    try:
        await connection.copy_records_to_table(
            "entries", records=[_row(p, posted_at) for p in postings], columns=_COLUMNS
        )
    except asyncpg.UniqueViolationError as error:
        raise RuntimeError(f"an entry was there already: {error.detail}") from error


_COLUMNS = (
    "organization_id", "session_epoch", "n", "k", "kind", "debit_account", "credit_account",
    "amount_nanos", "currency", "reserved_nanos", "draw_set_id", "key_id", "team_id",
    "project_id", "user_id", "customer", "app", "run", "tags", "provider", "model",
    "requested_model", "price_version", "input_llm_tokens", "cached_input_llm_tokens",
    "cache_write_5m_llm_tokens", "cache_write_1h_llm_tokens", "output_llm_tokens",
    "reasoning_llm_tokens", "further_usage", "estimate_reason", "provider_request_id",
    "http_status", "stream", "admitted_at", "finished_at", "overrun_nanos",
    "would_refuse_window_ids", "posted_at", "service_tier", "region", "priced_as", "rerating_id",
    "price_currency", "exchange_rate",
)  # fmt: skip
"""In the order of `_row`."""


def _row(posting: Posting, posted_at: datetime) -> tuple[object, ...]:
    settlement = posting.settlement
    further = settlement.further_usage
    return (
        settlement.organization_id,
        settlement.session_epoch,
        settlement.n,
        posting.k,
        posting.kind.value,
        posting.debit_account,
        posting.credit_account,
        posting.amount_nanos,
        posting.currency,
        settlement.reserved_nanos,
        posting.draw_set_id,
        settlement.key_id or None,
        posting.team_id,
        posting.project_id,
        posting.user_id,
        settlement.customer,
        settlement.app,
        settlement.run,
        settlement.tags,
        settlement.provider,
        settlement.model,
        settlement.requested_model,
        settlement.price_version,
        settlement.input_llm_tokens,
        settlement.cached_input_llm_tokens,
        settlement.cache_write_5m_llm_tokens,
        settlement.cache_write_1h_llm_tokens,
        settlement.output_llm_tokens,
        settlement.reasoning_llm_tokens,
        dict(further) if further else None,
        settlement.estimate_reason,
        settlement.provider_request_id,
        settlement.http_status,
        settlement.stream,
        settlement.admitted_at,
        settlement.finished_at,
        posting.overrun_nanos,
        posting.would_refuse_window_ids or None,
        posted_at,
        settlement.service_tier,
        settlement.region,
        settlement.priced_as,
        posting.rerating_id,
        settlement.price_currency,
        settlement.exchange_rate,
    )
