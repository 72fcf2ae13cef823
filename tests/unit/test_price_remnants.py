"""What is left of a stretch of time, and which ones can be set."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_server.prices.rules import PriceFault, check_period, contract_version, remnants, source

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(hour: int | None) -> datetime | None:
    return None if hour is None else BEGIN + hour * HOUR


def inside(spans: list[tuple[datetime, datetime | None]], moment: datetime) -> int:
    return sum(a <= moment and (b is None or moment < b) for a, b in spans)


HOURS = st.integers(0, 9)
ENDS = st.one_of(st.none(), st.integers(1, 10))


@given(HOURS, ENDS, HOURS, ENDS, st.integers(0, 40))
def test_what_is_left_is_what_is_outside(
    first: int, end: int | None, since: int, until: int | None, quarter: int
) -> None:
    if (end is not None and end <= first) or (until is not None and until <= since):
        return
    a, b, c, d = BEGIN + first * HOUR, at(end), BEGIN + since * HOUR, at(until)
    moment = BEGIN + quarter * HOUR / 4
    left = remnants(a, b, c, d) if (b is None or b > c) and (d is None or a < d) else [(a, b)]
    assert inside(left, moment) == (inside([(a, b)], moment) and not inside([(c, d)], moment))
    assert all(until is None or since < until for since, until in left)


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        (datetime(1999, 1, 1, tzinfo=UTC), None, "price.effective_time"),
        (BEGIN + timedelta(days=5_000), None, "price.effective_time"),
        (None, BEGIN - HOUR, "price.expire_time"),
        (None, BEGIN, "price.expire_time"),
        (BEGIN + HOUR, BEGIN + HOUR, "price.expire_time"),
        (None, BEGIN + timedelta(days=5_000), "price.expire_time"),
    ],
)
def test_times_that_mean_nothing_are_refused_by_field(
    since: datetime | None, until: datetime | None, field: str
) -> None:
    with pytest.raises(PriceFault) as refused:
        check_period(since, until, BEGIN, "price.")
    assert refused.value.field == field


def test_past_and_coming_times_are_accepted() -> None:
    check_period(None, None, BEGIN, "")
    check_period(BEGIN - 9 * HOUR, BEGIN - HOUR, BEGIN, "")
    check_period(BEGIN + HOUR, BEGIN + 9 * HOUR, BEGIN, "")


def test_what_a_charge_and_a_history_name() -> None:
    assert contract_version(platform=False, number=3) == "contract@3"
    assert contract_version(platform=True, number=4) == "platform-contract@4"
    assert source("set a/b", "admin", "") == "set a/b by admin"
    assert source("set a/b", "admin", "wrong list") == "set a/b by admin: wrong list"
