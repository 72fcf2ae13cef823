"""What a settled call costs by the prices that are known now, and what is left as it is."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from bursar.pricing import Component, Contract, Meter, Price, PriceBook, llm_token_price, snapshot
from bursar.usage import Usage
from bursar_server.ratings.rules import (
    MOST_PARTS,
    OTHERS,
    Call,
    Part,
    Rated,
    Skip,
    Tally,
    rate,
    shortened,
)

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ORGANIZATION, PLATFORM = 7, 1


def price(model: str, rate: str, version: str, **fields: Any) -> Price:
    return llm_token_price(
        "openai", model, rates={"input": rate, "output": rate}, price_version=version, **fields
    )


def book(*prices: Price) -> PriceBook:
    return snapshot().with_overlay(prices, "1")


BOOK = book(price("m", "2", "custom@2"))


def call(**fields: Any) -> Call:
    values: dict[str, Any] = {
        "ledger_id": ORGANIZATION,
        "session_epoch": 1,
        "n": 1,
        "draw_set_id": 9,
        "provider": "openai",
        "model": "m",
        "price_version": "custom@1",
        "priced_as": "openai/m",
        "service_tier": "",
        "region": "",
        "price_currency": "",
        "exchange_rate": "",
        "usage": Usage(input=1_000_000, output=500_000),
        "http_status": 200,
        "admitted_at": NOON,
        "currency": "USD",
        "is_final": True,
        "is_corrected": False,
        "amount_nanos": 1_000,
    }
    return Call(**{**values, **fields})


def test_a_call_costs_what_its_usage_costs_now() -> None:
    assert rate(call(), BOOK) == Rated(3_000_000_000, "custom@2", "openai/m")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"is_final": False}, Skip.PROVISIONAL),
        (
            {"usage": Usage(input=1, certainty="estimated", estimate_reason="aborted")},
            Skip.ESTIMATED,
        ),
        ({"amount_nanos": 0, "usage": Usage(), "http_status": 429}, Skip.NOT_CHARGED),
        ({"amount_nanos": 0, "usage": Usage(), "http_status": 0}, Skip.NOT_CHARGED),
        ({"priced_as": ""}, Skip.NOT_RECORDED),
        ({"model": "no-such", "priced_as": "openai/no-such"}, Skip.UNPRICED),
        ({"usage": Usage(input=1, extra={"page": 2})}, Skip.UNPRICED),
        ({"currency": "EUR"}, Skip.CURRENCY),
        ({"currency": "EUR", "price_currency": "GBP", "exchange_rate": "2"}, Skip.CURRENCY),
    ],
)
def test_what_can_not_be_known_is_left_and_named(fields: dict[str, Any], why: Skip) -> None:
    assert rate(call(**fields), BOOK) is why


def test_what_nothing_priced_is_priced_once_there_is_a_price() -> None:
    unpriced = call(priced_as="", price_version="unpriced", amount_nanos=0)
    assert rate(unpriced, BOOK) == Rated(3_000_000_000, "custom@2", "openai/m")


def test_a_free_call_is_charged_its_price_once_that_is_right() -> None:
    free = call(amount_nanos=0, usage=Usage(input=10))
    assert rate(free, BOOK) == Rated(20_000, "custom@2", "openai/m")


def test_a_refused_call_that_was_corrected_once_goes_on_being_so() -> None:
    fee = Component(Meter.REQUEST, Decimal(1), per=1)
    odd = book(
        Price("openai", "m", components=(*price("m", "2", "v").components, fee), mode="chat")
    )
    corrected = call(amount_nanos=0, usage=Usage(), http_status=429, is_corrected=True)
    assert isinstance(rate(corrected, odd), Rated)


def test_the_tier_and_the_time_are_those_of_the_call() -> None:
    fast = price("m", "2", "custom@3")
    priority = (Component(m, Decimal(9), tier="priority") for m in (Meter.INPUT, Meter.OUTPUT))
    tiered = book(Price("openai", "m", components=(*fast.components, *priority), mode="chat"))
    found = rate(call(service_tier="priority"), tiered)
    assert isinstance(found, Rated)
    assert found.cost_nanos == 13_500_000_000


def test_the_exchange_rate_is_the_call_s() -> None:
    found = rate(call(currency="EUR", price_currency="USD", exchange_rate="1/2"), BOOK)
    assert found == Rated(1_500_000_000, "custom@2", "openai/m")


def test_a_fee_in_another_currency_is_charged_by_the_rates_on_record() -> None:
    def with_fee(currency: str) -> PriceBook:
        fee = Contract(call_fee=Decimal("0.25"), currency=currency, version="contract@4")
        return BOOK.with_contracts([fee], "4")

    euros = call(currency="EUR", price_currency="USD", exchange_rate="1/2")
    found = rate(euros, with_fee("EUR"))
    assert found == Rated(1_750_000_000, "custom@2+contract@4", "openai/m")
    assert rate(euros, with_fee("GBP")) is Skip.CURRENCY
    assert rate(call(), with_fee("EUR")) is Skip.CURRENCY


def test_contracts_are_in_it() -> None:
    half = Contract(discount=Decimal("0.5"), version="contract@4")
    found = rate(call(), BOOK.with_contracts([half], "4"))
    assert found == Rated(1_500_000_000, "custom@2+contract@4", "openai/m")


def test_the_price_follows_the_model_that_answered() -> None:
    both = book(price("m", "2", "custom@2"), price("n", "4", "custom@2"))
    assert rate(call(priced_as="openai/n"), both) == Rated(6_000_000_000, "custom@2", "openai/n")
    # An alias with a price of its own keeps it for its dated names.
    alias = book(price("m", "2", "custom@2"), price("m-2026-01-01", "4", "builtin-1"))
    dated = call(priced_as="openai/m-2026-01-01")
    assert rate(dated, alias) == Rated(3_000_000_000, "custom@2", "openai/m")


def test_a_provider_of_the_sidecar_s_own_naming_is_found_by_what_priced_it() -> None:
    ours = call(provider="eu-openai")
    assert rate(ours, BOOK) == Rated(3_000_000_000, "custom@2", "openai/m")
    own = llm_token_price(
        "eu-openai", "m", rates={"input": 8, "output": 8}, price_version="custom@5"
    )
    assert rate(ours, book(*[price("m", "2", "custom@2"), own])) == Rated(
        12_000_000_000, "custom@5", "eu-openai/m"
    )


def test_a_tally_sums_up_what_changes_and_tells_the_rest() -> None:
    tally = Tally(ORGANIZATION)
    rated = Rated(700, "custom@2", "openai/m")
    line = tally.count(call(n=1, amount_nanos=1_000), rated)
    assert line is not None
    assert (line.n, line.amount_nanos, line.price_version) == (1, -300, "custom@2")
    assert tally.count(call(n=2, amount_nanos=700), rated) is None
    assert tally.count(call(n=3), Skip.ESTIMATED) is None
    # The same call in the platform's ledger is posted there too, and counted once.
    assert tally.count(call(n=1, ledger_id=PLATFORM, draw_set_id=4), rated) is not None
    tally.add_budgets({(ORGANIZATION, 9): ["budgets/a", "budgets/b"], (PLATFORM, 4): ["budgets/p"]})
    outcome = tally.outcome
    assert (outcome.call_count, outcome.line_count, outcome.skips) == (3, 2, {"estimated": 1})
    assert outcome.total == Part(1, 1_000, -300)
    assert outcome.models == {"openai/m": Part(1, 1_000, -300)}
    assert outcome.budgets == {
        "budgets/a": Part(1, 1_000, -300),
        "budgets/b": Part(1, 1_000, -300),
        "budgets/p": Part(1, 1_000, -300),
    }
    assert outcome.versions == {"custom@1 custom@2": 1}
    assert not tally.draw_sets


def test_the_etag_is_of_every_line() -> None:
    def etag(*rateds: Rated) -> str:
        tally = Tally(ORGANIZATION)
        for n, rated in enumerate(rateds, 1):
            tally.count(call(n=n), rated)
        return tally.etag

    first = Rated(700, "custom@2", "openai/m")
    assert etag(first) == etag(first)
    others = [
        etag(),
        etag(first, first),
        etag(Rated(701, "custom@2", "openai/m")),
        etag(Rated(700, "custom@3", "openai/m")),
    ]
    assert len({etag(first), *others}) == 5


def test_what_is_too_much_to_tell_is_one_line() -> None:
    parts = {f"budgets/{n}": Part(1, 10, n if n % 2 else -n) for n in range(MOST_PARTS + 5)}
    kept = shortened(parts)
    assert len(kept) == MOST_PARTS + 1
    assert kept[OTHERS] == Part(5, 50, 0 + 1 - 2 + 3 - 4)
    assert next(iter(kept)) == f"budgets/{MOST_PARTS + 4}"
