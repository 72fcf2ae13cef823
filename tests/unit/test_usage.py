"""Usage: what providers count, with one meaning."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.usage import (
    MAX_COUNT,
    Usage,
    estimated,
    usage_from_openai,
)
from bursar.usage.openai import _full_usage, _plain_usage


def test_cached_and_written_llm_tokens_are_taken_out_of_the_prompt() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 10_000,
            "completion_tokens": 500,
            "total_tokens": 10_500,
            "prompt_tokens_details": {"cached_tokens": 4_000, "cache_creation_tokens": 1_000},
            "completion_tokens_details": {"reasoning_tokens": 300},
        }
    )
    assert usage == Usage(
        input=5_000, cached_input=4_000, cache_write_5m=1_000, output=500, reasoning=300
    )
    assert (usage.input_llm_tokens, usage.total_llm_tokens, usage.is_exact) == (
        10_000,
        10_500,
        True,
    )


def test_cache_writes_are_split_by_time_to_live_and_the_rest_is_short() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 10_000,
            "completion_tokens": 1,
            "prompt_tokens_details": {
                "cache_creation_tokens": 6_000,
                "cache_creation_by_ttl": {
                    "ephemeral_5m_input_tokens": 1_000,
                    "ephemeral_1h_input_tokens": 2_000,
                },
            },
        }
    )
    assert (usage.input, usage.cache_write_5m, usage.cache_write_1h) == (4_000, 4_000, 2_000)


def test_responses_and_deepseek_spell_the_same_things_differently() -> None:
    responses = usage_from_openai(
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 4},
        }
    )
    assert responses == Usage(input=40, cached_input=60, output=9, reasoning=4)
    deepseek = usage_from_openai(
        {"prompt_tokens": 100, "prompt_cache_hit_tokens": 60, "completion_tokens": 9}
    )
    assert deepseek == Usage(input=40, cached_input=60, output=9)


def test_embeddings_have_no_completion() -> None:
    usage = usage_from_openai({"prompt_tokens": 8, "total_tokens": 8})
    assert usage == Usage(input=8)


def test_reasoning_counted_beside_the_completion_is_added_once() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 115,
            "completion_tokens_details": {"reasoning_tokens": 100},
        }
    )
    assert usage == Usage(input=10, output=105, reasoning=100)


def test_kinds_of_llm_tokens_detail_their_whole() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 1_000,
            "completion_tokens": 600,
            "prompt_tokens_details": {
                "audio_tokens": 400,
                "cached_tokens": 300,
                "cached_tokens_details": {"audio_tokens": 100},
            },
            "completion_tokens_details": {"audio_tokens": 200},
        }
    )
    assert (usage.input, usage.cached_input, usage.output) == (700, 300, 600)
    assert usage.extra == {"audio_input": 300, "cached_audio_input": 100, "audio_output": 200}
    assert usage.is_exact


def test_more_of_a_kind_from_the_cache_than_there_was_is_none_of_it() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 100,
            "completion_tokens": 1,
            "prompt_tokens_details": {
                "audio_tokens": 5,
                "image_tokens": 5,
                "cached_tokens": 50,
                "cached_tokens_details": {"audio_tokens": 10},
            },
        }
    )
    assert usage.extra == {"image_input": 5, "cached_audio_input": 10}
    assert usage.estimate_reason == "cached audio_tokens (10) exceed audio_tokens (5)"


@pytest.mark.parametrize("value", [-1, True, math.nan, math.inf, 1.5, "7", [], {}, MAX_COUNT + 1])
def test_nonsense_is_estimated_with_the_reason_and_taken_from_the_bound(value: Any) -> None:
    usage = usage_from_openai(
        {"prompt_tokens": value, "completion_tokens": value}, input_bound=70, output_bound=30
    )
    assert usage.certainty == "estimated"
    assert "prompt_tokens is" in usage.estimate_reason
    assert "completion_tokens is" in usage.estimate_reason
    assert (usage.input, usage.output) == (70, 30)


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (None, "usage is missing"),
        ([], "usage is a list"),
        ({}, "prompt_tokens is missing"),
        ({"prompt_tokens": 5, "total_tokens": 9}, "completion_tokens is missing"),
        (
            {
                "prompt_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 9},
                "completion_tokens": 1,
            },
            "exceed prompt_tokens",
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": 3},
            "prompt_tokens_details is a int",
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 1,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            "reasoning_tokens",
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 1,
                "prompt_tokens_details": {"audio_tokens": 700},
            },
            "exceed prompt_tokens",
        ),
    ],
)
def test_what_does_not_add_up_is_estimated(obj: Any, reason: str) -> None:
    usage = usage_from_openai(obj)
    assert usage.certainty == "estimated"
    assert reason in usage.estimate_reason


def test_estimates_carry_their_reason() -> None:
    usage = estimated("stream ended without usage", input_llm_tokens=5, output_llm_tokens=7)
    assert (usage.input, usage.output, usage.is_exact) == (5, 7, False)


def test_a_usage_can_not_be_made_of_nonsense() -> None:
    with pytest.raises(ValueError, match="input is negative"):
        Usage(input=-1)
    with pytest.raises(ValueError, match="search is absurdly large"):
        Usage(extra={"search": MAX_COUNT + 1})
    with pytest.raises(ValueError, match="must not exceed output"):
        Usage(output=1, reasoning=2)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.lists(inner),
    max_leaves=5,
)
_COUNT_NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_cache_hit_tokens",
    "cache_creation_input_tokens",
]
_DETAIL_NAMES = [
    "cached_tokens",
    "audio_tokens",
    "image_tokens",
    "reasoning_tokens",
    "cache_creation_tokens",
    "cached_tokens_details",
    "cache_creation_by_ttl",
]
_VALUES = st.integers(-5, 1_000) | _JSON
_DETAILS = st.dictionaries(st.sampled_from(_DETAIL_NAMES), _VALUES) | _JSON
_USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_COUNT_NAMES, _VALUES),
        "prompt_tokens_details": _DETAILS,
        "completion_tokens_details": _DETAILS,
    },
)


@settings(deadline=None)
@given(_USAGES | _JSON)
def test_reading_never_fails_and_never_loses_a_count_silently(obj: Any) -> None:
    usage = usage_from_openai(obj)
    if usage.is_exact:
        assert usage.input_llm_tokens == obj.get("prompt_tokens")
        assert usage.output >= (obj.get("completion_tokens") or 0)
    else:
        assert usage.estimate_reason


def test_search_models_count_more_than_llm_tokens() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "search_context_size": "low",
            "num_search_queries": 3,
            "citation_tokens": 40,
        }
    )
    assert usage.extra == {"request.low": 1, "search": 3, "citation": 40}


def test_openai_names_its_own_times_to_live() -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "prompt_tokens_details": {
                "cache_write_tokens": 60,
                "cache_creation_token_details": {
                    "ephemeral_30m_input_tokens": 20,
                    "ephemeral_12h_input_tokens": 30,
                },
            },
        }
    )
    assert (usage.input, usage.cache_write_5m, usage.cache_write_1h) == (40, 30, 30)
    assert usage.extra == {"cache_write_12h": 30}


_PLAIN = st.fixed_dictionaries(
    {
        "prompt_tokens": st.integers(-1, 50),
        "completion_tokens": st.integers(-1, 50),
        "total_tokens": st.integers(0, 100),
    },
    optional={
        "prompt_tokens_details": st.none()
        | st.dictionaries(
            st.sampled_from(
                ["cached_tokens", "cache_write_tokens", "audio_tokens", "text_tokens", "unknown"]
            ),
            st.none() | st.integers(-1, 50),
        ),
        "completion_tokens_details": st.none()
        | st.dictionaries(
            st.sampled_from(["reasoning_tokens", "audio_tokens", "text_tokens"]),
            st.none() | st.integers(0, 50),
        ),
    },
)


@settings(deadline=None)
@given(_PLAIN, st.booleans())
def test_the_short_way_reads_what_the_full_way_reads(obj: dict[str, Any], sum_up: bool) -> None:
    if sum_up:
        obj["total_tokens"] = obj["prompt_tokens"] + obj["completion_tokens"]
    plain = _plain_usage(obj)
    if plain is not None:
        assert plain == _full_usage(obj, None, None)
