"""One value of a table or of a CSV file: how amounts, times, shares and lists are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from bursar.money import format_nanos
from bursar.v1 import money_pb2

# Ten characters show a tenth each, and leave room for the other columns on 80.
BAR_WIDTH: Final = 10
# Below this share people may be calm; above the second they should look.
CALM_PERCENT: Final = 75
FULL_PERCENT: Final = 100
# Further away than this, a date says more than a number of days.
FAR: Final = timedelta(days=90)

_STEPS: Final = ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"))


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a whole is taken; both in the same unit. A `plain` one warns of nothing."""

    part: int
    whole: int
    plain: bool = False

    @property
    def percent(self) -> int:
        """Whole percent, rounded down; of nothing everything is taken."""
        if self.whole <= 0:
            return FULL_PERCENT
        return max(0, self.part) * 100 // self.whole

    @property
    def bar(self) -> str:
        """Filled and empty blocks."""
        filled = min(BAR_WIDTH, self.percent * BAR_WIDTH // 100)
        return "█" * filled + "░" * (BAR_WIDTH - filled)

    @property
    def style(self) -> str:
        """The colour that the share deserves."""
        if self.plain:
            return ""
        if self.percent >= FULL_PERCENT:
            return "red"
        return "green" if self.percent < CALM_PERCENT else "yellow"


@dataclass(frozen=True, slots=True)
class Column:
    """One fact about a message: its heading, and how to get it.

    `value` gives text, a number, a bool, a Money, a Timestamp, a Share, a list of texts, or None.
    A `wide` column is left out of tables of many, for want of room; `name` is what CSV calls it
    where the heading is too short for that.
    """

    title: str
    value: Callable[[Any], Any]
    wide: bool = False
    name: str = ""

    @property
    def field(self) -> str:
        """Its name in CSV: "Created" is "created", "In doubt" is "in_doubt"."""
        return self.name or self.title.lower().replace(" ", "_").replace("-", "_")


def printable(text: str) -> str:
    """Text with whatever would steer a terminal made visible: names come from anywhere."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def instant(stamp: Timestamp) -> datetime:
    """The time of a proto, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def when_set(message: Any, field: str) -> Any:
    """A sub-message if it is set, else None."""
    return getattr(message, field) if message.HasField(field) else None


def decimals(amounts: Sequence[money_pb2.Money]) -> int:
    """How many decimals a column needs so that all its amounts are exact and aligned."""
    return max((len(format_nanos(each.nanos).partition(".")[2]) for each in amounts), default=2)


def money_text(amount: money_pb2.Money, places: int = 2) -> str:
    """Gives "12.50 USD", exact, with at least `places` decimals."""
    whole, _, fraction = format_nanos(amount.nanos).partition(".")
    return f"{whole}.{fraction.ljust(places, '0')} {amount.currency}".rstrip()


def relative(then: datetime, now: datetime) -> str:
    """Gives "3 min ago", "in 9 d", or a date where that says more."""
    distance = abs(then - now)
    if distance >= FAR:
        return f"{then:%Y-%m-%d}"
    seconds = int(distance.total_seconds())
    if seconds == 0:
        return "now"
    text = f"{_nearest(seconds, 86_400)} d"
    for below, size, unit in _STEPS:
        if seconds < below:
            text = f"{_nearest(seconds, size)} {unit}"
            break
    return f"{text} ago" if then < now else f"in {text}"


def _nearest(seconds: int, size: int) -> int:
    return (seconds + size // 2) // size


def as_text(value: Any, now: datetime, places: int = 2) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, money_pb2.Money):
        return money_text(value, places)
    if isinstance(value, Timestamp):
        return relative(instant(value), now)
    if isinstance(value, Share):
        return f"{value.bar} {value.percent:>3} %"
    if isinstance(value, str | Decimal):
        return printable(str(value))
    return printable(", ".join(value))


def as_fields(value: Any, name: str) -> dict[str, str]:
    """A value for CSV, exact: an amount is two fields, the number and its currency."""
    if value is None:
        return {name: ""}
    if isinstance(value, bool):
        return {name: "true" if value else "false"}
    if isinstance(value, money_pb2.Money):
        return {name: format_nanos(value.nanos), f"{name}_currency": value.currency}
    if isinstance(value, Timestamp):
        return {name: value.ToJsonString()}
    if isinstance(value, Share):
        return {f"{name}_percent": str(value.percent)}
    if isinstance(value, str | int | Decimal):
        return {name: str(value)}
    return {name: ";".join(value)}


def is_number(value: Any) -> bool:
    """Whether a column of it stands to the right."""
    return isinstance(value, int | money_pb2.Money) and not isinstance(value, bool)
