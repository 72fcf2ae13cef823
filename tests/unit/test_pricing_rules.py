"""Which rate applies, what it comes to, and that no call costs more than its ceiling."""

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from bursar.pricing import (
    Component,
    Meter,
    Price,
    PriceError,
    UnpricedError,
    ceiling,
    charge,
    compile_entry,
    llm_token_price,
    price_from_json,
    price_to_json,
    prices_from_json,
    prices_to_json,
    snapshot,
)
from bursar.pricing.model import LLM_TOKEN_METERS
from bursar.pricing.rates import rate_table
from bursar.usage import PART_OF, Usage

ENTRY = {
    "litellm_provider": "openai",
    "mode": "chat",
    "input_cost_per_token": 2e-06,
    "output_cost_per_token": 8e-06,
    "cache_read_input_token_cost": 5e-07,
    "input_cost_per_token_priority": 4e-06,
    "input_cost_per_token_above_200k_tokens": 3e-06,
    "output_cost_per_token_above_200k_tokens": 9e-06,
}


def cost(
    price: Price, usage: Usage, service_tier: str | None = None, region: str | None = None
) -> Decimal:
    return charge(price, usage, service_tier=service_tier, region=region).cost


def test_a_charge_says_what_was_billed_at_which_rate() -> None:
    price = llm_token_price(
        "acme", "m", rates={"input": "2.50", "cached_input": "1.25", "output": 10}
    )
    charged = charge(price, Usage(input=200, cached_input=1_000, output=340, reasoning=40))
    assert charged.cost == Decimal("0.00515")
    assert charged.cost_nanos == 5_150_000
    assert charged.input_cost + charged.output_cost == charged.cost
    assert [(line.meter, line.quantity, line.amount) for line in charged.breakdown] == [
        ("input", 200, Decimal("0.0005")),
        ("cached_input", 1_000, Decimal("0.00125")),
        ("output", 340, Decimal("0.0034")),
    ]


def test_missing_rates_fall_back_on_what_they_stand_for() -> None:
    price = llm_token_price("acme", "m", rates={"input": 1, "output": 10})
    plain = cost(price, Usage(input=40, output=5))
    assert cost(price, Usage(cached_input=40, output=5, reasoning=5)) == plain
    assert cost(price, Usage(cache_write_5m=30, cache_write_1h=10, output=5)) == plain
    writes = llm_token_price("acme", "m", rates={"input": 1, "cache_write_5m": 2, "output": 10})
    assert cost(writes, Usage(cache_write_1h=1_000_000)) == 2


def test_the_highest_crossed_threshold_prices_the_whole_request() -> None:
    price = compile_entry("m", ENTRY)
    below, above = Usage(input=200_000, output=10), Usage(input=1, cached_input=200_000, output=10)
    assert cost(price, below) == Decimal("0.40008")
    # Cached input has no long-context rate of its own and keeps its rate; the rest is re-priced.
    assert cost(price, above) == Decimal("0.100003") + Decimal("0.00009")


def test_xai_crosses_a_threshold_by_reaching_it() -> None:
    price = compile_entry("xai/m", {**ENTRY, "litellm_provider": "xai"})
    assert cost(price, Usage(input=199_999)) == Decimal("0.399998")
    assert cost(price, Usage(input=200_000)) == Decimal("0.6")


