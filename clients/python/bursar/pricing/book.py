"""The price book: the built-in list, and layers above it. Immutable; looked up by name."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Final

import msgspec

from .compile_litellm import provider_family
from .contracts import Contract, Terms, contracted, terms_for
from .model import Price, price_from_json

SNAPSHOT_FILE: Final = "prices.json.zlib"
_VERSION_DIGITS: Final = 16
# Instants whose books are kept: a re-rating goes through some years of prices, in any order.
MAX_VIEWS: Final = 64
# Answers kept: names come from callers and from providers, who could invent them without end.
MAX_KNOWN: Final = 4_096

# What the price map that it is made of is in, and says so nowhere.
BUILT_IN_CURRENCY: Final = "USD"


class _BuiltIn:
    """The list that ships with the package: kept as JSON, each entry decoded when asked for."""

    __slots__ = ("_bare", "_decoded", "_entries", "version")

    def __init__(self, packed: bytes):
        text = zlib.decompress(packed)
        self.version = f"builtin-{hashlib.sha256(text).hexdigest()[:_VERSION_DIGITS]}"
        groups = msgspec.json.decode(text, type=dict[str, dict[str, msgspec.Raw]])
        self._entries: dict[str, tuple[str, msgspec.Raw]] = {
            key: (provider, raw) for provider, group in groups.items() for key, raw in group.items()
        }
        self._decoded: dict[str, Price] = {}
        self._bare: dict[str, tuple[str, ...]] | None = None

    def get(self, key: str, provider: str | None) -> Price | None:
        entry = self._entries.get(key)
        if entry is None or (provider is not None and entry[0] != provider):
            return None
        price = self._decoded.get(key)
        if price is None:
            price = msgspec.structs.replace(price_from_json(entry[1]), price_version=self.version)
            self._decoded[key] = price
        return price

    def owner(self, key: str) -> str | None:
        entry = self._entries.get(key)
        return entry[0] if entry else None

    def sellers(self, bare: str) -> tuple[str, ...]:
        """Providers that list `provider/bare`."""
        if self._bare is None:
            self._bare = {}
            for key, (provider, _) in self._entries.items():
                name = key.removeprefix(f"{provider}/")
                self._bare[name] = (*self._bare.get(name, ()), provider)
        return self._bare.get(bare, ())

    def names(self) -> Iterable[str]:
        for key, (provider, _) in self._entries.items():
            yield f"{provider}/{key.removeprefix(f'{provider}/')}"


class PriceBook:
    """Prices by model and provider: layers of a list's overlays above the built-in list, and the
    contracts that transform what is found.

    Immutable: `with_overlay` and `with_contracts` make a new book. `version` names the content of
    all its layers; each price names the version of the layer it came from, and of the contracts.
    Prices and contracts may be for a stretch of time: `at` gives the book of an instant.
    """

    __slots__ = (
        "_built_in", "_contracted", "_contracts", "_known", "_laid", "_moments", "_overlaid",
        "_overlay", "_views", "since", "until", "version",
    )  # fmt: skip

    def __init__(
        self,
        built_in: _BuiltIn,
        laid: Iterable[Price],
        version: str,
        contracts: Iterable[Contract] = (),
    ):
        """`laid` are the prices over the built-in ones, the weakest first."""
        self._built_in = built_in
        self._laid = tuple(laid)
        self._contracts = tuple(contracts)
        self._overlay = {(price.provider, price.model): price for price in self._laid}
        self._overlaid: dict[str, list[str]] = {}
        for provider, name in self._overlay:
            self._overlaid.setdefault(name, []).append(provider)
        dated: tuple[Price | Contract, ...] = (*self._laid, *self._contracts)
        bounds = {moment for each in dated for moment in (each.effective_at, each.expires_at)}
        self._moments = sorted(moment for moment in bounds if moment is not None)
        self._views: dict[int, PriceBook] = {}
        self._contracted: dict[tuple[str, str], tuple[Price, Price]] = {}
        self._known: dict[tuple[str, str | None], Price | None] = {}
        self.version = version
        self.since: datetime | None = None
        """Of a book of an instant: from when on it is the same. None: always was."""
        self.until: datetime | None = None
        """Of a book of an instant: when it is no longer. None: never."""

    def at(self, when: datetime) -> PriceBook:
        """The book of one instant (aware): of what is for a stretch of time, what is in force.

        The same object until that changes, so that what follows from it can be kept.
        """
        moments = self._moments
        if not moments:
            return self
        place = bisect_right(moments, when)
        view = self._views.get(place)
        if view is None:
            if len(self._views) >= MAX_VIEWS:
                self._views.clear()
            laid = (price for price in self._laid if price.is_in_force(when))
            contracts = (each for each in self._contracts if each.is_in_force(when))
            view = self._views[place] = PriceBook(self._built_in, laid, self.version, contracts)
            view._moments = []  # all that is in it holds
            view.since = moments[place - 1] if place else None
            view.until = moments[place] if place < len(moments) else None
        return view

    def lookup(
        self, model: str, provider: str | None = None, *, at: datetime | None = None
    ) -> Price | None:
        """The price of `model` at `provider` with the contracts that hold for it, or None.

        Without a provider, `model` is a name of the list itself ("gpt-4o" is OpenAI's,
        "azure/gpt-4o" Azure's), or `provider/model`. With one, it is a name of the list or a bare
        name. Overlays win over the built-in list. `at` is the instant it is for (aware); without
        it times are not looked at, and what was laid over last wins.
        """
        if at is not None and self._moments:
            return self.at(at).lookup(model, provider)
        question = (model, provider)
        if question in self._known:
            return self._known[question]
        found = self.listed(model, provider)
        if found is not None and self._contracts:
            found = self._with_terms(found)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[question] = found
        return found

    def listed(self, model: str, provider: str | None = None) -> Price | None:
        """As `lookup`, without contracts: the price of the list."""
        if provider is not None:
            return self._at(model, provider)
        sellers = self.provider_of(model)
        if len(sellers) != 1:
            return None
        found = self._at(model, sellers[0])
        return found or self._at(model.partition("/")[2], sellers[0])

    def terms_for(self, price: Price) -> Terms:
        """The contracts that hold for a price of this book."""
        return terms_for(price, self._contracts)

    def _with_terms(self, price: Price) -> Price:
        """The price under contract, made once: a price keeps its resolved rates."""
        key = (price.provider, price.model)
        known = self._contracted.get(key)
        if known is None or known[0] is not price:
            known = self._contracted[key] = (price, contracted(price, self._contracts))
        return known[1]

    def _at(self, model: str, provider: str) -> Price | None:
        family = provider_family(provider)
        for name in dict.fromkeys((model, model.removeprefix(f"{provider}/"))):
            if not name:
                continue
            for seller in dict.fromkeys((provider, family)):
                price = self._overlay.get((seller, name))
                if price is not None:
                    return price
            price = self._built_in_at(name, provider, family)
            if price is not None:
                return price
        return None

    def _built_in_at(self, name: str, provider: str, family: str) -> Price | None:
        """Where the list has a name both with its provider and without, they may differ: with a
        provider named, its own entry goes first, unless only the other one has rates."""
        with_provider = name if name.startswith(f"{provider}/") else f"{provider}/{name}"
        keys = dict.fromkeys((with_provider, name, f"{family}/{name}"))
        found: Price | None = None
        for key in keys:
            price = self._built_in.get(key, family)
            if price is not None and price.components:
                return price
            found = found or price
        return found

    def provider_of(self, model: str) -> list[str]:
        """Who sells a model, by its name alone.

        The built-in list's own provider of that name, else the providers of overlays, else the
        one that `provider/model` names, else everyone who lists `provider/<the name>`. Empty means
        unknown; more than one means the name alone is ambiguous.
        """
        owner = self._built_in.owner(model)
        if owner is not None:
            return [owner]
        overlaid = self._overlaid.get(model)
        if overlaid:
            return list(overlaid)
        head, slash, rest = model.partition("/")
        if slash and rest and self._at(rest, head) is not None:
            return [head]
        return list(self._built_in.sellers(model))

    def models(self) -> list[str]:
        """Every model as `provider/model`, sorted."""
        overlaid = (f"{provider}/{name}" for provider, name in self._overlay)
        return sorted({*self._built_in.names(), *overlaid})

    def with_overlay(self, prices: Iterable[Price], version: str) -> PriceBook:
        """A new book in which `prices` win over what is there; `version` names this layer.

        Of several prices of one model the later one wins, at the times that it is for.
        """
        laid = [
            price if price.price_version else msgspec.structs.replace(price, price_version=version)
            for price in prices
        ]
        # What is hidden at all times is dropped, so that a book that grows by and by stays small.
        always = {
            (price.provider, price.model)
            for price in laid
            if price.effective_at is None and price.expires_at is None
        }
        below = (price for price in self._laid if (price.provider, price.model) not in always)
        return PriceBook(self._built_in, (*below, *laid), self._next(version), self._contracts)

    def with_contracts(self, contracts: Iterable[Contract], version: str) -> PriceBook:
        """A new book under these contracts alone; `version` names them."""
        return PriceBook(self._built_in, self._laid, self._next(version), contracts)

    def _next(self, version: str) -> str:
        digest = hashlib.sha256(f"{self.version}\n{version}".encode()).hexdigest()
        return digest[:_VERSION_DIGITS]


@cache
def snapshot() -> PriceBook:
    """The price book that ships with the package. Loaded once; entries are decoded on lookup."""
    packed = resources.files("bursar").joinpath("data", SNAPSHOT_FILE).read_bytes()
    built_in = _BuiltIn(packed)
    return PriceBook(built_in, (), built_in.version)


def pack_snapshot(groups: Mapping[str, Mapping[str, Price]]) -> bytes:
    """The built-in list's file from prices by provider and key (see `grouped`)."""
    return zlib.compress(msgspec.json.encode(groups), 9)
