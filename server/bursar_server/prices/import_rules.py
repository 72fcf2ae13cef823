"""Which changes of a price list are taken over unasked. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from bursar.pricing import Meter
from bursar.pricing.comparing import ChangeOf, PriceChange, RateChange
from bursar.pricing.comparing import per_text as per

DEFAULT_MAX_REMOVED_PERCENT: Final = Decimal(10)
MOST_PERCENT: Final = Decimal(1_000_000)
# Of what is charged where nothing was, and of what costs nothing any more: over any limit.
_WITHOUT_MEASURE: Final = Decimal("Infinity")
# A list of a few models may lose one without that being a sign of anything.
FEWEST_REMOVED: Final = 3
# Of the reasons that a refusal names, each; there may be as many as prices.
MOST_REASONS: Final = 10


class Limits(msgspec.Struct, frozen=True):
    """What an import may change without being asked for with force."""

    max_change_percent: Decimal | None = None
    """Of a rate, up or down; None: anything."""
    max_removed_percent: Decimal = DEFAULT_MAX_REMOVED_PERCENT
    """Of the imported prices in force that may leave the list."""


def refusals(
    changes: Sequence[PriceChange], removed: int, in_force: int, limits: Limits
) -> list[str]:
    """Why an import is refused, the gravest first; empty: it is not.

    `removed` of the `in_force` imported prices are not on the list any more.
    """
    found = []
    allowed = limits.max_removed_percent * in_force / 100
    if removed > FEWEST_REMOVED and removed > allowed:
        share = Decimal(removed * 100) / in_force
        found.append(
            f"{removed} of {in_force} prices ({share:.1f} %) are not on the list any more; "
            f"at most {limits.max_removed_percent:f} % may leave it"
        )
    if limits.max_change_percent is not None:
        found += _changes_over(changes, limits.max_change_percent)
    return found


def _changes_over(changes: Sequence[PriceChange], limit: Decimal) -> list[str]:
    """The rates that change too much, those without a measure first."""
    over: list[tuple[Decimal, str]] = []
    for change in changes:
        if change.kind is ChangeOf.ADDED:
            continue
        name = f"{change.provider}/{change.model}"
        if any(note.startswith("currency ") for note in change.notes):
            over.append((_WITHOUT_MEASURE, f"{name}: {change.notes[0]}"))
        for rate in change.rates:
            percent = _measure(rate)
            if percent is not None and percent > limit:
                over.append((percent, f"{name}: {_text(rate)}"))
    over.sort(key=lambda one: (-one[0], one[1]))
    texts = [f"{text}; at most {limit:f} % are allowed" for _, text in over[:MOST_REASONS]]
    if len(over) > MOST_REASONS:
        texts.append(f"and {len(over) - MOST_REASONS} more rates")
    return texts


def _measure(rate: RateChange) -> Decimal | None:
    """How much of a change it is; None: there is nothing to compare it with."""
    if rate.from_nothing:
        # A new rate of a rare meter was unknown before, not nothing; a fee of every call was none.
        charged = rate.old is not None or rate.what == Meter.REQUEST
        return _WITHOUT_MEASURE if charged else None
    if rate.percent is None:
        return None
    # A fall has an end, so that a limit of 100 % or more would let anything become free.
    return _WITHOUT_MEASURE if rate.percent == -100 else abs(rate.percent)


def _text(rate: RateChange) -> str:
    unit = per(rate.per)
    old = "none" if rate.old is None else f"{rate.old:f}{unit}"
    new = "none" if rate.new is None else f"{rate.new:f}{unit}"
    percent = "from nothing" if rate.percent is None else f"{rate.percent:+f} %"
    return f"{rate.what} {old} -> {new} ({percent})"


def percent_of(text: str, most: Decimal) -> Decimal | None:
    """The percentage that decimal text says; None if it is none, or not 0..`most`."""
    digits = text.replace(".", "", 1)
    if not digits.isascii() or not digits.isdecimal() or len(text) > 20:
        return None
    value = Decimal(text)
    return value if 0 <= value <= most else None


def ordered(changes: Sequence[PriceChange]) -> list[PriceChange]:
    """The largest first: prices that go, then by how much rates change, then what is new."""
    rank: Mapping[ChangeOf, int] = {ChangeOf.REMOVED: 0, ChangeOf.CHANGED: 1, ChangeOf.ADDED: 2}

    def key(change: PriceChange) -> tuple[int, Decimal, str, str]:
        percent = change.percent
        size = Decimal(0) if percent is None else -abs(percent)
        return rank[change.kind], size, change.provider, change.model

    return sorted(changes, key=key)
