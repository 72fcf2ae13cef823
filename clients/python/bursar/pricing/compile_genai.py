"""genai-prices' data -> prices. Pure: its JSON in, our prices out, nothing dropped silently.

The data (https://github.com/pydantic/genai-prices, prices/data.json, MIT) is a list of providers,
each with models. A model says by clauses which names it is called by, and what it costs: rates per
million LLM tokens (or per thousand, hour, ...), each plain or with tiers by the request's whole
input; prices that begin on a day, or hold for hours of a day; and variants for batches and service
tiers. Names are matched here as there: the first model of the provider whose clauses hold.

A price is looked up here by its exact name. So a model is compiled under its own name, under every
name that a clause spells out, and under every name that the built-in list has for that provider
and that its clauses match. A new dated name that neither list spells out is unpriced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from bursar.money import EXACT

from .book import PriceBook
from .compile_litellm import batch_factor
from .conditions import PriceError, Span, Window
from .genai_names import Names, spelled_names
from .genai_rates import Rate, Rates, read_rates, tier_components, window_components
from .json_numbers import exact_number
from .model import LLM_TOKEN_METERS, Component, Meter, Price

MAX_PROVIDERS: Final = 1_000
MAX_MODELS: Final = 50_000
MAX_CONDITIONAL_PRICES: Final = 64

# genai-prices' provider -> the names that providers have here. Where it has one for two, the models
# are priced under both.
_PROVIDERS: Final = {
    "aws": ("bedrock",),
    "fireworks": ("fireworks_ai",),
    "github-copilot": ("github_copilot",),
    "google": ("vertex_ai", "gemini"),
    "moonshotai": ("moonshot",),
    "together": ("together_ai",),
    "voyageai": ("voyage",),
    "x-ai": ("xai",),
}
# Google sells Anthropic's models on Vertex AI only.
_NOT_SOLD: Final = {"gemini": "claude"}

# What a variant is for -> the service tier it is here. "fast" is what OpenAI calls "priority".
_TIERS: Final = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "priority",
}
# The ordinary call; such a variant repeats the standard rates.
_ORDINARY: Final = frozenset({("service_tier", "default")})
_FAST: Final = ("speed", "fast")


class _Stretch(NamedTuple):
    """What a model costs from one day on."""

    begins: datetime | None
    ends: datetime | None
    components: tuple[Component, ...]
    windows: dict[str, Window]
    multipliers: dict[str, Decimal]


class _Model(NamedTuple):
    """One model of the data, compiled: its stretches of time, the oldest first."""

    stretches: tuple[_Stretch, ...]
    unmodelled: tuple[str, ...]
    context_window: int | None


def read_providers(data: bytes) -> list[Any]:
    """The data's JSON, numbers with a point as exact decimals. Raises PriceError."""
    try:
        providers = msgspec.json.Decoder(list[Any], float_hook=exact_number).decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PriceError(f"price data is not valid JSON: {error}") from error
    if len(providers) > MAX_PROVIDERS:
        raise PriceError(f"price data has {len(providers)} providers; at most {MAX_PROVIDERS}")
    return providers


def compile_providers(providers: Iterable[Any], book: PriceBook, at: datetime) -> list[Price]:
    """Every model of the data -> its prices in force at `at` (aware) or later.

    A price that follows another is a Price of its own with its stretch of time. Mode and limits of
    LLM tokens, which the data has not, are those of `book` where it has the model. Raises
    PriceError naming provider, model and field.
    """
    listed = [_provider(index, entry) for index, entry in enumerate(providers)]
    if sum(len(models) for _, models in listed) > MAX_MODELS:
        raise PriceError(f"price data has more than {MAX_MODELS} models")
    by_id = {entry["id"]: models for entry, models in listed}
    if len(by_id) < len(listed):
        raise PriceError("price data has a provider twice; expected each id once")
    known = _known_names(book)
    compiled: dict[tuple[str, int], _Model] = {}
    prices: list[Price] = []
    for entry, models in listed:
        asked = entry.get("fallback_model_providers") or ()
        fallbacks = [one for one in asked if isinstance(one, str) and one in by_id]
        chain = [(one, Names(one, by_id[one])) for one in (entry["id"], *fallbacks)]
        for provider in _PROVIDERS.get(entry["id"], (entry["id"],)):
            names = {*known.get(provider, ()), *spelled_names(models, provider)}
            for name in sorted(names):
                prefix = _NOT_SOLD.get(provider)
                if prefix and name.startswith(prefix):
                    continue
                # Some are spelled out with their provider only.
                found = _find(chain, name) or _find(chain, f"{provider}/{name}")
                if found is None:
                    continue
                if found not in compiled:
                    whose, index = found
                    compiled[found] = _compile(whose, by_id[whose][index], at)
                prices += _prices(provider, name, compiled[found], book)
    return prices


