"""The golden rows: what LiteLLM computes, row by row, against what a quote says."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.pricing import snapshot
from bursar.pricing.quote import quote_rows

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden_costs"
RELATIVE = Decimal("1e-9")

Row = dict[str, Any]

# Rows where we differ on purpose, by reason. docs/prices.md says why, with the pages. A listed row
# that starts to match fails the test, so the list can't outlive its reasons.
BATCH_READS_CACHE_FREE = (
    "in a batch, LiteLLM bills cached LLM tokens at nothing when the price has no cache rate; "
    "they are ordinary input, as they are online"
)
BATCH_IGNORES_CONTEXT = (
    "LiteLLM halves the rate below the context threshold although the request crossed it; "
    "a batch costs half of the rate in force"
)
BATCH_IGNORES_AUDIO = (
    "LiteLLM bills a batch's audio LLM tokens as text; a batch costs half of the audio rate"
)
BATCH_OF_ANOTHER_MODEL = (
    "a price that only has ranges is not found by LiteLLM's batch calculator, which then takes "
    "the public price of the model name it was called with"
)
FIREWORKS_PRIORITY = "LiteLLM drops the service tier of Fireworks calls; priority has its own price"
PERPLEXITY_CACHED = "LiteLLM drops the cache rates of Perplexity calls; its list has them"

DIFFERENT_SYNTHETIC = {
    ("flat", "batch", "over_272k_cache_rw", None): BATCH_READS_CACHE_FREE,
    ("svc_tier", "batch", "over_200k_cached", None): BATCH_READS_CACHE_FREE,
    ("audio", "batch", "over_200k_cached", None): BATCH_READS_CACHE_FREE,
    ("image", "batch", "over_200k_cached", None): BATCH_READS_CACHE_FREE,
    ("tier128_272", "batch", "at_200k", None): BATCH_IGNORES_CONTEXT,
    ("audio", "batch", "audio_io", None): BATCH_IGNORES_AUDIO,
    ("dash_tiered", "batch", "zero_out", None): BATCH_OF_ANOTHER_MODEL,
    ("dash_tiered", "batch", "over_128k", None): BATCH_OF_ANOTHER_MODEL,
    ("dash_tiered", "batch", "at_200k", None): BATCH_OF_ANOTHER_MODEL,
}


def _rows(name: str) -> Iterator[Row]:
    usages = json.loads((GOLDEN / "golden_usages.json").read_text())
    for line in (GOLDEN / name).read_text().splitlines():
        row = json.loads(line)
        row.setdefault("usage", usages[row["usage_name"]])
        yield row


def _difference(row: Row) -> str:
    """Empty when the quote of a row agrees with it."""
    answer = next(quote_rows([json.dumps(row)]))
    if "error" in answer:
        return str(answer["error"])
    for part in ("input_cost", "output_cost"):
        expected = Decimal(repr(row[part]))
        if abs(Decimal(answer[part]) - expected) > RELATIVE * abs(expected):
            return f"{part} is {answer[part]}, expected {row[part]}"
    return ""


def _map_reason(row: Row) -> str:
    """Why a row over the map may differ."""
    if row["provider"] == "fireworks_ai" and row["service_tier"] == "priority":
        price = snapshot().lookup(row["model"], row["provider"])
        assert price is not None
        if any(component.tier == "priority" for component in price.components):
            return FIREWORKS_PRIORITY
    if row["provider"] == "perplexity" and "cache_r" in row["usage_name"]:
        price = snapshot().lookup(row["model"], row["provider"])
        assert price is not None
        if any(component.meter == "cached_input" for component in price.components):
            return PERPLEXITY_CACHED
    return ""


def test_every_synthetic_row_agrees_or_is_listed() -> None:
    for row in _rows("golden_costs_synthetic.jsonl"):
        name = (row["price_name"], row["kind"], row["usage_name"], row["service_tier"])
        reason, difference = DIFFERENT_SYNTHETIC.get(name, ""), _difference(row)
        assert bool(reason) == bool(difference), f"{name}: {difference or 'agrees now: unlist it'}"


def test_every_map_row_agrees_or_differs_for_a_known_reason() -> None:
    seen = dict.fromkeys((FIREWORKS_PRIORITY, PERPLEXITY_CACHED), 0)
    for row in _rows("golden_costs_map.jsonl"):
        name = (row["model"], row["provider"], row["usage_name"], row["service_tier"])
        reason, difference = _map_reason(row), _difference(row)
        assert bool(reason) == bool(difference), f"{name}: {difference or 'agrees now: unlist it'}"
        if reason:
            seen[reason] += 1
    assert seen == {FIREWORKS_PRIORITY: 21, PERPLEXITY_CACHED: 6}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("nonsense", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"usage": {}}', "model is None"),
        ('{"model": "gpt-4o", "provider": 7, "usage": {}}', "provider is 7"),
        ('{"model": "no-such", "provider": "openai", "usage": {}}', "not in the list"),
        ('{"model": "gpt-4o", "usage": 3}', "usage is 3"),
        ('{"model": "gpt-4o", "usage": {"prompt_tokens": -1}}', "negative"),
        ('{"model": "gpt-4o", "usage": {"prompt_tokens": 1}, "kind": "x"}', "kind is 'x'"),
        ('{"model": "gpt-4o", "usage": {"prompt_tokens": 1}, "service_tier": 5}', "service_tier"),
        (
            '{"price": {"input_cost_per_token": -1}, "usage": {"prompt_tokens": 1}}',
            "expected a number",
        ),
        ('{"price": {}, "usage": {"prompt_tokens": 1}}', "no rate above zero"),
        ('{"price": 5, "usage": {"prompt_tokens": 1}}', "expected an object"),
    ],
)
def test_a_bad_row_answers_with_the_field_and_stops_nothing(line: str, fault: str) -> None:
    good = '{"model": "gpt-4o", "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}'
    bad, after = quote_rows([line, "", good])
    assert fault in bad["error"]
    assert after == {"input_cost": "0.0025", "output_cost": "0.001"}
