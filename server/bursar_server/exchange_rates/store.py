"""The rows of exchange rates: the only SQL on `exchange_rates`."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from bursar.exchange import ExchangeRate, ExchangeRates, needed, overlaid, since
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID

q = Queries.load(__package__)

# A sidecar whose clock is so far behind still finds a rate for its calls.
MOST_BEHIND: Final = timedelta(days=1)


class RateRecord(ExchangeRate, frozen=True, kw_only=True):
    """A rate as it was recorded."""

    id: int
    organization_slug: str
    source: str
    recorded_at: datetime


async def raise_overlay_version(connection: Connection, organization_id: int) -> int:
    """The next version of what an organization's sidecars are told. First in a transaction."""
    return int(await connection.fetchval(q.raise_overlay_version, organization_id))


async def record_rates(
    connection: Connection,
    organization_id: int,
    rates: Sequence[ExchangeRate],
    *,
    source: str,
    actor: str,
) -> list[int]:
    """Record rates, in this order; returns their ids."""
    rows = await connection.fetch(
        q.insert_rates,
        organization_id,
        [rate.base for rate in rates],
        [rate.quote for rate in rates],
        [rate.rate for rate in rates],
        [rate.effective_at for rate in rates],
        source,
        actor,
    )
    return [row["id"] for row in rows]


async def rate_by_id(
    connection: Connection, organization_id: int, rate_id: int
) -> RateRecord | None:
    """One recorded rate."""
    row = await connection.fetchrow(q.rate_by_id, organization_id, rate_id)
    return None if row is None else RateRecord(**dict(row))


async def scheduled_count(connection: Connection, organization_id: int, now: datetime) -> int:
    """How many of an organization's own begin later."""
    return int(await connection.fetchval(q.scheduled_count, organization_id, now))


async def rates_since(
    connection: Connection, organization_id: int, instant: datetime
) -> list[RateRecord]:
    """An organization's own (not the platform's): what held at an instant of each pair, and what
    begins later, in the order in which they were recorded."""
    rows = await connection.fetch(q.rates_since, organization_id, instant)
    return [RateRecord(**dict(row)) for row in rows]


async def rates_in_force(
    connection: Connection, organization_id: int, instant: datetime
) -> ExchangeRates:
    """What an organization's amounts are converted by at that instant or later: its own rates over
    the platform's."""
    return ExchangeRates(await _both(connection, organization_id, instant))


async def rates_to_tell(
    connection: Connection,
    organization_id: int,
    currency: str,
    price_currencies: Iterable[str],
    now: datetime,
) -> list[ExchangeRate]:
    """What a sidecar of the organization must know to convert prices in those currencies to its
    own, from now on."""
    wanted = set(price_currencies)
    if wanted <= {currency}:
        return []
    merged = await _both(connection, organization_id, now - MOST_BEHIND)
    return needed(merged, wanted, currency)


async def _both(
    connection: Connection, organization_id: int, instant: datetime
) -> list[ExchangeRate]:
    below = await rates_since(connection, PLATFORM_ORGANIZATION_ID, instant)
    if organization_id == PLATFORM_ORGANIZATION_ID:
        return since(below, instant)
    above = await rates_since(connection, organization_id, instant)
    return since(overlaid(below, above), instant)


async def recorded_before(
    connection: Connection, organization_id: int, rates: Sequence[ExchangeRate]
) -> list[ExchangeRate | None]:
    """For each rate what was recorded for its pair at its instant or last before."""
    rows = await connection.fetch(
        q.recorded_before,
        organization_id,
        [rate.base for rate in rates],
        [rate.quote for rate in rates],
        [rate.effective_at for rate in rates],
    )
    found: list[ExchangeRate | None] = [None] * len(rates)
    for row in rows:
        found[row["place"] - 1] = ExchangeRate(
            row["base"], row["quote"], row["rate"], row["effective_at"]
        )
    return found


async def rate_history(
    connection: Connection,
    organization_id: int,
    currency: str,
    *,
    after: tuple[datetime, int] | None,
    size: int,
) -> list[RateRecord]:
    """At most `size` of all that were recorded, the newest effective first, behind `after`."""
    rows = await connection.fetch(
        q.rate_history,
        organization_id,
        PLATFORM_ORGANIZATION_ID,
        currency,
        *(after or (None, None)),
        size,
    )
    return [RateRecord(**dict(row)) for row in rows]
