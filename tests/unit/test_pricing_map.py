"""The whole of LiteLLM's map: nothing in it is dropped silently, and the document says what is not
priced."""

import lzma
import re
from collections import Counter
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bursar.pricing import Meter, Price, compile_map
from bursar.pricing.build_snapshot import MAP_FILE
from bursar.pricing.compile_litellm import read_map
from bursar.pricing.litellm_corrections import CORRECTIONS, corrected

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "prices.md"
ROW = re.compile(r"\| `(?P<field>[a-z_.]+)` \| (?P<models>\d+) \| (?P<why>[^|]{10,}) \|")

# Fields that say what a model can do, how much of it, or where the entry is from. A field of the
# map that is not here and is neither priced nor reported fails the test below.
NO_PRICE = re.compile(
    r"supports_.*|supported_.*|max_.*|.*_tokens?|token_count_.*|bedrock_.*|vertex_ai_audio_api"
    r"|reasoning_.*|default_reasoning_effort|gemini_.*|uses_embed_content|use_openai_.*|output_vector_size"
    r"|audio_transcription_config|thinking_always_on|deprecation_date|litellm_provider|mode|source"
    r"|metadata|comment|rpm|tpm|prompt_cache_min_tokens|max_images_per_prompt"
)


@cache
def entries() -> dict[str, Any]:
    data = resources.files("bursar").joinpath("data", MAP_FILE).read_bytes()
    found = read_map(lzma.decompress(data))
    del found["sample_spec"], found["fallback_generalizations"]
    return found


@cache
def prices() -> dict[str, Price]:
    return compile_map(entries())


def test_the_document_lists_what_is_not_priced_and_for_how_many_models() -> None:
    unmodelled = Counter(field for price in prices().values() for field in price.unmodelled)
    section = DOCUMENT.read_text().partition("What is not modelled:")[2].partition("\n## ")[0]
    rows = (ROW.match(line) for line in section.splitlines())
    documented = {row["field"]: int(row["models"]) for row in rows if row is not None}
    assert documented == dict(unmodelled)


def test_every_field_of_the_map_is_known() -> None:
    """A new field is either read, reported by the importer, or known to be no price."""
    reported = {field for price in prices().values() for field in price.unmodelled}
    price_like = re.compile(r"cost|pric|uplift|billing|free_requests|provider_specific_entry")
    fields = {field for entry in entries().values() for field in entry}
    unknown = {
        field
        for field in fields
        if not price_like.search(field) and not NO_PRICE.fullmatch(field) and field not in reported
    }
    assert unknown == set()
    assert sum(1 for field in fields if price_like.search(field)) == 167


def test_no_part_of_a_nested_price_is_dropped() -> None:
    for key, entry in entries().items():
        price = prices()[key]
        meters = {(component.meter, component.during) for component in price.components}
        off_peak = entry.get("off_peak_pricing", {})
        rates = [field for field in off_peak if "cost" in field]
        assert len([one for one in meters if one[1]]) == len(rates), key
        units = entry.get("guardrail_cost_per_unit", {})
        assert {c.variant for c in price.components if c.meter == "guardrail_unit"} == set(units)
        ranges = entry.get("tiered_pricing", [])
        starts = {int(one["range"][0]) for one in ranges if "range" in one}
        assert starts - {0} <= set(price.thresholds), key


def test_a_rate_that_the_providers_page_contradicts_is_corrected_while_the_map_has_it() -> None:
    for key, (field, wrong, right) in CORRECTIONS.items():
        assert Decimal(str(entries()[key][field])) == wrong, key
        rates = {c.meter: c.rate for c in prices()[key].components if not c.tier}
        assert rates[Meter.AUDIO_INPUT] == right * 1_000_000
        mended = {**entries()[key], field: 7e-06}
        (price,) = compile_map({key: mended}).values()
        assert {c.rate for c in price.components if c.meter == "audio_input"} == {7}
    assert corrected("gpt-4o-transcribe", {"input_cost_per_audio_token": "x"}) == {
        "input_cost_per_audio_token": "x"
    }
    assert corrected("gpt-4o-transcribe", 5) == 5
