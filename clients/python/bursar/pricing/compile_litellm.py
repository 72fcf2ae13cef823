"""LiteLLM's model price map -> prices. Pure: one entry in, one Price out, nothing dropped silently.

The map (https://github.com/BerriAI/litellm, model_prices_and_context_window.json, MIT) holds a
flat object per model whose price fields follow a grammar:

    <what>[_above_<n>k_tokens][_<service tier>]

and some nested parts, which `litellm_conditions` reads.

Rates are floats for a single unit; they are read as the decimal that their text says, and those
of LLM tokens are kept per million. A field that looks like a price and is not understood goes to
`Price.unmodelled` by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bursar.money import EXACT

from .conditions import FreeQuota, PriceError, Window
from .json_numbers import exact_number
from .litellm_conditions import free_searches, input_ranges, off_peak, result_ranges
from .litellm_corrections import corrected
from .litellm_fields import FIELD, METERS, PER, SUFFIX_TIERS, VARIANT_FIELD
from .model import BATCH_TIER, LLM_TOKEN_METERS, LLM_TOKENS_PER, MAX_RATE, Component, Meter, Price
from .rates import ANY_REGION

# The batch interfaces of OpenAI, Anthropic, Google and Amazon cost half of every rate unless the
# list says otherwise; the map's own field for it, `_batches`, goes first. xAI's are 20 % off
# (docs.x.ai, the models' pages), Moonshot's cost 60 % (platform.kimi.ai, "Batch").
BATCH_FACTOR: Final = Decimal("0.5")
_BATCH_FACTORS: Final = {"xai": Decimal("0.8"), "moonshot": Decimal("0.6")}

# Fireworks bills cached input at half of input where the model's page names no other price.
FIREWORKS_CACHED_FACTOR: Final = Decimal("0.5")

# Providers that bill the long-context rate once the prompt reaches the threshold, not above it.
_INCLUSIVE_THRESHOLDS: Final = frozenset({"xai"})

_REGION_FACTORS: Final = {
    "regional_processing_uplift_multiplier_eu": "eu",
    "regional_processing_uplift_multiplier_us": "us",
    "regional_endpoint_uplift_multiplier": ANY_REGION,
}

# Models that search the web on every call, asked or not, and whose list price of a search is
# therefore a fee of each request: Perplexity's Sonar family (docs.perplexity.ai, "Pricing",
# section "Grounded LLM Pricing"), and OpenAI's search models in chat completions.
_SEARCHES_ALWAYS: Final = re.compile(
    r"perplexity/sonar(?:-pro|-reasoning|-reasoning-pro)?"
    r"|(?:.*/)?gpt-[^/]*-search-(?:preview|api)(?:-\d{4}-\d{2}-\d{2})?"
)

# What a price is called, or how one is counted; a fraction under another name is taken for one too.
_PRICE_LIKE: Final = re.compile(
    r"cost|pric|charge|surcharge|discount|uplift|multiplier|billing|free_|quota|(?:^|_)fees?(?:_|$)"
    r"|(?:^|_)rates?(?:_|$)|provider_specific_entry"
)
# For people; some say a price in words or per another unit.
_NO_PRICE: Final = frozenset({"metadata", "comment"})

_CACHED_ALIAS: Final = "input_cost_per_token_cache_hit"
_OFF_PEAK: Final = "off_peak"

_FAMILIES: Final = {
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "azure_text": "azure",
    "text-completion-openai": "openai",
    "text-completion-codestral": "codestral",
    "text-completion-inception": "inception",
}
# Google's own models. Their searches are paid by the grounded prompt unless the map says by the
# query, as its prices are listed (ai.google.dev, "Pricing": "$35 / 1,000 grounded prompts").
_OF_GOOGLE: Final = frozenset({"gemini", "vertex_ai", "vertex_ai-language-models"})
_SEARCH_UNITS: Final[Mapping[Any, Literal["query", "request"]]] = {
    "per_query": "query",
    "per_prompt": "request",
}

# Keys of the map that are no models: its own documentation, and LiteLLM's routing rules.
_NO_MODELS: Final = frozenset({"sample_spec", "fallback_generalizations"})


def batch_factor(provider: str) -> Decimal:
    """What a batch costs of the ordinary price, where a list does not say."""
    return _BATCH_FACTORS.get(provider, BATCH_FACTOR)


def provider_family(litellm_provider: str) -> str:
    """The provider without LiteLLM's routing detail: "vertex_ai-language-models" is vertex_ai."""
    known = _FAMILIES.get(litellm_provider)
    if known:
        return known
    head, _, tail = litellm_provider.partition("-")
    return head if tail.endswith("models") else litellm_provider


