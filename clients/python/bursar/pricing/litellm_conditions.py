"""The nested parts of LiteLLM's map: off-peak hours, free quotas, ranges. Pure.

Each function reads one part whole or answers None, which the importer reports: a part that is not
understood is never taken over by halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from .conditions import FreeQuota, PriceError, Span, Window
from .model import MAX_THRESHOLD, Meter

_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UTC: Final = "UTC"
_PERIODS: Final[Mapping[str, Literal["day", "month"]]] = {"day": "day", "month": "month"}


class OffPeak(NamedTuple):
    """When off-peak rates hold, and the fields that have them."""

    window: Window
    rates: Mapping[str, Any]


def off_peak(block: Any) -> OffPeak | None:
    """Hours of the day in UTC, for every day or for days of the week in a time zone."""
    if not isinstance(block, Mapping):
        return None
    fields = dict(block)
    zone = fields.pop("weekday_timezone", None) or _UTC
    hours, windows = fields.pop("hours_utc", ()), fields.pop("windows", ())
    try:
        rules = [{"hours_utc": hours}, *_list(windows)]
        spans = [span for rule in rules for span in _spans(rule, zone)]
        return OffPeak(Window(tuple(spans)), fields)
    except (PriceError, TypeError, ValueError, AttributeError):
        # Whatever is wrong with it: the importer reports the field, the normal rate stands.
        return None


def _spans(rule: Mapping[str, Any], zone: str) -> list[Span]:
    days = rule.get("weekdays")
    weekdays = () if days is None else tuple(_weekday(day) for day in days)
    spans = []
    for hours in _list(rule.get("hours_utc", ())):
        start, end = (text.strip() for text in hours.split("-"))
        calendar = zone if weekdays and zone != _UTC else ""
        spans.append(Span(start, end, weekdays=weekdays, weekday_zone=calendar))
    return spans


def _weekday(day: Any) -> int:
    if isinstance(day, str):
        return _WEEKDAYS.index(day.strip().lower()[:3]) + 1
    if isinstance(day, bool) or not 1 <= day <= len(_WEEKDAYS) or day != int(day):
        raise ValueError(f"{day!r} is no day of the week")
    return int(day)


def _list(value: Any) -> list[Any]:
    if isinstance(value, str | Mapping):
        return [value]
    return list(value)


def free_searches(value: Any) -> FreeQuota | None:
    """So many searches a day or month, which a group of models may share."""
    if not isinstance(value, Mapping) or set(value) - {"count", "period", "shared_group"}:
        return None
    period, count = _PERIODS.get(str(value.get("period"))), value.get("count")
    group = value.get("shared_group") or ""
    if period is None or type(count) is not int or not isinstance(group, str):
        return None
    try:
        return FreeQuota(Meter.SEARCH, count, period, group=group)
    except PriceError:
        return None


def input_ranges(tiers: Any) -> list[tuple[int, Mapping[str, Any]]] | None:
    """(start, fields) of ranges over input LLM tokens, ascending; the last has no upper end."""
    if not isinstance(tiers, list | tuple) or not tiers:
        return None
    ranges: list[tuple[int, Mapping[str, Any]]] = []
    for tier in tiers:
        bounds = _bounds(tier, "range")
        if bounds is None or "input_cost_per_token" not in tier:
            return None
        ranges.append((bounds[0], tier))
    return sorted(ranges, key=lambda one: one[0])


def result_ranges(tiers: Any) -> list[tuple[int, Any]] | None:
    """(most results, rate of a query) of ranges over how many results a search may give."""
    if not isinstance(tiers, list | tuple) or not tiers:
        return None
    ranges: list[tuple[int, Any]] = []
    for tier in tiers:
        bounds = _bounds(tier, "max_results_range")
        if bounds is None or set(tier) != {"input_cost_per_query", "max_results_range"}:
            return None
        ranges.append((bounds[1], tier["input_cost_per_query"]))
    return ranges


def _bounds(tier: Any, field: str) -> tuple[int, int] | None:
    """The two whole numbers of a range; the map writes some as 32000.0."""
    if not isinstance(tier, Mapping):
        return None
    bounds = tier.get(field)
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return None
    whole = [
        int(one)
        for one in bounds
        if isinstance(one, int | float | Decimal)
        and not isinstance(one, bool)
        and 0 <= one <= MAX_THRESHOLD
        and one == int(one)
    ]
    return (whole[0], whole[1]) if len(whole) == 2 else None