def _provider(index: int, entry: Any) -> tuple[Mapping[str, Any], list[Any]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise PriceError(f"provider {index} has no id; expected an object with id and models")
    models = entry.get("models")
    if not isinstance(models, list):
        raise PriceError(f"models of {entry['id'][:80]!r} is {_kind(models)}; expected a list")
    fallbacks = entry.get("fallback_model_providers")
    if fallbacks is not None and not isinstance(fallbacks, list):
        where = f"fallback_model_providers of {entry['id'][:80]!r}"
        raise PriceError(f"{where} is {_kind(fallbacks)}; expected a list")
    return entry, models


def _known_names(book: PriceBook) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {}
    for text in book.models():
        provider, _, name = text.partition("/")
        known.setdefault(provider, []).append(name)
    return known


def _find(chain: Iterable[tuple[str, Names]], name: str) -> tuple[str, int] | None:
    for whose, names in chain:
        index = names.find(name)
        if index is not None:
            return whose, index
    return None


def _prices(provider: str, name: str, model: _Model, book: PriceBook) -> Iterable[Price]:
    below = book.lookup(name, provider)
    limits = (below.max_input_llm_tokens, below.max_output_llm_tokens) if below else (None, None)
    for stretch in model.stretches:
        yield Price(
            provider=provider,
            model=name,
            components=stretch.components,
            mode=(below.mode if below else "") or _mode(stretch.components),
            max_input_llm_tokens=limits[0] or model.context_window,
            max_output_llm_tokens=limits[1],
            multipliers=stretch.multipliers,
            unmodelled=model.unmodelled,
            effective_at=stretch.begins,
            expires_at=stretch.ends,
            windows=stretch.windows,
            search_per=below.search_per if below else "query",
        )


def _mode(components: Iterable[Component]) -> str:
    """The data has no modes: what is priced in both directions is a chat model."""
    meters = {component.meter for component in components}
    if Meter.OUTPUT in meters:
        return "chat"
    return "embedding" if Meter.INPUT in meters else ""


def _compile(provider: str, entry: Mapping[str, Any], at: datetime) -> _Model:
    where = f"{provider}/{entry['id']}"[:160]
    unmodelled: set[str] = set()
    dated, timed = _conditional(where, entry.get("prices"), unmodelled)
    variants = _variants(where, entry.get("price_variants"), unmodelled)
    starts = sorted(
        {one for one in (*(d.begins for d in dated), *(v.begins for v in variants)) if one}
    )
    batch = batch_factor(_PROVIDERS.get(provider, (provider,))[0])
    today = at.astimezone(UTC).date()
    # The stretches that are over are none of ours: what is imported holds from now on.
    past = [start for start in starts if start <= today]
    moments: list[date | None] = [past[-1] if past else None, *(d for d in starts if d > today)]
    stretches = []
    for place, begins in enumerate(moments):
        on = begins or date.min
        chosen, rates = next(
            (one.place, one.rates) for one in reversed(dated) if (one.begins or date.min) <= on
        )
        components, multipliers = _components(rates, variants, on, unmodelled, batch)
        windows: dict[str, Window] = {}
        for name, one in timed.items():
            # The later of two wins, as there.
            if one.place > chosen:
                windows[name] = one.window
                components += window_components(name, one.rates, rates)
        stretches.append(
            _Stretch(
                begins=_midnight(begins) if place else None,
                ends=_midnight(moments[place + 1]) if place + 1 < len(moments) else None,
                components=tuple(sorted(components, key=_order)),
                windows=windows,
                multipliers=multipliers,
            )
        )
    window = entry.get("context_window")
    whole = isinstance(window, int) and not isinstance(window, bool) and window > 0
    return _Model(tuple(stretches), tuple(sorted(unmodelled)), window if whole else None)


def _order(component: Component) -> tuple[str, int, str, str, str]:
    when = (component.tier, component.variant, component.during)
    return component.meter, component.above, *when


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time.min, UTC)


class _Variant(NamedTuple):
    """Rates that replace some of the standard ones in one tier."""

    tier: str
    begins: date | None
    rates: Rates


class _Dated(NamedTuple):
    """Rates from a day on, by their place in the list."""

    place: int
    begins: date | None
    rates: Rates


class _Timed(NamedTuple):
    """Rates for hours of every day."""

    place: int
    window: Window
    rates: Rates


