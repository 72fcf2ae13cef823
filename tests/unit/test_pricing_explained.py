"""Which rule chose each rate of a charge, in words; and quotes without a server."""

import io
import json
from decimal import Decimal
from typing import Any

import pytest

from bursar.pricing import Component, Meter, Price, charge, rule_of, snapshot
from bursar.pricing.quote import MAX_ROW_BYTES, quote_rows, rows_of
from bursar.usage import Usage


def rules(price: Price | None, usage: Usage, **call: Any) -> dict[str, str]:
    assert price is not None
    charged = charge(price, usage, **call)
    return {str(x.meter): rule_of(price, x, usage, **call) for x in charged.breakdown}


MADE = Price(
    "p",
    "m",
    mode="chat",
    components=(
        Component(Meter.INPUT, Decimal(2)),
        Component(Meter.INPUT, Decimal(4), above=1_000),
        Component(Meter.INPUT, Decimal(8), tier="priority"),
        Component(Meter.OUTPUT, Decimal(6)),
        Component(Meter.SEARCH, Decimal("0.01"), per=1, variant="high"),
        Component(Meter.REQUEST, Decimal("0.005"), per=1),
    ),
    multipliers={"region/eu": Decimal("1.1"), "tier/flex": Decimal("0.5")},
)


@pytest.mark.parametrize(
    ("usage", "call", "told"),
    [
        (Usage(input=1_000), {}, {"input": "input"}),
        (Usage(input=1_001), {}, {"input": "input, above 1000 input"}),
        (Usage(input=9), {"service_tier": "priority"}, {"input": "input, tier priority"}),
        (Usage(input=9), {"region": "eu"}, {"input": "input, x1.1 region/eu"}),
        (Usage(output=9), {"service_tier": "flex"}, {"output": "output, x0.5 tier/flex"}),
        (
            Usage(output=9),
            {"service_tier": "flex", "region": "eu"},
            {"output": "output, x1.1 region/eu, x0.5 tier/flex"},
        ),
        (Usage(cached_input=9), {}, {"cached_input": "as input"}),
        (Usage(cache_write_1h=1_001), {}, {"cache_write_1h": "as input, above 1000 input"}),
        (Usage(extra={"search.high": 1}), {}, {"search.high": "search.high"}),
        (Usage(extra={"search": 1}), {}, {"search": "search.high"}),
    ],
)
def test_each_rate_names_its_rule(usage: Usage, call: dict[str, Any], told: dict[str, str]) -> None:
    assert rules(MADE, usage, **call) == {"request": "request", **told}


def test_every_line_of_real_prices_has_a_rule() -> None:
    usage = Usage(input=300_000, cached_input=5, cache_write_5m=7, output=11, reasoning=3)
    book = snapshot()
    for name in book.models()[::25]:
        price = book.lookup(*reversed(name.split("/", 1)))
        if price is None or not price.is_priced:
            continue
        for tier in (None, "priority", "batch"):
            told = rules(price, usage, service_tier=tier)
            assert all(told.values()), (name, tier, told)


def test_rows_are_explained_only_when_asked() -> None:
    row = json.dumps(
        {
            "model": "gpt-4o-mini",
            "provider": "openai",
            "usage": {"prompt_tokens": 10, "completion_tokens": 2},
        }
    )
    (plain,) = quote_rows([row])
    assert plain == {"input_cost": "0.0000015", "output_cost": "0.0000012"}
    (told,) = quote_rows([row], explain=True)
    assert {name: told[name] for name in plain} == plain
    assert told["price_version"] == snapshot().version
    assert told["lines"][0] == {
        "meter": "input",
        "quantity": 10,
        "rate": "0.00000015",
        "amount": "0.0000015",
        "rule": "input",
    }
    (error,) = quote_rows(["{}"], explain=True)
    assert list(error) == ["error"]


def test_a_row_that_is_nested_or_endless_gets_its_error_and_stops_nothing() -> None:
    good = b'{"model":"gpt-4o","provider":"openai","usage":{"prompt_tokens":1}}\n'
    nested = b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n"
    endless = b'{"a":"' + b"x" * (3 * MAX_ROW_BYTES) + b'"}\n'
    told = list(quote_rows(rows_of(io.BytesIO(nested + good + endless + good + endless[:-1]))))
    assert ["error" in each for each in told] == [True, False, True, False, True]
    assert "nested" in told[0]["error"]
    assert told[2]["error"] == told[4]["error"] == f"row has more than {MAX_ROW_BYTES} bytes"


@pytest.mark.parametrize("number", ["1e999999999", "1e99999999999999999999", "-1e-999999999"])
def test_a_number_that_no_decimal_is_gets_its_error_and_stops_nothing(number: str) -> None:
    good = '{"model":"gpt-4o","provider":"openai","usage":{"prompt_tokens":1}}'
    usage = good.replace("1}}", f"{number}}}}}")
    beside = good.replace("{", f'{{"note":{number},', 1)
    told = list(quote_rows([usage, good, beside]))
    assert ["error" in each for each in told] == [True, False, True]
    assert f"number {number} is not accepted" in told[0]["error"]
