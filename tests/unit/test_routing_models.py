"""Which provider a model name goes to."""

import pytest

from bursar.pricing import PriceBook, llm_token_price, snapshot
from bursar_sidecar.desk import Refusal
from bursar_sidecar.routing import Router
from bursar_sidecar.settings import Provider
from tests.fakes.desk import spender

ANYONE = spender()


def provider(name: str, *models: str) -> Provider:
    return Provider(name=name, base_url=f"http://{name}/v1", models=models)


def router(*providers: Provider) -> Router:
    return Router({p.name: p for p in providers})


def routed(name: str, *providers: Provider) -> str:
    route = router(*providers).route(name, "openai", snapshot(), ANYONE)
    return f"{route.provider.name}:{route.model}"


def refusal_of(name: str, *providers: Provider) -> Refusal:
    with pytest.raises(Refusal) as caught:
        router(*providers).route(name, "openai", snapshot(), ANYONE)
    return caught.value


def test_a_prefix_chooses_the_provider() -> None:
    assert routed("local/gpt-4o", provider("openai"), provider("local")) == "local:gpt-4o"


def test_a_bare_name_goes_to_the_price_lists_provider() -> None:
    assert routed("gpt-4o", provider("openai"), provider("local")) == "openai:gpt-4o"


def test_a_provider_of_another_name_serves_by_its_kind() -> None:
    assert routed("gpt-4o", provider("simulated")) == "simulated:gpt-4o"


def test_a_bare_name_unknown_to_the_list_goes_to_the_one_whose_globs_match() -> None:
    assert routed("llama-x", provider("openai"), provider("local", "llama-*")) == "local:llama-x"


def test_a_model_whose_name_has_a_slash_is_not_mistaken_for_a_provider() -> None:
    local = provider("local", "meta/*")
    assert routed("meta/llama-x", local) == "local:meta/llama-x"


def test_globs_bound_what_a_provider_serves() -> None:
    openai = provider("openai", "gpt-4o-mini*")
    assert refusal_of("gpt-4o", openai).reason == "model_not_found"
    assert refusal_of("openai/gpt-4o", openai).reason == "model_not_found"


def test_two_that_match_are_ambiguous_and_both_are_named() -> None:
    refusal = refusal_of("llama-x", provider("one", "llama-*"), provider("two", "*"))
    assert refusal.reason == "model_not_found"
    assert "one/llama-x" in refusal.message
    assert "two/llama-x" in refusal.message


def test_a_glob_decides_between_two_of_one_kind() -> None:
    assert routed("gpt-4o", provider("east"), provider("west", "gpt-4o")) == "west:gpt-4o"


@pytest.mark.parametrize("name", ["nope", "openai/", "/x", "other/gpt-4o", "*"])
def test_an_unknown_name_is_not_found(name: str) -> None:
    if name == "openai/":
        assert refusal_of(name, provider("openai")).reason == "model_not_found"
    else:
        assert "openai" in refusal_of(name, provider("openai")).message


def test_a_key_may_call_only_what_its_globs_allow() -> None:
    routes = router(provider("openai"))
    routes.route("gpt-4o-mini", "openai", snapshot(), spender(allowed_models=("gpt-4o-m*",)))
    routes.route("gpt-4o-mini", "openai", snapshot(), spender(allowed_models=("openai/*",)))
    with pytest.raises(Refusal) as caught:
        routes.route(
            "gpt-4o", "openai", snapshot(), spender(allowed_models=("gpt-4o-m*", "text-*"))
        )
    assert caught.value.reason == "model_not_allowed"
    assert "gpt-4o-m*" in caught.value.message


def overlaid() -> PriceBook:
    own = llm_token_price("local", "own-model", rates={"input": "1", "output": "2"})
    return snapshot().with_overlay([own], "v1")


def test_the_list_holds_priced_and_named_models_that_the_key_may_call() -> None:
    routes = router(provider("local", "own-*", "named"), provider("openai"))
    names = dict(routes.listed("openai", overlaid(), ANYONE))
    assert names["own-model"] == "local"
    assert names["named"] == "local"
    assert names["gpt-4o-mini"] == "openai"
    few = routes.listed("openai", overlaid(), spender(allowed_models=("own-*",)))
    assert few == [("own-model", "local")]


def test_a_price_is_found_under_the_providers_name_before_its_kind() -> None:
    routes = router(provider("local"))
    book = overlaid()
    own = routes.route("own-model", "openai", book, ANYONE).price
    assert own is not None
    assert own.provider == "local"
    known = routes.route("gpt-4o-mini", "openai", book, ANYONE).price
    assert known is not None
    assert known.provider == "openai"