def test_a_tier_uses_its_own_rates_and_else_the_standard_ones() -> None:
    price = compile_entry("m", ENTRY)
    usage = Usage(input=1_000_000 // 10, output=100_000)
    assert cost(price, usage, service_tier="priority") == Decimal("0.4") + Decimal("0.8")
    assert cost(price, usage, service_tier="fast") == cost(price, usage, service_tier="priority")
    assert cost(price, usage, service_tier="flex") == cost(price, usage)
    assert cost(price, usage, service_tier="default") == cost(price, usage)
    assert cost(price, usage, service_tier="batch") == cost(price, usage) / 2


def test_reasoning_in_a_tier_with_its_own_output_rate_is_that_output() -> None:
    rates = {"output_cost_per_reasoning_token": 9e-06, "output_cost_per_token_priority": 1.6e-05}
    price = compile_entry("m", {**ENTRY, **rates})
    usage = Usage(output=1_000_000, reasoning=1_000_000)
    assert cost(price, usage) == 9
    assert cost(price, usage, service_tier="priority") == 16


def test_regions_and_speeds_multiply_every_rate() -> None:
    price = compile_entry(
        "m",
        {
            **ENTRY,
            "regional_processing_uplift_multiplier_eu": 1.1,
            "provider_specific_entry": {"us": 1.1, "fast": 2.0, "routing": "x"},
        },
    )
    usage = Usage(input=100_000)
    assert cost(price, usage, region="eu") == Decimal("0.22")
    assert cost(price, usage, region="mars") == Decimal("0.2")
    assert cost(price, usage, service_tier="fast") == Decimal("0.4")
    assert price.unmodelled == ("provider_specific_entry.routing",)


def test_any_region_but_the_global_one() -> None:
    price = compile_entry("m", {**ENTRY, "regional_endpoint_uplift_multiplier": 1.1})
    usage = Usage(input=100_000)
    assert cost(price, usage, region="global") == cost(price, usage) == Decimal("0.2")
    assert cost(price, usage, region="europe-west4") == Decimal("0.22")


def test_parts_are_billed_at_their_own_rate_or_with_their_whole() -> None:
    usage = Usage(input=1_000, output=600, extra={"audio_input": 400, "audio_output": 200})
    text = compile_entry("m", ENTRY)
    assert cost(text, usage) == cost(text, Usage(input=1_000, output=600))
    rates = {"input_cost_per_audio_token": 4e-05, "output_cost_per_audio_token": 8e-05}
    audio = compile_entry("m", {**ENTRY, **rates})
    assert cost(audio, usage) == Decimal("0.0172") + Decimal("0.0192")


def test_searches_cost_by_their_size_and_unknown_sizes_the_dearest() -> None:
    sizes = {"search_context_size_low": 0.01, "search_context_size_high": 0.03}
    price = compile_entry("m", {**ENTRY, "search_context_cost_per_query": sizes})
    assert cost(price, Usage(extra={"search.low": 2})) == Decimal("0.02")
    assert cost(price, Usage(extra={"search": 2})) == Decimal("0.06")


def test_a_meter_without_a_rate_is_named_and_never_a_silent_zero() -> None:
    price = llm_token_price("acme", "m", rates={"input": 1}, mode="embedding")
    charged = charge(price, Usage(input=1, output=1, extra={"search": 1, "no-such": 2}))
    assert charged.unpriced == ("search", "no-such", "output")
    with pytest.raises(UnpricedError, match="model m of acme"):
        ceiling(price, input_llm_tokens=1, output_llm_tokens=1)
    assert ceiling(price, input_llm_tokens=1_000_000, output_llm_tokens=0) == 1_000_000_000


def test_unpriced_is_not_free() -> None:
    zero = {"litellm_provider": "x", "mode": "chat", "input_cost_per_token": 0.0}
    imported = compile_entry("m", {**zero, "output_cost_per_token": 0})
    assert not imported.is_priced
    assert not imported.is_free
    custom = llm_token_price("acme", "m", rates={"input": 0, "output": 0})
    assert custom.is_priced
    assert custom.is_free
    assert ceiling(custom, input_llm_tokens=9, output_llm_tokens=9) == 0
    assert not llm_token_price("acme", "m", rates={"input": 1}).is_priced


@pytest.mark.parametrize(
    ("tier", "most"),
    [
        # 100k LLM tokens of input and twice 10k of output; priority input is dearer.
        (None, 560_000_000),
        ("auto", 560_000_000),
        ("default", 360_000_000),
        ("priority", 560_000_000),
        ("batch", 180_000_000),
    ],
)
def test_the_ceiling_covers_every_tier_that_may_serve(tier: str | None, most: int) -> None:
    price = compile_entry("m", ENTRY)
    assert (
        ceiling(
            price, input_llm_tokens=100_000, output_llm_tokens=10_000, choices=2, service_tier=tier
        )
        == most
    )


def test_the_ceiling_of_a_long_context_is_the_long_context_rate() -> None:
    price = compile_entry("m", ENTRY)
    most = ceiling(price, input_llm_tokens=200_001, output_llm_tokens=1_000, service_tier="default")
    assert most == 200_001 * 3_000 + 1_000 * 9_000


def test_the_ceiling_rounds_up() -> None:
    price = llm_token_price("acme", "m", rates={"input": "0.0001", "output": 0})
    assert ceiling(price, input_llm_tokens=1, output_llm_tokens=0) == 1


@pytest.mark.parametrize("bad", [-1, True, 1.0, 10**12 + 1])
def test_bounds_that_are_no_counts_are_refused(bad: int) -> None:
    price = llm_token_price("acme", "m", rates={"input": 1, "output": 1})
    with pytest.raises(ValueError, match="output_llm_tokens"):
        ceiling(price, input_llm_tokens=1, output_llm_tokens=bad)


@pytest.mark.parametrize(
    ("rates", "fault"),
    [
        ({"input": 1.5}, "rate of input is a float"),
        ({"input": "abc"}, "rate of input is 'abc'"),
        ({"input": "-1"}, "rate of input is '-1'"),
        ({"input": "NaN"}, "rate of input is 'NaN'"),
        ({"input": "1e30"}, "rate of input"),
        ({"speed": 1}, "meter 'speed' is unknown"),
    ],
)
def test_bad_rates_are_refused_by_name(rates: dict[str, str], fault: str) -> None:
    with pytest.raises(PriceError, match=fault):
        llm_token_price("acme", "m", rates=rates)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not valid"),
        ("{}", "provider"),
        ('{"provider":"a","model":"m","currency":"XXQ"}', "currency"),
        ('{"provider":"","model":"m"}', "provider"),
        ('{"provider":"a","model":"m","components":[{"meter":"x","rate":"1"}]}', "meter|enum"),
        ('{"provider":"a","model":"m","components":[{"meter":"input","rate":"-1"}]}', "rate"),
        ('{"provider":"a","model":"m","max_output_llm_tokens":-4}', "max_output_llm_tokens"),
    ],
)
def test_a_bad_price_is_refused_with_the_field(text: str, fault: str) -> None:
    with pytest.raises(PriceError, match=fault):
        price_from_json(text)


