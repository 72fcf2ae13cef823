"""The terms of a call: bounds, service tiers, and what is refused under a budget."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.exchange import ExchangeRates
from bursar.pricing import Price, charge, llm_token_price, snapshot
from bursar.usage import Usage
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Refusal
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import LEAST_OUTPUT_LLM_TOKENS, Terms, agree, clamp
from tests.fakes.dialect_requests import read

PROVIDER = Provider("openai", "http://p/v1")
NO_RATES = ExchangeRates()


def price_of(model: str) -> Price:
    price = snapshot().lookup(model, "openai")
    assert price is not None
    return price


def terms_of(
    price: Price | None,
    *,
    budgeted: bool = True,
    currency: str = "USD",
    rates: ExchangeRates = NO_RATES,
    provider: Provider = PROVIDER,
    model: str = "gpt-4o-mini",
    may_clamp: bool = False,
    **fields: Any,
) -> Terms:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    facts = read("chat", json.dumps(body).encode())
    return agree(
        facts,
        Route(provider, model, price),
        budgeted=budgeted,
        rates=CallRates(rates, currency, 0),
        default_max_output=4096,
        may_clamp=may_clamp,
    )


def refused(price: Price | None, **fields: Any) -> str:
    with pytest.raises(Refusal) as caught:
        terms_of(price, **fields)
    return caught.value.reason


def test_the_ceiling_covers_every_usage_within_the_bounds() -> None:
    price = price_of("gpt-4o-mini")
    terms = terms_of(price, max_tokens=100, n=3)
    assert terms.output_bound == 300
    dearest = Usage(input=terms.input_bound, output=terms.output_bound)
    assert charge(price, dearest).cost_nanos <= terms.ceiling_nanos


def test_without_a_limit_the_lists_maximum_bounds_the_output() -> None:
    terms = terms_of(price_of("gpt-4o-mini"))
    assert terms.output_bound == 16_384
    assert terms.set_output_limit is None


def test_predicted_output_is_added_to_the_bound() -> None:
    prediction = {"type": "content", "content": "x" * 1000}
    plain = terms_of(price_of("gpt-4o-mini"), max_tokens=10)
    predicted = terms_of(price_of("gpt-4o-mini"), max_tokens=10, prediction=prediction)
    assert predicted.output_bound > plain.output_bound + 1000


def test_the_tier_asked_for_is_reserved_and_auto_reserves_the_dearest() -> None:
    price = price_of("gpt-4o")
    standard = terms_of(price, max_tokens=100, service_tier="default").ceiling_nanos
    for dearer in ("priority", "auto"):
        asked = terms_of(price, max_tokens=100, service_tier=dearer)
        assert asked.ceiling_nanos > 1.5 * standard
    assert terms_of(price, max_tokens=100, service_tier="flexxxx").ceiling_nanos == standard


def test_an_account_that_may_be_priority_reserves_for_it() -> None:
    account = Provider("openai", "http://p/v1", service_tier="auto")
    price = price_of("gpt-4o")
    plain = terms_of(price, max_tokens=100)
    assert terms_of(price, provider=account, max_tokens=100).ceiling_nanos > plain.ceiling_nanos


def test_a_cheaper_tier_is_charged_only_when_the_answer_names_it() -> None:
    price = price_of("gpt-4o")
    assert terms_of(price, service_tier="flex").service_tier == "default"
    assert terms_of(price, service_tier="priority").service_tier == "priority"


@pytest.mark.parametrize("model", ["o3-mini", "gpt-5", "openai/o1", "deepseek-reasoner"])
def test_models_that_reason_hide_output(model: str) -> None:
    assert terms_of(price_of("gpt-4o-mini"), model=model).hidden_output


def test_models_that_do_not_reason_hide_none() -> None:
    assert not terms_of(price_of("gpt-4o-mini")).hidden_output
    assert terms_of(price_of("gpt-4o-mini"), reasoning_effort="low").hidden_output
    assert not terms_of(price_of("gpt-4o-mini"), reasoning_effort="none").hidden_output


def test_no_price_is_refused_under_a_budget_and_costs_nothing_known_without() -> None:
    unpriced = Price(provider="openai", model="m", mode="chat")
    assert refused(None) == "model_unpriced"
    assert refused(unpriced) == "model_unpriced"
    assert refused(price_of("text-embedding-3-small")) == "model_unpriced"
    terms = terms_of(None, budgeted=False, max_tokens=7)
    assert (terms.price, terms.ceiling_nanos, terms.output_bound) == (None, 0, 7)


def test_an_explicit_zero_is_free_and_allowed() -> None:
    free = llm_token_price("openai", "m", rates={"input": "0", "output": "0"})
    terms = terms_of(free)
    assert terms.ceiling_nanos == 0
    assert terms.price is free


def test_a_price_in_another_currency_is_never_taken_at_its_number() -> None:
    price = price_of("gpt-4o-mini")
    assert refused(price, currency="EUR") == "exchange_rate_missing"
    assert refused(price, currency="EUR", budgeted=False) == "exchange_rate_missing"


def test_tools_run_by_the_provider_are_refused_under_a_budget_alone() -> None:
    tools = [{"type": "web_search"}]
    assert refused(price_of("gpt-4o-mini"), tools=tools) == "unbounded_tools"
    terms_of(price_of("gpt-4o-mini"), tools=tools, budgeted=False)


def test_embeddings_have_no_output() -> None:
    body = json.dumps({"model": "text-embedding-3-small", "input": "hello"}).encode()
    price = snapshot().lookup("text-embedding-3-small", "openai")
    terms = agree(
        read("embeddings", body),
        Route(PROVIDER, "text-embedding-3-small", price),
        budgeted=True,
        rates=CallRates(NO_RATES, "USD", 0),
        default_max_output=4096,
    )
    assert (terms.output_bound, terms.set_output_limit) == (0, None)
    assert terms.ceiling_nanos > 0


def test_only_a_clampable_call_can_do_with_less() -> None:
    price = price_of("gpt-4o-mini")
    whole = terms_of(price, max_tokens=1_000)
    assert whole.least_nanos == whole.ceiling_nanos
    clampable = terms_of(price, may_clamp=True, max_tokens=1_000)
    small = terms_of(price, max_tokens=LEAST_OUTPUT_LLM_TOKENS)
    assert clampable.ceiling_nanos == whole.ceiling_nanos
    assert clampable.least_nanos == pytest.approx(small.ceiling_nanos, rel=0.01)
    assert clampable.least_nanos < clampable.ceiling_nanos
    for fields in (
        {"max_tokens": LEAST_OUTPUT_LLM_TOKENS},
        {"max_tokens": 1_000, "budgeted": False},
        {"max_tokens": 1_000, "reasoning_effort": "low"},
        {"max_tokens": 1_000, "model": "o3"},
    ):
        terms = terms_of(price, may_clamp=True, **fields)
        assert terms.least_nanos == terms.ceiling_nanos, fields
    unpriced = terms_of(None, budgeted=False, may_clamp=True, max_tokens=1_000)
    assert clamp(unpriced, 0) is unpriced


@given(limit=st.integers(257, 20_000), choices=st.integers(1, 4), percent=st.integers(0, 100))
def test_a_clamped_call_has_the_largest_limit_that_its_reservation_covers(
    limit: int, choices: int, percent: int
) -> None:
    terms = terms_of(price_of("gpt-4o-mini"), may_clamp=True, max_tokens=limit, n=choices)
    reserved = terms.least_nanos + (terms.ceiling_nanos - terms.least_nanos) * percent // 100
    clamped = clamp(terms, reserved)
    if percent == 100:
        assert clamped is terms
        return
    assert clamped.bounds is not None
    lowered = clamped.clamped_output
    assert lowered is not None
    assert LEAST_OUTPUT_LLM_TOKENS <= lowered <= limit
    assert clamped.bounds.ceiling_nanos(lowered) <= reserved
    assert lowered == limit or clamped.bounds.ceiling_nanos(lowered + 1) > reserved
    assert clamped.output_bound == lowered * choices
    assert clamped.set_output_limit is None
