"""Prices through time, contracts and re-ratings as they are typed, and what is told of them."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.pricing import snapshot
from bursar.v1 import contracts_pb2, ledger_pb2, prices_pb2, ratings_pb2
from tests.fakes.admin_state import AdminState
from tests.unit.conftest import Bursar

RATES = ("--input", "1", "--output", "2")
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


def at(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def test_a_price_is_set_for_a_time(bursar: Bursar, state: AdminState) -> None:
    bursar("price", "set", "openai/m", *RATES, "--from", "2027-01-01", "--until", "2027-02-01")
    sent = state.seen(prices_pb2.SetPriceRequest)
    assert at(sent.price.effective_time) == NEW_YEAR
    assert at(sent.price.expire_time) == datetime(2027, 2, 1, tzinfo=UTC)
    bursar("price", "set", "openai/m", *RATES, "--from", "-7d", "--reason", "was wrong")
    sent = state.seen(prices_pb2.SetPriceRequest)
    ago = datetime.now(UTC) - at(sent.price.effective_time)
    assert timedelta(days=7) <= ago < timedelta(days=7, minutes=5)
    assert sent.reason == "was wrong"
    bursar("price", "set", "openai/m", *RATES)
    sent = state.seen(prices_pb2.SetPriceRequest)
    assert not sent.price.HasField("effective_time")
    assert not sent.price.HasField("expire_time")


@pytest.mark.parametrize("when", ["7d", "+x", "-", "soon", "2027-13-01"])
def test_a_time_that_may_be_either_or_none_is_refused(bursar: Bursar, when: str) -> None:
    bursar("price", "set", "openai/m", *RATES, "--from", when, code=2)


def test_lists_and_prices_are_asked_for_at_a_time(bursar: Bursar, state: AdminState) -> None:
    bursar("price", "list", "--at", "2027-01-01")
    assert at(state.seen(prices_pb2.ListPricesRequest).at_time) == NEW_YEAR
    bursar("price", "quote", "m", "--at", "2027-01-01", "--region", "eu", "--input", "5")
    sent = state.seen(prices_pb2.QuotePriceRequest)
    assert (at(sent.at_time), sent.region) == (NEW_YEAR, "eu")


def test_a_history_tells_when_and_by_whom(bursar: Bursar, state: AdminState) -> None:
    bursar("price", "set", "openai/m", *RATES)
    price = state.custom_prices["openai/m"]
    price.effective_time.FromDatetime(NEW_YEAR)
    price.source, price.layer = "set openai/m by admin: new list", "custom"
    told = bursar("price", "history", "openai/m")
    assert "set openai/m by admin: new list" in told
    assert "From" in told
    assert "Superseded" not in told
    price.supersede_time.FromDatetime(NEW_YEAR)
    assert "Superseded" in bursar("price", "history", "openai/m", "--all")
    (found,) = bursar("price", "history", "openai/m", "-o", "json")
    assert found["source"] == price.source


def test_a_quote_without_a_server_explains_itself(bursar: Bursar, state: AdminState) -> None:
    told = bursar(
        *("price", "quote", "gemini/gemini-2.5-pro", "--input", "250000", "--output", "10"),
        *("--explain", "--offline"),
    )
    assert "input, above 200000 input" in told
    assert f"gemini-2.5-pro of the built-in list, {snapshot().version}" in told
    assert state.requests == []
    answer = bursar("price", "quote", "gpt-4o-mini", "--input", "10", "--offline", "-o", "json")
    assert (answer["exactCost"], answer["lines"][0]["rule"]) == ("0.0000015", "input")
    asked = ("price", "quote", "gpt-4o-mini", "--input", "1", "--explain", "--offline")
    row = bursar(*asked, "-o", "csv")
    assert next(csv.DictReader(io.StringIO(row)))["rule"] == "input"
    for model in ("no-such-model", "deepseek-v3"):
        bursar("price", "quote", model, "--offline", code=2)


def test_an_explained_quote_names_list_and_contracts(bursar: Bursar, state: AdminState) -> None:
    answer = state.quote
    answer.list_price.CopyFrom(prices_pb2.Price(provider="openai", model="m", version="custom@4"))
    answer.price.version = "custom@4+contract@7"
    answer.contracts.add(
        version="contract@7", provider="*", model="m*", discount_factor="0.875",
        margin_factor="1.2", call_fee="0.01", currency="EUR",
    )  # fmt: skip
    told = bursar("price", "quote", "m", "--input", "1", "--explain")
    assert "Price: openai/m of the organization's own prices, custom@4" in told
    assert (
        "Contract: contract@7 for */m*: discount 12.5% (x0.875), margin 20% (x1.2),"
        " fee 0.01 EUR a call"
    ) in told


def test_an_explained_quote_names_of_a_contract_only_what_holds(
    bursar: Bursar, state: AdminState
) -> None:
    answer = state.quote
    answer.list_price.CopyFrom(
        prices_pb2.Price(provider="openai", model="m", currency="USD", version="custom@4")
    )
    answer.price.version = "custom@4+contract@1+contract@7"
    answer.contracts.add(
        version="contract@1", provider="*", model="*", margin_factor="1.15",
        call_fee="0.001", currency="EUR", organization="organizations/acme",
    )  # fmt: skip
    answer.contracts.add(
        version="contract@7", provider="*", model="m", call_fee="5", currency="JPY",
        organization="organizations/acme",
    )  # fmt: skip
    told = bursar("price", "quote", "m", "--input", "1", "--explain")
    assert "Contract: contract@1 for */*: margin 15% (x1.15)\n" in told
    assert "Contract: contract@7 for */m: fee 5 JPY a call\n" in told


def test_rows_are_explained_when_asked(
    bursar: Bursar, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    row = {"model": "gpt-4o-mini", "provider": "openai", "usage": usage}
    rows.write_text(json.dumps(row) + "\n")
    told = bursar("price", "quote", "--rows", str(rows), "--explain", "-o", "json")
    assert told["lines"][0]["rule"] == "input"


def test_contracts(bursar: Bursar, state: AdminState) -> None:
    made = bursar(
        *("price", "contract", "set", "--model", "gpt-4o*", "--discount", "12.5%"),
        *("--margin", "20%", "--fee", "0.001", "--from", "2027-01-01", "-o", "json"),
    )
    assert made["name"] == "contracts/1"
    sent = state.seen(contracts_pb2.SetPriceContractRequest)
    told = sent.contract
    assert (told.provider, told.model) == ("*", "gpt-4o*")
    assert (told.discount_factor, told.margin_factor) == ("0.875", "1.2")
    assert (told.call_fee, told.currency) == ("0.001", "EUR")
    assert at(told.effective_time) == NEW_YEAR
    bursar("price", "contract", "set", "--platform", "--fee", "1JPY")
    sent = state.seen(contracts_pb2.SetPriceContractRequest)
    assert sent.organization == "organizations/platform"
    assert (sent.contract.call_fee, sent.contract.currency) == ("1", "JPY")
    table = bursar("price", "contract", "list", "--all")
    assert "12.5%" in table
    assert "20%" in table
    assert "0.001 EUR" in table
    assert state.seen(contracts_pb2.ListPriceContractsRequest).include_ended
    assert bursar("price", "contract", "delete", "1") == "deleted contracts/1\n"
    assert len(bursar("price", "contract", "list", "-o", "json")) == 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--discount", "10"),
        ("--discount", "101%"),
        ("--discount", "-5%"),
        ("--margin", "a%"),
        ("--fee", "1e3"),
        ("--fee", "-1"),
        ("--margin", "5%", "--from", "7d"),
        ("--discount", "10%", "--model", ""),
        ("--discount", "10%", "--provider", ""),
    ],
)
def test_terms_that_can_not_be_are_refused(bursar: Bursar, options: tuple[str, ...]) -> None:
    bursar("price", "contract", "set", *options, code=2)


def test_a_rerating_is_planned_and_then_posted(bursar: Bursar, state: AdminState) -> None:
    told = bursar(
        *("price", "rerate", "--from", "2026-10-01", "--until", "2026-11-01"),
        *("--model", "gpt-4o*", "--reason", "the list was wrong", "--dry-run"),
    )
    sent = state.seen(ratings_pb2.PlanReratingRequest)
    assert at(sent.since_time) == datetime(2026, 10, 1, tzinfo=UTC)
    assert (sent.model, sent.reason) == ("gpt-4o*", "the list was wrong")
    assert sent.request_id
    assert "4 of 9 calls cost something else: -0.50 EUR in all" in told
    assert "3 calls stay as they are: what they used is an estimate" in told
    assert "openai/gpt-4o" in told
    assert "all others" in told
    assert "custom@1" in told
    assert "bursar price rerate --plan reratings/4711" in told
    assert not any(isinstance(each, ratings_pb2.ApplyReratingRequest) for each in state.requests)
    told = bursar("price", "rerate", "--plan", "4711")
    sent_then = state.seen(ratings_pb2.ApplyReratingRequest)
    assert (sent_then.name, sent_then.etag) == ("reratings/4711", "5f0d")
    assert "posted" in told
    assert "reratings/4711" in bursar("price", "reratings")
    bursar("price", "rerate", "--plan", "4711", "--etag", "other", code=1)
    bursar("ledger", "list", "--rerating", "4711")
    assert state.seen(ledger_pb2.ListEntriesRequest).rerating == "reratings/4711"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--from", "7d", "--reason", "why"),
        ("--from", "7d", "--dry-run"),
        ("--reason", "why", "--dry-run"),
        ("--from", "7d", "--reason", "why", "--dry-run", "--plan", "1"),
        ("--plan", "1", "--from", "7d"),
        ("--plan", "1", "--model", "gpt*"),
        ("--plan", "key/1"),
        ("--from", "7d", "--reason", "why", "--dry-run", "--etag", "x"),
        ("--from", "soon", "--reason", "why", "--dry-run"),
    ],
)
def test_a_rerating_that_means_nothing_is_refused(
    bursar: Bursar, state: AdminState, options: tuple[str, ...]
) -> None:
    bursar("price", "rerate", *options, code=2)
    assert not any(isinstance(each, ratings_pb2.PlanReratingRequest) for each in state.requests)
