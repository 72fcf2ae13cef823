"""Windows of budgets: they tile time, hold now, and follow the calendar of their time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar_server.budgets.rules import EARLIEST, BudgetWindowSpan, WindowSpec, window_at

# Zones with an hour of summer time, half an hour of it, changes at midnight, a skipped day, a
# quarter of an hour of offset, and none of all that.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Africa/Cairo",
)
CREATED_AT = datetime(2024, 1, 31, 13, 45, 12, 345678, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def span(spec: WindowSpec, now: str, created_at: datetime = CREATED_AT) -> BudgetWindowSpan:
    return window_at(spec, at(now), created_at=created_at)


def calendar(unit: str, zone: str = "UTC", anchor: int = 0) -> WindowSpec:
    return WindowSpec(kind="calendar", unit=unit, anchor=anchor, time_zone=zone)  # type: ignore[arg-type]  # any word, as a test writes it


def every(count: int, unit: str, start: str | None, zone: str = "UTC") -> WindowSpec:
    return WindowSpec(
        kind="every",
        unit=unit,  # type: ignore[arg-type]  # any word, as a test writes it
        count=count,
        start_at=at(start) if start else None,
        time_zone=zone,
    )


@pytest.mark.parametrize(
    ("spec", "now", "start", "end"),
    [
        (calendar("minute"), "2026-03-04T05:06:07Z", "2026-03-04T05:06Z", "2026-03-04T05:07Z"),
        (calendar("hour"), "2026-03-04T05:00:00Z", "2026-03-04T05:00Z", "2026-03-04T06:00Z"),
        (calendar("day"), "2026-03-04T05:06:07Z", "2026-03-04T00:00Z", "2026-03-05T00:00Z"),
        (
            calendar("day", anchor=6),
            "2026-03-04T05:06:07Z",
            "2026-03-03T06:00Z",
            "2026-03-04T06:00Z",
        ),
        (calendar("week"), "2026-03-04T05:06:07Z", "2026-03-02T00:00Z", "2026-03-09T00:00Z"),
        (
            calendar("week", anchor=7),
            "2026-03-07T23:59:59Z",
            "2026-03-01T00:00Z",
            "2026-03-08T00:00Z",
        ),
        (
            calendar("week", anchor=1),
            "2026-03-04T05:06:07Z",
            "2026-03-02T00:00Z",
            "2026-03-09T00:00Z",
        ),
        (calendar("month"), "2024-02-29T23:59:59Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        (
            calendar("month", anchor=15),
            "2026-01-14T00:00:00Z",
            "2025-12-15T00:00Z",
            "2026-01-15T00:00Z",
        ),
        (calendar("quarter"), "2026-05-14T00:00:00Z", "2026-04-01T00:00Z", "2026-07-01T00:00Z"),
        (calendar("year"), "2026-12-31T23:59:59Z", "2026-01-01T00:00Z", "2027-01-01T00:00Z"),
        # The zone's own days: 23:30 UTC on the 3rd is the 4th in Berlin.
        (
            calendar("day", "Europe/Berlin"),
            "2026-03-03T23:30:00Z",
            "2026-03-03T23:00Z",
            "2026-03-04T23:00Z",
        ),
        (
            calendar("hour", "Asia/Kathmandu"),
            "2026-03-03T23:30:00Z",
            "2026-03-03T23:15Z",
            "2026-03-04T00:15Z",
        ),
        (
            calendar("month", "America/New_York"),
            "2026-04-01T03:59:59Z",
            "2026-03-01T05:00Z",
            "2026-04-01T04:00Z",
        ),
    ],
)
def test_calendar_windows(spec: WindowSpec, now: str, start: str, end: str) -> None:
    assert span(spec, now) == (at(start), at(end))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00:00Z", 23),
        ("Europe/Berlin", "2026-10-25T12:00:00Z", 25),
        ("Europe/Berlin", "2026-06-01T12:00:00Z", 24),
        ("America/New_York", "2026-03-08T12:00:00Z", 23),
        ("America/New_York", "2026-11-01T12:00:00Z", 25),
        # Midnight itself is jumped over: the day begins at one o'clock.
        ("America/Sao_Paulo", "2018-11-04T12:00:00Z", 23),
        # Midnight is shown twice: the day begins at the first.
        ("America/Havana", "2026-11-01T12:00:00Z", 25),
    ],
)
def test_days_last_as_long_as_the_clocks_say(zone: str, day: str, hours: int) -> None:
    start, end = span(calendar("day", zone), day)
    assert end is not None
    assert end - start == timedelta(hours=hours)


def test_a_day_that_begins_in_a_gap_begins_with_the_jump() -> None:
    start, _ = span(calendar("day", "America/Sao_Paulo"), "2018-11-04T12:00:00Z")
    assert start.astimezone(ZoneInfo("America/Sao_Paulo")).isoformat() == (
        "2018-11-04T01:00:00-02:00"
    )


def test_a_boundary_in_a_gap_is_the_instant_of_the_jump() -> None:
    start, end = span(calendar("day", "Europe/Berlin", anchor=2), "2026-03-29T10:00:00Z")
    assert (start, end) == (at("2026-03-29T01:00Z"), at("2026-03-30T00:00Z"))


def test_a_boundary_shown_twice_is_the_first_of_the_two() -> None:
    start, end = span(calendar("day", "Europe/Berlin", anchor=2), "2026-10-25T10:00:00Z")
    assert (start, end) == (at("2026-10-25T00:00Z"), at("2026-10-26T01:00Z"))


def test_a_skipped_day_is_no_window() -> None:
    before = span(calendar("day", "Pacific/Apia"), "2011-12-30T09:59:59Z")
    after = span(calendar("day", "Pacific/Apia"), "2011-12-30T10:00:00Z")
    assert before.end_at == after.start_at == at("2011-12-30T10:00Z")
    assert before.start_at == at("2011-12-29T10:00Z")


def test_hours_where_the_clocks_change_by_half_of_one() -> None:
    spec = calendar("hour", "Australia/Lord_Howe")
    # At 02:00 (15:30 UTC) the clocks jump to 02:30: the next full hour is half an hour away.
    assert span(spec, "2026-10-03T15:00:00Z") == (at("2026-10-03T14:30Z"), at("2026-10-03T16:00Z"))
    assert span(spec, "2026-10-03T15:45:00Z") == (at("2026-10-03T14:30Z"), at("2026-10-03T16:00Z"))
    assert span(spec, "2026-10-03T16:00:00Z") == (at("2026-10-03T16:00Z"), at("2026-10-03T17:00Z"))


def test_both_hours_shown_twice_are_hours() -> None:
    spec = calendar("hour", "Europe/Berlin")
    for hour in range(6):
        start = at("2026-10-24T22:00Z") + timedelta(hours=hour)
        assert window_at(spec, start, created_at=CREATED_AT) == (start, start + timedelta(hours=1))


@pytest.mark.parametrize(
    ("spec", "now", "start", "end"),
    [
        (every(48, "hour", "2026-01-01T00:00Z"), "2026-01-04T12:00Z", "2026-01-03T00:00Z", 2),
        (every(30, "day", "2026-01-01T09:30Z"), "2026-01-31T09:30Z", "2026-01-31T09:30Z", 30),
        (every(2, "week", "2026-01-01T00:00Z"), "2026-01-14T23:59Z", "2026-01-01T00:00Z", 14),
        # The 31st is clamped in February and comes back in March.
        (every(1, "month", "2026-01-31T00:00Z"), "2026-03-01T00:00Z", "2026-02-28T00:00Z", 31),
        (every(1, "month", "2026-01-31T00:00Z"), "2026-04-01T00:00Z", "2026-03-31T00:00Z", 30),
        (every(1, "year", "2024-02-29T00:00Z"), "2025-03-01T00:00Z", "2025-02-28T00:00Z", 365),
        (every(4, "year", "2024-02-29T00:00Z"), "2028-02-29T00:00Z", "2028-02-29T00:00Z", 1461),
        (every(1, "quarter", "2026-01-15T00:00Z"), "2026-05-01T00:00Z", "2026-04-15T00:00Z", 91),
        # Not begun yet: counted back from its first.
        (every(7, "day", "2026-06-01T00:00Z"), "2026-05-20T00:00Z", "2026-05-18T00:00Z", 7),
    ],
)
def test_windows_end_to_end(spec: WindowSpec, now: str, start: str, end: int) -> None:
    found = span(spec, now)
    assert found == (at(start), at(start) + timedelta(days=end))


def test_days_end_to_end_keep_their_wall_time() -> None:
    spec = every(1, "day", "2026-03-27T08:00:00+01:00", "Europe/Berlin")
    start, end = span(spec, "2026-03-29T10:00:00Z")
    assert start == at("2026-03-29T08:00:00+02:00")
    assert end == at("2026-03-30T08:00:00+02:00")
    # And 24 hours end to end do not.
    hours = every(24, "hour", "2026-03-27T08:00:00+01:00", "Europe/Berlin")
    assert span(hours, "2026-03-29T10:00:00Z").start_at == at("2026-03-29T07:00:00Z")


def test_every_without_a_start_begins_with_the_budget() -> None:
    spec = every(1, "day", None)
    now = CREATED_AT + timedelta(hours=25)
    found = window_at(spec, now, created_at=CREATED_AT)
    assert found == (CREATED_AT + timedelta(days=1), CREATED_AT + timedelta(days=2))


def test_a_lifetime_begins_with_the_budget_and_never_ends() -> None:
    spec = WindowSpec(kind="lifetime")
    assert span(spec, "2099-01-01T00:00Z") == (CREATED_AT, None)


def from_first_call(count: int, unit: str, zone: str = "UTC") -> WindowSpec:
    return WindowSpec(kind="from_first_call", unit=unit, count=count, time_zone=zone)  # type: ignore[arg-type]  # any word, as a test writes it


def test_a_window_from_the_first_call_begins_with_it() -> None:
    now = at("2026-03-04T05:06:07.123456Z")
    spec = from_first_call(48, "hour")
    assert window_at(spec, now, created_at=CREATED_AT) == (now, now + timedelta(hours=48))


def test_the_next_one_begins_with_the_first_call_after_its_end() -> None:
    spec = from_first_call(1, "month")
    end = at("2026-03-01T00:00Z")
    later = at("2026-03-31T10:00Z")
    assert window_at(spec, later, created_at=CREATED_AT, last_end=end) == (
        later,
        at("2026-04-30T10:00Z"),
    )
    # Asked a moment too early, it still does not overlap.
    early = end - timedelta(seconds=1)
    assert window_at(spec, early, created_at=CREATED_AT, last_end=end).start_at == end


def test_a_day_from_the_first_call_ends_at_the_same_wall_time() -> None:
    now = at("2026-03-28T12:00:00+01:00")
    start, end = window_at(from_first_call(1, "day", "Europe/Berlin"), now, created_at=CREATED_AT)
    assert (start, end) == (now, at("2026-03-29T12:00:00+02:00"))


def test_windows_longer_than_the_calendar_have_no_end() -> None:
    assert span(every(10_000, "year", "2026-01-01T00:00Z"), "2026-06-01T00:00Z") == (
        at("2026-01-01T00:00Z"),
        None,
    )
    before = span(every(10_000, "year", "2026-01-01T00:00Z"), "2025-06-01T00:00Z")
    assert before == (EARLIEST, at("2026-01-01T00:00Z"))


INSTANTS = st.datetimes(
    datetime(2001, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001  they get their zone beside
)  # fmt: skip
CALENDARS = st.one_of(
    st.builds(
        calendar,
        st.sampled_from(["minute", "hour", "quarter", "year"]),
        st.sampled_from(ZONES),
    ),
    st.builds(calendar, st.just("day"), st.sampled_from(ZONES), st.integers(0, 23)),
    st.builds(calendar, st.just("week"), st.sampled_from(ZONES), st.integers(0, 7)),
    st.builds(calendar, st.just("month"), st.sampled_from(ZONES), st.integers(0, 28)),
)
STRETCHES = st.builds(
    lambda count, unit, start_at, zone: WindowSpec(
        kind="every", unit=unit, count=count, start_at=start_at, time_zone=zone
    ),
    st.one_of(st.integers(1, 40), st.integers(1, 10_000)),
    st.sampled_from(["second", "minute", "hour", "day", "week", "month", "quarter", "year"]),
    st.one_of(st.none(), INSTANTS),
    st.sampled_from(ZONES),
)


@settings(max_examples=400, deadline=None)
@given(spec=st.one_of(CALENDARS, STRETCHES), now=INSTANTS)
@example(spec=calendar("day", "Pacific/Apia"), now=at("2011-12-30T10:00:00Z"))
@example(spec=calendar("hour", "Australia/Lord_Howe"), now=at("2026-04-04T15:15:00Z"))
@example(spec=calendar("day", "America/Havana"), now=at("2026-11-01T04:30:00Z"))
def test_windows_tile_time(spec: WindowSpec, now: datetime) -> None:
    found = window_at(spec, now, created_at=CREATED_AT)
    assert found.start_at <= now
    assert found.end_at is None or now < found.end_at
    # Every instant of the window finds the same window, its neighbours begin where it ends.
    assert window_at(spec, found.start_at, created_at=CREATED_AT) == found
    if found.end_at is not None:
        last = found.end_at - timedelta.resolution
        assert window_at(spec, last, created_at=CREATED_AT) == found
        following = window_at(spec, found.end_at, created_at=CREATED_AT)
        assert following.start_at == found.end_at
    if found.start_at > EARLIEST:
        before = window_at(spec, found.start_at - timedelta.resolution, created_at=CREATED_AT)
        assert before.end_at == found.start_at


@settings(max_examples=200, deadline=None)
@given(spec=CALENDARS, now=INSTANTS)
def test_calendar_boundaries_are_wall_times(spec: WindowSpec, now: datetime) -> None:
    found = window_at(spec, now, created_at=CREATED_AT)
    zone = ZoneInfo(spec.time_zone)
    wall = found.start_at.astimezone(zone)
    shown = (wall.minute, wall.second, wall.microsecond)
    jump = (found.start_at - timedelta.resolution).astimezone(zone).utcoffset() != wall.utcoffset()
    if spec.unit == "minute":
        assert shown[1:] == (0, 0)
    elif not jump:
        assert shown == (0, 0, 0)
        if spec.unit == "day":
            assert wall.hour == spec.anchor
        elif spec.unit != "hour":
            assert wall.hour == 0
    if spec.unit == "month" and not jump:
        assert wall.day == max(spec.anchor, 1)
    if spec.unit == "week" and not jump:
        assert wall.isoweekday() == max(spec.anchor, 1)


@settings(max_examples=200, deadline=None)
@given(spec=STRETCHES, now=INSTANTS)
def test_windows_from_the_first_call_never_overlap(spec: WindowSpec, now: datetime) -> None:
    first_call = WindowSpec(
        kind="from_first_call", unit=spec.unit, count=spec.count, time_zone=spec.time_zone
    )
    start, end = window_at(first_call, now, created_at=CREATED_AT)
    assert start == now
    if end is not None:
        assert end > start
        following = window_at(first_call, end, created_at=CREATED_AT, last_end=end)
        assert following.start_at == end
