"""The `[[envoy_limits]]` tables: what is taken, and what is told of a fault."""

from pathlib import Path

import pytest

from bursar_sidecar.envoy_limit_settings import EnvoyLimit
from bursar_sidecar.settings import SettingsError, effective, load_settings

CALLS = """
[[envoy_limits]]
name = "calls"
match = { limit = "calls", tenant = "*" }
provider = "acme"
flat_price = "0.002"
"""
WORDS = """
[[envoy_limits]]
name = "words"
domain = "edge"
match = { limit = "words" }
api_key_env = "PAYER"
provider = "openai"
model_entry = "model"
counts = "output"
when = "after"
least_hits = 500
most_ahead = 7
"""
ENVIRON = {
    "BURSAR_ADDRESS": "127.0.0.1:7443",
    "BURSAR_SIDECAR_KEY": "bs-1",
    "PAYER": "bk-payer",
    "OTHER": "sk-no-key-of-bursar",
}


def loaded(tmp_path: Path, text: str) -> tuple[EnvoyLimit, ...]:
    path = tmp_path / "sidecar.toml"
    path.write_text(text)
    return load_settings(ENVIRON, path).envoy_limits


def test_tables_are_read(tmp_path: Path) -> None:
    calls, words = loaded(tmp_path, CALLS + WORDS)
    assert (calls.name, calls.domain, calls.key_entry) == ("calls", "bursar", "bursar_key")
    assert (calls.flat_nanos, calls.when, calls.least_hits) == (2_000_000, "before", 1)
    assert (words.api_key, words.key_entry, words.model_entry) == ("bk-payer", "", "model")
    assert (words.counts, words.when, words.flat_nanos) == ("output", "after", 0)
    assert (words.least_hits, words.most_ahead) == (500, 7)


def test_a_descriptor_needs_every_entry_of_the_table(tmp_path: Path) -> None:
    calls, words = loaded(tmp_path, CALLS + WORDS)
    entries = {"limit": "calls", "tenant": "blue", "more": "1"}
    assert calls.is_for("bursar", entries)
    assert not calls.is_for("edge", entries)
    assert not calls.is_for("bursar", {"limit": "calls"})
    assert not calls.is_for("bursar", {"limit": "calls", "tenant": ""})
    assert not calls.is_for("bursar", {"limit": "words", "tenant": "blue"})
    assert words.is_for("edge", {"limit": "words"})


def test_keys_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(WORDS)
    shown = effective(load_settings(ENVIRON, path))
    assert shown["envoy_limits"][0]["api_key"] == "***"
    assert "bk-payer" not in str(shown)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (CALLS.replace('name = "calls"', 'name = "All Calls"'), "envoy_limits[0].name"),
        (CALLS + CALLS, "envoy_limits[1].name"),
        (CALLS.replace('{ limit = "calls", tenant = "*" }', "{}"), "envoy_limits[0].match"),
        (CALLS.replace('"*"', "1"), "envoy_limits[0].match"),
        (CALLS.replace('"*"', '""'), "envoy_limits[0].match"),
        (CALLS.replace('provider = "acme"', ""), "envoy_limits[0].provider is missing"),
        (CALLS.replace('"0.002"', "0.002"), "envoy_limits[0].flat_price"),
        (CALLS.replace('"0.002"', '"99999999"'), "envoy_limits[0].flat_price"),
        (CALLS.replace('"0.002"', '"-1"'), "envoy_limits[0].flat_price"),
        (CALLS.replace('flat_price = "0.002"', ""), "expected flat_price, or counts"),
        (CALLS + 'counts = "input"\nmodel = "m"', "expected flat_price, or counts"),
        (WORDS.replace('"output"', '"words"'), "envoy_limits[0].counts"),
        (WORDS.replace('model_entry = "model"', ""), "counts needs model"),
        (WORDS + 'model = "gpt-4o"', "model or model_entry"),
        (WORDS + 'key_entry = "k"', "a key of its own or key_entry"),
        (WORDS.replace('"PAYER"', '"NOBODY"'), "envoy_limits[0].api_key_env"),
        (WORDS.replace('"PAYER"', '"OTHER"'), "none of Bursar's"),
        (WORDS.replace('"after"', '"later"'), "envoy_limits[0].when"),
        (WORDS.replace("500", "0"), "envoy_limits[0].least_hits"),
        (WORDS.replace("7", "0"), "envoy_limits[0].most_ahead"),
        (WORDS + "burst = 1", "envoy_limits[0].burst"),
        ('envoy_limits = "x"', "envoy_limits: expected tables"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, text)
    (told,) = caught.value.faults
    assert fault in told
    assert "bk-payer" not in told
    assert "sk-no-key-of-bursar" not in told
