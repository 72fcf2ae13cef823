"""A published list, from the file to the charge of a call."""

import http.client
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.site import Site, site
from tests.fakes.until import until

MODEL = "gpt-4o-mini"


@pytest.fixture(scope="module")
def priced_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("imports"), sidecars=("one",)) as made:
        yield made


def a_list(path: Path, rate: str) -> str:
    """A file with one price: so many dollars for a million LLM tokens, either way."""
    entry = {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": float(f"{rate}e-6"),
        "output_cost_per_token": float(f"{rate}e-6"),
    }
    path.write_text(json.dumps({MODEL: entry}))
    return str(path)


def cost_of_a_call(site: Site, secret: str) -> Decimal:
    """For a million LLM tokens, as the sidecar charged it."""
    connection = http.client.HTTPConnection(site.sidecars["one"].address, timeout=20)
    try:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
        headers = {"authorization": f"Bearer {secret}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200
        counted: int = json.loads(answer.read())["usage"]["total_tokens"]
        cost = Decimal(answer.headers["x-bursar-cost"])
    finally:
        connection.close()
    return cost * 1_000_000 / counted


def test_an_imported_price_is_charged_and_a_refused_one_is_not(
    priced_site: Site, tmp_path: Path
) -> None:
    _, secret = priced_site.make_key()
    priced_site.make_budget("organizations/site", 10**12)
    priced_site.start_sidecars()
    list_price = cost_of_a_call(priced_site, secret)

    def take(rate: str, *options: str) -> tuple[int, Any]:
        path = a_list(tmp_path / "list.json", rate)
        done = priced_site.cli("price", "import", path, "--platform", *options, "-o", "json")
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    code, answer = take("2")
    assert (code, answer["outcome"]) == (0, "PRICE_IMPORT_OUTCOME_IMPORTED")
    until(lambda: cost_of_a_call(priced_site, secret) == 2, "the imported price is charged")
    assert take("2")[1]["outcome"] == "PRICE_IMPORT_OUTCOME_UNCHANGED"
    code, said = take("4", "--max-change", "50")
    assert code == 1
    assert "+100.00 %" in said
    assert cost_of_a_call(priced_site, secret) == 2
    assert take("4", "--max-change", "50", "--force")[0] == 0
    until(lambda: cost_of_a_call(priced_site, secret) == 4, "the forced price is charged")
    assert priced_site.cli("price", "unimport", "--platform").returncode == 0
    until(lambda: cost_of_a_call(priced_site, secret) == list_price, "the built-in price stands")
