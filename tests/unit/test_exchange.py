"""Exchange rates: which one holds, and that nothing is rounded but the amount, once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.exchange import (
    Conversion,
    ExchangeError,
    ExchangeRate,
    ExchangeRates,
    format_rate,
    needed,
    overlaid,
    parse_conversion,
    parse_rate,
    since,
)
from bursar.money import NANOS_PER_UNIT

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def rate(base: str, quote: str, value: str | None, day: int = 0) -> ExchangeRate:
    return ExchangeRate(base, quote, None if value is None else Decimal(value), T0 + day * DAY)


def text(rates: ExchangeRates, base: str, quote: str, day: int = 0) -> str | None:
    found = rates.conversion(base, quote, T0 + day * DAY)
    return None if found is None else found.text


def test_the_newest_at_or_before_holds() -> None:
    rates = ExchangeRates([rate("USD", "EUR", "0.9", 2), rate("USD", "EUR", "0.8", 0)])
    assert text(rates, "USD", "EUR", -1) is None
    assert [text(rates, "USD", "EUR", day) for day in (0, 1, 2, 9)] == ["0.8", "0.8", "0.9", "0.9"]
    # Asked again out of order, an answer kept for another day is not given.
    assert text(rates, "USD", "EUR", 1) == "0.8"


def test_of_the_same_instant_the_one_given_last_holds() -> None:
    rates = ExchangeRates([rate("USD", "EUR", "0.9"), rate("EUR", "USD", "1.25")])
    assert text(rates, "USD", "EUR") == "1/1.25"
    assert len(rates) == 1


def test_the_newest_holds_in_either_direction() -> None:
    rates = ExchangeRates([rate("USD", "EUR", "0.9", 0), rate("EUR", "USD", "1.1", 1)])
    assert text(rates, "USD", "EUR", 0) == "0.9"
    assert text(rates, "USD", "EUR", 1) == "1/1.1"
    assert text(rates, "EUR", "USD", 0) == "1/0.9"


def test_a_pair_without_a_rate_goes_through_a_third_currency() -> None:
    rates = ExchangeRates([rate("EUR", "USD", "1.0842"), rate("EUR", "GBP", "0.8541")])
    assert text(rates, "USD", "GBP") == "0.8541/1.0842"
    assert text(rates, "GBP", "USD") == "1.0842/0.8541"
    assert text(rates, "USD", "JPY") is None
    both = ExchangeRates([rate("USD", "CHF", "0.8"), rate("CHF", "GBP", "0.5")])
    assert text(both, "USD", "GBP") == "0.4"
    assert text(both, "GBP", "USD") == "1/0.4"


def test_a_rate_of_the_pair_itself_comes_before_a_third_currency() -> None:
    cross = [rate("EUR", "USD", "2", 5), rate("EUR", "GBP", "1", 5)]
    rates = ExchangeRates([*cross, rate("USD", "GBP", "0.75", 0)])
    assert text(rates, "USD", "GBP", 9) == "0.75"
    # And the euro before others, whatever their names.
    others = [rate("AUD", "USD", "7"), rate("AUD", "GBP", "1")]
    assert text(ExchangeRates([*others, *cross]), "USD", "GBP", 9) == "1/2"
    assert text(ExchangeRates([*others, *cross]), "USD", "GBP", 1) == "1/7"


def test_what_ended_holds_no_more() -> None:
    rates = ExchangeRates([rate("USD", "EUR", "0.9", 0), rate("EUR", "USD", None, 3)])
    assert text(rates, "USD", "EUR", 2) == "0.9"
    assert text(rates, "USD", "EUR", 3) is None


def test_a_currency_is_worth_itself() -> None:
    found = ExchangeRates().conversion("EUR", "EUR", T0)
    assert found is not None
    assert (found.text, found.nanos(Decimal("1.5")), found.ceil_nanos(7)) == ("1", 1_500_000_000, 7)


AMOUNTS = st.decimals(min_value=0, max_value=10**9, places=18)
RATES = st.decimals(min_value="0.000000001", max_value=10**6, places=9)


@given(AMOUNTS, RATES, RATES)
def test_an_amount_is_rounded_once_half_to_even(
    amount: Decimal, multiplier: Decimal, divisor: Decimal
) -> None:
    exact = Fraction(amount) * Fraction(multiplier) / Fraction(divisor) * NANOS_PER_UNIT
    assert Conversion("USD", "GBP", multiplier, divisor).nanos(amount) == round(exact)


def test_half_a_nano_goes_to_the_even_one() -> None:
    half = Conversion("USD", "EUR", Decimal("0.5"))
    assert [half.nanos(Decimal(n) / NANOS_PER_UNIT) for n in (1, 3, 5, 6)] == [0, 2, 2, 3]


@given(AMOUNTS, RATES, RATES)
def test_a_converted_bound_bounds_the_converted_cost(
    amount: Decimal, multiplier: Decimal, divisor: Decimal
) -> None:
    conversion = Conversion("USD", "GBP", multiplier, divisor)
    bound = ceil(Fraction(amount) * NANOS_PER_UNIT)
    assert conversion.ceil_nanos(bound) >= conversion.nanos(amount)


@given(RATES, RATES)
def test_what_an_entry_keeps_is_read_as_it_was(multiplier: Decimal, divisor: Decimal) -> None:
    conversion = Conversion("USD", "GBP", multiplier, divisor)
    read = parse_conversion("USD", "GBP", conversion.text)
    assert (read.multiplier, read.divisor) == (multiplier, divisor)
    assert read.nanos(Decimal("3.7")) == conversion.nanos(Decimal("3.7"))


@pytest.mark.parametrize(
    "bad", ["", "0", "1/0", "1/", "/2", "-1", "1e3", "NaN", "1/2/3", "1" * 200]
)
def test_what_is_no_conversion_is_refused(bad: str) -> None:
    with pytest.raises(ExchangeError):
        parse_conversion("USD", "EUR", bad)


@pytest.mark.parametrize(
    "bad",
    ["", ".", "1.", ".5", "0", "0.00", "-1", "+1", "1e3", "NaN", "1,5", "1" * 13, "0." + "1" * 16],
)
def test_what_is_no_rate_is_refused(bad: str) -> None:
    with pytest.raises(ExchangeError, match="rate"):
        parse_rate(bad)


def test_rates_are_read_and_written_exactly() -> None:
    for plain in ("1", "0.92", "1.0842", "160.5", "0.000000000000001", "999999999999"):
        assert format_rate(parse_rate(plain)) == plain
    assert format_rate(parse_rate("1.500")) == "1.5"
    assert format_rate(parse_rate("100")) == "100"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("base", {"base": "XYZ"}),
        ("quote", {"quote": "usd"}),
        ("quote", {"quote": "USD"}),
        ("rate", {"rate": Decimal(0)}),
        ("rate", {"rate": Decimal("Infinity")}),
        ("effective_at", {"effective_at": datetime(2026, 1, 1)}),  # noqa: DTZ001 - the fault
    ],
)
def test_a_rate_that_cannot_be_says_which_field(field: str, values: dict[str, object]) -> None:
    given_values = {"base": "USD", "quote": "EUR", "rate": Decimal(1), "effective_at": T0}
    with pytest.raises(ExchangeError) as caught:
        ExchangeRate(**(given_values | values))  # type: ignore[arg-type]  # the fault
    assert caught.value.field == field


def test_an_organizations_own_rates_win_until_they_end() -> None:
    below = [rate("USD", "EUR", "0.9", 0), rate("USD", "EUR", "0.8", 4), rate("USD", "GBP", "0.7")]
    above = [rate("EUR", "USD", "1.25", 2), rate("USD", "EUR", None, 6)]
    rates = ExchangeRates(overlaid(below, above))
    shown = [text(rates, "USD", "EUR", day) for day in range(8)]
    assert shown == ["0.9", "0.9"] + ["1/1.25"] * 4 + ["0.8", "0.8"]
    assert text(rates, "USD", "GBP") == "0.7"
    # The platform's later rate changes nothing while the organization has its own.
    assert [each.effective_at for each in rates.of("USD", "EUR")] == [
        T0, T0 + 2 * DAY, T0 + 6 * DAY
    ]  # fmt: skip


def test_an_own_rate_that_ends_over_nothing_leaves_nothing() -> None:
    rates = ExchangeRates(overlaid([], [rate("USD", "EUR", "0.9", 0), rate("USD", "EUR", None, 1)]))
    assert [text(rates, "USD", "EUR", day) for day in (0, 1)] == ["0.9", None]


def test_only_what_converts_the_prices_is_needed() -> None:
    rates = [
        rate("EUR", "USD", "1.08"), rate("EUR", "GBP", "0.85"), rate("EUR", "JPY", "160"),
        rate("CHF", "USD", "1.1"), rate("CNY", "EUR", "0.12"),
    ]  # fmt: skip
    assert needed(rates, {"USD"}, "USD") == []
    assert needed(rates, {"USD"}, "EUR") == rates[:1]
    assert needed(rates, {"USD", "EUR"}, "GBP") == rates[:2]
    assert needed(rates, {"CNY", "USD", "GBP"}, "GBP") == [rates[0], rates[1], rates[4]]


def test_what_was_superseded_is_left_out() -> None:
    rates = [
        rate("USD", "EUR", "0.7", -9),
        rate("USD", "EUR", "0.8", -2),
        rate("USD", "EUR", "1", 3),
    ]
    assert since(rates, T0) == rates[1:]
    assert since(rates, T0 - 20 * DAY) == rates
    assert since(rates, T0 + 3 * DAY) == rates[2:]


CODES = ("EUR", "USD", "GBP", "JPY", "CHF")
TIMELINES = st.lists(
    st.builds(
        lambda codes, value, day: rate(codes[0], codes[1], value, day),
        st.permutations(CODES),
        st.sampled_from([None, "0.5", "0.8", "1.25", "160"]),
        st.integers(0, 9),
    ),
    max_size=14,
)


@given(TIMELINES, TIMELINES)
def test_what_is_merged_says_at_every_time_what_the_two_say(
    below: list[ExchangeRate], above: list[ExchangeRate]
) -> None:
    lower, upper = ExchangeRates(below), ExchangeRates(above)
    merged = ExchangeRates(overlaid(below, above))
    for day in range(-1, 11):
        at = T0 + day * DAY
        for pair in merged.pairs():
            wanted = upper.in_force(*pair, at) or lower.in_force(*pair, at)
            found = merged.in_force(*pair, at)
            assert (found and (found.base, found.rate)) == (wanted and (wanted.base, wanted.rate))


@given(TIMELINES, st.sets(st.sampled_from(CODES)), st.sampled_from(CODES), st.integers(0, 9))
def test_whoever_is_told_what_is_needed_converts_as_whoever_knows_all(
    given_rates: list[ExchangeRate], prices_in: set[str], own: str, day: int
) -> None:
    everything = ExchangeRates(given_rates)
    told = ExchangeRates(since(needed(given_rates, prices_in, own), T0 + day * DAY))
    for later in range(day, 11):
        for currency in prices_in:
            assert text(told, currency, own, later) == text(everything, currency, own, later)
