"""Which window of a budget an instant falls into, and which limit is in force at it. Pure.

Boundaries of days and longer units are wall times of the budget's time zone: each is the first
instant at which the wall clock shows it or something later. So a day lasts 23 or 25 hours where
the clocks change, a boundary that the clocks jump over falls on the jump, and one that they show
twice is the first of the two. Calendar hours and minutes begin whenever the wall clock shows a
full one. Boundaries tile time: each window ends where the next one begins.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

WindowKind = Literal["calendar", "every", "from_first_call", "lifetime"]
WindowUnit = Literal["second", "minute", "hour", "day", "week", "month", "quarter", "year"]
Enforcement = Literal["hard", "soft", "shadow"]
RaisePhase = Literal["scheduled", "running", "over"]
RaiseStepKind = Literal["made", "began", "ended", "cancelled"]
ScopeKind = Literal["platform", "organization", "team", "project", "user", "key"]

# 10^9 units: more than any budget on earth, and far from where 64 bits end (9.2 * 10^9), so that
# sums of limits and overruns never overflow.
MAX_LIMIT_NANOS: Final = 10**9 * 10**9

# Where computed boundaries end: below it there are no windows, above it a window has no end.
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600}
_DAYS: Final = {"day": 1, "week": 7}
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_MONDAY: Final = datetime(1970, 1, 5)  # noqa: DTZ001  a wall time: it has no zone on purpose


class WindowSpec(msgspec.Struct, frozen=True):
    """The window of a budget, as its row says it."""

    kind: WindowKind
    unit: WindowUnit | None = None
    """None for a lifetime."""
    count: int | None = None
    """N of `every` and `from_first_call`."""
    anchor: int = 0
    """Of calendar windows; 0 is the natural beginning."""
    start_at: datetime | None = None
    """Where the first window of `every` begins; None: at the budget's creation."""
    time_zone: str = "UTC"


class BudgetWindowSpan(NamedTuple):
    """A stretch of time: `start_at` belongs to it, `end_at` is the first instant after it."""

    start_at: datetime
    end_at: datetime | None
    """None: without end."""


class TemporaryRaise(msgspec.Struct, frozen=True):
    """A limit that is higher from `start_at` until just before `end_at`, or before it was
    cancelled."""

    id: int
    amount_nanos: int
    start_at: datetime
    end_at: datetime
    cancelled_at: datetime | None = None
    phase: RaisePhase = "scheduled"
    """As the writer last applied it."""

    @property
    def over_at(self) -> datetime:
        """The first instant at which it counts no longer."""
        return self.end_at if self.cancelled_at is None else min(self.end_at, self.cancelled_at)


def phase_at(raised: TemporaryRaise, at: datetime) -> RaisePhase:
    """Whether a raise counts at an instant, or is to come, or is over."""
    if at >= raised.over_at:
        return "over"
    return "running" if at >= raised.start_at else "scheduled"


def effective_limit(limit_nanos: int, raises: Iterable[TemporaryRaise], at: datetime) -> int:
    """The limit in force at an instant: raises that overlap add up, to MAX_LIMIT_NANOS at most."""
    raised = sum(each.amount_nanos for each in raises if phase_at(each, at) == "running")
    return min(limit_nanos + raised, MAX_LIMIT_NANOS)


def boundaries_passed(
    raised: TemporaryRaise, now: datetime
) -> list[tuple[RaiseStepKind, datetime]]:
    """What time has done to a raise since its phase was last applied: (what, since when).

    Nothing of one that was cancelled: who cancelled it, wrote that down; and what was cancelled
    before it began, never did.
    """
    passed: list[tuple[RaiseStepKind, datetime]] = []
    if raised.phase == "scheduled" and raised.start_at <= now and raised.start_at < raised.over_at:
        passed.append(("began", raised.start_at))
    if raised.phase != "over" and raised.end_at <= now and raised.cancelled_at is None:
        passed.append(("ended", raised.end_at))
    return passed


def window_at(
    spec: WindowSpec, now: datetime, *, created_at: datetime, last_end: datetime | None = None
) -> BudgetWindowSpan:
    """The window that a call admitted at `now` belongs to.

    `created_at` is when the budget was made. `last_end` is where the last window of a
    `from_first_call` budget ended, None if it had none: the caller asks for a new window only when
    that one is over; the new one begins at `now`, never before the last one's end.

    The first window of `every` may begin in the future: the windows before it are counted back
    from there, so that a budget binds from its creation on.
    """
    if spec.kind == "lifetime":
        return BudgetWindowSpan(created_at, None)
    if spec.kind == "from_first_call":
        start_at = now if last_end is None else max(now, last_end)
        return BudgetWindowSpan(start_at, _boundary(_tiles(spec, start_at), 1))
    if spec.kind == "every":
        start_at = spec.start_at or created_at
        return _span(_tiles(spec, start_at), _guess(spec, start_at, now), now)
    return _calendar_window(spec, now)


def _span(tile: Callable[[int], datetime], index: int, now: datetime) -> BudgetWindowSpan:
    """The tile that holds `now`, looked for around `index`."""
    start_at = _boundary(tile, index)
    while start_at is None or start_at > now:
        if start_at is not None and start_at <= EARLIEST:
            break
        index -= 1
        start_at = _boundary(tile, index)
    end_at = _boundary(tile, index + 1)
    while end_at is not None and end_at <= now:
        index += 1
        start_at, end_at = end_at, _boundary(tile, index + 1)
    return BudgetWindowSpan(start_at, end_at)


