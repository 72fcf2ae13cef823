"""What makes a recorded rate acceptable, and what an import changes. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from bursar.exchange import ExchangeRate

# No program asks for rates of a time before the euro, and nobody agrees on one for a decade ahead.
EARLIEST: Final = datetime(1999, 1, 1, tzinfo=UTC)
MOST_AHEAD: Final = timedelta(days=3 * 366)
# Rates that begin later travel to every sidecar: years of monthly agreements, not a forecast.
MOST_SCHEDULED: Final = 1_000
# Two years of daily reference rates; a longer file comes in several requests.
MOST_IMPORTED: Final = 20_000
MOST_CHANGES_TOLD: Final = 1_000
MOST_CHARACTERS_OF_A_SOURCE: Final = 256

# The fields of `bursar.exchange` -> those of the message.
FIELDS: Final = {
    "base": "base_currency",
    "quote": "quote_currency",
    "rate": "rate",
    "effective_at": "effective_time",
}


class RateChange(msgspec.Struct, frozen=True):
    """A rate that is new, and the one that held then before it (in whichever direction)."""

    rate: ExchangeRate
    previous: ExchangeRate | None
    corrects: bool
    """Whether `previous` is of the same instant."""


def is_acceptable(effective_at: datetime, now: datetime) -> bool:
    """Whether a rate may begin at that time."""
    return EARLIEST <= effective_at <= now + MOST_AHEAD


def first_repeat(rates: Iterable[ExchangeRate]) -> int | None:
    """The place of the first rate whose pair and instant were there before, if there is one."""
    seen = set()
    for place, rate in enumerate(rates):
        what = (rate.pair, rate.effective_at)
        if what in seen:
            return place
        seen.add(what)
    return None


def changes(
    rates: Sequence[ExchangeRate], recorded: Sequence[ExchangeRate | None]
) -> list[RateChange]:
    """Those of `rates` that are not recorded word for word, by pair and instant.

    `recorded` says for each of them what was recorded for its pair at that instant or last before.
    """
    found: list[RateChange] = []
    last: ExchangeRate | None = None
    order = sorted(range(len(rates)), key=lambda at: (rates[at].pair, rates[at].effective_at))
    for place in order:
        rate, before = rates[place], recorded[place]
        if last is not None and last.pair != rate.pair:
            last = None
        if before is not None and _same(before, rate):
            last = rate
            continue
        if last is not None and (before is None or before.effective_at < last.effective_at):
            before = last
        corrects = before is not None and before.effective_at == rate.effective_at
        ended = before is not None and before.rate is None
        found.append(RateChange(rate, None if ended else before, corrects))
        last = rate
    return found


def _same(one: ExchangeRate, other: ExchangeRate) -> bool:
    return (one.base, one.quote, one.rate, one.effective_at) == (
        other.base,
        other.quote,
        other.rate,
        other.effective_at,
    )