def test_prices_survive_json_exactly() -> None:
    book = snapshot()
    prices = [book.lookup(name) for name in book.models()[::50]]
    kept = [price for price in prices if price is not None]
    assert prices_from_json(prices_to_json(kept)) == kept
    assert all(price_from_json(price_to_json(price)) == price for price in kept)


UNITS = frozenset(Meter) - LLM_TOKEN_METERS - {Meter.CALL_FEE}
YEAR = datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai"))
MOMENTS = st.integers(0, 365 * 24 * 60).map(lambda minutes: YEAR + timedelta(minutes=minutes))


@cache
def priced_models() -> list[Price]:
    book = snapshot()
    found = (book.lookup(name) for name in book.models())
    prices = [price for price in found if price is not None and price.is_priced]
    return [price for price in prices if any(c.meter == "input" for c in price.components)]


def falls(price: Price, tier: str) -> bool:
    """Whether the list says that some LLM tokens cost less beyond a context threshold."""
    levels = [level.llm_tokens for level in rate_table(price).of(tier, "").levels]
    return any(
        rate > above[meter]
        for below, above in pairwise(levels)
        for meter, rate in below.items()
        if meter in above
    )


@cache
def rarer_models() -> list[Price]:
    """Those with parts of the grammar that few have."""
    return [p for p in priced_models() if p.windows or p.free_quotas or p.search_per != "query"]


