"""Rates by the time of day, and what a free quota leaves to pay."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.pricing import (
    Component,
    FreeQuota,
    Meter,
    Price,
    PriceError,
    Span,
    Window,
    ceiling,
    charge,
    price_from_json,
    price_to_json,
)
from bursar.usage import Usage

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
SHANGHAI = ZoneInfo("Asia/Shanghai")

# Week days from 16:30 to 00:30 UTC; the whole weekend of Shanghai's calendar.
NIGHTS = Window(
    (
        Span("16:30", "00:30", weekdays=(1, 2, 3, 4, 5)),
        Span("00:00", "00:00", weekdays=(6, 7), weekday_zone="Asia/Shanghai"),
    )
)


def rate(meter: Meter, per_million: str, *, tier: str = "", during: str = "") -> Component:
    return Component(meter, Decimal(per_million), tier=tier, during=during)


PRICE = Price(
    provider="acme",
    model="owl",
    mode="chat",
    components=(
        rate(Meter.INPUT, "2"),
        rate(Meter.OUTPUT, "8"),
        rate(Meter.INPUT, "4", tier="priority"),
        Component(Meter.INPUT, Decimal(3), above=200_000),
        rate(Meter.INPUT, "1", during="nights"),
        Component(Meter.SEARCH, Decimal("0.01"), per=1),
    ),
    multipliers={"region/eu": Decimal("1.1"), "tier/batch": Decimal("0.5")},
    windows={"nights": NIGHTS},
    free_quotas=(FreeQuota("search", 100, "day", group="acme-1"),),
)
MILLION = Usage(input=100_000)


def at(hours: float, days: int = 0) -> datetime:
    return MONDAY + timedelta(days=days, hours=hours)


@pytest.mark.parametrize(
    ("moment", "cost"),
    [
        (None, "0.2"),
        (at(12), "0.2"),
        (at(16, 0) + timedelta(minutes=29, seconds=59), "0.2"),
        (at(16.5), "0.1"),
        (at(23.99), "0.1"),
        (at(0.25, days=1), "0.1"),
        (at(0.5, days=1), "0.2"),
        # Friday 17:00 UTC is Saturday in Shanghai; on Sunday 16:00 UTC its Monday has begun.
        (at(15.9, days=4), "0.2"),
        (at(16.1, days=4), "0.1"),
        (at(15.9, days=6), "0.1"),
        (at(16.1, days=6), "0.2"),
        (at(17).astimezone(SHANGHAI), "0.1"),
    ],
)
def test_a_window_holds_from_its_start_to_before_its_end(
    moment: datetime | None, cost: str
) -> None:
    assert charge(PRICE, MILLION, at=moment).cost == Decimal(cost)


def test_an_off_peak_rate_replaces_what_would_apply_but_not_in_a_batch() -> None:
    night = at(20)
    assert charge(PRICE, MILLION, at=night, service_tier="priority").cost == Decimal("0.1")
    assert charge(PRICE, MILLION, at=night, region="eu").cost == Decimal("0.11")
    assert charge(PRICE, Usage(input=300_000), at=night).cost == Decimal("0.3")
    assert charge(PRICE, Usage(cached_input=100_000), at=night).cost == Decimal("0.1")
    assert charge(PRICE, Usage(output=100_000), at=night).cost == Decimal("0.8")
    assert charge(PRICE, MILLION, at=night, service_tier="batch").cost == Decimal("0.1")
    assert charge(PRICE, Usage(output=100_000), at=night, service_tier="batch").cost == (
        Decimal("0.4")
    )


def test_a_ceiling_counts_on_no_off_peak_rate_unless_the_call_must_fall_in_it() -> None:
    def most(since: datetime | None, until: datetime | None) -> int:
        return ceiling(
            PRICE,
            input_llm_tokens=1_000_000,
            output_llm_tokens=0,
            service_tier="default",
            region="",
            at=since,
            until=until,
        )

    assert most(None, None) == most(at(20), None) == 3_000_000_000
    assert most(at(20), at(21)) == 1_000_000_000
    assert most(at(23), at(25)) == 3_000_000_000
    assert most(at(16), at(20)) == 3_000_000_000
    assert most(at(20), at(20, days=9)) == 3_000_000_000


def test_a_ceiling_counts_on_every_hour_that_costs_more() -> None:
    dear = Window((Span("08:00", "18:00"),))
    components = (
        rate(Meter.INPUT, "1"),
        rate(Meter.OUTPUT, "1"),
        rate(Meter.INPUT, "3", during="day"),
    )
    price = Price("acme", "lark", mode="chat", components=components, windows={"day": dear})

    def most(since: datetime | None, until: datetime | None) -> int:
        return ceiling(price, input_llm_tokens=10**6, output_llm_tokens=0, at=since, until=until)

    assert most(None, None) == most(at(20), None) == most(at(7), at(9)) == 3_000_000_000
    assert most(at(20), at(21)) == 1_000_000_000


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 14 * 24 * 60),
    st.integers(0, 600),
    st.integers(0, 600),
    st.sampled_from(["default", "priority", None]),
)
def test_no_moment_of_a_call_costs_more_than_its_ceiling(
    begun: int, lasts: int, priced: int, tier: str | None
) -> None:
    since = MONDAY + timedelta(minutes=begun)
    until = since + timedelta(minutes=lasts)
    most = ceiling(
        PRICE,
        input_llm_tokens=100_000,
        output_llm_tokens=0,
        service_tier=tier,
        at=since,
        until=until,
    )
    moment = min(until, since + timedelta(minutes=priced))
    served = "default" if tier is None else tier
    for region in ("", "eu"):
        charged = charge(PRICE, MILLION, at=moment, service_tier=served, region=region)
        assert charged.cost_nanos <= most


def test_hours_follow_the_clock_of_their_zone_through_a_change_of_it() -> None:
    berlin = Window((Span("02:30", "04:00", zone="Europe/Berlin"),))
    # On 29 March 2026 Berlin's clock jumps from 02:00 to 03:00, which is 01:00 UTC.
    jump = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert not berlin.is_open(jump - timedelta(minutes=1))
    assert berlin.is_open(jump)
    assert not berlin.is_open(jump + timedelta(hours=1))


def test_a_free_quota_counts_as_used_up_unless_told_otherwise() -> None:
    searches = Usage(extra={"search": 5})
    assert charge(PRICE, searches).cost == Decimal("0.05")
    assert charge(PRICE, searches, free_used={"search": 100}).cost == Decimal("0.05")
    assert charge(PRICE, searches, free_used={"search": 10**9}).cost == Decimal("0.05")
    part = charge(PRICE, searches, free_used={"search": 97})
    assert part.cost == Decimal("0.02")
    assert [(line.quantity, line.amount) for line in part.breakdown] == [
        (3, Decimal(0)),
        (2, Decimal("0.02")),
    ]
    assert charge(PRICE, searches, free_used={"search": 0}).cost == 0
    with pytest.raises(ValueError, match="free_used of search is -1"):
        charge(PRICE, searches, free_used={"search": -1})


def test_one_quota_is_shared_by_all_sizes_of_a_search() -> None:
    searches = Usage(extra={"search.low": 3, "search.high": 3})
    assert charge(PRICE, searches, free_used={"search": 96}).cost == Decimal("0.02")


def test_times_without_a_zone_are_refused() -> None:
    naive = MONDAY.replace(tzinfo=None)
    with pytest.raises(ValueError, match=r"at is .*expected a time with a zone"):
        charge(PRICE, MILLION, at=naive)
    with pytest.raises(ValueError, match=r"until is .*expected a time with a zone"):
        ceiling(PRICE, input_llm_tokens=1, output_llm_tokens=0, at=MONDAY, until=naive)
    before = MONDAY - timedelta(seconds=1)
    with pytest.raises(ValueError, match=r"until is .*expected no time before at"):
        ceiling(PRICE, input_llm_tokens=1, output_llm_tokens=0, at=MONDAY, until=before)
    with pytest.raises(PriceError, match=r"effective_at is .*expected a time with a zone"):
        Price(provider="a", model="m", effective_at=naive)


def test_a_price_is_in_force_from_its_start_to_before_its_end() -> None:
    price = Price(provider="a", model="m", effective_at=at(0), expires_at=at(24))
    assert not price.is_in_force(at(-1))
    assert price.is_in_force(at(0))
    assert not price.is_in_force(at(24))
    assert PRICE.is_in_force(at(0))
    with pytest.raises(PriceError, match="expires_at is"):
        Price(provider="a", model="m", effective_at=at(1), expires_at=at(1))


def test_time_and_quotas_survive_json_and_plain_prices_have_no_word_of_them() -> None:
    dated = Price(provider="a", model="m", effective_at=at(0), expires_at=at(24))
    for price in (PRICE, dated):
        assert price_from_json(price_to_json(price)) == price
    plain = Price(provider="a", model="m", components=(rate(Meter.INPUT, "1"),))
    assert price_to_json(plain) == (
        b'{"provider":"a","model":"m","components":[{"meter":"input","rate":"1"}]}'
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"components":[{"meter":"input","rate":"1","during":"x"}]', "during of input is 'x'"),
        ('"windows":{"x":{"spans":[]}}', "a window has 0 spans"),
        ('"windows":{"":{"spans":[{"start":"00:00","end":"01:00"}]}}', "window '' must have"),
        ('"windows":{"x":{"spans":[{"start":"24:00","end":"01:00"}]}}', "start of a window"),
        ('"windows":{"x":{"spans":[{"start":"1:00","end":"01:00"}]}}', "start of a window"),
        (
            '"windows":{"x":{"spans":[{"start":"00:00","end":"01:00","weekdays":[0]}]}}',
            "weekdays of a window has 0",
        ),
        (
            '"windows":{"x":{"spans":[{"start":"00:00","end":"01:00","zone":"Mars/Base"}]}}',
            "zone of a window is 'Mars/Base'",
        ),
        ('"free_quotas":[{"meter":"input","count":1,"period":"day"}]', "expected no LLM tokens"),
        ('"free_quotas":[{"meter":"speed","count":1,"period":"day"}]', "meter 'speed' is unknown"),
        ('"free_quotas":[{"meter":"search","count":-1,"period":"day"}]', "count of a free quota"),
        ('"free_quotas":[{"meter":"search","count":1,"period":"year"}]', "period"),
    ],
)
def test_a_bad_condition_is_refused_with_the_field(text: str, fault: str) -> None:
    with pytest.raises(PriceError, match=fault):
        price_from_json(f'{{"provider":"a","model":"m",{text}}}')
