"""Contracts: which one wins, and what it makes of a price."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.money import EXACT
from bursar.pricing import (
    Component,
    Contract,
    Meter,
    Price,
    PriceError,
    ceiling,
    charge,
    contracted,
    llm_token_price,
    snapshot,
    terms_for,
)
from bursar.pricing.model import ForeignFee
from bursar.usage import Usage

PRICE = llm_token_price(
    "openai", "gpt-4o-mini", rates={"input": "0.15", "output": "0.60"}, price_version="builtin-1"
)
USAGE = Usage(input=1_000, output=500)
LIST_COST = Decimal("0.00045")


def contract(**fields: Any) -> Contract:
    return Contract(**{"version": "contract@1", **fields})


def cost(price: Price) -> Decimal:
    return charge(price, USAGE).cost


def test_a_discount_a_margin_and_a_fee_make_the_charge() -> None:
    terms = contract(
        discount=Decimal("0.9"), margin=Decimal("1.2"), call_fee=Decimal("0.01"), currency="USD"
    )
    made = contracted(PRICE, [terms])
    assert cost(made) == LIST_COST * Decimal("0.9") * Decimal("1.2") + Decimal("0.01")
    assert made.price_version == "builtin-1+contract@1"
    lines = {line.meter: line for line in charge(made, USAGE).breakdown}
    assert lines[Meter.CALL_FEE].quantity == 1
    assert lines[Meter.CALL_FEE].amount == Decimal("0.01")


def test_each_term_comes_from_the_contract_that_wins_for_it() -> None:
    platform = contract(discount=Decimal("0.5"), own=False, version="platform-contract@1")
    own = contract(margin=Decimal(2), model="gpt-4o*", version="contract@2")
    made = contracted(PRICE, [platform, own])
    assert cost(made) == LIST_COST
    assert made.price_version == "builtin-1+platform-contract@1+contract@2"
    assert terms_for(PRICE, [platform, own]).versions == ("platform-contract@1", "contract@2")


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ({"model": "gpt-4o-min*"}, {"model": "gpt-4o-mini", "own": False}),
        ({"model": "gpt*"}, {"model": "gpt-4o*", "own": False}),
        (
            {"model": "gpt-4o-mini", "provider": "op*"},
            {"model": "gpt-4o-mini", "provider": "openai"},
        ),
        ({"model": "*", "provider": "open*"}, {"model": "*", "provider": "opena*"}),
        ({"model": "gpt-*", "own": False, "order": 9}, {"model": "gpt-*"}),
        ({"model": "gpt-*", "order": 1}, {"model": "gpt-*", "order": 2}),
        ({"model": "*", "provider": "openai"}, {"model": "g*", "provider": "*"}),
    ],
)
def test_the_precedence(loser: dict[str, Any], winner: dict[str, Any]) -> None:
    both = [
        contract(discount=Decimal("0.1"), version="loses", **loser),
        contract(discount=Decimal("0.2"), version="wins", **winner),
    ]
    for contracts in (both, both[::-1]):
        assert contracted(PRICE, contracts).price_version == "builtin-1+wins"


def test_what_does_not_match_changes_nothing() -> None:
    others = [
        contract(discount=Decimal(0), model="gpt-4o"),
        contract(discount=Decimal(0), provider="azure"),
        contract(discount=Decimal(0), model="GPT-4O-MINI"),
    ]
    assert contracted(PRICE, others) is PRICE


def test_a_fee_in_another_currency_leaves_the_term_to_the_next() -> None:
    euros = contract(call_fee=Decimal(5), currency="EUR", model="gpt-4o-mini", version="eur")
    dollars = contract(call_fee=Decimal(1), currency="USD", version="usd")
    made = contracted(PRICE, [euros, dollars])
    assert cost(made) == LIST_COST + 1
    assert made.foreign_fee is None


def test_a_fee_in_another_currency_stands_beside_the_price() -> None:
    euros = contract(call_fee=Decimal(5), currency="EUR", discount=Decimal("0.5"), version="eur")
    made = contracted(PRICE, [euros])
    assert made.foreign_fee == ForeignFee(Decimal(5), "EUR")
    assert cost(made) == LIST_COST / 2
    assert made.price_version == "builtin-1+eur"
    free = llm_token_price("mine", "llama", rates={"input": 0, "output": 0})
    assert not contracted(free, [euros]).is_free


def test_an_unpriced_model_stays_unpriced_and_a_free_one_pays_its_fee() -> None:
    fee = contract(call_fee=Decimal("0.5"), currency="USD")
    unpriced = Price("openai", "x", mode="chat")
    assert contracted(unpriced, [fee]) is unpriced
    free = llm_token_price("mine", "llama", rates={"input": 0, "output": 0})
    made = contracted(free, [fee])
    assert not made.is_free
    assert cost(made) == Decimal("0.5")


def test_a_fee_covers_no_search_that_has_no_rate() -> None:
    made = contracted(PRICE, [contract(call_fee=Decimal(1), currency="USD")])
    assert charge(made, Usage(extra={"search": 3})).unpriced == ("search",)


def test_fees_of_the_provider_are_discounted_and_the_contract_s_own_is_not() -> None:
    asked = Component(Meter.REQUEST, Decimal("0.02"), per=1)
    price = Price("p", "m", components=(*PRICE.components, asked), mode="chat")
    terms = contract(discount=Decimal("0.5"), call_fee=Decimal("0.01"), currency="USD")
    amounts = {
        line.meter: line.amount for line in charge(contracted(price, [terms]), USAGE).breakdown
    }
    assert (amounts[Meter.REQUEST], amounts[Meter.CALL_FEE]) == (Decimal("0.01"), Decimal("0.01"))


@given(
    discount=st.decimals(0, 1, places=9),
    margin=st.decimals(0, 100, places=9),
    fee=st.decimals(0, 10, places=9),
    given_count=st.integers(0, 10**6),
    produced=st.integers(0, 10**6),
    model=st.sampled_from(["gpt-4o", "gemini/gemini-2.5-pro", "anthropic/claude-sonnet-4-5"]),
)
def test_under_contract_the_ceiling_still_covers_every_charge(
    discount: Decimal, margin: Decimal, fee: Decimal, given_count: int, produced: int, model: str
) -> None:
    listed = snapshot().lookup(model)
    assert listed is not None
    terms = contract(discount=discount, margin=margin, call_fee=fee, currency="USD")
    price = contracted(listed, [terms])
    most = ceiling(price, input_llm_tokens=given_count, output_llm_tokens=produced)
    for usage in (
        Usage(input=given_count, output=produced),
        Usage(cached_input=given_count, output=produced, reasoning=produced),
        Usage(cache_write_1h=given_count, output=produced),
    ):
        plain, charged = charge(listed, usage), charge(price, usage)
        assert charged.cost_nanos <= most
        factor = EXACT.multiply(discount, margin)
        assert charged.cost == EXACT.add(EXACT.multiply(plain.cost, factor), fee)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "discount is missing"),
        ({"discount": Decimal("1.1")}, "discount is 1.1"),
        ({"discount": Decimal(-1)}, "discount is -1"),
        ({"discount": Decimal("nan")}, "discount is NaN"),
        ({"margin": Decimal(10_001)}, "margin is 10001"),
        ({"margin": Decimal("1.0000000001")}, "at most 9 decimals"),
        ({"call_fee": Decimal(1)}, "currency is ''"),
        ({"call_fee": Decimal(10**7), "currency": "USD"}, "call_fee is"),
        ({"discount": Decimal(1), "model": ""}, "model is ''"),
        ({"discount": Decimal(1), "model": "a b"}, "model is 'a b'"),
        ({"discount": Decimal(1), "model": "[ab]"}, "model is"),
        ({"discount": Decimal(1), "provider": "*" * 9}, "at most 8 stars"),
        ({"discount": Decimal(1), "effective_at": datetime(2026, 1, 1)}, "time with a zone"),  # noqa: DTZ001  # the fault
        (
            {
                "discount": Decimal(1),
                "effective_at": datetime(2026, 2, 1, tzinfo=UTC),
                "expires_at": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "after effective_at",
        ),
    ],
)
def test_what_is_no_contract_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(PriceError, match=fault.replace("*", "[*]")):
        contract(**fields)