@st.composite
def priced_calls(draw: st.DrawFn) -> tuple[Price, Usage]:
    price = draw(st.sampled_from(priced_models()) | st.sampled_from(rarer_models()))
    edges = [0, 1, 777, *price.thresholds, *(t + 1 for t in price.thresholds), 2_000_000]
    count = st.sampled_from(edges) | st.integers(0, 10**6)
    output = draw(count)
    kinds = st.dictionaries(st.sampled_from(sorted(PART_OF)), count)
    price_kinds = [c.meter.value for c in price.components if c.meter in UNITS]
    units = st.dictionaries(st.sampled_from(price_kinds), count) if price_kinds else st.just({})
    return price, Usage(
        input=draw(count),
        cached_input=draw(count),
        cache_write_5m=draw(count),
        cache_write_1h=draw(count),
        output=output,
        reasoning=draw(st.integers(0, output)),
        extra=draw(st.just({}) | st.builds(lambda a, b: {**a, **b}, kinds, units)),
    )


@settings(max_examples=300, deadline=None)
@given(
    priced_calls(),
    st.sampled_from([None, "default", "priority", "flex", "ultrafast", "fast", "batch"]),
    st.data(),
)
def test_no_usage_within_the_bounds_costs_more_than_the_ceiling(
    call: tuple[Price, Usage], asked: str | None, data: st.DataObject
) -> None:
    price, usage = call
    if not any(component.meter == "output" for component in price.components):
        usage = Usage(input=usage.input, cached_input=usage.cached_input, extra=usage.extra)
    bounds = {name: count for name, count in usage.extra.items() if name not in PART_OF}
    most = ceiling(
        price,
        input_llm_tokens=usage.input_llm_tokens,
        output_llm_tokens=usage.output,
        service_tier=asked,
        extra=bounds,
    )
    served = {None: ["default", "priority"], "batch": ["batch"]}.get(asked, ["default", asked])
    region = data.draw(st.sampled_from(rate_table(price).regions))
    charged = charge(
        price,
        usage,
        service_tier=data.draw(st.sampled_from(served)),
        region=region,
        at=data.draw(st.none() | MOMENTS),
    )
    assert charged.cost_nanos <= most
    assert not charged.unpriced
    if not usage.extra:
        text = ceiling(
            price,
            input_llm_tokens=usage.input_llm_tokens,
            output_llm_tokens=usage.output,
            service_tier=asked,
            text_only=True,
        )
        assert charged.cost_nanos <= text <= most


@settings(max_examples=300, deadline=None)
@given(priced_calls(), st.integers(0, 10**6), st.data())
def test_cost_is_never_negative_grows_with_every_count_and_ignores_component_order(
    call: tuple[Price, Usage], more: int, data: st.DataObject
) -> None:
    price, usage = call
    assume(not falls(price, ""))
    at = data.draw(st.none() | MOMENTS)
    base = charge(price, usage, at=at)
    assert base.cost >= 0
    assert sum(line.amount for line in base.breakdown) == base.cost
    shuffled = structs.replace(
        price, components=tuple(data.draw(st.permutations(price.components)))
    )
    assert charge(shuffled, usage, at=at).cost == base.cost
    units = [name for name in usage.extra if name not in PART_OF]
    name = data.draw(
        st.sampled_from(
            ["input", "cached_input", "cache_write_5m", "cache_write_1h", "output", *units]
        )
    )
    if name in units:
        extra = {**usage.extra, name: usage.extra[name] + more}
        grown = structs.replace(usage, extra=extra)
    else:
        grown = structs.replace(usage, **{name: getattr(usage, name) + more})
    assert charge(price, grown, at=at).cost >= base.cost


def test_a_longer_context_costs_less_in_few_entries_of_the_map_and_these_alone() -> None:
    """The map's rates, and what LiteLLM falls back on where a tier names none for long ones."""
    tiers = ("", "flex", "priority", "ultrafast", "batch")
    falling = {
        f"{price.provider}/{price.model}@{tier}"
        for price in priced_models()
        for tier in tiers
        if price.thresholds and falls(price, tier)
    }
    counted = Counter(name.rpartition("@")[2] for name in falling)
    assert counted == {"": 4, "flex": 6, "priority": 18, "ultrafast": 4}
    assert {name for name in falling if name.endswith("@")} == {
        "vertex_ai/gemini-2.5-pro@",
        "vertex_ai/gemini-3-pro-preview@",
        "vertex_ai/gemini-3.1-pro-preview@",
        "vertex_ai/gemini-3.1-pro-preview-customtools@",
    }


