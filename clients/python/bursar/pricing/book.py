"""The price book: the built-in list, and layers above it. Immutable; looked up by name."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Final

import msgspec

from .compile_litellm import provider_family
from .model import Price, price_from_json

SNAPSHOT_FILE: Final = "prices.json.zlib"
_VERSION_DIGITS: Final = 16

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
    """Prices by model and provider: layers of a list's overlays above the built-in list.

    Immutable: `with_overlay` makes a new book. `version` names the content of all its layers; each
    price names the version of the layer it came from.
    """

    __slots__ = ("_built_in", "_overlaid", "_overlay", "version")

    def __init__(
        self,
        built_in: _BuiltIn,
        overlay: Mapping[tuple[str, str], Price],
        version: str,
    ):
        self._built_in = built_in
        self._overlay = overlay
        self._overlaid: dict[str, list[str]] = {}
        for provider, name in overlay:
            self._overlaid.setdefault(name, []).append(provider)
        self.version = version

    def lookup(self, model: str, provider: str | None = None) -> Price | None:
        """The price of `model` at `provider`, or None.

        Without a provider, `model` is a name of the list itself ("gpt-4o" is OpenAI's,
        "azure/gpt-4o" Azure's), or `provider/model`. With one, it is a name of the list or a bare
        name. Overlays win over the built-in list.
        """
        if provider is not None:
            return self._at(model, provider)
        sellers = self.provider_of(model)
        if len(sellers) != 1:
            return None
        found = self._at(model, sellers[0])
        return found or self._at(model.partition("/")[2], sellers[0])

    def _at(self, model: str, provider: str) -> Price | None:
        family = provider_family(provider)
        for name in dict.fromkeys((model, model.removeprefix(f"{provider}/"))):
            if not name:
                continue
            for seller in dict.fromkeys((provider, family)):
                price = self._overlay.get((seller, name))
                if price is not None:
                    return price
            for key in dict.fromkeys((name, f"{provider}/{name}", f"{family}/{name}")):
                price = self._built_in.get(key, family)
                if price is not None:
                    return price
        return None

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
        """A new book in which `prices` win over what is there; `version` names this layer."""
        overlay = dict(self._overlay)
        for price in prices:
            stamped = price
            if not price.price_version:
                stamped = msgspec.structs.replace(price, price_version=version)
            overlay[(price.provider, price.model)] = stamped
        digest = hashlib.sha256(f"{self.version}\n{version}".encode()).hexdigest()
        return PriceBook(self._built_in, overlay, digest[:_VERSION_DIGITS])


@cache
def snapshot() -> PriceBook:
    """The price book that ships with the package. Loaded once; entries are decoded on lookup."""
    packed = resources.files("bursar").joinpath("data", SNAPSHOT_FILE).read_bytes()
    built_in = _BuiltIn(packed)
    return PriceBook(built_in, {}, built_in.version)


def pack_snapshot(groups: Mapping[str, Mapping[str, Price]]) -> bytes:
    """The built-in list's file from prices by provider and key (see `grouped`)."""
    return zlib.compress(msgspec.json.encode(groups), 9)
