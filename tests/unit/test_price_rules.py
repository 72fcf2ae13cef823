"""What makes a custom price acceptable."""

import pytest

from bursar.pricing import Price, llm_token_price, snapshot
from bursar_server.prices.rules import (
    PriceFault,
    complete,
    find,
    model_name,
    price_version,
    provider_name,
    single_model_name,
)


def chat(**rates: str) -> Price:
    return llm_token_price("openai", "m", rates=rates, mode="")


def test_what_is_left_open_comes_from_the_price_in_force() -> None:
    known = llm_token_price(
        "openai",
        "m",
        rates={"input": "1", "output": "1"},
        mode="responses",
        max_input_llm_tokens=10,
        max_output_llm_tokens=5,
    )
    done = complete(chat(input="2", output="3"), known)
    assert (done.mode, done.max_input_llm_tokens, done.max_output_llm_tokens) == (
        "responses",
        10,
        5,
    )
    alone = complete(chat(input="2", output="3"), None)
    assert (alone.mode, alone.max_output_llm_tokens) == ("chat", None)


def test_a_price_must_price_a_call_of_its_mode() -> None:
    with pytest.raises(PriceFault) as refused:
        complete(chat(input="1"), None)
    assert refused.value.field == "components"
    embedding = llm_token_price("openai", "m", rates={"input": "1"}, mode="embedding")
    assert complete(embedding, None) == embedding
    assert complete(chat(input="0", output="0"), None).is_free


def test_a_mode_that_nobody_can_call_is_refused() -> None:
    mistyped = llm_token_price("openai", "m", rates={"input": "1"}, mode="embeding")
    with pytest.raises(PriceFault) as refused:
        complete(mistyped, None)
    assert refused.value.field == "mode"
    # What is listed so already may be priced anew.
    listed = llm_token_price("openai", "m", rates={"input": "1"}, mode="rerank")
    assert complete(listed, listed) == listed


@pytest.mark.parametrize("text", ["", "open ai", "a/b", "-x", "ä", "x" * 65])
def test_providers_are_names(text: str) -> None:
    with pytest.raises(PriceFault):
        provider_name(text, "provider")
    assert provider_name("vertex_ai-language-models", "provider")


def test_models_are_kept_without_their_provider() -> None:
    assert model_name("openai/gpt-4o", "openai", "model") == "gpt-4o"
    assert model_name("meta/llama-3", "openai", "model") == "meta/llama-3"
    for text in ("", "openai/", "a b", "a\nb", "x" * 257):
        with pytest.raises(PriceFault):
            model_name(text, "openai", "model")


def test_a_price_is_of_one_model() -> None:
    assert single_model_name("openai/gpt-4o", "openai", "model") == "gpt-4o"
    for text in ("gpt-4o*", "openai/gpt-4?", "*", ""):
        with pytest.raises(PriceFault):
            single_model_name(text, "openai", "model")


def test_versions_say_whose_price_it_is() -> None:
    assert price_version(platform=False, counter=17) == "custom@17"
    assert price_version(platform=True, counter=4) == "platform@4"


def test_a_name_of_several_providers_is_ambiguous() -> None:
    twice = [
        llm_token_price(provider, "twice", rates={"input": "1", "output": "1"})
        for provider in ("openai", "azure")
    ]
    book = snapshot().with_overlay(twice, "1")
    price, sellers = find(book, "twice")
    assert price is None
    assert sorted(sellers) == ["azure", "openai"]
    price, _ = find(book, "azure/twice")
    assert price is not None
    assert price.provider == "azure"


def test_every_built_in_price_is_found_as_sidecars_find_it() -> None:
    book = snapshot()
    for name in book.models():
        provider, _, model = name.partition("/")
        assert find(book, name)[0] == book.lookup(model, provider) is not None
    assert find(book, "no/such") == (None, [])
