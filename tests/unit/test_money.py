"""Money: reading, writing and the one rounding."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.money import (
    CURRENCIES,
    MAX_NANOS,
    Money,
    MoneyError,
    ceil_to_nanos,
    check_currency,
    format_nanos,
    parse_amount,
    round_to_nanos,
)


@pytest.mark.parametrize(
    ("text", "nanos", "currency"),
    [
        ("12.50", 12_500_000_000, "USD"),
        ("12.50EUR", 12_500_000_000, "EUR"),
        ("12.50 eur", 12_500_000_000, "EUR"),
        ("0", 0, "USD"),
        (" 7 ", 7_000_000_000, "USD"),
        ("0.000000001", 1, "USD"),
        ("9223372036.854775807", MAX_NANOS, "USD"),
    ],
)
def test_amounts_are_read_exactly(text: str, nanos: int, currency: str) -> None:
    assert parse_amount(text, "USD") == Money(nanos, currency)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("abc", "form"),
        ("1e3", "form"),
        (".5", "form"),
        ("5.", "form"),
        ("1,000", "form"),
        ("0x10", "form"),
        ("NaN", "form"),
        ("١٢", "form"),
        ("-1", "sign"),
        ("+1", "sign"),
        ("1.0000000001", "more than 9 decimals"),
        ("9223372036.854775808", "more than"),
        ("1QQQ", "ISO 4217"),
        ("9" * 500, "form"),
    ],
)
def test_bad_amounts_are_refused_by_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(MoneyError, match=fault) as caught:
        parse_amount(text, "USD")
    assert len(str(caught.value)) < 200


def test_amounts_that_are_no_text_are_refused() -> None:
    with pytest.raises(MoneyError, match="float"):
        parse_amount(1.5, "USD")  # type: ignore[arg-type]


def test_a_sign_is_read_where_it_was_asked_for() -> None:
    assert parse_amount("-1.5", "USD", signed=True).nanos == -1_500_000_000


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00"),
        (12_500_000_000, "12.50"),
        (15_000, "0.000015"),
        (-1, "-0.000000001"),
        (1_000_000_000, "1.00"),
    ],
)
def test_amounts_are_written_exactly(nanos: int, text: str) -> None:
    assert format_nanos(nanos) == text


@settings(deadline=None)
@given(st.integers(-MAX_NANOS, MAX_NANOS))
def test_what_is_written_is_read_back(nanos: int) -> None:
    assert parse_amount(format_nanos(nanos), "USD", signed=True).nanos == nanos


@pytest.mark.parametrize(
    ("amount", "rounded", "up"),
    [
        ("0.0000000005", 0, 1),
        ("0.0000000015", 2, 2),
        ("0.0000000025", 2, 3),
        ("0.00000000250000000000000000000000000000000001", 3, 3),
        ("123456789012345678901234567890.1", 123456789012345678901234567890100000000, None),
    ],
)
def test_rounding_is_half_to_even_and_bounds_round_up(
    amount: str, rounded: int, up: int | None
) -> None:
    assert round_to_nanos(Decimal(amount)) == rounded
    if up is not None:
        assert ceil_to_nanos(Decimal(amount)) == up


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_not_rounded(amount: str) -> None:
    with pytest.raises(MoneyError, match="finite"):
        round_to_nanos(Decimal(amount))


def test_currencies_carry_their_minor_digits() -> None:
    assert (CURRENCIES["USD"], CURRENCIES["JPY"], CURRENCIES["KWD"]) == (2, 0, 3)
    assert check_currency("usd") == "USD"
    with pytest.raises(MoneyError, match="'XYZ'"):
        check_currency("XYZ")


@pytest.mark.parametrize(
    ("nanos", "currency"), [(True, "USD"), (1.0, "USD"), (MAX_NANOS + 1, "USD"), (1, "usd")]
)
def test_money_refuses_what_it_can_not_be(nanos: int, currency: str) -> None:
    with pytest.raises(MoneyError):
        Money(nanos, currency)
