"""An organization that keeps its books in euros, and buys at list prices in dollars."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.exchange import parse_conversion
from bursar.pricing import charge, snapshot
from bursar.usage import usage_from_openai
from tests.fakes.site import Site, site
from tests.fakes.until import until

MODEL = "gpt-4o-mini"
EURO = 1_000_000_000
Answer = tuple[int, dict[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def euro_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("currencies"), sidecars=("one",), currency="EUR") as made:
        yield made


def said(site: Site, *arguments: str) -> Any:
    """What `bursar ... -o json` says."""
    done = site.cli(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def call(site: Site, secret: str) -> Answer:
    """(status, headers, body) of one call."""
    connection = http.client.HTTPConnection(site.sidecars["one"].address, timeout=20)
    try:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
        headers = {"authorization": f"Bearer {secret}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, named, json.loads(answer.read())
    finally:
        connection.close()


def in_euros(answer: dict[str, Any], rate: str) -> int:
    """What an answer costs: its usage at the list price, converted and rounded once."""
    price = snapshot().lookup(MODEL, "openai")
    assert price is not None
    charged = charge(price, usage_from_openai(answer["usage"]))
    return parse_conversion("USD", "EUR", rate).nanos(charged.cost)


def test_calls_are_refused_without_a_rate_and_charged_in_euros_with_one(euro_site: Site) -> None:
    _, secret = euro_site.make_key()
    budget = euro_site.make_budget("organizations/site", 2 * EURO)
    euro_site.start_sidecars()
    status, _, refused = call(euro_site, secret)
    assert (status, refused["error"]["code"]) == (403, "exchange_rate_missing")
    assert euro_site.served() == {}

    said(euro_site, "fx", "set", "EUR", "USD", "1.25")
    answers: list[Answer] = []

    def one_more() -> bool:
        answer = call(euro_site, secret)
        answers.append(answer)
        return answer[0] == 200

    until(one_more, "the sidecar knows of the rate")
    first = answers[-1]
    assert first[1]["x-bursar-currency"] == "EUR"
    # Another rate, from now on: what was charged stays as it is.
    said(euro_site, "fx", "set", "USD", "EUR", "0.5", "--org", "site")

    def entries() -> Any:
        call(euro_site, secret)
        listed = said(euro_site, "ledger", "list")
        return listed if {each["exchangeRate"] for each in listed} == {"1/1.25", "0.5"} else None

    listed = until(entries, "calls are charged by the new rate, and those before by the old one")
    assert {each["priceCurrency"] for each in listed} == {"USD"}
    assert {each["amount"]["currency"] for each in listed} == {"EUR"}
    entry = next(each for each in listed if each["chargeId"] == first[1]["x-bursar-charge-id"])
    assert int(entry["amount"]["nanos"]) == in_euros(first[2], "1/1.25")

    def whole() -> bool:
        """All that was charged is posted, and every sum of it is in euros."""
        listed = said(euro_site, "ledger", "list")
        spent = sum(int(each["amount"]["nanos"]) for each in listed)
        settled = euro_site.standing(budget).settled
        report = said(euro_site, "spend", "show", "--by", "model")
        total = report["total"]["cost"]
        return (
            len(listed) == len(euro_site.served())
            and (settled.nanos, settled.currency) == (spent, "EUR")
            and (int(total["nanos"]), total["currency"]) == (spent, "EUR")
        )

    until(whole, "budget, report and ledger agree in euros")
    quoted = said(euro_site, "price", "quote", MODEL, "--input", "1000000")
    assert quoted["cost"] == {"nanos": "150000000", "currency": "USD"}
    assert quoted["organizationCost"] == {"nanos": "75000000", "currency": "EUR"}
    assert quoted["exchangeRate"] == "0.5"
    euro_site.verify()
    # What is left is told, and refused, in euros too.
    poor = said(euro_site, "key", "create", "--max-budget", "0.000001", "--window", "1d")["key"]
    status, _, refused = call(euro_site, poor)
    assert (status, refused["error"]["code"]) == (402, "budget_exhausted")
    assert {each["currency"] for each in refused["error"]["budgets"]} == {"EUR"}
    assert "0.000001 EUR" in refused["error"]["message"]