def _conditional(
    where: str, prices: Any, unmodelled: set[str]
) -> tuple[list[_Dated], dict[str, _Timed]]:
    """The prices by the day they begin, and those for hours of every day, the last one first."""
    entries = [{"prices": prices}] if isinstance(prices, Mapping) else prices
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CONDITIONAL_PRICES:
        expected = f"rates, or a list of 1 to {MAX_CONDITIONAL_PRICES} prices"
        raise PriceError(f"prices of {where} is {_kind(prices)}; expected {expected}")
    dated: list[_Dated] = []
    timed: dict[str, _Timed] = {}
    for index, one in enumerate(entries):
        if not isinstance(one, Mapping):
            raise PriceError(f"prices[{index}] of {where} is {_kind(one)}; expected an object")
        rates = read_rates(where, one.get("prices"), unmodelled)
        begins, window = _constraint(f"prices[{index}] of {where}", one.get("constraint"))
        if window is not None:
            span = window.spans[0]
            timed[f"hours {span.start}-{span.end}"] = _Timed(index, window, rates)
        else:
            dated.append(_Dated(index, begins, rates))
    if all(one.begins is not None for one in dated):
        # Without any that holds, the first one does, as there.
        of_place = {one.place: one.rates for one in dated}
        of_place |= {one.place: one.rates for one in timed.values()}
        dated.insert(0, _Dated(-1, None, of_place[min(of_place)]))
    return dated, dict(sorted(timed.items(), key=lambda item: -item[1].place))


def _variants(where: str, variants: Any, unmodelled: set[str]) -> list[_Variant]:
    found: list[_Variant] = []
    if variants is not None and not isinstance(variants, list):
        raise PriceError(f"price_variants of {where} is {_kind(variants)}; expected a list")
    for index, one in enumerate(variants or ()):
        path = f"price_variants[{index}] of {where}"
        when = one.get("when") if isinstance(one, Mapping) else None
        if not isinstance(when, Mapping) or not when:
            raise PriceError(f"{path} has no condition; expected an object with when and prices")
        begins, window = _constraint(path, one.get("constraint"))
        conditions = [(str(key), str(value)) for key, value in when.items()]
        if len(conditions) == 1 and conditions[0] in _ORDINARY:
            continue
        tier = "fast" if conditions == [_FAST] else _TIERS.get(conditions[0], "")
        if len(conditions) > 1 or not tier or window is not None:
            names = ",".join(f"{key}={value}" for key, value in conditions)
            unmodelled.add(f"price_variants.{names}"[:120])
            continue
        found.append(_Variant(tier, begins, read_rates(where, one.get("prices"), unmodelled)))
    return found


def _components(
    rates: Rates,
    variants: list[_Variant],
    on: date,
    unmodelled: set[str],
    batch: Decimal,
) -> tuple[list[Component], dict[str, Decimal]]:
    """The components of the standard rates and of each tier's on one day, and factors; `batch` is
    that of batches without rates of their own."""
    components = tier_components("", rates, {})
    multipliers: dict[str, Decimal] = {}
    overrides: dict[str, Rates] = {}
    for variant in variants:
        if variant.begins is None or variant.begins <= on:
            # Of several for a tier the first that names a rate decides it.
            overrides[variant.tier] = variant.rates | overrides.get(variant.tier, {})
    if "batch" not in overrides and rates.keys() & {Meter.INPUT, Meter.OUTPUT}:
        multipliers["tier/batch"] = batch
    for tier, own in overrides.items():
        if tier != "fast":
            components += tier_components(tier, own, rates)
            continue
        factor = _factor(own, rates)
        if factor is not None:
            multipliers["tier/fast"] = factor
        elif own:
            unmodelled.add("price_variants.speed=fast")
    return components, multipliers


def _factor(own: Rates, rates: Rates) -> Decimal | None:
    """What every rate of LLM tokens is multiplied by; None where there is no such number."""
    first = next((one for one in own if one in rates and rates[one].base), None)
    if first is None:
        return None
    factor = EXACT.divide(own[first].base, rates[first].base).normalize(EXACT)
    every = {one: rate for one, rate in rates.items() if one in LLM_TOKEN_METERS}
    multiplied = {
        one: Rate(rate.base * factor, tuple((above, step * factor) for above, step in rate.tiers))
        for one, rate in every.items()
    }
    return factor if own == multiplied and -int(factor.as_tuple().exponent) <= 9 else None


def _constraint(path: str, constraint: Any) -> tuple[date | None, Window | None]:
    """The day on which a price begins, or the hours (UTC) of each day in which it holds."""
    if constraint is None:
        return None, None
    if isinstance(constraint, Mapping):
        keys = frozenset(constraint)
        try:
            if keys == {"start_date"}:
                return date.fromisoformat(constraint["start_date"]), None
            if keys == {"start_time", "end_time"}:
                span = Span(_clock(constraint["start_time"]), _clock(constraint["end_time"]))
                return None, Window((span,))
        except (TypeError, ValueError):
            pass
    expected = "start_date, or start_time and end_time"
    raise PriceError(f"constraint of {path} is {str(constraint)[:80]!r}; expected {expected}")


def _clock(text: str) -> str:
    at = time.fromisoformat(text)
    if at.tzinfo is not None:
        at = datetime.combine(date(2000, 1, 2), at).astimezone(UTC).time()
    return f"{at.hour:02}:{at.minute:02}"


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" if value is not None else "not there"
