"""Times, names and cells: what people type and read."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import money_pb2
from bursar_cli import typed
from bursar_cli.cells import Share, as_fields, as_text, decimals, money_text, printable, relative

NOW = datetime(2026, 3, 15, 12, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("-7d", NOW - timedelta(days=7)),
        ("24h", NOW - timedelta(hours=24)),
        ("30m", NOW - timedelta(minutes=30)),
        ("now", NOW),
        ("today", datetime(2026, 3, 15, tzinfo=BERLIN)),
        ("yesterday", datetime(2026, 3, 14, tzinfo=BERLIN)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=BERLIN)),
        ("2026-01-31T10:00", datetime(2026, 1, 31, 10, tzinfo=BERLIN)),
        ("2026-01-31T10:00:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_times_in_the_past(text: str, expected: datetime) -> None:
    assert typed.past_instant(text, "--since", NOW, BERLIN) == expected


def test_midnight_follows_the_clock_change() -> None:
    sunday = datetime(2026, 3, 29, 20, tzinfo=UTC)
    start = typed.past_instant("today", "--since", sunday, BERLIN)
    assert start.astimezone(UTC) == datetime(2026, 3, 28, 23, tzinfo=UTC)


def test_times_to_come() -> None:
    for text in ("90d", "+90d"):
        assert typed.coming_instant(text, "--expires", NOW, UTC) == NOW + timedelta(days=90)
    with pytest.raises(typed.UsageFault, match="not in the future"):
        typed.coming_instant("2026-03-15", "--expires", NOW, UTC)
    with pytest.raises(typed.UsageFault, match="is no time"):
        typed.coming_instant("-90d", "--expires", NOW, UTC)


@pytest.mark.parametrize(
    "text", ["", "7", "d7", "+7d", "--7d", "-now", "7.5d", "tomorrow-ish", "٧d", "9999999w"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(typed.UsageFault) as caught:
        typed.past_instant(text, "--since", NOW, UTC)
    assert caught.value.option == "--since"


def test_names_with_and_without_their_collection() -> None:
    for text in ("b-1", "budget/b-1", "budgets/b-1"):
        assert typed.resource_name("budgets", text, "NAME") == "budgets/b-1"
    assert typed.resource_name("teams", "", "--team") == ""
    for text in ("keys/b-1", "budgets/", "a/b/c"):
        with pytest.raises(typed.UsageFault, match="is not a name like budgets/NAME"):
            typed.resource_name("budgets", text, "NAME")


def test_values_with_commas_or_repeated() -> None:
    assert typed.words(["a, b", "c"]) == ["a", "b", "c"]
    assert typed.words([""]) == []
    assert typed.words(None) == []


def test_amounts_of_a_column_are_exact_and_aligned() -> None:
    amounts = [money_pb2.Money(nanos=n, currency="USD") for n in (12_500_000_000, 15_000)]
    places = decimals(amounts)
    assert [money_text(each, places) for each in amounts] == ["12.500000 USD", "0.000015 USD"]
    assert money_text(amounts[0]) == "12.50 USD"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (-12, "12 s ago"),
        (-180, "3 min ago"),
        (-7200, "2 h ago"),
        (-3 * 86_400, "3 d ago"),
        (9 * 86_400, "in 9 d"),
        (200 * 86_400, "2026-10-01"),
    ],
)
def test_relative_times(seconds: int, text: str) -> None:
    assert relative(NOW + timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("part", "whole", "bar", "percent", "style"),
    [
        (0, 10, "░░░░░░░░░░", 0, "green"),
        (999, 1000, "█████████░", 99, "yellow"),
        (10, 10, "██████████", 100, "red"),
        (25, 10, "██████████", 250, "red"),
        (0, 0, "██████████", 100, "red"),
        (-5, 10, "░░░░░░░░░░", 0, "green"),
    ],
)
def test_shares(part: int, whole: int, bar: str, percent: int, style: str) -> None:
    share = Share(part, whole)
    assert (share.bar, share.percent, share.style) == (bar, percent, style)


def test_cells_for_people_and_for_programs() -> None:
    stamp = Timestamp(seconds=int(NOW.timestamp()) - 60)
    assert as_text(stamp, NOW) == "1 min ago"
    assert as_fields(stamp, "created") == {"created": "2026-03-15T12:29:00Z"}
    assert as_text(12_345, NOW) == "12,345"
    assert as_fields(12_345, "calls") == {"calls": "12345"}
    assert as_fields(["a", "b"], "tags") == {"tags": "a;b"}
    assert as_text(["a", "b\n"], NOW) == "a, b\\n"
    assert as_fields(None, "x") == {"x": ""}


def test_nothing_steers_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\u202ec") == "a\\x1b]0;title\\x07b\\u202ec"