def compile_map(entries: Mapping[str, Any]) -> dict[str, Price]:
    """Every model of the map -> its price, under the map's own keys. Raises PriceError.

    Rates that the provider's page contradicts are corrected, as long as the map has them so.
    """
    prices: dict[str, Price] = {}
    for key, entry in entries.items():
        if key not in _NO_MODELS:
            prices[key] = compile_entry(key, corrected(key, entry))
    return prices


def compile_entry(key: str, entry: Any, *, provider: str = "") -> Price:
    """One entry of the map -> its price.

    An entry without rates, or whose rates are all zero (the map's way of writing "unknown"), has
    no components: it is unpriced, not free. Raises PriceError naming model and field.
    """
    if not isinstance(entry, Mapping):
        raise PriceError(f"{key[:80]!r} is a {type(entry).__name__}; expected an object")
    listed = entry.get("litellm_provider")
    family = provider_family(
        provider or (listed if isinstance(listed, str) and listed else "custom")
    )
    reading = _Reading(key, family)
    for field, value in entry.items():
        if value is not None:
            reading.take(field, value)
    reading.finish(entry)
    mode = entry.get("mode")
    return Price(
        provider=family,
        model=key.removeprefix(f"{family}/"),
        components=reading.components(),
        mode=mode if isinstance(mode, str) else "",
        max_input_llm_tokens=_limit(entry.get("max_input_tokens")),
        max_output_llm_tokens=_limit(entry.get("max_output_tokens")),
        multipliers=reading.multipliers,
        unmodelled=tuple(sorted(reading.unmodelled)),
        windows=reading.windows,
        free_quotas=tuple(reading.free_quotas),
        search_per=reading.search_per(listed),
    )


