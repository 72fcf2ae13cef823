"""The rarer parts of the price grammar: how the map says them, and what they charge."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from bursar.pricing import (
    Component,
    FreeQuota,
    Meter,
    Price,
    UnpricedError,
    ceiling,
    charge,
    compile_entry,
    snapshot,
)
from bursar.usage import Usage

CHAT = {
    "litellm_provider": "acme",
    "mode": "chat",
    "input_cost_per_token": 1e-06,
    "output_cost_per_token": 4e-06,
}
PEAK = datetime(2026, 11, 18, 2, tzinfo=UTC)
NIGHT = datetime(2026, 11, 18, 20, tzinfo=UTC)


def compiled(**fields: Any) -> Price:
    return compile_entry("m", {**CHAT, **fields})


def cost(
    price: Price, usage: Usage, tier: str | None = None, at: datetime | None = None
) -> Decimal:
    charged = charge(price, usage, service_tier=tier, at=at)
    assert charged.unpriced == ()
    return charged.cost


def test_off_peak_hours_of_the_map() -> None:
    block = {
        "hours_utc": "16:30-00:30",
        "windows": [{"hours_utc": ["00:00-00:00"], "weekdays": ["Sat", 7]}],
        "weekday_timezone": "Asia/Shanghai",
        "input_cost_per_token": 5e-07,
    }
    price = compiled(off_peak_pricing=block)
    assert price.unmodelled == ()
    usage = Usage(input=1_000_000, cached_input=1_000_000, output=1_000_000)
    assert cost(price, usage) == cost(price, usage, at=PEAK) == 6
    # Cached input has no rate of its own and follows the input's.
    assert cost(price, usage, at=NIGHT) == 5
    assert cost(price, usage, at=datetime(2026, 11, 20, 16, 10, tzinfo=UTC)) == 5


def test_the_built_in_list_knows_deepseeks_hours() -> None:
    price = snapshot().lookup("deepseek-flash", "deepseek")
    assert price is not None
    usage = Usage(input=1_000_000, cached_input=1_000_000, output=1_000_000)
    # api-docs.deepseek.com, "Models & Pricing": off-peak rates are half of the peak rates.
    assert cost(price, usage) == cost(price, usage, at=PEAK) == Decimal("1.506")
    assert cost(price, usage, at=NIGHT) == Decimal("0.753")


@pytest.mark.parametrize(
    "block",
    [
        "cheap",
        {},
        {"hours_utc": "16:30"},
        {"hours_utc": "25:00-26:00"},
        {"hours_utc": 7},
        {"windows": [{"hours_utc": "00:00-01:00", "weekdays": ["someday"]}]},
        {"windows": [7]},
        {"hours_utc": "00:00-01:00", "windows": [{"hours_utc": "x", "weekdays": 1}]},
    ],
)
def test_hours_that_can_not_be_read_leave_the_normal_rate_and_are_reported(block: Any) -> None:
    price = compiled(off_peak_pricing=block)
    assert price.unmodelled == ("off_peak_pricing",)
    assert cost(price, Usage(input=1_000_000), at=NIGHT) == 1


def test_an_off_peak_rate_that_nobody_knows_is_reported() -> None:
    block = {"hours_utc": "00:00-00:00", "video_cost_per_moon": 1.5}
    assert compiled(off_peak_pricing=block).unmodelled == ("off_peak_pricing.video_cost_per_moon",)


def test_caches_that_were_made_explicitly_have_their_own_rate() -> None:
    price = compiled(cache_read_input_token_cost=2e-07, explicit_cache_read_input_token_cost=1e-07)
    hits = Usage(cached_input=1_000_000)
    assert cost(price, hits) == Decimal("0.2")
    explicit = Usage(cached_input=1_000_000, extra={"explicit_cached_input": 400_000})
    assert cost(price, explicit) == Decimal("0.16")
    assert cost(compiled(), explicit) == 1
    ranges = [{"range": [0, 10], "input_cost_per_token": 2e-06, "output_cost_per_token": 0}]
    ranged = compiled(
        cache_read_input_token_cost=2e-07,
        explicit_cache_read_input_token_cost=1e-07,
        tiered_pricing=ranges,
    )
    assert cost(ranged, explicit) == 2


def test_a_range_without_an_output_rate_has_the_flat_one_not_that_of_the_range_below() -> None:
    ranges = [
        {"range": [0, 10], "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
        {"range": [10, 20], "input_cost_per_token": 2e-06},
    ]
    price = compiled(tiered_pricing=ranges, output_cost_per_reasoning_token=5e-06)
    assert cost(price, Usage(input=10, output=1_000_000)) == 2 + Decimal("0.00001")
    above = Usage(input=11, output=1_000_000, reasoning=500_000)
    assert cost(price, above) == Decimal("4.5") + Decimal("0.000022")


def test_searches_are_paid_by_the_query_or_by_the_request_that_searched() -> None:
    sizes = {f"search_context_size_{size}": 0.035 for size in ("low", "medium", "high")}
    grounded = {"search_context_cost_per_query": sizes, "litellm_provider": "gemini"}
    by_request = compiled(**grounded, google_maps_grounding_cost_per_query=0.025)
    by_query = compiled(**grounded, web_search_billing_unit="per_query")
    searches = Usage(extra={"search": 4})
    assert cost(by_request, searches) == Decimal("0.035")
    assert cost(by_query, searches) == Decimal("0.14")
    assert cost(by_request, Usage(extra={"search": 4, "maps_query": 2})) == Decimal("0.06")
    assert cost(by_request, Usage(extra={"search.low": 4, "search.high": 2})) == Decimal("0.035")
    for price, most in ((by_request, 35_000_000), (by_query, 140_000_000)):
        bounds = {"search": 4}
        assert ceiling(price, input_llm_tokens=0, output_llm_tokens=0, extra=bounds) == most
    # Elsewhere every search is paid, unless the list says otherwise.
    anthropic = compiled(search_context_cost_per_query=sizes, litellm_provider="anthropic")
    assert cost(anthropic, searches) == Decimal("0.14")
    assert compiled(web_search_billing_unit="per_moon").unmodelled == ("web_search_billing_unit",)


def test_free_searches_of_an_account() -> None:
    sizes = {"search_context_size_medium": 0.014}
    quota = {"count": 5000, "period": "month", "shared_group": "gemini-3"}
    price = compiled(
        search_context_cost_per_query=sizes,
        search_free_requests=quota,
        web_search_billing_unit="per_query",
    )
    assert price.free_quotas == (FreeQuota("search", 5000, "month", group="gemini-3"),)
    searches = Usage(extra={"search": 3})
    assert charge(price, searches).cost == Decimal("0.042")
    assert charge(price, searches, free_used={"search": 4998}).cost == Decimal("0.014")
    for bad in (7, {"count": 1}, {"count": -1, "period": "day"}, {"count": 1, "period": []}):
        assert compiled(search_free_requests=bad).unmodelled == ("search_free_requests",)


def test_free_pictures_of_every_request() -> None:
    price = compile_entry(
        "minimax/m",
        {
            "litellm_provider": "minimax",
            "mode": "video_generation",
            "input_cost_per_image": 0.04,
            "output_cost_per_second": 0.08,
            "output_cost_per_second_2k": 0.13,
            "provider_specific_entry": {"minimax_free_input_images": 5},
        },
    )
    usage = Usage(extra={"input_picture": 7, "output_second.2k": 6})
    assert cost(price, usage) == 2 * Decimal("0.04") + 6 * Decimal("0.13")
    assert cost(price, Usage(extra={"input_picture": 5})) == 0
    most = ceiling(price, input_llm_tokens=0, output_llm_tokens=0, extra={"input_picture": 7})
    assert most == 280_000_000


def test_units_have_tiers_and_thresholds_like_llm_tokens() -> None:
    price = compiled(
        ocr_cost_per_page=0.004,
        ocr_cost_per_page_batches=0.002,
        input_cost_per_character=1e-06,
        input_cost_per_character_above_128k_tokens=2e-06,
    )
    assert price.unmodelled == ()
    pages = Usage(extra={"page": 10})
    assert cost(price, pages) == Decimal("0.04")
    assert cost(price, pages, "batch") == Decimal("0.02")
    assert cost(price, pages, "flex") == Decimal("0.04")
    short = Usage(input=128_000, extra={"input_character": 1_000_000})
    long = Usage(input=128_001, extra={"input_character": 1_000_000})
    assert cost(price, long) - cost(price, short) == 1 + Decimal("0.000001")


@pytest.mark.parametrize("size", [128_000, 128_001])
def test_the_ceiling_of_units_knows_the_thresholds(size: int) -> None:
    price = compiled(
        input_cost_per_character=1e-06, input_cost_per_character_above_128k_tokens=2e-06
    )
    usage = Usage(input=size, extra={"input_character": 1_000_000})
    most = ceiling(
        price,
        input_llm_tokens=size,
        output_llm_tokens=0,
        service_tier="default",
        extra={"input_character": 1_000_000},
    )
    assert most == charge(price, usage).cost_nanos


def test_video_intervals_search_results_and_policy_units_are_variants() -> None:
    video = compiled(
        input_cost_per_video_per_second=0.0005,
        input_cost_per_video_per_second_above_8s_interval=0.001,
        input_cost_per_video_per_second_above_15s_interval=0.002,
    )
    assert cost(video, Usage(extra={"input_video_second": 10})) == Decimal("0.005")
    interval = Usage(extra={"input_video_second.above_15s_interval": 10})
    assert cost(video, interval) == Decimal("0.02")

    ranges = [
        {"input_cost_per_query": 0.005, "max_results_range": [0, 25]},
        {"input_cost_per_query": 0.025, "max_results_range": [26, 100]},
    ]
    search = compile_entry(
        "exa_ai/search", {"litellm_provider": "exa_ai", "tiered_pricing": ranges}
    )
    assert cost(search, Usage(extra={"query.results_25": 2})) == Decimal("0.01")
    assert cost(search, Usage(extra={"query": 2})) == Decimal("0.05")

    units = {"contentPolicyUnits": 0.00015, "wordPolicyUnits": 0.0}
    guard = compile_entry("bedrock/guardrails", {"guardrail_cost_per_unit": units})
    counts = {"guardrail_unit.contentPolicyUnits": 4, "guardrail_unit.wordPolicyUnits": 9}
    assert cost(guard, Usage(extra=counts)) == Decimal("0.0006")


def test_file_searches_are_listed_by_the_thousand() -> None:
    price = compiled(file_search_cost_per_1k_calls=2.5)
    assert cost(price, Usage(extra={"file_search": 3})) == Decimal("0.0075")


def test_rented_capacity_is_no_price_of_a_call() -> None:
    rented = compile_entry("m", {"mode": "chat", "cost_per_second": 0.01})
    assert rented.components
    assert not rented.is_priced
    assert not rented.unmodelled
    with pytest.raises(UnpricedError):
        ceiling(rented, input_llm_tokens=1, output_llm_tokens=1)
    assert cost(rented, Usage(extra={"capacity_second": 3600})) == 36


def test_a_batch_costs_half_of_the_rate_in_force_unless_it_has_its_own() -> None:
    rates = {
        "cache_creation_input_token_cost": 2e-06,
        "cache_creation_input_token_cost_above_1hr": 4e-06,
        "input_cost_per_token_above_200k_tokens": 2e-06,
        "input_cost_per_audio_token": 1e-05,
    }
    price = compiled(**rates)
    assert cost(price, Usage(input=200_001), "batch") == Decimal("0.200001")
    assert cost(price, Usage(cache_write_1h=100_000), "batch") == Decimal("0.2")
    spoken = Usage(input=100_000, extra={"audio_input": 100_000})
    assert cost(price, spoken, "batch") == Decimal("0.5")
    own = compiled(**rates, input_cost_per_token_batches=4e-07, output_cost_per_token_batches=1e-06)
    assert cost(own, Usage(input=100_000, output=100_000), "batch") == Decimal("0.14")
    assert cost(own, Usage(cached_input=100_000), "batch") == Decimal("0.04")
    assert cost(own, spoken, "batch") == Decimal("0.5")
    output_only = compiled(output_cost_per_token_batches=1e-06)
    half_in = Usage(input=100_000, output=100_000)
    assert cost(output_only, half_in, "batch") == Decimal("0.15")


def test_a_fee_by_request_may_depend_on_the_tier() -> None:
    price = Price(
        provider="acme",
        model="m",
        mode="chat",
        components=(
            Component(Meter.INPUT, Decimal(1)),
            Component(Meter.OUTPUT, Decimal(1)),
            Component(Meter.REQUEST, Decimal("0.01"), per=1),
            Component(Meter.REQUEST, Decimal("0.02"), per=1, tier="priority"),
        ),
    )
    assert cost(price, Usage()) == Decimal("0.01")
    assert cost(price, Usage(), "priority") == Decimal("0.02")
    for tier, most in ((None, 20_000_000), ("default", 10_000_000)):
        found = ceiling(price, input_llm_tokens=0, output_llm_tokens=0, service_tier=tier)
        assert found == most


def test_batches_have_the_discount_of_their_provider() -> None:
    def batch(provider: str, usage: Usage, **fields: float) -> Decimal:
        return cost(compiled(litellm_provider=provider, **fields), usage, "batch")

    usage = Usage(input=1_000_000)
    assert batch("openai", usage) == Decimal("0.5")
    assert batch("xai", usage) == Decimal("0.8")
    assert batch("moonshot", usage) == Decimal("0.6")
    # Google's batches read caches at the ordinary cache rate, others' at that of batch input.
    hits = Usage(cached_input=1_000_000)
    rates = {"cache_read_input_token_cost": 1e-07, "input_cost_per_token_batches": 5e-07}
    assert batch("gemini", hits, **rates) == Decimal("0.1")
    assert batch("openai", hits, **rates) == Decimal("0.5")
    listed = {**rates, "cache_read_input_token_cost_batches": 3e-08}
    assert batch("gemini", hits, **listed) == Decimal("0.03")


@pytest.mark.parametrize(("bound", "fees"), [(None, 1), (0, 1), (1, 1), (3, 3)])
def test_a_ceiling_has_a_fee_for_one_request_at_least(bound: int | None, fees: int) -> None:
    price = compiled(input_cost_per_request=0.005)
    extra = None if bound is None else {"request": bound}
    most = ceiling(price, input_llm_tokens=0, output_llm_tokens=0, extra=extra)
    assert most == fees * 5_000_000


@pytest.mark.parametrize(
    ("field", "value", "is_reported"),
    [
        ("input_cost_per_dream", 0.5, True),
        ("weekend_surcharge", 2, True),
        ("monthly_fee", 20, True),
        ("volume_discounts", [{"above": 10}], True),
        ("holiday_factor", 1.5, True),
        ("nested", {"any": [1, {"thing": 0.1}]}, True),
        ("search_queries_cost_per_query", 0.005, True),
        ("supports_feeling", True, False),
        ("rpm", 500, False),
        ("metadata", {"calculation": 0.5}, False),
        ("max_tokens", 8192.0, False),
    ],
)
def test_whatever_looks_like_a_price_is_reported(
    field: str, value: Any, *, is_reported: bool
) -> None:
    assert compiled(**{field: value}).unmodelled == ((field,) if is_reported else ())
