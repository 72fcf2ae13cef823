"""The words for windows that people type."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.v1 import budgets_pb2
from bursar.windows import (
    MAX_WINDOW_UNITS,
    WindowError,
    check_time_zone,
    check_window,
    format_window,
    parse_window,
)

Unit = budgets_pb2.TimeUnit
Window = budgets_pb2.Window


def calendar(unit: int, anchor: int = 0) -> Window:
    return Window(calendar=Window.Calendar(unit=unit, anchor=anchor))  # type: ignore[arg-type]  # a number, from a table


def first_call(count: int, unit: int) -> Window:
    return Window(from_first_call=Window.FromFirstCall(count=count, unit=unit))  # type: ignore[arg-type]  # as above


def every(count: int, unit: int, start: str = "") -> Window:
    window = Window(every=Window.Every(count=count, unit=unit))  # type: ignore[arg-type]  # as above
    if start:
        window.every.start_time.FromDatetime(datetime.fromisoformat(start).astimezone(UTC))
    return window


@pytest.mark.parametrize(
    ("word", "window"),
    [
        ("lifetime", Window(lifetime=Window.Lifetime())),
        ("hourly", calendar(Unit.TIME_UNIT_HOUR)),
        ("daily", calendar(Unit.TIME_UNIT_DAY)),
        ("weekly", calendar(Unit.TIME_UNIT_WEEK)),
        ("monthly", calendar(Unit.TIME_UNIT_MONTH)),
        ("quarterly", calendar(Unit.TIME_UNIT_QUARTER)),
        ("yearly", calendar(Unit.TIME_UNIT_YEAR)),
        ("1mo", calendar(Unit.TIME_UNIT_MONTH)),
        ("1month", calendar(Unit.TIME_UNIT_MONTH)),
        ("30s", first_call(30, Unit.TIME_UNIT_SECOND)),
        ("5m", first_call(5, Unit.TIME_UNIT_MINUTE)),
        ("1h", first_call(1, Unit.TIME_UNIT_HOUR)),
        ("24h", first_call(24, Unit.TIME_UNIT_HOUR)),
        ("48h", first_call(48, Unit.TIME_UNIT_HOUR)),
        ("1d", first_call(1, Unit.TIME_UNIT_DAY)),
        ("7d", first_call(7, Unit.TIME_UNIT_DAY)),
        ("30d", first_call(30, Unit.TIME_UNIT_DAY)),
        ("1w", first_call(1, Unit.TIME_UNIT_WEEK)),
        ("3mo", first_call(3, Unit.TIME_UNIT_MONTH)),
        ("2 weeks", first_call(2, Unit.TIME_UNIT_WEEK)),
        ("first-call:1mo", first_call(1, Unit.TIME_UNIT_MONTH)),
        ("calendar:minute", calendar(Unit.TIME_UNIT_MINUTE)),
        ("calendar:week@7", calendar(Unit.TIME_UNIT_WEEK, 7)),
        ("calendar:week@sunday", calendar(Unit.TIME_UNIT_WEEK, 7)),
        ("calendar:month@15", calendar(Unit.TIME_UNIT_MONTH, 15)),
        ("calendar:daily@6", calendar(Unit.TIME_UNIT_DAY, 6)),
        ("every:30d", every(30, Unit.TIME_UNIT_DAY)),
        (
            "every:30d@2026-01-01T00:00:00Z",
            every(30, Unit.TIME_UNIT_DAY, "2026-01-01T00:00:00+00:00"),
        ),
        (
            "every:1y@2026-01-01T00:00:00+01:00",
            every(1, Unit.TIME_UNIT_YEAR, "2025-12-31T23:00:00+00:00"),
        ),
        ("  Monthly ", calendar(Unit.TIME_UNIT_MONTH)),
    ],
)
def test_a_word_means_what_it_says(word: str, window: Window) -> None:
    assert parse_window(word) == window
    assert parse_window(format_window(window)) == window


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("", "window"),
        ("fortnightly", "window"),
        ("1.5d", "window"),
        ("d", "window"),
        ("monthly@3", "window"),
        ("x" * 200, "window"),
        ("0d", "count"),
        ("-1d", "count"),
        (f"{MAX_WINDOW_UNITS + 1}d", "count"),
        ("9" * 70 + "d", "count"),
        ("1parsec", "unit"),
        ("every:", "window"),
        ("every:0d", "count"),
        ("every:1d@", "every.start_time"),
        ("every:1d@tomorrow", "every.start_time"),
        ("every:1d@2026-01-01T00:00:00", "every.start_time"),
        ("every:1d@1900-01-01T00:00:00Z", "every.start_time"),
        ("calendar:", "calendar.unit"),
        ("calendar:second", "calendar.unit"),
        ("calendar:month@0", "calendar.anchor"),
        ("calendar:month@29", "calendar.anchor"),
        ("calendar:week@8", "calendar.anchor"),
        ("calendar:day@24", "calendar.anchor"),
        ("calendar:day@noon", "calendar.anchor"),
        ("calendar:year@1", "calendar.anchor"),
    ],
)
def test_impossible_words_are_refused_by_field(word: str, field: str) -> None:
    with pytest.raises(WindowError) as refused:
        parse_window(word)
    assert refused.value.field == field
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "name", ["Mars/Base", "../../etc/passwd", "/etc/localtime", "localtime", "Europe", "A" * 65]
)
def test_unknown_time_zones_are_refused(name: str) -> None:
    with pytest.raises(WindowError) as refused:
        parse_window("daily", name)
    assert refused.value.field == "time_zone"
    assert parse_window("daily", "Europe/Berlin").time_zone == "Europe/Berlin"
    check_time_zone("")


@given(st.text(max_size=100))
def test_any_text_is_a_window_or_a_fault(text: str) -> None:
    try:
        window = parse_window(text)
    except WindowError:
        return
    check_window(window)


COUNTS = st.integers(1, MAX_WINDOW_UNITS)
UNITS = st.sampled_from(Unit.values()[1:])


@given(
    st.one_of(
        st.builds(calendar, st.sampled_from(Unit.values()[2:])),
        st.builds(calendar, st.just(Unit.TIME_UNIT_DAY), st.integers(1, 23)),
        st.builds(calendar, st.just(Unit.TIME_UNIT_WEEK), st.integers(1, 7)),
        st.builds(calendar, st.just(Unit.TIME_UNIT_MONTH), st.integers(1, 28)),
        st.builds(first_call, COUNTS, UNITS),
        st.builds(every, COUNTS, UNITS),
        st.builds(
            lambda count, unit, at: every(count, unit, f"{at.isoformat()}+00:00"),
            COUNTS,
            UNITS,
            st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 31)),  # noqa: DTZ001  the zone is added
        ),
    )
)
def test_what_is_written_is_read_back(window: Window) -> None:
    check_window(window)
    assert parse_window(format_window(window)) == window


@pytest.mark.parametrize(
    ("window", "field"),
    [
        (Window(), "kind"),
        (calendar(0), "calendar.unit"),
        (calendar(1), "calendar.unit"),
        (calendar(99), "calendar.unit"),
        (calendar(Unit.TIME_UNIT_MONTH, -1), "calendar.anchor"),
        (first_call(0, 4), "from_first_call.count"),
        (first_call(1, 0), "from_first_call.unit"),
        (every(-5, 4), "every.count"),
        (every(1, 77), "every.unit"),
    ],
)
def test_impossible_messages_are_refused_by_field(window: Window, field: str) -> None:
    with pytest.raises(WindowError) as refused:
        check_window(window)
    assert refused.value.field == field