def _limit(value: Any) -> int | None:
    """A context limit; the map has a few as floats or words, and 0 for "not known"."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    whole = int(value)
    return whole if whole > 0 and whole == value else None


class _Condition(NamedTuple):
    """What a rate is for."""

    meter: Meter
    above: int
    tier: str
    variant: str
    during: str


class _Reading:
    """Collects what one entry says."""

    def __init__(self, key: str, provider: str):
        self._key = key
        self._provider = provider
        self._found: dict[_Condition, Decimal] = {}
        self._search_unit: Any = None
        self.multipliers: dict[str, Decimal] = {}
        self.unmodelled: set[str] = set()
        self.windows: dict[str, Window] = {}
        self.free_quotas: list[FreeQuota] = []

    def take(self, field: str, value: Any) -> None:
        if field in _REGION_FACTORS:
            self.multipliers[f"region/{_REGION_FACTORS[field]}"] = self._number(field, value)
        elif field == "search_context_cost_per_query":
            self._take_search(field, value)
        elif field == "provider_specific_entry":
            self._take_specific(field, value)
        elif field == "off_peak_pricing":
            self._take_off_peak(field, value)
        elif field == "guardrail_cost_per_unit" and isinstance(value, Mapping):
            for unit, rate in value.items():
                self._add(Meter.GUARDRAIL_UNIT, self._number(field, rate), str(unit))
        elif field == "search_free_requests" and (quota := free_searches(value)) is not None:
            self.free_quotas.append(quota)
        elif field == "web_search_billing_unit" and value in tuple(_SEARCH_UNITS):
            self._search_unit = value
        elif field in ("tiered_pricing", _CACHED_ALIAS):
            pass  # they need the other fields first: see finish()
        elif not self._take_rate(field, value) and _is_price_like(field, value):
            self.unmodelled.add(field)

    def _take_rate(self, field: str, value: Any) -> bool:
        variant = VARIANT_FIELD.fullmatch(field)
        if variant is not None:
            meter = METERS[variant["what"] or variant["interval"]]
            self._add(meter, self._number(field, value), variant["variant"] or variant["above"])
            return True
        parts = FIELD.fullmatch(field)
        if parts is None or parts["what"] not in METERS:
            return False
        meter = METERS[parts["what"]]
        above = int(parts["above"]) * (1000 if parts["kilo"] else 1) if parts["above"] else 0
        tier = SUFFIX_TIERS[parts["tier"]] if parts["tier"] else ""
        rate = self._number(field, value)
        if parts["what"] in PER:
            rate = EXACT.divide(rate, Decimal(PER[parts["what"]]))
        self._add(meter, rate, above=above, tier=tier)
        return True

    def _add(
        self,
        meter: Meter,
        rate: Decimal,
        variant: str = "",
        *,
        above: int = 0,
        tier: str = "",
        during: str = "",
    ) -> None:
        if above and self._provider in _INCLUSIVE_THRESHOLDS:
            above -= 1
        self._found[_Condition(meter, above, tier, variant, during)] = rate

    def _take_off_peak(self, field: str, value: Any) -> None:
        """An off-peak rate replaces the one that would apply, so it has no further condition."""
        read = off_peak(value)
        if read is None:
            self.unmodelled.add(field)
            return
        self.windows[_OFF_PEAK] = read.window
        for name, rate in read.rates.items():
            if name in METERS:
                self._add(METERS[name], self._number(f"{field}.{name}", rate), during=_OFF_PEAK)
            else:
                self.unmodelled.add(f"{field}.{name}")

    def search_per(self, litellm_provider: Any) -> Literal["query", "request"]:
        """Whether a search is paid by the query, or by the request that searched."""
        searches = {Meter.SEARCH, Meter.MAPS_QUERY} & {found.meter for found in self._found}
        if self._search_unit is None and searches and _is_google(litellm_provider):
            return "request"
        return _SEARCH_UNITS.get(self._search_unit, "query")

    def _take_search(self, field: str, value: Any) -> None:
        sizes = value if isinstance(value, Mapping) else {"": value}
        for size, rate in sizes.items():
            variant = str(size).removeprefix("search_context_size_")
            self._add(Meter.SEARCH, self._number(field, rate), variant)

    def _take_specific(self, field: str, value: Any) -> None:
        """Factors by geography or speed; whatever else is in there is routing, kept by name."""
        if not isinstance(value, Mapping):
            self.unmodelled.add(field)
            return
        for name, factor in value.items():
            numeric = isinstance(factor, int | float | Decimal) and not isinstance(factor, bool)
            if name == "minimax_free_input_images" and type(factor) is int and factor >= 0:
                self.free_quotas.append(FreeQuota(Meter.INPUT_PICTURE, factor, "request"))
            elif numeric and name == "fast":
                self.multipliers["tier/fast"] = self._number(field, factor)
            elif numeric and len(name) == 2:
                self.multipliers[f"region/{name}"] = self._number(field, factor)
            else:
                self.unmodelled.add(f"{field}.{name}")

    def _number(self, field: str, value: Any) -> Decimal:
        """The decimal that the text of a rate says: a float is taken at its shortest text."""
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
            raise self._bad(field, value)
        try:
            number = Decimal(repr(value) if isinstance(value, float) else value)
        except ArithmeticError:
            raise self._bad(field, value) from None
        if not number.is_finite() or not 0 <= number <= MAX_RATE:
            raise self._bad(field, value)
        return number

    def _bad(self, field: str, value: Any) -> PriceError:
        shown = repr(value)[:40]
        return PriceError(
            f"{self._key[:80]!r}: {field} is {shown}; expected a number 0..{MAX_RATE}"
        )

    def finish(self, entry: Mapping[str, Any]) -> None:
        """Rules that look at several fields together."""
        base = {
            found.meter: rate
            for found, rate in self._found.items()
            if not found.above and not found.tier and not found.during
        }
        alias = entry.get(_CACHED_ALIAS)
        if alias is not None:
            rate = self._number(_CACHED_ALIAS, alias)
            if Meter.CACHED_INPUT not in base:
                self._add(Meter.CACHED_INPUT, rate)
            elif base[Meter.CACHED_INPUT] != rate:
                self.unmodelled.add(_CACHED_ALIAS)
        tiers = entry.get("tiered_pricing")
        if tiers is not None:
            self._take_tiers(tiers, base)
        base_input = base.get(Meter.INPUT)
        if (
            entry.get("litellm_provider") == "fireworks_ai"
            and base_input
            and Meter.CACHED_INPUT not in base
        ):
            self._add(Meter.CACHED_INPUT, EXACT.multiply(base_input, FIREWORKS_CACHED_FACTOR))
        image_output = base.get(Meter.IMAGE_OUTPUT)
        if image_output and not base.get(Meter.OUTPUT):
            # A model that only makes images counts all it produces as image LLM tokens.
            self._add(Meter.OUTPUT, image_output)
        if _SEARCHES_ALWAYS.fullmatch(self._key):
            for found in tuple(self._found):
                if found.meter == Meter.SEARCH:
                    fee = found._replace(meter=Meter.REQUEST)
                    self._found[fee] = self._found.pop(found)
        if any(found.meter in (Meter.INPUT, Meter.OUTPUT) for found in self._found):
            self.multipliers["tier/batch"] = batch_factor(self._provider)
        if _is_google(entry.get("litellm_provider")):
            self._add_cached_batches()

    def _add_cached_batches(self) -> None:
        """Google's batches read caches at the ordinary cache rate, where they list no other."""
        in_batches = {found.meter for found in self._found if found.tier == BATCH_TIER}
        if Meter.INPUT not in in_batches or Meter.CACHED_INPUT in in_batches:
            return
        for found, rate in tuple(self._found.items()):
            if found.meter == Meter.CACHED_INPUT and not found.tier and not found.during:
                self._found[found._replace(tier=BATCH_TIER)] = rate

    def _take_tiers(self, tiers: Any, base: Mapping[Meter, Decimal]) -> None:
        """Ranges of input that each re-price the whole request.

        A range's rates stand alone: what it leaves out is billed at its own input rate, except
        output, which falls back on the model's flat rate. It begins above its start, whoever the
        provider is; the last one has no upper end.
        """
        results = result_ranges(tiers)
        for most, rate in results or ():
            query = self._number("tiered_pricing.input_cost_per_query", rate)
            self._add(Meter.QUERY, query, f"results_{most}")
        if results is not None:
            return
        ranges = input_ranges(tiers)
        if ranges is None:
            self.unmodelled.add("tiered_pricing")
            return
        for above, fields in ranges:
            own = {
                METERS[field]: self._number(f"tiered_pricing.{field}", rate)
                for field, rate in fields.items()
                if field in METERS
            }
            own.setdefault(Meter.CACHED_INPUT, own[Meter.INPUT])
            if Meter.EXPLICIT_CACHED_INPUT in base:
                own.setdefault(Meter.EXPLICIT_CACHED_INPUT, own[Meter.CACHED_INPUT])
            own.setdefault(Meter.CACHE_WRITE_5M, own[Meter.INPUT])
            own.setdefault(Meter.CACHE_WRITE_1H, own[Meter.CACHE_WRITE_5M])
            if any(found.meter is Meter.CACHE_WRITE_12H for found in self._found):
                own.setdefault(Meter.CACHE_WRITE_12H, own[Meter.CACHE_WRITE_5M])
            if Meter.OUTPUT in own:
                own.setdefault(Meter.REASONING, own[Meter.OUTPUT])
            elif Meter.OUTPUT in base:
                own[Meter.OUTPUT] = base[Meter.OUTPUT]
                own.setdefault(Meter.REASONING, base.get(Meter.REASONING, base[Meter.OUTPUT]))
            for meter, rate in own.items():
                self._found[_Condition(meter, above, "", "", "")] = rate
            self.unmodelled.update(
                f"tiered_pricing.{field}"
                for field in fields
                if field not in METERS and field != "range"
            )

    def components(self) -> tuple[Component, ...]:
        if not any(self._found.values()):
            return ()
        return tuple(
            Component(
                meter=found.meter,
                rate=_per_million(rate) if found.meter in LLM_TOKEN_METERS else rate,
                per=LLM_TOKENS_PER if found.meter in LLM_TOKEN_METERS else 1,
                above=found.above,
                tier=found.tier,
                variant=found.variant,
                during=found.during,
            )
            for found, rate in sorted(self._found.items())
        )


