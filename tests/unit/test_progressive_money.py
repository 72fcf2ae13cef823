"""What a progressive call begins with, what its growth costs, and who may begin so."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.exchange import ExchangeRates
from bursar.pricing import Price, charge, llm_token_price, snapshot
from bursar.usage import Usage
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.growth import FIRST_OUTPUT, LEAST_SLACK
from bursar_sidecar.progressive import Start, covered_by, nanos_of, start_of
from bursar_sidecar.progressive_pairs import Pairs, Row
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import Terms, agree
from tests.fakes.dialect_requests import read

PROVIDER = Provider("openai", "http://p/v1")


def price_of(model: str) -> Price:
    price = snapshot().lookup(model, "openai")
    assert price is not None
    return price


def agreed(
    model: str, price: Price | None = None, *, may_clamp: bool = False, **fields: Any
) -> tuple[Facts, Terms]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    facts = read("chat", json.dumps(body).encode())
    terms = agree(
        facts,
        Route(PROVIDER, model, price or price_of(model)),
        budgeted=True,
        rates=CallRates(ExchangeRates(), "USD", 0),
        default_max_output=4096,
        may_clamp=may_clamp,
    )
    return facts, terms


def start(model: str, price: Price | None = None, **fields: Any) -> Start | None:
    facts, terms = agreed(model, price, **fields)
    return start_of(facts, terms, Pairs().find("openai", model))


def test_a_stream_begins_with_its_input_and_a_slice() -> None:
    facts, terms = agreed("gpt-4o-mini", stream=True)
    begun = start_of(facts, terms, Pairs().find("openai", "gpt-4o-mini"))
    assert begun is not None
    assert terms.bounds is not None
    assert begun.covered == FIRST_OUTPUT + LEAST_SLACK
    assert 0 <= begun.begin_nanos - nanos_of(terms.bounds, begun.covered) <= 1
    assert begun.limit == terms.output_bound == 16_384
    assert begun.begin_nanos * 10 < terms.ceiling_nanos == nanos_of(terms.bounds, begun.limit)


def test_each_choice_has_its_slice_and_its_slack() -> None:
    begun = start("gpt-4o-mini", n=3)
    assert begun is not None
    assert (begun.covered, begun.slack) == (3 * (FIRST_OUTPUT + LEAST_SLACK), 3 * LEAST_SLACK)
    assert begun.limit == 3 * 16_384


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("gpt-4o-mini", {"max_tokens": 1_000}),  # the slice is the whole
        ("gpt-4o-mini", {"prediction": {"type": "content", "content": "x" * 99}}),
        ("gpt-4o-mini", {"reasoning_effort": "low"}),
        ("o3-mini", {}),
        ("gpt-5", {"reasoning_effort": "none"}),
        ("gpt-5.1", {}),
        ("gpt-5.1", {"reasoning_effort": "low"}),
    ],
)
def test_who_reserves_the_worst_case(model: str, fields: dict[str, Any]) -> None:
    assert start(model, **fields) is None


def test_a_model_that_reasons_may_where_the_request_turns_it_off() -> None:
    assert start("gpt-5.1", reasoning_effort="none") is not None


def test_a_row_with_more_slack_begins_with_more() -> None:
    facts, terms = agreed("gpt-4o-mini")
    row = Row(("openai",), ("gpt-4o*",), "measured", "ours", slack=2_000)
    begun = start_of(facts, terms, row)
    assert begun is not None
    assert begun.covered == FIRST_OUTPUT + 2_000


@given(st.integers(0, 10**10), st.decimals("0.01", "600", places=2), st.integers(1, 4))
def test_the_output_that_an_amount_pays_is_the_last_affordable(
    nanos: int, rate: Any, choices: int
) -> None:
    price = llm_token_price("openai", "gpt-4o-mini", rates={"input": rate, "output": rate})
    _facts, terms = agreed("gpt-4o-mini", price, max_tokens=9_000, n=choices)
    assert terms.bounds is not None
    covered = covered_by(terms.bounds, nanos, terms.output_bound)
    assert 0 <= covered <= terms.output_bound
    if covered:
        assert nanos_of(terms.bounds, covered) <= nanos
    if covered < terms.output_bound:
        assert nanos_of(terms.bounds, covered + 1) > nanos


@given(st.decimals("0.0001", "600", places=4), st.integers(1, 4), st.integers(1_300, 10**6))
def test_what_it_begins_with_pays_its_slice_whatever_the_price(
    rate: Any, choices: int, limit: int
) -> None:
    price = llm_token_price("openai", "gpt-4o-mini", rates={"input": rate, "output": rate})
    facts, terms = agreed("gpt-4o-mini", price, may_clamp=True, max_tokens=limit, n=choices)
    begun = start_of(facts, terms, Pairs().find("openai", "gpt-4o-mini"))
    assert begun is not None
    assert terms.bounds is not None
    assert terms.least_nanos < terms.ceiling_nanos
    assert 0 <= begun.begin_nanos - nanos_of(terms.bounds, begun.covered) <= 1


@given(st.integers(0, 50_000))
def test_what_is_covered_is_never_charged_more(output: int) -> None:
    _facts, terms = agreed("gpt-4o-mini")
    assert terms.bounds is not None
    assert terms.price is not None
    usage = Usage(input=terms.input_bound, output=output)
    assert charge(terms.price, usage).cost_nanos <= nanos_of(terms.bounds, output)


def test_growth_begins_where_the_reservation_is() -> None:
    facts, terms = agreed("gpt-4o-mini")
    begun = start_of(facts, terms, Pairs().find("openai", "gpt-4o-mini"))
    assert begun is not None
    assert terms.bounds is not None
    assert begun.growth(terms.bounds, begun.begin_nanos).covered == begun.covered
    more = begun.growth(terms.bounds, nanos_of(terms.bounds, 5_000))
    assert more.covered == 5_000
    assert begun.growth(terms.bounds, terms.ceiling_nanos).is_whole
