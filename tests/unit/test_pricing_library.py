"""The public functions, as a program calls them."""

import doctest
from decimal import Decimal

import pytest

import bursar
from bursar.pricing import PriceError, UnpricedError, llm_token_price, snapshot
from bursar.pricing.library import _Registry
from bursar.usage import Usage


@pytest.fixture(autouse=True)
def _no_registered_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.pricing.library._registry", _Registry())


def test_the_package_s_example_is_true() -> None:
    assert doctest.testmod(bursar).failed == 0


def test_cost_and_quote_agree() -> None:
    usage = Usage(input=200, cached_input=1_000, output=340)
    quoted = bursar.quote("gpt-4o", usage)
    assert quoted.cost == bursar.cost("gpt-4o", usage) == Decimal("0.00515")
    assert quoted.price_version == snapshot().version
    assert bursar.cost("gpt-4o", usage, service_tier="priority") == Decimal("0.008755")


def test_rates_of_one_llm_token_follow_the_context() -> None:
    near = bursar.cost_per_llm_token("gemini/gemini-2.5-pro")
    far = bursar.cost_per_llm_token("gemini/gemini-2.5-pro", input_llm_tokens=200_001)
    assert (near.input, far.input) == (Decimal("0.00000125"), Decimal("0.0000025"))
    embedding = bursar.cost_per_llm_token("text-embedding-3-small")
    assert (embedding.input, embedding.output) == (Decimal("0.00000002"), Decimal(0))


def test_registered_models_are_priced_and_win() -> None:
    entry = {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    added = bursar.register_model("acme/large", entry)
    assert (added.provider, added.model) == ("acme", "large")
    assert bursar.cost("acme/large", Usage(input=10, output=10)) == Decimal("0.00003")
    bursar.register_model(llm_token_price("openai", "gpt-4o", rates={"input": 0, "output": 0}))
    assert bursar.cost("gpt-4o", Usage(input=10)) == 0
    assert bursar.cost("gpt-4o", Usage(input=10), book=snapshot()) > 0


@pytest.mark.parametrize(
    ("price", "entry", "fault"),
    [
        ("acme/large", None, "expected an object"),
        ("acme/large", {}, "no rate above zero"),
        ("acme/large", {"input_cost_per_token": -1}, "input_cost_per_token"),
        (llm_token_price("a", "m", rates={"input": 1}), {}, "entry must be left out"),
    ],
)
def test_bad_registrations_are_refused(price: str, entry: dict[str, int], fault: str) -> None:
    with pytest.raises(PriceError, match=fault):
        bursar.register_model(price, entry)


def test_unknown_unpriced_and_ambiguous_models_are_told_apart() -> None:
    with pytest.raises(bursar.UnknownModelError, match="'no-such' is in no price list"):
        bursar.cost("no-such", Usage(input=1))
    with pytest.raises(bursar.UnknownModelError, match="at 'azure'"):
        bursar.cost("no-such", Usage(input=1), provider="azure")
    with pytest.raises(UnpricedError, match="without a rate"):
        bursar.cost("gemini/gemini-exp-1206", Usage(input=1))
    bursar.register_model(llm_token_price("house", "embed", rates={"input": 1}, mode="embedding"))
    with pytest.raises(UnpricedError, match="no rate for output"):
        bursar.cost("house/embed", Usage(output=1))
    for provider in ("a", "b"):
        bursar.register_model(llm_token_price(provider, "m", rates={"input": 1, "output": 1}))
    with pytest.raises(bursar.UnknownModelError, match="sold by a, b"):
        bursar.cost("m", Usage(input=1))


def test_a_usage_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(bursar.UsageError, match="prompt_tokens is negative"):
        bursar.cost("gpt-4o", {"prompt_tokens": -5})