def test_two_calls_cost_what_they_cost_together_below_every_threshold() -> None:
    for price in priced_models()[::20]:
        no_fee = {"request": 0}
        first = Usage(input=100, output=10, extra=no_fee)
        second = Usage(input=7, cached_input=5, output=3, extra=no_fee)
        both = Usage(input=107, cached_input=5, output=13, extra=no_fee)
        if "output" in charge(price, first).unpriced:
            continue
        assert cost(price, first) + cost(price, second) == cost(price, both)


def test_a_component_says_which_field_is_wrong() -> None:
    with pytest.raises(PriceError, match="per of input"):
        Component(meter=Meter.INPUT, rate=Decimal(1), per=0)
    with pytest.raises(PriceError, match="above of input"):
        Component(meter=Meter.INPUT, rate=Decimal(1), above=-1)
    with pytest.raises(PriceError, match="rate of input is NaN"):
        Component(meter=Meter.INPUT, rate=Decimal("NaN"))


def test_two_rates_for_the_same_thing_are_refused() -> None:
    one = Component(meter=Meter.INPUT, rate=Decimal(1))
    with pytest.raises(PriceError, match="two rates of input"):
        Price(provider="a", model="m", components=(one, Component(Meter.INPUT, Decimal(2))))
    with pytest.raises(PriceError, match="variant of input"):
        Component(meter=Meter.INPUT, rate=Decimal(1), variant="high")


def test_a_fee_per_request_is_paid_once_by_every_call() -> None:
    sizes = {"search_context_size_low": 0.005, "search_context_size_high": 0.012}
    entry = {**ENTRY, "litellm_provider": "perplexity", "search_context_cost_per_query": sizes}
    sonar = compile_entry("perplexity/sonar", entry)
    assert cost(sonar, Usage(input=1_000)) == Decimal("0.002") + Decimal("0.012")
    counted = Usage(input=1_000, extra={"request.low": 1, "search": 7, "citation": 3})
    assert charge(sonar, counted).unpriced == ()
    assert cost(sonar, counted) == Decimal("0.007")
    most = ceiling(sonar, input_llm_tokens=1_000, output_llm_tokens=0, service_tier="default")
    assert most == 14_000_000


def test_bounds_of_other_meters_are_in_the_ceiling_or_refused() -> None:
    price = compile_entry(
        "m", {**ENTRY, "search_context_cost_per_query": {"search_context_size_low": 0.01}}
    )

    def most(extra: dict[str, int]) -> int:
        return ceiling(
            price,
            input_llm_tokens=0,
            output_llm_tokens=0,
            service_tier="default",
            extra=extra,
        )

    assert most({"search": 5}) == 50_000_000
    assert most({"request": 1}) == 0
    with pytest.raises(UnpricedError, match="no rate for page"):
        most({"page": 1})
    with pytest.raises(UnpricedError, match="no rate for no-such"):
        most({"no-such": 1})
    with pytest.raises(ValueError, match="search is -1"):
        most({"search": -1})


def test_twelve_hour_writes_have_their_own_rate_or_that_of_the_base_write() -> None:
    writes = {
        "cache_creation_input_token_cost": 2.5e-06,
        "cache_creation_input_token_cost_above_1hr": 4e-06,
    }
    usage = Usage(cache_write_1h=1_000_000, extra={"cache_write_12h": 1_000_000})
    assert cost(compile_entry("m", {**ENTRY, **writes}), usage) == Decimal("2.5")
    own = {"cache_creation_input_token_cost_above_12hr": 6e-06}
    assert cost(compile_entry("m", {**ENTRY, **writes, **own}), usage) == 6
