"""Windows of time as people type them, and what makes one possible.

    lifetime                             one stretch without end
    daily, monthly, 1mo ...              this day, this month of the calendar
    calendar:month@15, calendar:week@sun the same, begun on another day
    48h, 30d, 3mo                        so long from the first call after the last one ended
    first-call:1mo                       the same, where the short word means the calendar
    every:30d@2026-01-01T00:00:00Z       end to end from an instant (none: from its creation)

A word means what it says: `48h` is 48 hours, `1mo` this month of the calendar. Units are `s`,
`m` (minutes), `h`, `d`, `w`, `mo`, `q` (quarters), `y`, or written out.
"""

import re
from datetime import UTC, datetime
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bursar.v1 import budgets_pb2

# Enough for a window of ten thousand seconds or centuries; beyond it a count is a typing mistake.
MAX_WINDOW_UNITS: Final = 10_000
# Instants before computers kept time, or after this century's plans, are typing mistakes too.
EARLIEST_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_START: Final = datetime(2200, 1, 1, tzinfo=UTC)
MAX_WINDOW_TEXT: Final = 80
MAX_TIME_ZONE_TEXT: Final = 64

_Unit = budgets_pb2.TimeUnit
_UnitValue: TypeAlias = "budgets_pb2.TimeUnit.ValueType"

