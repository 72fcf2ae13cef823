"""Which provider a call goes to, and under which name.

Owns: `provider/model` and bare names, the globs a provider serves and the globs a key may call.
Pure. Refuses: a name that is unknown, ambiguous or not allowed, and says why.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from bursar.pricing import Price, PriceBook
from bursar_sidecar.desk import Refusal, Spender
from bursar_sidecar.settings import Provider

MAX_LISTED_MODELS: Final = 2_000
"""Models in one `/v1/models` answer; a provider of everything lists some hundreds."""


_SERVED_MODES: Final = frozenset({"", "chat", "completion", "responses", "embedding"})
"""Modes of the price list that the served endpoints can call; "" is a custom price's."""
MAX_REMEMBERED: Final = 4_096
"""Routes kept per price book: names come from callers, who could invent them without end."""


class Route(msgspec.Struct, frozen=True):
    """Where a call goes, and what it is sold for there."""

    provider: Provider
    model: str
    """The name the provider knows."""
    price: Price | None = None
    """None when no list knows the model."""
    listed_as: str = ""
    """The name the price list knows, where it is another one: of a deployment."""

    @property
    def listed(self) -> str:
        """The name the price list knows."""
        return self.listed_as or self.model


class Router:
    """Resolves model names against the configured providers."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = dict(providers)
        self._known: dict[tuple[str, str], Route] = {}
        self._known_book: PriceBook | None = None
        self._names: dict[str, set[str]] = {}
        self._listed_book: PriceBook | None = None

    def route(self, name: str, dialect: str, book: PriceBook, spender: Spender) -> Route:
        """The route of `name` to a provider that speaks the dialect of that name. Raises Refusal
        model_not_found or model_not_allowed."""
        if book is not self._known_book:
            self._known_book = book
            self._known = {}
        route = self._known.get((dialect, name))
        if route is None:
            route = self._named(name, dialect) or self._bare(name, dialect, book)
            listed = route.provider.listed_model(route.model)
            price = lookup(book, listed, route.provider)
            route = msgspec.structs.replace(route, listed_as=listed, price=price)
            if len(self._known) < MAX_REMEMBERED:
                self._known[dialect, name] = route
        if not _is_allowed(spender.allowed_models, route.provider.name, route.listed):
            raise Refusal(
                "model_not_allowed",
                f"Model {name!r} is not among those that this key may call "
                f"({', '.join(spender.allowed_models)}).",
            )
        return route

    def unnamed(self, provider: str, dialect: str, name: str) -> Route:
        """The route of a call that names no model, to a provider by its name, or to the only one
        that speaks the dialect; `name` stands for the model in reports. Raises Refusal."""
        if provider:
            found = [p for p in self._providers.values() if p.name == provider]
        else:
            found = [p for p in self._providers.values() if dialect in p.spoken.dialects]
        if len(found) == 1:
            return Route(found[0], name)
        configured = ", ".join(sorted(self._providers)) or "none"
        raise Refusal(
            "model_not_found",
            f"This path names no model; name a provider in the header x-bursar-provider. "
            f"Configured are: {configured}.",
        )

    def variant(self, route: Route, variants: Iterable[str], book: PriceBook) -> Route:
        """The route with a price, where the list keeps the model's sizes each by itself."""
        if route.price is not None and route.price.is_priced:
            return route
        for variant in variants:
            price = lookup(book, f"{variant}/{route.listed}", route.provider)
            if price is not None and price.is_priced:
                return msgspec.structs.replace(route, price=price)
        return route

    def listed(self, dialect: str, book: PriceBook, spender: Spender) -> list[tuple[str, str]]:
        """(model, provider) of every concrete name this spender may call in a dialect, sorted."""
        if book is not self._listed_book:
            # Every price of the list has to be looked at: once per book, not once per request.
            self._listed_book = book
            self._names = {
                name: _concrete_names(provider, book) for name, provider in self._providers.items()
            }
        found: dict[str, str] = {}
        for provider in self._providers.values():
            if dialect not in provider.spoken.dialects:
                continue
            for model in self._names[provider.name]:
                listed = provider.listed_model(model)
                if not _is_allowed(spender.allowed_models, provider.name, listed):
                    continue
                shown = model if model not in found else f"{provider.name}/{model}"
                found[shown] = provider.name
        return sorted(found.items())[:MAX_LISTED_MODELS]

    def _named(self, name: str, dialect: str) -> Route | None:
        prefix, slash, model = name.partition("/")
        provider = self._providers.get(prefix) if slash else None
        if provider is None or not model:
            return None
        if not _serves(provider, model):
            raise Refusal("model_not_found", f"Provider {prefix!r} does not serve {model!r}.")
        if dialect not in provider.spoken.dialects:
            raise _not_spoken(provider, dialect)
        return Route(provider, model)

    def _bare(self, name: str, dialect: str, book: PriceBook) -> Route:
        speaking = [p for p in self._providers.values() if dialect in p.spoken.dialects]
        serving = [p for p in speaking if _serves(p, name)]
        deploying = [p for p in speaking if any(name == one for one, _ in p.deployments)]
        if len(deploying) == 1:
            return Route(deploying[0], name)
        listed = set(book.provider_of(name))
        candidates = [p for p in serving if p.name in listed]
        if not candidates:
            candidates = [p for p in serving if p.spoken.listed in listed]
        if not candidates:
            # A bare name may be listed as another seller's alone, and have a price here too.
            candidates = [p for p in serving if lookup(book, name, p) is not None]
        if len(candidates) != 1:
            # The price list does not decide: a provider that names the model does.
            candidates = [p for p in candidates or serving if p.models] or candidates
        if len(candidates) == 1:
            return Route(candidates[0], name)
        if not candidates:
            raise Refusal(
                "model_not_found",
                f"No configured provider serves the model {name!r}. Configured are: "
                f"{', '.join(sorted(p.name for p in speaking)) or 'none'}; `provider/model` "
                "chooses one.",
            )
        choices = ", ".join(f"{p.name}/{name}" for p in candidates)
        raise Refusal(
            "model_not_found", f"Model {name!r} is served by several providers; write {choices}."
        )


def lookup(book: PriceBook, model: str, provider: Provider) -> Price | None:
    """The price of `model` at a provider: listed under its own name, else under its kind's."""
    return book.lookup(model, provider.name) or book.lookup(model, provider.spoken.listed)


def _not_spoken(provider: Provider, dialect: str) -> Refusal:
    spoken = ", ".join(sorted(provider.spoken.dialects))
    return Refusal(
        "model_not_found",
        f"Provider {provider.name!r} speaks {spoken}, and this path is of {dialect}.",
    )


def _serves(provider: Provider, model: str) -> bool:
    return (
        not provider.models
        or _matches(provider.models, model)
        or any(model == name for name, _ in provider.deployments)
    )


def _is_allowed(globs: tuple[str, ...], provider: str, model: str) -> bool:
    return not globs or _matches(globs, model) or _matches(globs, f"{provider}/{model}")


def _matches(globs: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _concrete_names(provider: Provider, book: PriceBook) -> set[str]:
    names = {glob for glob in provider.models if not set(glob) & set("*?[")}
    names |= {name for name, _ in provider.deployments}
    if provider.spoken.deployments:
        return names  # of Azure's models only those serve that are deployed
    for listed in book.models():
        seller, _, model = listed.partition("/")
        if seller not in (provider.name, provider.spoken.listed) or not _serves(provider, model):
            continue
        price = lookup(book, model, provider)
        if price is not None and price.mode in _SERVED_MODES and price.is_priced:
            names.add(model)
    return names
