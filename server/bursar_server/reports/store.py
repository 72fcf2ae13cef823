"""Sums over the rows of the ledger."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.reports.rules import Dimension, QueryFault

q = Queries.load(__package__)

# How an entry says its value of each dimension. Only these texts are ever put into the query.
_VALUES: Final = {
    Dimension.ORGANIZATION: "'organizations/' || substr(e.debit_account, 7)",
    Dimension.TEAM: "e.team_id",
    Dimension.PROJECT: "e.project_id",
    Dimension.USER: "e.user_id",
    Dimension.KEY: "e.key_id",
    Dimension.CUSTOMER: "e.customer",
    Dimension.APP: "e.app",
    Dimension.MODEL: "e.model",
    Dimension.PROVIDER: "e.provider",
    Dimension.TAG: "coalesce(tagged.tag, '')",
    Dimension.DAY: "((e.admitted_at AT TIME ZONE $4)::date)::text",
}
_BY_ID: Final = (Dimension.TEAM, Dimension.PROJECT, Dimension.USER, Dimension.KEY)
_TAGS: Final = (
    "LEFT JOIN LATERAL (SELECT DISTINCT tag FROM unnest(e.tags) AS t (tag)) AS tagged ON true"
)
# A report reads what the period holds; one over a whole large ledger takes its time.
REPORT_TIMEOUT_S: Final = 300.0


class SpendSum(msgspec.Struct, frozen=True):
    """One sum; `values` has one for each dimension, in its order."""

    values: tuple[str, ...]
    cost_nanos: int
    call_count: int
    input_llm_tokens: int
    cache_llm_tokens: int
    output_llm_tokens: int
    estimated_call_count: int


class SpendPeriod(msgspec.Struct, frozen=True):
    """Which entries are summed: those admitted in [since, until); None is open."""

    since: datetime | None
    until: datetime | None
    time_zone: str
    """Of days."""


async def spend(
    connection: Connection,
    organization_id: int,
    period: SpendPeriod,
    by: Sequence[Dimension],
    *,
    limit: int,
) -> list[SpendSum]:
    """At most `limit` sums: the dearest first, by day the latest first.

    Without dimensions one sum over everything. Raises QueryFault if the database does not know
    the time zone.
    """
    columns = [f"value_{place}" for place in range(len(by))]
    values = [
        f"{_VALUES[dimension]} AS {column}" for dimension, column in zip(by, columns, strict=True)
    ]
    grouping = ""
    if columns:
        days = [
            f"{column} DESC"
            for dimension, column in zip(by, columns, strict=True)
            if dimension is Dimension.DAY
        ]
        order = ", ".join([*days, "sum(amount_nanos) DESC", *columns])
        grouping = f"GROUP BY {', '.join(columns)} ORDER BY {order}"
    query = q.spend.format(
        values="".join(f"{value}, " for value in values),
        names="".join(f"{column}, " for column in columns),
        tags=_TAGS if Dimension.TAG in by else "",
        grouping=grouping,
    )
    try:
        rows = await connection.fetch(
            query,
            organization_id,
            period.since,
            period.until,
            period.time_zone,
            limit,
            timeout=REPORT_TIMEOUT_S,
        )
    except asyncpg.InvalidParameterValueError:
        raise QueryFault(
            "time_zone", period.time_zone, "a name the database knows, like Europe/Berlin"
        ) from None
    return await _named(connection, organization_id, by, columns, rows)


async def _named(
    connection: Connection,
    organization_id: int,
    by: Sequence[Dimension],
    columns: Sequence[str],
    rows: Sequence[asyncpg.Record],
) -> list[SpendSum]:
    """The sums, with names in place of ids."""
    ids = {
        row[column]
        for dimension, column in zip(by, columns, strict=True)
        if dimension in _BY_ID
        for row in rows
        if row[column] is not None
    }
    names: dict[int, str] = {}
    if ids:
        found = await connection.fetch(q.names_of_spenders, organization_id, sorted(ids))
        names = {row["id"]: row["name"] for row in found}
    return [
        SpendSum(
            values=tuple(
                names.get(row[column], "") if dimension in _BY_ID else row[column]
                for dimension, column in zip(by, columns, strict=True)
            ),
            cost_nanos=row["cost_nanos"],
            call_count=row["call_count"],
            input_llm_tokens=row["input_llm_tokens"],
            cache_llm_tokens=row["cache_llm_tokens"],
            output_llm_tokens=row["output_llm_tokens"],
            estimated_call_count=row["estimated_call_count"],
        )
        for row in rows
    ]
