"""The rows of re-ratings, and the calls of the ledger that they read."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from bursar.usage import Usage
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.ledger.posting import glob_pattern
from bursar_server.ratings.rules import Call, Line, Outcome

q = Queries.load(__package__)

PAGE_SIZE: Final = 250
"""Calls read and priced at a time: ten milliseconds, in which nothing else is done here."""


class ReratingRecord(msgspec.Struct, frozen=True):
    """A re-rating on record."""

    id: int
    state: str
    since_at: datetime
    until_at: datetime
    model: str
    reason: str
    actor: str
    etag: str
    outcome: Outcome
    created_at: datetime
    accepted_at: datetime | None
    accepted_by: str
    posted_count: int
    applied_at: datetime | None


async def lock_organization(connection: Connection, organization_id: int) -> bool:
    """Whether nobody else computes a re-rating of the organization for posting; held until the
    transaction ends."""
    return bool(await connection.fetchval(q.lock_organization, organization_id))


async def calls(
    connection: Connection,
    ledger_id: int,
    spender_account: str,
    since: datetime,
    until: datetime,
    model: str,
) -> AsyncIterator[list[Call]]:
    """The calls of a period in one ledger, page by page, by their admission.

    `spender_account` is the account they debit, "" for whatever it is; `model` a glob, "" for all.
    """
    await connection.execute(q.reading_settings)
    pattern = glob_pattern(model) if model else ""
    place = (since, 0, 0)
    while True:
        rows = await connection.fetch(
            q.call_page,
            ledger_id,
            spender_account,
            place[0],
            until,
            place[1],
            place[2],
            PAGE_SIZE,
            pattern,
        )
        if not rows:
            return
        yield [_call(row) for row in rows if row["is_chosen"]]
        if len(rows) < PAGE_SIZE:
            return
        last = rows[-1]
        place = (last["admitted_at"], last["session_epoch"], last["n"])


def _call(row: asyncpg.Record) -> Call:
    reason = row["estimate_reason"]
    return Call(
        ledger_id=row["ledger_id"],
        session_epoch=row["session_epoch"],
        n=row["n"],
        draw_set_id=row["draw_set_id"],
        provider=row["provider"],
        model=row["model"],
        price_version=row["price_version"],
        priced_as=row["priced_as"],
        service_tier=row["service_tier"],
        region=row["region"],
        price_currency=row["price_currency"],
        exchange_rate=row["exchange_rate"],
        usage=Usage(
            input=row["input_llm_tokens"],
            cached_input=row["cached_input_llm_tokens"],
            cache_write_5m=row["cache_write_5m_llm_tokens"],
            cache_write_1h=row["cache_write_1h_llm_tokens"],
            output=row["output_llm_tokens"],
            reasoning=row["reasoning_llm_tokens"],
            extra=row["further_usage"] or {},
            certainty="estimated" if reason else "exact",
            estimate_reason=reason,
        ),
        http_status=row["http_status"],
        admitted_at=row["admitted_at"],
        currency=row["currency"],
        is_final=row["is_final"],
        is_corrected=row["is_corrected"],
        amount_nanos=row["amount_nanos"],
    )


async def budgets_of_draw_sets(
    connection: Connection, keys: Sequence[tuple[int, int]]
) -> Mapping[tuple[int, int], list[str]]:
    """The names of the budgets in each (ledger, draw set)."""
    found: dict[tuple[int, int], list[str]] = {}
    for ledger_id in dict.fromkeys(ledger for ledger, _ in keys):
        ids = [draw_set for ledger, draw_set in keys if ledger == ledger_id]
        for row in await connection.fetch(q.budgets_of_draw_sets, ledger_id, ids):
            found[ledger_id, row["id"]] = row["budgets"]
    return found


async def insert_rerating(
    connection: Connection,
    organization_id: int,
    *,
    since: datetime,
    until: datetime,
    model: str,
    reason: str,
    actor: str,
    etag: str,
    outcome: Outcome,
    now: datetime,
) -> int:
    """Put a plan on record; returns its id."""
    return int(
        await connection.fetchval(
            q.insert_rerating,
            organization_id,
            since,
            until,
            model,
            reason,
            actor,
            etag,
            msgspec.Raw(msgspec.json.encode(outcome)),
            now,
        )
    )


async def rerating(
    connection: Connection, organization_id: int, rerating_id: int
) -> ReratingRecord | None:
    """One re-rating."""
    row = await connection.fetchrow(q.rerating, organization_id, rerating_id)
    return None if row is None else _record(row)


async def rerating_page(
    connection: Connection, organization_id: int, before: int, size: int
) -> list[ReratingRecord]:
    """At most `size` of them, the newest first, before an id (0: from the newest)."""
    rows = await connection.fetch(q.rerating_page, organization_id, before, size)
    return [_record(row) for row in rows]


def _record(row: asyncpg.Record) -> ReratingRecord:
    fields = dict(row)
    fields["outcome"] = msgspec.json.decode(fields["outcome"], type=Outcome)
    return ReratingRecord(**fields)


async def is_applying(connection: Connection, organization_id: int) -> bool:
    """Whether one of the organization is being posted."""
    return bool(await connection.fetchval(q.is_applying, organization_id))


async def insert_lines(
    connection: Connection,
    organization_id: int,
    rerating_id: int,
    first_place: int,
    lines: Sequence[Line],
) -> None:
    """Write down what is to be posted."""
    await connection.copy_records_to_table(
        "rerating_lines",
        records=[
            (
                organization_id,
                rerating_id,
                place,
                line.ledger_id,
                line.session_epoch,
                line.n,
                line.amount_nanos,
                line.price_version,
                line.priced_as,
            )
            for place, line in enumerate(lines, first_place)
        ],
        columns=[
            "organization_id",
            "rerating_id",
            "place",
            "ledger_id",
            "session_epoch",
            "n",
            "amount_nanos",
            "price_version",
            "priced_as",
        ],
    )


async def accept(
    connection: Connection,
    organization_id: int,
    rerating_id: int,
    *,
    has_lines: bool,
    actor: str,
    now: datetime,
) -> bool:
    """Let a plan be posted; False if somebody did before. One that has nothing to post is done."""
    found = await connection.fetchval(q.accept, organization_id, rerating_id, has_lines, now, actor)
    return found is not None