# The first of each row is how it is written; the short form of counts is the second.
_UNIT_WORDS: Final = {
    _Unit.TIME_UNIT_SECOND: ("second", "s", "seconds", "sec"),
    _Unit.TIME_UNIT_MINUTE: ("minute", "m", "minutes", "min"),
    _Unit.TIME_UNIT_HOUR: ("hour", "h", "hours"),
    _Unit.TIME_UNIT_DAY: ("day", "d", "days"),
    _Unit.TIME_UNIT_WEEK: ("week", "w", "weeks"),
    _Unit.TIME_UNIT_MONTH: ("month", "mo", "months"),
    _Unit.TIME_UNIT_QUARTER: ("quarter", "q", "quarters"),
    _Unit.TIME_UNIT_YEAR: ("year", "y", "years"),
}
_UNITS: Final = {word: unit for unit, words in _UNIT_WORDS.items() for word in words}
_PERIODS: Final = {
    "hourly": _Unit.TIME_UNIT_HOUR,
    "daily": _Unit.TIME_UNIT_DAY,
    "weekly": _Unit.TIME_UNIT_WEEK,
    "monthly": _Unit.TIME_UNIT_MONTH,
    "quarterly": _Unit.TIME_UNIT_QUARTER,
    "yearly": _Unit.TIME_UNIT_YEAR,
}
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# Unit -> the anchors it may have, and what they are.
_ANCHORS: Final = {
    _Unit.TIME_UNIT_DAY: (0, 23, "the hour 0 to 23"),
    _Unit.TIME_UNIT_WEEK: (1, 7, "the day 1 (Monday) to 7, or mon to sun"),
    _Unit.TIME_UNIT_MONTH: (1, 28, "the day 1 to 28"),
}
_STRETCH: Final = re.compile(r"(?P<sign>[+-]?)(?P<count>[0-9]+)\s*(?P<unit>[a-z]+)", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", re.ASCII)
# Files that stand beside the zones on some machines and mean something else on each.
_NO_PLACES: Final = {"localtime", "posixrules", "Factory"}
_EXPECTED: Final = (
    "a word such as daily, monthly, 48h, 30d, lifetime, calendar:week@mon or every:30d"
)


class WindowError(ValueError):
    """A window that can't be; `field` says which part of it (of the message Window)."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def parse_window(text: str, time_zone: str = "") -> budgets_pb2.Window:
    """The window that a word means, in an IANA time zone ("" is UTC).

    Raises WindowError naming what is wrong; a window that is returned is possible.
    """
    if not isinstance(text, str):
        raise WindowError("window", f"window must be {_EXPECTED}, not a {type(text).__name__}")
    trimmed = text.strip()
    if not trimmed or len(trimmed) > MAX_WINDOW_TEXT:
        raise WindowError("window", f"window {trimmed[:40]!r} is not {_EXPECTED}")
    head, colon, rest = trimmed.partition(":")
    head = head.lower()
    if colon and head == "calendar":
        window = _calendar(rest.lower(), trimmed)
    elif colon and head == "every":
        window = _every(rest, trimmed)
    elif colon and head == "first-call":
        count, unit = _stretch(rest, trimmed)
        window = _from_first_call(count, unit)
    else:
        window = _plain(trimmed.lower(), trimmed)
    window.time_zone = time_zone
    check_window(window)
    return window


def format_window(window: budgets_pb2.Window) -> str:
    """The word for a window, the time zone left out: what `parse_window` reads back."""
    kind = window.WhichOneof("kind")
    if kind == "lifetime":
        return "lifetime"
    if kind == "calendar":
        return _calendar_word(window.calendar)
    if kind == "every":
        word = f"every:{_stretch_word(window.every.count, window.every.unit)}"
        if window.every.HasField("start_time"):
            start = window.every.start_time.ToDatetime(tzinfo=UTC)
            word += f"@{start.isoformat().replace('+00:00', 'Z')}"
        return word
    if kind == "from_first_call":
        stretch = window.from_first_call
        word = _stretch_word(stretch.count, stretch.unit)
        return f"first-call:{word}" if word == "1mo" else word
    return ""


def check_window(window: budgets_pb2.Window) -> None:
    """Raise WindowError, naming the field of Window, if the window is impossible."""
    kind = window.WhichOneof("kind")
    if kind is None:
        raise WindowError(
            "kind", "window is empty; expected calendar, every, from_first_call or lifetime"
        )
    check_time_zone(window.time_zone)
    if kind == "calendar":
        _check_calendar(window.calendar)
    elif kind == "every":
        _check_stretch("every", window.every.count, window.every.unit)
        if window.every.HasField("start_time"):
            _check_start(window.every)
    elif kind == "from_first_call":
        stretch = window.from_first_call
        _check_stretch("from_first_call", stretch.count, stretch.unit)


def check_time_zone(name: str) -> None:
    """Raise WindowError (field time_zone) if `name` is no IANA time zone; "" means UTC."""
    if not name:
        return
    if not _is_time_zone(name):
        raise WindowError(
            "time_zone", f"time zone {name[:40]!r} is unknown; expected a name like Europe/Berlin"
        )


def _is_time_zone(name: str) -> bool:
    if len(name) > MAX_TIME_ZONE_TEXT or _ZONE.fullmatch(name) is None:
        return False
    if name in _NO_PLACES:
        return False
    try:
        ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return False
    return True


def _plain(word: str, shown: str) -> budgets_pb2.Window:
    if word == "lifetime":
        return budgets_pb2.Window(lifetime=budgets_pb2.Window.Lifetime())
    if word in _PERIODS:
        return budgets_pb2.Window(calendar=budgets_pb2.Window.Calendar(unit=_PERIODS[word]))
    count, unit = _stretch(word, shown)
    if count == 1 and unit == _Unit.TIME_UNIT_MONTH:
        return budgets_pb2.Window(calendar=budgets_pb2.Window.Calendar(unit=unit))
    return _from_first_call(count, unit)


def _from_first_call(count: int, unit: _UnitValue) -> budgets_pb2.Window:
    stretch = budgets_pb2.Window.FromFirstCall(count=count, unit=unit)
    return budgets_pb2.Window(from_first_call=stretch)


def _every(rest: str, shown: str) -> budgets_pb2.Window:
    length, at, start = rest.partition("@")
    count, unit = _stretch(length, shown)
    every = budgets_pb2.Window.Every(count=count, unit=unit)
    if at:
        try:
            start_at = datetime.fromisoformat(start.strip().upper())
        except ValueError:
            start_at = None
        if start_at is None or start_at.tzinfo is None:
            raise WindowError(
                "every.start_time",
                f"start {start[:40]!r} of window {shown!r} is not an instant such as"
                " 2026-01-01T00:00:00Z",
            )
        try:
            every.start_time.FromDatetime(start_at.astimezone(UTC))
        except (OverflowError, ValueError):
            raise WindowError("every.start_time", f"start {start[:40]!r} is out of range") from None
    return budgets_pb2.Window(every=every)


def _calendar(rest: str, shown: str) -> budgets_pb2.Window:
    word, at, anchor_text = rest.partition("@")
    unit = _PERIODS.get(word.strip()) or _UNITS.get(word.strip())
    if unit is None:
        raise WindowError(
            "calendar.unit", f"window {shown!r}: {word[:20]!r} is no unit; expected minute to year"
        )
    anchor = 0
    if at:
        anchor_text = anchor_text.strip()
        if unit == _Unit.TIME_UNIT_WEEK and anchor_text[:3] in _WEEKDAYS:
            anchor = _WEEKDAYS.index(anchor_text[:3]) + 1
        elif anchor_text.isascii() and anchor_text.isdecimal() and len(anchor_text) <= 4:
            anchor = int(anchor_text)
            _check_anchor(unit, anchor)
        else:
            raise WindowError(
                "calendar.anchor", f"window {shown!r}: {anchor_text[:20]!r} is no anchor"
            )
    return budgets_pb2.Window(calendar=budgets_pb2.Window.Calendar(unit=unit, anchor=anchor))


def _stretch(text: str, shown: str) -> tuple[int, _UnitValue]:
    match = _STRETCH.fullmatch(text.strip().lower())
    if match is None:
        raise WindowError("window", f"window {shown!r} is not {_EXPECTED}")
    unit = _UNITS.get(match["unit"])
    if unit is None:
        raise WindowError(
            "unit", f"window {shown!r}: {match['unit']!r} is no unit; expected s m h d w mo q y"
        )
    # Cut before it is read: int() of a thousand digits is no use to anybody.
    digits = match["count"].lstrip("0")
    count = int(digits[:6] or "0")
    if match["sign"] == "-" or not 1 <= count <= MAX_WINDOW_UNITS or len(digits) > 6:
        raise WindowError(
            "count",
            f"window {shown!r}: the count must be 1 to {MAX_WINDOW_UNITS}, not"
            f" {match['sign'] + match['count'][:12]}",
        )
    return count, unit


def _check_calendar(calendar: budgets_pb2.Window.Calendar) -> None:
    if calendar.unit not in _UNIT_WORDS or calendar.unit == _Unit.TIME_UNIT_SECOND:
        raise WindowError(
            "calendar.unit", f"unit {_unit_name(calendar.unit)} is not minute to year"
        )
    if calendar.anchor:
        _check_anchor(calendar.unit, calendar.anchor)


def _check_anchor(unit: _UnitValue, anchor: int) -> None:
    name = _UNIT_WORDS[unit][0]
    if unit not in _ANCHORS:
        raise WindowError(
            "calendar.anchor", f"anchor {anchor}: a calendar {name} has no anchor; expected 0"
        )
    low, high, expected = _ANCHORS[unit]
    if not low <= anchor <= high:
        raise WindowError(
            "calendar.anchor", f"anchor {anchor} of a calendar {name} is not {expected}"
        )


def _check_stretch(kind: str, count: int, unit: _UnitValue) -> None:
    if not 1 <= count <= MAX_WINDOW_UNITS:
        raise WindowError(f"{kind}.count", f"count {count} is not 1 to {MAX_WINDOW_UNITS}")
    if unit not in _UNIT_WORDS:
        raise WindowError(f"{kind}.unit", f"unit {_unit_name(unit)} is not second to year")


def _check_start(every: budgets_pb2.Window.Every) -> None:
    try:
        start_at = every.start_time.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError):
        start_at = None
    if start_at is None or not EARLIEST_START <= start_at <= LATEST_START:
        raise WindowError(
            "every.start_time", f"start is not between {EARLIEST_START:%Y} and {LATEST_START:%Y}"
        )


def _calendar_word(calendar: budgets_pb2.Window.Calendar) -> str:
    period = {unit: word for word, unit in _PERIODS.items()}.get(calendar.unit)
    if calendar.anchor == 0 and period:
        return period
    word = f"calendar:{_unit_name(calendar.unit)}"
    if not calendar.anchor:
        return word
    if calendar.unit == _Unit.TIME_UNIT_WEEK and 1 <= calendar.anchor <= len(_WEEKDAYS):
        return f"{word}@{_WEEKDAYS[calendar.anchor - 1]}"
    return f"{word}@{calendar.anchor}"


def _stretch_word(count: int, unit: _UnitValue) -> str:
    return f"{count}{_UNIT_WORDS[unit][1] if unit in _UNIT_WORDS else '?'}"


def _unit_name(unit: _UnitValue) -> str:
    return _UNIT_WORDS[unit][0] if unit in _UNIT_WORDS else str(int(unit))