def _is_google(litellm_provider: Any) -> bool:
    """Whatever a map says, a word or not."""
    return isinstance(litellm_provider, str) and litellm_provider in _OF_GOOGLE


def _is_price_like(field: str, value: Any) -> bool:
    """Whether a field may be a price: by its name, or because there is a fraction in it."""
    if field in _NO_PRICE:
        return False
    return bool(_PRICE_LIKE.search(field)) or _has_fraction(value)


def _has_fraction(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_fraction, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_fraction, value))
    return isinstance(value, float | Decimal) and not float(value).is_integer()


def _per_million(rate: Decimal) -> Decimal:
    """Without trailing zeros and without an exponent: one text for one rate."""
    scaled = EXACT.multiply(rate, Decimal(LLM_TOKENS_PER)).normalize(EXACT)
    return scaled if int(scaled.as_tuple().exponent) <= 0 else scaled.quantize(Decimal(1))


def read_map(data: bytes) -> dict[str, Any]:
    """The map's JSON, numbers with a point as exact decimals. Raises PriceError."""
    try:
        return msgspec.json.Decoder(dict[str, Any], float_hook=exact_number).decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PriceError(f"price map is not valid JSON: {error}") from error


def grouped(prices: Iterable[tuple[str, Price]]) -> dict[str, dict[str, Price]]:
    """Prices by provider and map key, in a stable order: the form in which the snapshot ships."""
    groups: dict[str, dict[str, Price]] = {}
    for key, price in sorted(prices):
        groups.setdefault(price.provider, {})[key] = price
    return dict(sorted(groups.items()))
