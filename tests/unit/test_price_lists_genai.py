"""genai-prices' data as a price list: it charges what that package does, and refuses nonsense."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.pricing import Meter, Price, PriceError, charge, snapshot
from bursar.pricing.compile_genai import compile_providers, read_providers
from bursar.pricing.genai_names import Names
from bursar.pricing.lists import ListForm, read_list
from bursar.usage import Usage

DATA = Path(__file__).parent.parent / "data" / "price_lists"
SAMPLE = (DATA / "genai_prices_sample.json").read_bytes()
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
HERE = {"aws": "bedrock", "google": "vertex_ai", "x-ai": "xai"}


@pytest.fixture(scope="module")
def sample() -> list[Price]:
    return compile_providers(read_providers(SAMPLE), snapshot(), AT)


def found(prices: list[Price], provider: str, model: str, at: datetime = AT) -> Price:
    (price,) = [
        one
        for one in prices
        if (one.provider, one.model) == (provider, model) and one.is_in_force(at)
    ]
    return price


def tier_of(context: dict[str, str]) -> str | None:
    ((_, value),) = context.items() if context else (("", ""),)
    return value or None


def usage_of(row: dict[str, int]) -> Usage:
    cached, written = row.get("cache_read_tokens", 0), row.get("cache_write_tokens", 0)
    return Usage(
        input=row["input_tokens"] - cached - written,
        cached_input=cached,
        cache_write_5m=written,
        output=row["output_tokens"],
    )


def test_every_charge_is_what_genai_prices_computes(sample: list[Price]) -> None:
    wrong, asked = [], 0
    for line in (DATA / "genai_prices_costs.jsonl").read_text().splitlines():
        row = json.loads(line)
        at = datetime.fromisoformat(row["at"])
        try:
            price = found(sample, HERE.get(row["provider"], row["provider"]), row["model"], at)
        except ValueError:
            wrong.append(f"no price: {line}")
            continue
        asked += 1
        # What is priced by the second or the page has nothing to charge in a text call.
        here = charge(price, usage_of(row["usage"]), service_tier=tier_of(row["context"]), at=at)
        if abs(here.cost - Decimal(row["cost"])) > Decimal("1e-12"):
            wrong.append(f"{here.cost} here: {line}")
    assert asked > 500
    assert not wrong, "\n".join(wrong[:20])


def test_a_price_that_begins_later_is_a_price_of_its_own(sample: list[Price]) -> None:
    first, second = [
        one for one in sample if (one.provider, one.model) == ("gemini", "gemini-3.6-flash")
    ]
    begins = datetime(2027, 1, 1, tzinfo=UTC)
    assert (first.effective_at, first.expires_at) == (None, begins)
    assert (second.effective_at, second.expires_at) == (begins, None)


def test_names_that_the_built_in_list_has_are_matched_by_clauses(sample: list[Price]) -> None:
    # "gpt-4o" is spelled out, the dated ones are only matched; the built-in list knows those.
    for name in ("gpt-4o", "gpt-4o-2024-08-06"):
        built_in = snapshot().lookup(name, "openai")
        price = found(sample, "openai", name)
        assert built_in is not None
        assert price.mode == built_in.mode == "chat"
        assert price.max_output_llm_tokens == built_in.max_output_llm_tokens


def test_a_model_that_is_spelled_out_with_its_provider_only_is_found_by_its_own_name() -> None:
    prices = {"input_mtok": 1, "output_mtok": 2}
    data = file(prices, match={"equals": "acme/m"})
    assert [one.model for one in read_list(data, snapshot(), AT).prices] == ["m"]


def test_google_is_two_providers_and_anthropics_models_are_on_one(sample: list[Price]) -> None:
    where = {one.provider for one in sample if one.model == "gemini-2.5-pro"}
    assert where == {"gemini", "vertex_ai"}
    assert {one.provider for one in sample if one.model == "claude-opus-4-6"} == {"vertex_ai"}


def test_the_first_model_whose_clause_holds_is_meant() -> None:
    models: list[Any] = [
        {"id": "a", "match": {"and": [{"starts_with": "Big-"}, {"contains": "x"}]}},
        {"id": "b", "match": {"or": [{"equals": "big-x"}, {"ends_with": "-y"}]}},
        {"id": "c", "match": {"equals": "small"}},
        {"id": "later", "match": {"equals": "Big-axe"}},
        {"id": "d", "match": {"regex": r"^small-\d{4}-\d{2}-\d{2}$"}},
    ]
    names = Names("acme", models)
    asked = [
        "BIG-X",
        "big-axe",
        "big-y",
        "other-y",
        "small",
        "small-2026-01-31",
        "small-20260131",
        "none",
    ]
    assert [names.find(name) for name in asked] == [0, 0, 1, 1, 2, 4, 4, None]


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)*b", r"(a)\1", "a?a?a?a?a?a", "(a{1,9}){9}", "[a", "a" * 201]
)
def test_a_pattern_that_might_run_for_ever_is_refused(pattern: str) -> None:
    models: list[Any] = [{"id": "m", "match": {"regex": pattern}}]
    with pytest.raises(PriceError, match=r"match\.regex of acme/m is .*expected a short"):
        Names("acme", models)


def file(prices: object, **more: object) -> bytes:
    model = {"id": "m", "match": {"equals": "m"}, "prices": prices, **more}
    return json.dumps([{"id": "acme", "models": [model]}]).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (file({"input_mtok": -1, "output_mtok": 2}), "input_mtok of acme/m is -1; expected"),
        (file({"input_mtok": "NaN", "output_mtok": 2}), "input_mtok of acme/m is 'NaN'; expected"),
        (file({"input_mtok": True}), "input_mtok of acme/m is True; expected"),
        (file({"input_mtok": 1, "output_mtok": 2e6}), "rate of output of acme/m is 2000000"),
        (file({"input_mtok": {"base": 1, "tiers": 5}}), "input_mtok.tiers of acme/m is no list"),
        (file({"input_mtok": {"base": 1, "tiers": [{"start": 0, "price": 1}]}}), "start of acme/m"),
        (file([]), "prices of acme/m is a list; expected"),
        (file(7), "prices of acme/m is a int; expected"),
        (file([{"constraint": {"start_date": "soon"}, "prices": {}}]), "constraint of prices[0]"),
        (file({"input_mtok": 1}, price_variants=[{}]), "price_variants[0] of acme/m has no cond"),
        (file({"input_mtok": 1}, match={"like": "x"}), "match of acme/m is"),
        (file({}), "prices none of its 1 entries"),
        (b"[1]", "provider 0 has no id"),
        (b'[{"id": "a", "models": 1}]', "models of 'a' is a int"),
        (b'[{"id": "a", "models": [{}]}]', "models[0] of 'a' has no id"),
        (b"[", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"<html>", "begins with '<html>'"),
        (b"", "begins with ''"),
    ],
)
def test_a_bad_file_is_refused_whole_and_says_where(data: bytes, said: str) -> None:
    with pytest.raises(PriceError) as caught:
        read_list(data, snapshot(), AT)
    assert said in str(caught.value)


def test_a_flat_rate_of_a_tier_holds_above_the_thresholds_of_the_standard_one() -> None:
    tiered = {"base": 1, "tiers": [{"start": 1000, "price": 4}]}
    prices = {"input_mtok": tiered, "output_mtok": 10}
    batch = {"when": {"processing": "batch"}, "prices": {"input_mtok": "0.5"}}
    (price,) = read_list(file(prices, price_variants=[batch]), snapshot(), AT).prices
    usage = Usage(input=2_000_000)
    assert charge(price, usage).cost == 8
    assert charge(price, usage, service_tier="batch").cost == 1


def test_the_form_is_found_out_and_entries_without_rates_are_left_out() -> None:
    read = read_list(SAMPLE, snapshot(), AT)
    assert read.form is ListForm.GENAI_PRICES
    assert read.left_out == 1
    assert all(one.is_priced and not one.is_free for one in read.prices)
    # The hours of DeepSeek are rates of windows, in the order in which the later one wins.
    price = next(one for one in read.prices if one.model == "deepseek-v4-flash")
    assert list(price.windows) == ["hours 06:00-10:00", "hours 01:00-04:00"]
    assert {c.meter for c in price.components if c.during} == {
        Meter.INPUT,
        Meter.CACHED_INPUT,
        Meter.OUTPUT,
    }
