"""The built-in price list, its names, and layers above it."""

import json
import lzma
import zlib
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest

from bursar.pricing import (
    Meter,
    PriceError,
    compile_entry,
    compile_map,
    llm_token_price,
    snapshot,
)
from bursar.pricing.book import MAX_KNOWN, SNAPSHOT_FILE
from bursar.pricing.build_snapshot import MAP_FILE, built
from bursar.pricing.compile_litellm import provider_family, read_map

DATA = resources.files("bursar").joinpath("data")


def listed() -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = json.loads(
        lzma.decompress(DATA.joinpath(MAP_FILE).read_bytes())
    )
    del entries["sample_spec"], entries["fallback_generalizations"]
    return entries


def family_of(entry: dict[str, object]) -> str:
    return provider_family(str(entry.get("litellm_provider") or "custom"))


def test_the_shipped_list_is_what_the_map_compiles_to() -> None:
    # The compressed bytes may differ by zlib's version; the content may not.
    shipped = DATA.joinpath(SNAPSHOT_FILE).read_bytes()
    assert zlib.decompress(shipped) == zlib.decompress(built())


def test_every_model_of_the_map_is_found_under_its_key_and_provider() -> None:
    book = snapshot()
    for key, entry in listed().items():
        family = family_of(entry)
        price = book.lookup(key, family)
        assert price is not None, key
        assert (price.provider, price.price_version) == (family, book.version)
        assert book.lookup(f"{family}/{price.model}") is not None, key


def test_every_priced_chat_completion_responses_and_embedding_model_has_its_rates() -> None:
    for key, entry in listed().items():
        if entry.get("mode") not in ("chat", "completion", "responses", "embedding"):
            continue
        rates = (entry.get("input_cost_per_token"), entry.get("output_cost_per_token"))
        price = snapshot().lookup(key, family_of(entry))
        assert price is not None
        if all(rates):
            assert price.is_priced, key
        if not any("cost" in field or "pricing" in field for field in entry):
            assert not price.is_priced, key


def test_rates_are_the_text_of_the_map_to_the_last_digit() -> None:
    text = lzma.decompress(DATA.joinpath(MAP_FILE).read_bytes())
    exact = read_map(text)
    del exact["sample_spec"], exact["fallback_generalizations"]
    for key, entry in exact.items():
        price = snapshot().lookup(key, family_of(entry))
        assert price is not None
        rates = {
            c.meter: c for c in price.components if not (c.above or c.tier or c.variant or c.during)
        }
        listed_rate = entry.get("input_cost_per_token")
        if listed_rate and "tiered_pricing" not in entry:
            assert rates[Meter.INPUT].rate == Decimal(str(listed_rate)) * 1_000_000, key


def test_a_float_and_its_text_compile_to_the_same_price() -> None:
    text = b'{"m": {"litellm_provider": "x", "input_cost_per_token": 8.39233e-08}}'
    assert compile_map(read_map(text)) == compile_map(json.loads(text))
    assert compile_map(read_map(text))["m"].components[0].rate == Decimal("0.0839233")


def test_no_price_field_of_the_map_is_dropped_silently() -> None:
    price_like = ("cost", "pric", "uplift", "free_requests", "billing")
    for key, entry in listed().items():
        price = snapshot().lookup(key, family_of(entry))
        assert price is not None
        for field, value in entry.items():
            if not any(word in field for word in price_like) or field in price.unmodelled:
                continue
            changed = {**entry, field: 123.0 if isinstance(value, int | float) else {"x": "y"}}
            try:
                moved = compile_entry(key, changed)
            except PriceError:
                continue  # it was read, and refused
            unpriced = not price.components and not value
            # Ranges over the input replace the flat rates that they repeat.
            ranged = "tiered_pricing" in entry and field in str(entry["tiered_pricing"])
            assert unpriced or ranged or moved != compile_entry(key, entry), (
                f"{key}: {field} has no effect"
            )


@pytest.mark.parametrize(
    ("model", "provider", "found"),
    [
        ("gpt-4o", None, ("openai", "gpt-4o")),
        ("gpt-4o", "openai", ("openai", "gpt-4o")),
        ("openai/gpt-4o", None, ("openai", "gpt-4o")),
        ("openai/gpt-4o", "openai", ("openai", "gpt-4o")),
        ("azure/gpt-4o", None, ("azure", "gpt-4o")),
        ("gpt-4o", "azure", ("azure", "gpt-4o")),
        ("text-embedding-3-small", None, ("openai", "text-embedding-3-small")),
        ("gemini-2.5-pro", "gemini", ("gemini", "gemini-2.5-pro")),
        ("gemini-2.5-pro", "vertex_ai", ("vertex_ai", "gemini-2.5-pro")),
        ("gpt-4o", "anthropic", None),
        ("no-such-model", None, None),
        ("nobody/gpt-4o", None, None),
        ("", None, None),
        ("/", None, None),
        ("openai/", None, None),
    ],
)
def test_names_lead_to_prices(
    model: str, provider: str | None, found: tuple[str, str] | None
) -> None:
    price = snapshot().lookup(model, provider)
    assert (price and (price.provider, price.model)) == found


