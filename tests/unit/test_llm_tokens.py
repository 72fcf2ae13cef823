"""Counts and bounds of LLM tokens, against the real tokenizers."""

import base64
import importlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.llm_tokens import (
    LlmTokenError,
    count_llm_tokens,
    encoding,
    encoding_of,
    encodings,
    estimate_output_llm_tokens,
    input_llm_token_bound,
    tokenizer_of,
    upper_bound,
)
from bursar.pricing import snapshot


@pytest.mark.parametrize(
    ("text", "model", "count"),
    [
        ("", "gpt-4o", 0),
        ("tiktoken is great!", "gpt-4o", 6),
        ("tiktoken is great!", "gpt-4", 6),
        ("hello world", "gpt-4o", 2),
        ("antidisestablishmentarianism", "gpt-4", 6),
        ("お誕生日おめでとう", "gpt-4o", 8),
        ("お誕生日おめでとう", "gpt-4", 9),
        ("<|endoftext|>", "gpt-4", 7),
    ],
)
def test_counts_are_those_of_the_model_s_tokenizer(text: str, model: str, count: int) -> None:
    assert count_llm_tokens(text, model) == count


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", ("o200k_base", True)),
        ("openai/gpt-4.1", ("o200k_base", True)),
        ("gpt-4-turbo", ("cl100k_base", True)),
        ("ft:gpt-3.5-turbo:acme", ("cl100k_base", True)),
        ("text-embedding-3-small", ("cl100k_base", True)),
        ("azure/eu/gpt-5.1-chat", ("o200k_base", True)),
        ("openrouter/openai/gpt-4o:extended", ("o200k_base", True)),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", ("o200k_base", True)),
        ("gpt-5.4-mini-2026-03-17", ("o200k_base", True)),
        ("gpt-5-chat-latest", ("o200k_base", True)),
        ("groq/openai/gpt-oss-120b", ("o200k_base", True)),
        ("bedrock/us.openai.gpt-oss-20b-1:0", ("o200k_base", True)),
        ("azure/gpt-35-turbo-16k", ("cl100k_base", True)),
        ("o3-deep-research", ("o200k_base", True)),
        ("gpt-4o-mini-realtime-preview-2024-12-17", ("o200k_base", True)),
        ("text-embedding-ada-002-v2", ("cl100k_base", True)),
        ("gpt-6.1-sol", ("o200k_base", False)),
        ("chat-latest", ("o200k_base", False)),
        ("gpt-realtime-2", ("o200k_base", False)),
        ("codex-mini", ("o200k_base", False)),
        ("claude-sonnet-4-5", ("o200k_base", False)),
        ("", ("o200k_base", False)),
    ],
)
def test_models_name_their_encoding_or_get_a_stand_in(
    model: str, encoding: tuple[str, bool]
) -> None:
    assert encoding_of(model) == encoding


@pytest.mark.parametrize(
    ("model", "percent"),
    [
        ("gpt-4o", 100),
        ("gpt-6-astra", 100),
        ("bedrock/us.anthropic.claude-3-5-sonnet-20241022-v2:0", 109),
        ("claude-opus-4-7", 142),
        ("vertex_ai/claude-sonnet-5@20260701", 142),
        ("gemini/gemini-2.5-pro", 118),
        ("deepseek-reasoner", 105),
        ("never-heard-of", 118),
    ],
)
def test_a_stand_in_is_scaled_by_its_family_and_says_why(model: str, percent: int) -> None:
    tokenizer = tokenizer_of(model)
    assert tokenizer.percent == percent
    assert tokenizer.basis
    text = "How many LLM tokens are these, by the nearest public tokenizer?"
    assert count_llm_tokens(text, model) == -(-count_llm_tokens(text, "gpt-4o") * percent // 100)


def test_every_model_of_openai_in_the_price_list_has_a_considered_tokenizer() -> None:
    owned = [name for name in snapshot().models() if "openai" in snapshot().provider_of(name)]
    assert len(owned) > 100
    priced = [price for name in owned if (price := snapshot().lookup(name, "openai")) is not None]
    texts = {price.model for price in priced if price.mode in ("chat", "responses", "embedding")}
    assert {"gpt-4o", "gpt-6-astra", "chat-latest", "text-embedding-3-small"} <= texts
    unknown = {name for name in texts if tokenizer_of(name).basis.startswith("nothing known")}
    assert unknown == {"container"}  # a fee, no model


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["gpt-4o", "gpt-4"]))
def test_a_text_never_has_more_llm_tokens_than_bytes(text: str, model: str) -> None:
    assert count_llm_tokens(text, model) <= upper_bound(text)
    assert upper_bound(text) <= estimate_output_llm_tokens(len(text.encode()))


def test_text_that_breaks_rules_of_thumb_stays_within_the_bound() -> None:
    noise = base64.b64encode(random.Random(7).randbytes(6_000)).decode()
    for text in (noise, " " * 20_000, "𒀀" * 500, "\x00" * 3_000):
        assert count_llm_tokens(text, "gpt-4o") <= upper_bound(text)
    assert count_llm_tokens(noise, "gpt-4o") > len(noise) // 4


def test_the_input_bound_counts_bytes_and_framing() -> None:
    assert input_llm_token_bound(100, 3) >= 100 + 3 * 4 + 3
    with pytest.raises(ValueError, match="body_bytes"):
        input_llm_token_bound(-1, 0)


def test_half_a_character_can_not_break_the_bound() -> None:
    assert upper_bound("\ud800") == 3
    assert upper_bound(b"\xff\xfe") == 2


@pytest.mark.parametrize("bad", [-1, True, 1.5])
def test_a_count_of_bytes_that_is_none_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="utf8_bytes"):
        estimate_output_llm_tokens(bad)


def test_text_that_is_none_or_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LlmTokenError, match="bytes; expected text"):
        count_llm_tokens(b"x", "gpt-4o")  # type: ignore[arg-type]
    monkeypatch.setattr(encodings, "MAX_TEXT_BYTES", 3)
    with pytest.raises(LlmTokenError, match="text has 4 bytes"):
        count_llm_tokens("four", "gpt-4o")


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_shipped_definitions_are_tiktoken_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes: list[str] = []

    def no_download(url: str, expected_hash: str) -> dict[bytes, int]:
        hashes.append(expected_hash)
        return {}

    published = importlib.import_module("tiktoken_ext.openai_public")
    monkeypatch.setattr(published, "load_tiktoken_bpe", no_download)
    theirs = getattr(published, name)()
    ours = encoding(name)
    assert ours._pat_str == theirs["pat_str"]
    assert ours._special_tokens == theirs["special_tokens"]
    assert len(hashes) == 1
