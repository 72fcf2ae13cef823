"""Prices and usages travel and come back the same; nonsense is refused by field."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from bursar.pricing import (
    Component,
    Contract,
    FreeQuota,
    Meter,
    Price,
    Span,
    Window,
    llm_token_price,
    snapshot,
)
from bursar.pricing.model import LLM_TOKEN_METERS
from bursar.usage import MAX_COUNT, Usage
from bursar.v1 import charges_pb2, contracts_pb2, prices_pb2
from bursar.wire import (
    WireError,
    contract_from_proto,
    contract_to_proto,
    format_decimal,
    parse_decimal,
    price_from_proto,
    price_to_proto,
    usage_from_proto,
    usage_to_proto,
)

RATES = st.decimals(0, 10**6, places=12, allow_nan=False)
COUNTS = st.integers(0, MAX_COUNT)
COMPONENTS = st.builds(
    lambda meter, variant, **rest: Component(
        meter=meter, variant="" if meter in LLM_TOKEN_METERS else variant, **rest
    ),
    meter=st.sampled_from(list(Meter)),
    rate=RATES,
    per=st.integers(1, 10**9),
    above=st.one_of(st.just(0), st.integers(1, 10**6)),
    tier=st.sampled_from(["", "batch", "priority"]),
    variant=st.sampled_from(["", "high"]),
    during=st.sampled_from(["", "nights"]),
)
CLOCK = st.sampled_from(["00:00", "06:30", "23:59"])
SPANS = st.builds(
    Span,
    start=CLOCK,
    end=CLOCK,
    weekdays=st.sampled_from([(), (1, 7)]),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
    weekday_zone=st.sampled_from(["", "Asia/Shanghai"]),
)
QUOTAS = st.builds(
    FreeQuota,
    meter=st.sampled_from(["search", "input_picture"]),
    count=st.integers(0, 10**6),
    period=st.sampled_from(["request", "day", "month"]),
    group=st.sampled_from(["", "gemini-3"]),
)
PRICES = st.builds(
    Price,
    provider=st.sampled_from(["openai", "azure"]),
    model=st.text(min_size=1, max_size=20).filter(str.strip),
    currency=st.sampled_from(["USD", "EUR", "JPY"]),
    components=st.lists(
        COMPONENTS, max_size=8, unique_by=lambda c: (c.meter, c.above, c.tier, c.variant, c.during)
    ).map(tuple),
    mode=st.sampled_from(["chat", "embedding"]),
    max_input_llm_tokens=st.one_of(st.none(), st.integers(1, 10**7)),
    max_output_llm_tokens=st.one_of(st.none(), st.integers(1, 10**7)),
    multipliers=st.dictionaries(st.sampled_from(["region/eu", "tier/batch"]), RATES),
    price_version=st.sampled_from(["", "custom@17"]),
    windows=st.lists(SPANS, min_size=1, max_size=3).map(
        lambda spans: {"nights": Window(tuple(spans))}
    ),
    free_quotas=st.lists(QUOTAS, max_size=2).map(tuple),
    search_per=st.sampled_from(["query", "request"]),
)
USAGES = st.builds(
    lambda output, reasoning, **rest: Usage(
        output=output, reasoning=min(output, reasoning), **rest
    ),
    output=COUNTS,
    reasoning=COUNTS,
    input=COUNTS,
    cached_input=COUNTS,
    cache_write_5m=COUNTS,
    cache_write_1h=COUNTS,
    extra=st.dictionaries(st.sampled_from(["audio_input", "search.high", "page"]), COUNTS),
)


@settings(deadline=None)
@given(PRICES)
def test_a_price_comes_back_as_it_went(price: Price) -> None:
    message = prices_pb2.Price.FromString(price_to_proto(price).SerializeToString())
    assert price_from_proto(message) == price


def test_every_built_in_price_comes_back_but_for_what_nobody_prices() -> None:
    book = snapshot()
    for name in book.models():
        price = book.lookup(*reversed(name.split("/", 1)))
        assert price is not None
        message = price_to_proto(price)
        assert price_from_proto(message) == msgspec.structs.replace(price, unmodelled=())


@settings(deadline=None)
@given(USAGES, st.sampled_from(["", "stream was cut"]))
def test_a_usage_comes_back_as_it_went(usage: Usage, reason: str) -> None:
    usage = msgspec.structs.replace(
        usage, estimate_reason=reason, certainty="estimated" if reason else "exact"
    )
    message = charges_pb2.Usage.FromString(usage_to_proto(usage).SerializeToString())
    assert usage_from_proto(message) == usage


def test_an_estimate_without_a_reason_stays_one() -> None:
    usage = Usage(input=1, certainty="estimated")
    assert not usage_from_proto(usage_to_proto(usage)).is_exact


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("0.150"), "0.15"),
        (Decimal("0"), "0"),
        (Decimal("0.00"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-9"), "0.000000001"),
        (Decimal(100), "100"),
    ],
)
def test_decimals_are_written_plainly(value: Decimal, text: str) -> None:
    assert format_decimal(value) == text
    assert parse_decimal("rate", text) == value


@pytest.mark.parametrize(
    "text",
    ["", ".", "-1", "+1", "1e3", "NaN", "Infinity", "1.2.3", "1_000", " 1", "١", "0" * 65, "1,5"],
)
def test_what_is_no_decimal_is_refused(text: str) -> None:
    with pytest.raises(WireError) as refused:
        parse_decimal("components[0].rate", text)
    assert refused.value.field == "components[0].rate"
    assert len(str(refused.value)) < 300


def a_price(**changed: object) -> prices_pb2.Price:
    fields: dict[str, object] = {
        "provider": "openai",
        "model": "m",
        "currency": "USD",
        "components": [prices_pb2.PriceComponent(meter="input", rate="1", per=1)],
    }
    return prices_pb2.Price(**{**fields, **changed})  # type: ignore[arg-type]  # by name, from a table


def a_window(name: str = "night") -> prices_pb2.PriceWindow:
    span = prices_pb2.PriceSpan(start="22:00", end="06:00")
    return prices_pb2.PriceWindow(name=name, spans=[span])


def a_component(**changed: object) -> prices_pb2.PriceComponent:
    fields: dict[str, object] = {"meter": "input", "rate": "1", "per": 1}
    return prices_pb2.PriceComponent(**{**fields, **changed})  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (a_price(provider=""), "provider"),
        (a_price(model=""), "model"),
        (a_price(model="m" * 257), "model"),
        (a_price(currency="usd"), "currency"),
        (a_price(currency=""), "currency"),
        (a_price(mode="m" * 65), "mode"),
        (a_price(version="v" * 129), "version"),
        (a_price(max_input_llm_tokens=-1), "max_input_llm_tokens"),
        (a_price(max_output_llm_tokens=10**13), "max_output_llm_tokens"),
        (a_price(multipliers={"planet/mars": "2"}), "multipliers"),
        (a_price(multipliers={"tier/": "2"}), "multipliers"),
        (a_price(multipliers={"tier/batch": "half"}), "multipliers[tier/batch]"),
        (a_price(multipliers={f"tier/{n}": "1" for n in range(65)}), "multipliers"),
        (a_price(components=[a_component()] * 2), "components[1]"),
        (a_price(components=[a_component(per=n + 1) for n in range(401)]), "components[1]"),
        (a_price(components=[a_component(meter="tokens")]), "components[0].meter"),
        (a_price(components=[a_component(rate="x")]), "components[0].rate"),
        (a_price(components=[a_component(rate="9999999999")]), "components[0].rate"),
        (a_price(components=[a_component(per=-1)]), "components[0].per"),
        (a_price(search_per="moon"), "search_per"),
        (a_price(free_quotas=[{"meter": "search", "period": "year"}]), "free_quotas[0].period"),
        (
            a_price(free_quotas=[{"meter": "search", "period": "day", "count": -1}]),
            "free_quotas[0]",
        ),
        (a_price(free_quotas=[{"meter": "input", "period": "day"}]), "free_quotas"),
        (a_price(windows=[{"name": "night"}]), "windows[0].spans"),
        (
            a_price(windows=[{"name": "n", "spans": [{"start": "7:00", "end": "08:00"}]}]),
            "windows[0].spans",
        ),
        (a_price(windows=[a_window()] * 2), "windows[1].name"),
        (a_price(windows=[a_window(name=f"w{n}") for n in range(17)]), "windows"),
        (a_price(components=[a_component(condition={"during": "night"})]), "components"),
        (
            a_price(components=[a_component(condition={"variant": "high"})]),
            "components[0].condition.variant",
        ),
        (
            a_price(components=[a_component(condition={"region": "eu"})]),
            "components[0].condition.region",
        ),
        (
            a_price(components=[a_component(condition={"input_above_llm_tokens": 0})]),
            "components[0].condition.input_above_llm_tokens",
        ),
        (
            a_price(components=[a_component(condition={"service_tier": "t" * 65})]),
            "components[0].condition.service_tier",
        ),
    ],
)
def test_impossible_prices_are_refused_by_field(message: prices_pb2.Price, field: str) -> None:
    with pytest.raises(WireError) as refused:
        price_from_proto(message)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (charges_pb2.Usage(input_llm_tokens=-1), "input_llm_tokens"),
        (charges_pb2.Usage(cached_input_llm_tokens=MAX_COUNT + 1), "cached_input_llm_tokens"),
        (
            charges_pb2.Usage(output_llm_tokens=1, reasoning_llm_tokens=2),
            "reasoning_llm_tokens",
        ),
        (charges_pb2.Usage(further={"m" * 65: 1}), "further"),
        (charges_pb2.Usage(further={"page": -1}), "further[page]"),
        (charges_pb2.Usage(further={f"m{n}": 1 for n in range(65)}), "further"),
        (charges_pb2.Usage(estimate_reason="r" * 1025), "estimate_reason"),
    ],
)
def test_impossible_usages_are_refused_by_field(message: charges_pb2.Usage, field: str) -> None:
    with pytest.raises(WireError) as refused:
        usage_from_proto(message)
    assert refused.value.field == field


def test_times_and_contracts_travel_exactly() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    until = datetime(2027, 1, 1, tzinfo=UTC)
    dated = structs.replace(
        llm_token_price("p", "m", rates={"input": 1}), effective_at=since, expires_at=until
    )
    assert price_from_proto(price_to_proto(dated)) == dated
    contract = Contract(
        provider="open*",
        model="gpt-4o",
        discount=Decimal("0.875"),
        margin=Decimal("1.15"),
        call_fee=Decimal("0.000001"),
        currency="EUR",
        own=False,
        order=4,
        version="platform-contract@9",
        effective_at=since,
        expires_at=until,
    )
    assert contract_from_proto(contract_to_proto(contract), 4) == contract
    bare = Contract(discount=Decimal(1))
    assert contract_from_proto(contract_to_proto(bare), 0) == bare


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"discount_factor": "-1"}, "discount_factor"),
        ({"discount_factor": "2"}, "discount_factor"),
        ({"margin_factor": "x"}, "margin_factor"),
        ({"call_fee": "1", "currency": "?"}, "currency"),
        ({"discount_factor": "1", "model": "a b"}, "model"),
        ({"margin_factor": "1", "version": "v" * 129}, "version"),
        ({"margin_factor": "1", "effective_time": Timestamp(seconds=2**62)}, "effective_time"),
        (
            {
                "margin_factor": "1",
                "effective_time": Timestamp(seconds=5),
                "expire_time": Timestamp(seconds=5),
            },
            "expire_time",
        ),
        ({}, "discount_factor"),
    ],
)
def test_what_is_no_contract_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(WireError) as caught:
        contract_from_proto(contracts_pb2.PriceContract(**fields), 0)
    assert caught.value.field == field


def test_a_price_that_ends_before_it_begins_is_refused_by_field() -> None:
    message = price_to_proto(llm_token_price("p", "m", rates={"input": 1}))
    message.effective_time.seconds, message.expire_time.seconds = 9, 8
    with pytest.raises(WireError) as caught:
        price_from_proto(message)
    assert caught.value.field == "expire_time"