def test_a_prefix_names_the_provider_even_where_a_reseller_lists_the_whole_name() -> None:
    book = snapshot()
    resold = [
        (key, price)
        for key in listed()
        if (price := book.lookup(key)) and price.model.count("/") == 1
    ]
    checked = 0
    for _, price in resold:
        head, _, rest = price.model.partition("/")
        direct = book.lookup(rest, head)
        if direct is not None and book.provider_of(price.model) != [price.provider]:
            assert book.lookup(price.model) == direct
            checked += 1
    assert checked > 10


def test_bare_names_belong_to_the_list_s_own_provider() -> None:
    book = snapshot()
    assert book.provider_of("gpt-4o") == ["openai"]
    assert book.provider_of("no-such-model") == []
    assert len(book.provider_of("deepseek-v3p1")) <= 1


def test_overlays_win_and_change_the_version() -> None:
    book = snapshot()
    cheap = llm_token_price("openai", "gpt-4o", rates={"input": 1, "output": 1})
    house = llm_token_price("house", "own-model", rates={"input": 0, "output": 0})
    layered = book.with_overlay([cheap, house], "org-7")
    assert layered.version != book.version
    assert layered.version == book.with_overlay([cheap, house], "org-7").version
    found = layered.lookup("gpt-4o")
    assert found is not None
    assert (found.components, found.price_version) == (cheap.components, "org-7")
    own = layered.lookup("own-model")
    assert own is not None
    assert own.is_free
    assert layered.provider_of("own-model") == ["house"]
    # A custom price at another provider does not take a name away from its owner.
    other = book.with_overlay([llm_token_price("house", "gpt-4o", rates={"input": 1})], "v1")
    assert other.provider_of("gpt-4o") == ["openai"]
    assert "house/own-model" in layered.models()
    again = layered.with_overlay([llm_token_price("house", "own-model", rates={"input": 2})], "v2")
    replaced = again.lookup("house/own-model")
    assert replaced is not None
    assert replaced.price_version == "v2"
    assert book.lookup("own-model") is None


def test_an_answer_is_kept_and_invented_names_do_not_pile_up() -> None:
    cheap = llm_token_price("openai", "gpt-4o", rates={"input": 1, "output": 1})
    book = snapshot().with_overlay([cheap], "org-8")
    for _ in "12":
        assert book.lookup("gpt-4o", "openai") is book.listed("gpt-4o", "openai")
        assert book.lookup("gpt-4o-mini", "openai") is book.listed("gpt-4o-mini", "openai")
        assert book.lookup("gpt-4o", "azure") is book.listed("gpt-4o", "azure")
        assert book.lookup("no-such-model", "openai") is None
    for number in range(MAX_KNOWN + 2):
        book.lookup(f"invented-{number}", "openai")
    assert 0 < len(book._known) <= MAX_KNOWN
    assert book.lookup("gpt-4o", "openai") is book.listed("gpt-4o", "openai")


def test_a_model_that_two_providers_sell_is_ambiguous_until_one_is_named() -> None:
    prices = [llm_token_price(p, "m-9", rates={"input": 1, "output": 1}) for p in ("a", "b")]
    book = snapshot().with_overlay(prices, "v1")
    assert book.provider_of("m-9") == ["a", "b"]
    assert book.lookup("m-9") is None
    named = book.lookup("b/m-9")
    assert named is not None
    assert named.provider == "b"


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (5, "is a int"),
        ({"input_cost_per_token": -1.0}, "input_cost_per_token is -1.0"),
        ({"input_cost_per_token": "abc"}, "input_cost_per_token is 'abc'"),
        ({"input_cost_per_token": True}, "input_cost_per_token is True"),
        ({"input_cost_per_token": float("nan")}, "input_cost_per_token is nan"),
        ({"input_cost_per_token": 1e300}, "input_cost_per_token is 1e"),
        ({"input_cost_per_token": 1e8}, "rate of input is"),
        ({"search_context_cost_per_query": {"search_context_size_low": []}}, "search_context"),
    ],
)
def test_a_bad_entry_is_refused_with_model_and_field(entry: object, fault: str) -> None:
    with pytest.raises(PriceError, match=fault):
        compile_entry("m", entry)


def test_ranges_price_the_whole_request_and_stand_alone() -> None:
    price = compile_entry(
        "m",
        {
            "litellm_provider": "dashscope",
            "mode": "chat",
            "cache_read_input_token_cost": 1e-09,
            "tiered_pricing": [
                {"range": [0, 1000], "input_cost_per_token": 4e-07, "output_cost_per_token": 1e-06},
                {"range": [1000, 9000], "input_cost_per_token": 8e-07, "strange_cost": 1},
            ],
        },
    )
    rates = {(c.meter.value, c.above): c.rate for c in price.components}
    assert rates[("input", 0)] == Decimal("0.4")
    assert rates[("input", 1000)] == Decimal("0.8")
    assert rates[("cached_input", 0)] == Decimal("0.4")
    assert rates[("cached_input", 1000)] == Decimal("0.8")
    assert ("output", 1000) not in rates
    assert price.unmodelled == ("tiered_pricing.strange_cost",)


def test_the_docs_name_every_field_that_is_not_modelled() -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs" / "prices.md").read_text()
    book = snapshot()
    prices = [book.lookup(key, family_of(entry)) for key, entry in listed().items()]
    fields = {field for price in prices if price for field in price.unmodelled}
    assert [
        field for field in sorted(fields) if f"{field.partition('.')[2] or field}`" not in docs
    ] == []
