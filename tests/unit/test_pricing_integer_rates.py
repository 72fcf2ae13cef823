"""A usual call priced in whole numbers costs, at most and in the end, what the decimals say."""

from decimal import Decimal
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.pricing import (
    Component,
    Meter,
    Price,
    UnpricedError,
    ceiling,
    charge,
    integer_rates,
    llm_token_price,
    snapshot,
)
from bursar.usage import MAX_COUNT, Usage

COUNTS = st.one_of(
    st.integers(0, 300_000), st.sampled_from((0, 1, 128_000, 200_000, 200_001, MAX_COUNT))
)
TIERS = st.sampled_from(
    (None, "auto", "default", "priority", "flex", "batch", "Fast", "scale", "no such tier")
)
REGIONS = st.sampled_from((None, "", "global", "us", "eu", "nowhere"))
RATES = st.decimals(0, 10**4, places=9, allow_nan=False, allow_infinity=False)


@cache
def listed() -> list[Price]:
    """Every price that ships."""
    book = snapshot()
    prices = [book.lookup(*reversed(name.split("/", 1))) for name in book.models()]
    return [price for price in prices if price is not None]


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    output = draw(COUNTS)
    return Usage(
        input=draw(COUNTS),
        cached_input=draw(COUNTS),
        cache_write_5m=draw(COUNTS),
        cache_write_1h=draw(COUNTS),
        output=output,
        reasoning=draw(st.integers(0, output)),
        extra=draw(st.sampled_from(({}, {}, {"search": 2}))),
    )


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """One that ships, or one with rates of any decimals: rounding meets every case."""
    if draw(st.booleans()):
        return listed()[draw(st.integers(0, len(listed()) - 1))]
    meters = draw(
        st.lists(
            st.sampled_from((Meter.INPUT, Meter.OUTPUT, Meter.REASONING, Meter.CACHED_INPUT)),
            min_size=1,
            unique=True,
        )
    )
    return Price(
        provider="acme",
        model="m",
        components=tuple(
            Component(meter=meter, rate=draw(RATES), per=draw(st.sampled_from((1, 1_000_000))))
            for meter in meters
        ),
    )


@settings(max_examples=400, deadline=None)
@given(prices(), usages(), TIERS, REGIONS)
def test_a_charge_in_whole_numbers_is_the_exact_one(
    price: Price, usage: Usage, tier: str | None, region: str | None
) -> None:
    usual = integer_rates.charged_nanos(price, usage, tier, region)
    if usual is None:
        return
    exact = charge(price, usage, service_tier=tier, region=region)
    assert not exact.unpriced
    assert usual == exact.cost_nanos


@settings(max_examples=400, deadline=None)
@given(prices(), COUNTS, COUNTS, st.integers(1, 8), TIERS, st.booleans())
def test_a_ceiling_in_whole_numbers_is_the_exact_one(
    price: Price, asked: int, produced: int, choices: int, tier: str | None, text_only: bool
) -> None:
    usual = integer_rates.ceiling_nanos(
        price,
        input_llm_tokens=asked,
        output_llm_tokens=produced * choices,
        service_tier=tier,
        text_only=text_only,
    )
    if usual is None:
        return
    assert usual == ceiling(
        price,
        input_llm_tokens=asked,
        output_llm_tokens=produced,
        choices=choices,
        service_tier=tier,
        text_only=text_only,
    )


def test_nearly_every_chat_that_ships_is_a_usual_one() -> None:
    chats = [price for price in listed() if price.mode == "chat" and price.is_priced]
    usage = Usage(input=10, output=20, cached_input=5)
    usual = [p for p in chats if integer_rates.charged_nanos(p, usage, None, None) is not None]
    bounded = [
        p
        for p in chats
        if integer_rates.ceiling_nanos(
            p, input_llm_tokens=10, output_llm_tokens=20, service_tier=None, text_only=True
        )
        is not None
    ]
    assert len(usual) > len(chats) * 0.9
    assert len(bounded) > len(chats) * 0.9


@pytest.mark.parametrize(
    ("rate", "nanos"),
    [("0.0000000005", 0), ("0.0000000015", 2), ("0.0000000025", 2), ("0.00000000050001", 1)],
)
def test_half_a_nano_is_rounded_to_even(rate: str, nanos: int) -> None:
    price = llm_token_price("acme", "m", rates={"input": Decimal(rate) * 10**6, "output": 0})
    usage = Usage(input=1)
    assert integer_rates.charged_nanos(price, usage, None, None) == nanos
    assert charge(price, usage).cost_nanos == nanos


def test_what_is_not_usual_is_left_to_the_exact_path() -> None:
    price = llm_token_price("acme", "m", rates={"output": 10})
    assert integer_rates.charged_nanos(price, Usage(input=1), None, None) is None
    most = integer_rates.ceiling_nanos(
        price, input_llm_tokens=1, output_llm_tokens=1, service_tier=None, text_only=True
    )
    assert most is None
    with pytest.raises(UnpricedError):
        ceiling(price, input_llm_tokens=1, output_llm_tokens=1)
