"""The functions that programs call: what does this call cost, by which rates, and why.

They need no server and do no I/O besides reading the package's own data. All take the built-in
price list plus what `register_model` added in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from bursar.usage import Usage, usage_from_openai

from .book import PriceBook, snapshot
from .charging import Charge, UnpricedError, charge
from .compile_litellm import compile_entry
from .conditions import PriceError
from .model import Meter, Price
from .rates import normal_tier, rate_table


class UnknownModelError(PriceError):
    """No price list has the model, or several providers sell it and none was named."""


class UsageError(ValueError):
    """A usage object that does not add up; the message says what is wrong with it."""


class LlmTokenRates(msgspec.Struct, frozen=True):
    """Money for one LLM token of each kind, exact, in units of `currency`."""

    currency: str
    input: Decimal
    cached_input: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal
    reasoning: Decimal


class _Registry:
    """Prices added in this process: replaced whole, so that readers see one state or the next."""

    def __init__(self) -> None:
        self._added: PriceBook | None = None

    def book(self) -> PriceBook:
        return self._added or snapshot()

    def add(self, price: Price) -> None:
        self._added = self.book().with_overlay([price], "registered")


_registry = _Registry()


def quote(
    model: str,
    usage: Usage | Mapping[str, Any],
    *,
    provider: str | None = None,
    service_tier: str | None = None,
    region: str | None = None,
    at: datetime | None = None,
    book: PriceBook | None = None,
) -> Charge:
    """Price a usage, with every line of the sum.

    `usage` is a `Usage`, or the `usage` object of an OpenAI-shaped answer. `service_tier` is the
    one the provider says it served; `region` where it was served from, for prices that
    distinguish regions; `at` the time of the call, for those with off-peak hours (None: charged as
    outside them). The result's `cost` is exact, `cost_nanos` rounded half to even.

    Raises UnknownModelError, UnpricedError (a model without a rate for what was used is never
    free), UsageError (a usage that does not add up).
    """
    price = _price(model, provider, book, at)
    charged = charge(price, _usage(usage), service_tier=service_tier, region=region, at=at)
    if charged.unpriced:
        raise UnpricedError(
            f"model {price.model} of {price.provider} has no rate for {', '.join(charged.unpriced)}"
        )
    return charged


def cost(
    model: str,
    usage: Usage | Mapping[str, Any],
    *,
    provider: str | None = None,
    service_tier: str | None = None,
    region: str | None = None,
    at: datetime | None = None,
    book: PriceBook | None = None,
) -> Decimal:
    """What a usage costs, exact, in units of the price's currency (USD in the built-in list).

    The same as `quote(...).cost`, with the same arguments and errors.
    """
    return quote(
        model, usage, provider=provider, service_tier=service_tier, region=region, at=at, book=book
    ).cost


def cost_per_llm_token(
    model: str,
    *,
    provider: str | None = None,
    input_llm_tokens: int = 0,
    service_tier: str | None = None,
    region: str | None = None,
    at: datetime | None = None,
    book: PriceBook | None = None,
) -> LlmTokenRates:
    """The rates of one LLM token for a request with so much input.

    `input_llm_tokens` matters where long contexts cost more: the highest threshold it crosses
    sets the rates of the whole request; `at` where off-peak hours cost less. Raises
    UnknownModelError and UnpricedError.
    """
    price = _price(model, provider, book, at)
    table = rate_table(price)
    tiers = table.of(normal_tier(service_tier, price), region or "", table.window(at))
    rates = tiers.at(input_llm_tokens).llm_tokens
    given = rates.get(Meter.INPUT)
    if given is None:
        raise UnpricedError(f"model {price.model} of {price.provider} has no rate for input")
    # Only embeddings have no output rate: they produce no LLM tokens.
    produced = rates.get(Meter.OUTPUT, Decimal(0))
    return LlmTokenRates(
        currency=price.currency,
        input=given,
        cached_input=rates[Meter.CACHED_INPUT],
        cache_write_5m=rates[Meter.CACHE_WRITE_5M],
        cache_write_1h=rates[Meter.CACHE_WRITE_1H],
        output=produced,
        reasoning=rates.get(Meter.REASONING, produced),
    )


def register_model(price: Price | str, entry: Mapping[str, Any] | None = None) -> Price:
    """Add a price for this process, above the built-in list; returns it.

    Either a `Price` (see `llm_token_price`), or a model's name and an entry in the form of
    LiteLLM's map: register_model("acme/large", {"input_cost_per_token": 1e-06, ...}). Raises
    PriceError naming the field that is wrong, or when the entry has no rate above zero.
    """
    if isinstance(price, Price):
        if entry is not None:
            raise PriceError("entry must be left out where a Price is given")
        added = price
    else:
        provider, slash, _ = price.partition("/")
        listed = isinstance(entry, Mapping) and entry.get("litellm_provider")
        added = compile_entry(price, entry, provider=provider if slash and not listed else "")
    if not added.components:
        raise PriceError(
            f"model {added.model!r} has no rate above zero; for a free model give a Price with "
            "explicit zeros"
        )
    _registry.add(added)
    return added


def _price(model: str, provider: str | None, book: PriceBook | None, at: datetime | None) -> Price:
    prices = book or _registry.book()
    price = prices.lookup(model, provider, at=at)
    if price is None:
        sellers = prices.provider_of(model) if provider is None else []
        if len(sellers) > 1:
            raise UnknownModelError(
                f"model {model[:80]!r} is sold by {', '.join(sellers)}: name the provider"
            )
        where = f" at {provider[:80]!r}" if provider else ""
        raise UnknownModelError(f"model {model[:80]!r} is in no price list{where}")
    if not price.components:
        raise UnpricedError(f"model {price.model} of {price.provider} is listed without a rate")
    return price


def _usage(usage: Usage | Mapping[str, Any]) -> Usage:
    if isinstance(usage, Usage):
        return usage
    read = usage_from_openai(usage)
    if not read.is_exact:
        raise UsageError(f"usage does not add up: {read.estimate_reason}")
    return read
