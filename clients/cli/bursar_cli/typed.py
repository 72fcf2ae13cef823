"""What people type, read strictly: names, amounts, times, windows, labels.

Whatever can't be understood raises UsageFault naming the option, the value and what was expected;
nothing of it is sent.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from bursar.money import MoneyError, parse_amount
from bursar.v1 import budgets_pb2, money_pb2, reports_pb2
from bursar.windows import WindowError, check_time_zone, parse_window

# Longer ones are cut in messages: the beginning says what was meant.
MOST_SHOWN: Final = 60
# "9999w" is two centuries: longer stretches are typing mistakes, and no date can hold them.
MOST_DIGITS_OF_A_STRETCH: Final = 6

_STRETCH_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_STRETCH: Final = re.compile(r"(?P<count>[0-9]+)(?P<unit>[smhdw])", re.ASCII)

# Collection -> the words that people put before a slash.
_COLLECTIONS: Final = {
    "organizations": ("org", "organization", "organizations"),
    "teams": ("team", "teams"),
    "projects": ("project", "projects"),
    "users": ("user", "users"),
    "keys": ("key", "keys"),
    "budgets": ("budget", "budgets"),
    "raises": ("raise", "raises"),
    "contracts": ("contract", "contracts"),
    "reratings": ("rerating", "reratings"),
    "sidecars": ("sidecar", "sidecars"),
}
_SCOPES: Final = ("organizations", "teams", "projects", "users", "keys")
PLATFORM: Final = "organizations/platform"

# What `spend show --by` understands, in the order of the vocabulary.
DIMENSIONS: Final = {
    "org": reports_pb2.SPEND_DIMENSION_ORGANIZATION,
    "team": reports_pb2.SPEND_DIMENSION_TEAM,
    "project": reports_pb2.SPEND_DIMENSION_PROJECT,
    "user": reports_pb2.SPEND_DIMENSION_USER,
    "key": reports_pb2.SPEND_DIMENSION_KEY,
    "customer": reports_pb2.SPEND_DIMENSION_CUSTOMER,
    "app": reports_pb2.SPEND_DIMENSION_APP,
    "model": reports_pb2.SPEND_DIMENSION_MODEL,
    "provider": reports_pb2.SPEND_DIMENSION_PROVIDER,
    "tag": reports_pb2.SPEND_DIMENSION_TAG,
    "day": reports_pb2.SPEND_DIMENSION_DAY,
}
MOST_DIMENSIONS: Final = 3


class UsageFault(ValueError):
    """Something typed that can't be understood. `option` is where it was typed."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def shown(text: str) -> str:
    """The text in quotes, cut where it is long."""
    return repr(text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "...")


def resource_name(collection: str, text: str, option: str) -> str:
    """Gives "teams/search" for "search", "team/search" or "teams/search"; "" stays ""."""
    if not text:
        return ""
    head, slash, rest = text.partition("/")
    if not slash:
        return f"{collection}/{text}"
    if head in _COLLECTIONS[collection] and rest:
        return f"{collection}/{rest}"
    raise UsageFault(option, f"{shown(text)} is not a name like {collection}/NAME, or NAME alone")


def scope_name(text: str) -> str:
    """What a budget is for: "platform", "org/acme", "team/search", "key/k-1" ..."""
    if text == "platform":
        return PLATFORM
    head, slash, rest = text.partition("/")
    for collection in _SCOPES:
        if slash and rest and head in _COLLECTIONS[collection]:
            return f"{collection}/{rest}"
    raise UsageFault(
        "--scope",
        f"{shown(text)} is not a scope; expected platform, org/NAME, team/NAME, project/NAME, "
        "user/NAME or key/NAME",
    )


def amount(text: str, currency: str, option: str) -> money_pb2.Money:
    """ "12.50", or "12.50EUR" with a currency of its own."""
    try:
        parsed = parse_amount(text, currency)
    except MoneyError as error:
        raise UsageFault(option, str(error)) from None
    return money_pb2.Money(nanos=parsed.nanos, currency=parsed.currency)


def has_currency(text: str) -> bool:
    """Whether an amount was typed with its currency."""
    return text.strip()[-1:].isalpha()


def window(text: str, time_zone: str) -> budgets_pb2.Window:
    """A word such as monthly, 1d or lifetime."""
    try:
        return parse_window(text, time_zone)
    except WindowError as error:
        option = "--time-zone" if error.field == "time_zone" else "--window"
        raise UsageFault(option, str(error)) from None