def _boundary(tile: Callable[[int], datetime], index: int) -> datetime | None:
    """Boundary `index`; None beyond the end of the calendar, EARLIEST before its beginning."""
    try:
        return max(tile(index), EARLIEST)
    except (OverflowError, ValueError):
        return EARLIEST if index < 0 else None


def _tiles(spec: WindowSpec, start_at: datetime) -> Callable[[int], datetime]:
    """The boundaries of stretches of N units, end to end, the one of index 0 at `start_at`."""
    unit, count = _unit(spec), spec.count or 1
    if unit in _SECONDS:
        length = timedelta(seconds=_SECONDS[unit] * count)
        return lambda index: start_at + index * length
    zone = time_zone(spec.time_zone)
    wall = _wall(start_at, zone)

    def boundary(index: int) -> datetime:
        if index == 0:
            # Exact even where the wall clock shows its time twice.
            return start_at
        if unit in _DAYS:
            moved = wall + timedelta(days=_DAYS[unit] * count * index)
        else:
            # From the first one, not from the one before: the 31st stays the 31st where there is
            # one, whatever February did.
            moved = add_months(wall, _MONTHS[unit] * count * index)
        return instant(moved, zone)

    return boundary


def _guess(spec: WindowSpec, start_at: datetime, now: datetime) -> int:
    """The index of the tile that holds `now`, give or take one or two."""
    unit, count = _unit(spec), spec.count or 1
    if unit in _SECONDS:
        return (now - start_at) // timedelta(seconds=_SECONDS[unit] * count)
    if unit in _DAYS:
        return (now - start_at) // timedelta(days=_DAYS[unit] * count)
    months = (now.year - start_at.year) * 12 + now.month - start_at.month
    return months // (_MONTHS[unit] * count)


def _calendar_window(spec: WindowSpec, now: datetime) -> BudgetWindowSpan:
    unit, zone = _unit(spec), time_zone(spec.time_zone)
    if unit in _SECONDS:
        return _clock_window(timedelta(seconds=_SECONDS[unit]), zone, now)
    wall = _wall(now, zone)
    if unit in _DAYS:
        first = _MONDAY
        if unit == "day":
            first += timedelta(hours=spec.anchor)
        elif spec.anchor:
            first += timedelta(days=spec.anchor - 1)
        length = timedelta(days=_DAYS[unit])
        return _span(
            lambda index: instant(first + index * length, zone), (wall - first) // length, now
        )
    first = datetime(1970, 1, spec.anchor or 1)  # noqa: DTZ001  a wall time: it has no zone
    size = _MONTHS[unit]
    index = ((wall.year - first.year) * 12 + wall.month - first.month) // size
    return _span(lambda index: instant(add_months(first, index * size), zone), index, now)


def _clock_window(length: timedelta, zone: ZoneInfo, now: datetime) -> BudgetWindowSpan:
    """The hour or minute of the wall clock: from one full one to the next, in real time.

    Where the clocks change by a whole number of them nothing is special. Elsewhere (half an hour
    in Lord Howe) the window in which they change lasts until the next full one.
    """
    offset = _offset(now, zone)
    start_at = _floor(now, offset, length)
    if _offset(start_at, zone) != offset:
        changed_at = _change(start_at, now, zone)
        full = _floor(changed_at, offset, length) == changed_at
        before = changed_at - timedelta.resolution
        start_at = changed_at if full else _floor(before, _offset(before, zone), length)
    end_at = _floor(now, offset, length) + length
    if _offset(end_at, zone) != offset:
        changed_at = _change(now, end_at, zone)
        after = _offset(end_at, zone)
        end_at = _floor(changed_at - timedelta.resolution, after, length) + length
    return BudgetWindowSpan(start_at, end_at)


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) at which the wall clock of `zone` shows `wall` or later."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall(first, zone) == wall:
        return first
    # The clocks jump over it. Read with the offset after the jump it lies before the jump.
    return _change(wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first, zone)


def add_months(wall: datetime, months: int) -> datetime:
    """So many months later, at the same time of the same day, or of the month's last day."""
    year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
    first = wall.replace(year=year, month=month + 1, day=1)
    following = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    return first.replace(day=min(wall.day, (following - timedelta(days=1)).day))


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """The rules of an IANA time zone ("" is UTC); the name was checked when it came in."""
    return ZoneInfo(name or "UTC")


def _unit(spec: WindowSpec) -> WindowUnit:
    if spec.unit is None:
        raise ValueError(f"a window of kind {spec.kind} needs a unit")
    return spec.unit


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _floor(at: datetime, offset: timedelta, length: timedelta) -> datetime:
    """The last full hour or minute of a wall clock with a fixed offset, as an instant."""
    return at - (at - EARLIEST + offset) % length


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """When the offset changed in (before, after]; it does so on a whole second."""
    old = _offset(before, zone)
    low = before.replace(microsecond=0)
    high = after.replace(microsecond=0) + timedelta(seconds=1 if after.microsecond else 0)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // timedelta(seconds=2) * timedelta(seconds=1)
        if _offset(middle, zone) == old:
            low = middle
        else:
            high = middle
    return high
