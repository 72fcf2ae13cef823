"""Further costs by LiteLLM: more price entries, tiers, two providers' thresholds, times of day."""

import json
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from bursar.pricing import Price, charge, compile_entry
from bursar.usage import Usage, usage_from_openai

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden_costs"
RELATIVE = Decimal("1e-9")
DETAILS = {
    "prompt_details": "prompt_tokens_details",
    "completion_details": "completion_tokens_details",
}
KINDS = ("audio", "image", "video")

Row = dict[str, Any]


@cache
def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def rows() -> list[Row]:
    return [json.loads(line) for line in (GOLDEN / "more_costs.jsonl").read_text().splitlines()]


@cache
def price(name: str, provider: str) -> Price:
    return compile_entry("m", {**read("more_prices.json")[name], "litellm_provider": provider})


@cache
def told(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {**read("golden_usages.json"), **read("more_usages.json")}[name]
    return known


@cache
def usage(name: str) -> Usage:
    counted = usage_from_openai({DETAILS.get(key, key): value for key, value in told(name).items()})
    assert counted.is_exact
    return msgspec.structs.replace(counted, extra={**counted.extra, "request": 0})


def difference(row: Row) -> str:
    charged = charge(
        price(row["price"], row["provider"]),
        usage(row["usage"]),
        service_tier="batch" if row["kind"] == "batch" else row["service_tier"],
        at=datetime.fromisoformat(row["at"]),
    )
    for part, ours in (("input", charged.input_cost), ("output", charged.output_cost)):
        expected = Decimal(repr(row[f"{part}_cost"]))
        if abs(ours - expected) > RELATIVE * abs(expected):
            return f"{part} is {ours}, expected {expected}"
    return ""


def batch_reasons(row: Row) -> list[str]:
    """The rules of docs/prices.md by which a batch may differ."""
    entry, counts = read("more_prices.json")[row["price"]], told(row["usage"])
    given, produced = counts.get("prompt_details", {}), counts.get("completion_details", {})
    kinds = {
        f"{side}_cost_per_{kind}_token"
        for side, details in (("input", given), ("output", produced))
        for kind in KINDS
        if details.get(f"{kind}_tokens")
    }
    lives = given.get("cache_creation_by_ttl", {})
    longer = {"ephemeral_1h_input_tokens", "ephemeral_12h_input_tokens"} & lives.keys()
    return [
        reason
        for reason, holds in {
            "a price that only has ranges": "tiered_pricing" in entry,
            "cached input would be free": given.get("cached_tokens")
            and "cache_read_input_token_cost" not in entry,
            "output would be free": not entry.get("output_cost_per_token"),
            "half of the rate in force": any("_above_" in field for field in entry),
            "half of longer writes": longer,
            "half of the kind's rate": any(
                field in entry and f"{field}_batches" not in entry for field in kinds
            ),
        }.items()
        if holds
    ]


def test_every_online_cost_agrees() -> None:
    online = [row for row in rows() if row["kind"] == "online"]
    assert len(online) > 900
    for row in online:
        assert not difference(row), f"{row}: {difference(row)}"


def test_every_batch_agrees_or_differs_by_a_documented_rule() -> None:
    batches = [row for row in rows() if row["kind"] == "batch"]
    differing = [row for row in batches if difference(row)]
    assert 0 < len(differing) < len(batches)
    for row in differing:
        assert batch_reasons(row), f"{row}: {difference(row)}"