def zone(name: str) -> tzinfo:
    """An IANA time zone; "" is UTC."""
    try:
        check_time_zone(name)
    except WindowError as error:
        raise UsageFault("--time-zone", str(error)) from None
    return ZoneInfo(name) if name else UTC


def labels(pairs: Iterable[str] | None, option: str) -> dict[str, str]:
    """`name=value` pairs, a name given once; empty text alone means none."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageFault(option, f"{shown(pair)} is not of the form name=value")
        if key.strip() in found:
            raise UsageFault(option, f"{shown(key.strip())} is given twice")
        found[key.strip()] = value.strip()
    return found


def words(values: Iterable[str] | None) -> list[str]:
    """Values given one by one or with commas between: ["a,b", "c"] are three."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def dimensions(values: Sequence[str] | None) -> list[str]:
    """The checked names of `--by`, in the order given."""
    found = words(values)
    for word in found:
        if word not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise UsageFault("--by", f"{shown(word)} is not one of {known}")
    if len(set(found)) != len(found):
        raise UsageFault("--by", "each dimension is given once")
    if len(found) > MOST_DIMENSIONS:
        raise UsageFault("--by", f"at most {MOST_DIMENSIONS} dimensions, not {len(found)}")
    return found


def later(start: datetime, text: str, option: str) -> datetime:
    """When something ends that lasts for 30m, 2h or 7d from `start`."""
    match = _STRETCH.fullmatch(text.strip())
    if match is None or not int(match["count"]):
        raise UsageFault(option, f"{shown(text)} is no stretch of time; expected 30m, 2h or 7d")
    return _instant(text, option, start, UTC, direction=1)


def past_instant(text: str, option: str, now: datetime, zone: tzinfo) -> datetime:
    """When something began or ended: 7d and -7d are so long ago, a date begins at midnight."""
    word = _without_sign(text, "-")
    return _in_utc(text, option, _instant(word, option, now, zone, direction=-1))


def coming_instant(text: str, option: str, now: datetime, zone: tzinfo) -> datetime:
    """When something will end: 90d and +90d are so long from now."""
    word = _without_sign(text, "+")
    when = _in_utc(text, option, _instant(word, option, now, zone, direction=1))
    if when <= now:
        raise UsageFault(option, f"{shown(text)} is not in the future")
    return when


def any_instant(text: str, option: str, now: datetime, zone: tzinfo) -> datetime:
    """A date, a date and time, or a word such as now; past or to come. A stretch would leave open
    in which direction, so it is none: `+30d` is from now, `-7d` ago."""
    word = text.strip()
    direction = {"+": 1, "-": -1}.get(word[:1], 0)
    if not direction and _STRETCH.fullmatch(word):
        raise UsageFault(option, f"{shown(text)}: say +{word} from now, or -{word} ago")
    rest = word[1:] if direction else word
    if direction and not _STRETCH.fullmatch(rest):
        raise UsageFault(option, f"{shown(text)} is no time; expected +30d, -7d, a date")
    return _in_utc(text, option, _instant(rest, option, now, zone, direction=direction or 1))


def _without_sign(text: str, sign: str) -> str:
    """The stretch of `-7d` or `+7d` where that is the only way it can go; else the text itself."""
    rest = text.strip().removeprefix(sign)
    return rest if _STRETCH.fullmatch(rest) else text


def _in_utc(text: str, option: str, when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise UsageFault(option, f"{shown(text)} is out of range") from None


def _instant(text: str, option: str, now: datetime, zone: tzinfo, direction: int) -> datetime:
    word = text.strip()
    midnight = datetime.combine(now.astimezone(zone).date(), time(), zone)
    if word == "now":
        return now
    if word == "today":
        return midnight
    if word == "yesterday":
        return datetime.combine(midnight.date() - timedelta(days=1), time(), zone)
    if (stretch := _STRETCH.fullmatch(word)) is not None:
        if len(stretch["count"]) > MOST_DIGITS_OF_A_STRETCH:
            raise UsageFault(option, f"{shown(text)} is too long a time")
        seconds = int(stretch["count"]) * _STRETCH_SECONDS[stretch["unit"]]
        try:
            return now + direction * timedelta(seconds=seconds)
        except OverflowError:
            raise UsageFault(option, f"{shown(text)} is too long a time") from None
    try:
        if len(word) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(word), time(), zone)
        when = datetime.fromisoformat(word)
    except ValueError:
        raise UsageFault(
            option,
            f"{shown(text)} is no time; expected a date (2026-01-31), a date and time "
            "(2026-01-31T12:00), a stretch (7d, 24h, 30m), today, yesterday or now",
        ) from None
    return when if when.tzinfo is not None else when.replace(tzinfo=zone)
