"""What a rate or a fee may depend on besides the call: the time of day, and what was used before.

A `Window` says when cheaper rates hold, a `FreeQuota` how much of a meter costs nothing. Both are
data of a price; who charges says what time it is and what was already used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

MAX_NAME_LENGTH: Final = 256
MAX_SPANS: Final = 32
MAX_FREE: Final = 10**12

_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_UTC: Final = "UTC"
_MINUTE: Final = timedelta(minutes=1)

# Every pattern of hours and weekdays has come round after a week, changes of the clock included.
_ALL_PHASES: Final = timedelta(days=8)


class PriceError(ValueError):
    """A price that can't be: the message names the field, the value and what was expected."""


class Span(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stretch of the day: from `start` to `end` ("HH:MM", the end is outside) on some days.

    It wraps past midnight where the end comes before the start, and is the whole day where both
    are equal. `zone` is the clock of the hours. `weekdays` are ISO numbers, 1 is Monday, none is
    every day; it is the day of the moment itself that counts, on the calendar of `weekday_zone`
    (empty: that of `zone`), not the day on which a wrapping span began.
    """

    start: str
    end: str
    weekdays: tuple[int, ...] = ()
    zone: str = _UTC
    weekday_zone: str = ""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if _CLOCK.fullmatch(value) is None:
                raise PriceError(f"{name} of a window is {value[:20]!r}; expected HH:MM")
        for day in self.weekdays:
            if not 1 <= day <= 7:
                raise PriceError(f"weekdays of a window has {day}; expected 1 (Monday) to 7")
        for name in ("zone", "weekday_zone"):
            _check_zone(name, getattr(self, name))

    def holds(self, at: datetime) -> bool:
        """Whether the moment `at` (aware) is inside."""
        there = at.astimezone(ZoneInfo(self.zone))
        if self.weekdays:
            day = there
            if self.weekday_zone:
                day = at.astimezone(ZoneInfo(self.weekday_zone))
            if day.isoweekday() not in self.weekdays:
                return False
        clock = f"{there.hour:02}:{there.minute:02}"
        if self.start < self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end


class Window(msgspec.Struct, frozen=True):
    """When a price's rates of this window hold: inside any of `spans`."""

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.spans) <= MAX_SPANS:
            raise PriceError(f"a window has {len(self.spans)} spans; expected 1..{MAX_SPANS}")

    def is_open(self, at: datetime) -> bool:
        """Whether the moment `at` (aware) is inside."""
        return any(span.holds(at) for span in self.spans)


class FreeQuota(msgspec.Struct, frozen=True, omit_defaults=True):
    """So many of `meter` cost nothing in every `period`.

    That of a request is the request's own. Those of a day or month are counted over the provider's
    account; `group` names what is counted together: models with the same group share one quota.
    Only the account knows how many are left of those, so a charge takes them as used up unless
    told otherwise.
    """

    meter: str
    count: int
    period: Literal["request", "day", "month"]
    group: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MAX_FREE:
            raise PriceError(f"count of a free quota is {self.count}; expected 0..{MAX_FREE}")
        if len(self.group) > MAX_NAME_LENGTH:
            raise PriceError(f"group {self.group[:40]!r} has over {MAX_NAME_LENGTH} characters")

    def left(self, used: int) -> int:
        """What is still free after `used` of it in the period."""
        return max(0, self.count - used)


def open_window(windows: Mapping[str, Window], at: datetime) -> str:
    """The name of the first window that holds at `at`; "" is none. Raises ValueError."""
    check_moment("at", at)
    for name, window in windows.items():
        if window.is_open(at):
            return name
    return ""


def windows_between(
    windows: Mapping[str, Window], since: datetime, until: datetime
) -> frozenset[str]:
    """Every window, "" included, that holds at some moment of [since, until]. Raises ValueError."""
    check_moment("at", since)
    check_moment("until", until)
    if until - since >= _ALL_PHASES:
        return frozenset({"", *windows})
    # Windows begin and end on whole minutes of every zone's clock.
    moment = since.replace(second=0, microsecond=0)
    found = set()
    while moment <= until:
        found.add(open_window(windows, moment))
        moment += _MINUTE
    return frozenset(found)


def check_moment(name: str, moment: datetime) -> None:
    """Raise ValueError unless `moment` says which zone it is in."""
    if moment.tzinfo is None:
        raise ValueError(f"{name} is {moment}; expected a time with a zone")


def _check_zone(name: str, zone: str) -> None:
    if not zone and name == "weekday_zone":
        return
    try:
        ZoneInfo(zone[:MAX_NAME_LENGTH])
    except (OSError, ValueError, ZoneInfoNotFoundError):
        raise PriceError(
            f"{name} of a window is {zone[:40]!r}; expected an IANA name like Asia/Shanghai"
        ) from None
