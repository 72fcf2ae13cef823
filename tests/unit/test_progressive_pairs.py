"""The table of pairs that may run progressive: what ships, and what operators add."""

import pytest

from bursar_sidecar.growth import LEAST_SLACK
from bursar_sidecar.progressive_pairs import MAX_ROWS, Pairs, read_rows, shipped


def test_every_row_that_ships_has_evidence_that_can_be_read() -> None:
    rows = shipped()
    assert rows
    for row in rows:
        assert row.source.startswith("https://"), row
        assert len(row.known) > 40, row
        assert row.slack >= LEAST_SLACK


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "openai/gpt-4.1-nano-2025-04-14"),
        ("azure", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-5-20250929"),
        ("deepseek", "deepseek-chat"),
        ("vllm-west", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_what_shows_all_and_stops_may_run_progressive(provider: str, model: str) -> None:
    row = Pairs().find(provider, model)
    assert row is not None
    assert row.reasoning == "none"


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "o3-mini"),
        ("openai", "gpt-5"),
        ("openai", "gpt-5-mini"),
        ("openai", "gpt-5.1-codex"),
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "gpt-4o-search-preview"),
        ("anthropic", "claude-opus-4-7"),
        ("anthropic", "claude-sonnet-5"),
        ("deepseek", "deepseek-reasoner"),
        ("bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0"),
        ("gemini", "gemini-2.5-flash"),
        ("groq", "llama-3.3-70b-versatile"),
        ("mistral", "mistral-large-latest"),
        ("openrouter", "openai/gpt-4o"),
        ("together", "deepseek-ai/DeepSeek-R1"),
        ("mine", "gpt-4o"),
    ],
)
def test_hidden_output_or_no_known_end_reserves_the_worst_case(provider: str, model: str) -> None:
    assert Pairs().find(provider, model) is None


def test_a_model_that_reasons_needs_it_turned_off() -> None:
    row = Pairs().find("openai", "gpt-5.1")
    assert row is not None
    assert row.reasoning == "off"


OWN = {
    "providers": ["mine"],
    "models": ["house-*"],
    "except": ["house-think*"],
    "evidence": "measured",
    "source": "our own bill of May",
    "slack": 400,
}


def test_an_operators_row_is_found_first() -> None:
    faults: list[str] = []
    pairs = Pairs(read_rows([OWN, {**OWN, "providers": ["openai"], "models": ["gpt-4o"]}], faults))
    assert faults == []
    mine, theirs = pairs.find("mine", "house-1"), pairs.find("openai", "gpt-4o")
    assert mine is not None
    assert theirs is not None
    assert (mine.slack, theirs.slack) == (400, 400)
    assert pairs.find("mine", "house-think-1") is None
    assert pairs.find("mine", "other") is None


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({**OWN, "slack": 1}, "slack is 1"),
        ({**OWN, "models": []}, "models is []"),
        ({**OWN, "providers": [""]}, "providers is ['']"),
        ({**OWN, "source": " "}, "source is ''"),
        ({**OWN, "evidence": "hoped"}, "Invalid enum value 'hoped'"),
        ({**OWN, "slak": 9}, "unknown field"),
        ({"models": ["a"]}, "missing required field"),
        ("yes", "Expected `object`"),
    ],
)
def test_a_wrong_row_is_told(table: object, told: str) -> None:
    faults: list[str] = []
    read_rows([OWN, table], faults)
    (fault,) = faults
    assert fault.startswith("progressive[2]")
    assert told in fault


def test_the_number_of_rows_is_bounded_and_they_are_a_list() -> None:
    faults: list[str] = []
    assert read_rows([OWN] * (MAX_ROWS + 1), faults) == ()
    assert read_rows({"providers": []}, faults) == ()
    assert len(faults) == 2


def test_the_memory_of_found_pairs_is_bounded() -> None:
    pairs = Pairs()
    for number in range(3_000):
        pairs.find("openai", f"gpt-4o-{number}")
    assert len(pairs._found) <= 1_024
