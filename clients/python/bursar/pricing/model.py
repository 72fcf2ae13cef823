"""What a price is: a list of components, each a rate for one meter under some conditions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from bursar.money import CURRENCIES
from bursar.usage import PART_OF

from .conditions import MAX_NAME_LENGTH, FreeQuota, PriceError, Window

# Rates of LLM tokens are kept per million: one in 25 published prices is no whole number of nanos
# for a single LLM token.
LLM_TOKENS_PER: Final = 1_000_000

# No rate on any price list comes near this; beyond it a rate is a typing mistake (per LLM token
# where per million was meant) or an attack on the arithmetic.
MAX_RATE: Final = Decimal(10**9)
MAX_RATE_DECIMALS: Final = 40
MAX_COMPONENTS: Final = 400
MAX_WINDOWS: Final = 16
MAX_FREE_QUOTAS: Final = 16
MAX_THRESHOLD: Final = 10**12

STANDARD_TIER: Final = ""
BATCH_TIER: Final = "batch"


class Meter(StrEnum):
    """What is counted. LLM tokens first; the rest are pieces, seconds and calls."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    EXPLICIT_CACHED_INPUT = "explicit_cached_input"
    CACHE_WRITE_5M = "cache_write_5m"
    CACHE_WRITE_1H = "cache_write_1h"
    CACHE_WRITE_12H = "cache_write_12h"
    CACHE_WRITE_AUDIO = "cache_write_audio"
    OUTPUT = "output"
    REASONING = "reasoning"
    AUDIO_INPUT = "audio_input"
    AUDIO_OUTPUT = "audio_output"
    CACHED_AUDIO_INPUT = "cached_audio_input"
    IMAGE_INPUT = "image_input"
    IMAGE_OUTPUT = "image_output"
    CACHED_IMAGE_INPUT = "cached_image_input"
    VIDEO_INPUT = "video_input"
    VIDEO_OUTPUT = "video_output"
    CITATION = "citation"
    REQUEST = "request"
    SEARCH = "search"
    QUERY = "query"
    MAPS_QUERY = "maps_query"
    TOOL_SESSION = "tool_session"
    TEXT_MESSAGE = "text_message"
    PAGE = "page"
    ANNOTATED_PAGE = "annotated_page"
    CREDIT = "credit"
    INPUT_CHARACTER = "input_character"
    OUTPUT_CHARACTER = "output_character"
    INPUT_SECOND = "input_second"
    OUTPUT_SECOND = "output_second"
    INPUT_AUDIO_SECOND = "input_audio_second"
    INPUT_VIDEO_SECOND = "input_video_second"
    OUTPUT_VIDEO_SECOND = "output_video_second"
    INPUT_PICTURE = "input_picture"
    OUTPUT_PICTURE = "output_picture"
    INPUT_PIXEL = "input_pixel"
    OUTPUT_PIXEL = "output_pixel"
    FILE_SEARCH = "file_search"
    GUARDRAIL_UNIT = "guardrail_unit"
    # Rented by the time, whatever is called: no call of a model counts it.
    CAPACITY_SECOND = "capacity_second"
    # Of a contract, once for each call: no provider counts it.
    CALL_FEE = "call_fee"


# Meters of what the model was given, and of what it produced. All are LLM tokens. Everything
# outside both is counted in its own unit.
INPUT_METERS: Final = frozenset(
    {Meter.INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE_5M, Meter.CACHE_WRITE_1H}
    | {Meter(part) for part, whole in PART_OF.items() if whole != "output"}
)
OUTPUT_METERS: Final = frozenset(
    {Meter.OUTPUT, Meter.REASONING}
    | {Meter(part) for part, whole in PART_OF.items() if whole == "output"}
)
LLM_TOKEN_METERS: Final = INPUT_METERS | OUTPUT_METERS | {Meter.CITATION}

# Units that belong to the output side of a quote, though no LLM tokens.
OUTPUT_UNITS: Final = frozenset(
    {
        Meter.OUTPUT_CHARACTER,
        Meter.OUTPUT_SECOND,
        Meter.OUTPUT_VIDEO_SECOND,
        Meter.OUTPUT_PICTURE,
        Meter.OUTPUT_PIXEL,
    }
)


class Component(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rate: `rate` units of the price's currency for `per` of `meter`, under conditions.

    - `above`: only when the request's input (all of it, cached included) is more than so many LLM
      tokens. The highest crossed threshold re-prices the whole request.
    - `tier`: only for this service tier ("" is the standard one).
    - `variant`: only for this size, resolution or search context ("" is any).
    - `during`: only while this window of the price is open ("" is always). Such a rate goes before
      every other one that the request could have, whatever its tier and context.
    """

    meter: Meter
    rate: Decimal
    per: int = LLM_TOKENS_PER
    above: int = 0
    tier: str = STANDARD_TIER
    variant: str = ""
    during: str = ""

    def __post_init__(self) -> None:
        if not self.rate.is_finite() or not 0 <= self.rate <= MAX_RATE:
            raise PriceError(f"rate of {self.meter} is {self.rate}; expected 0..{MAX_RATE}")
        if -int(self.rate.as_tuple().exponent) > MAX_RATE_DECIMALS:
            raise PriceError(f"rate of {self.meter} has more than {MAX_RATE_DECIMALS} decimals")
        if not 1 <= self.per <= MAX_THRESHOLD:
            raise PriceError(f"per of {self.meter} is {self.per}; expected 1..{MAX_THRESHOLD}")
        if not 0 <= self.above <= MAX_THRESHOLD:
            raise PriceError(f"above of {self.meter} is {self.above}; expected a whole number >= 0")
        if self.variant and self.meter in LLM_TOKEN_METERS:
            raise PriceError(f"variant of {self.meter} is {self.variant!r}; LLM tokens have none")


class ForeignFee(msgspec.Struct, frozen=True):
    """A fee for each call in another currency than the price's: `amount` units of `currency`."""

    amount: Decimal
    currency: str


# Modes whose calls are paid by LLM tokens in both directions; a price that lacks one of the two
# can't price such a call, and is no price for it.
_TWO_WAY_MODES: Final = frozenset({"chat", "completion", "responses"})


class Price(msgspec.Struct, frozen=True, dict=True, omit_defaults=True):
    """What one provider charges for one model.

    - `multipliers`: factors on all LLM-token rates, named "region/<region>" or "tier/<tier>". A
      tier factor applies where the tier has no input rate of its own.
    - `effective_at`, `expires_at`: the stretch of time it is a price for, None is open; the end is
      outside it. Both are for whoever looks prices up: `charge` applies the price it is given.
    - `windows`: when the components of that `during` hold (off-peak hours), asked in order.
    - `free_quotas`: what the provider gives a request or its account for nothing.
    - `foreign_fee`: what a contract asks for each call in another currency. No charge or ceiling in
      the price's currency holds it; `booked_nanos` and `booked_ceiling` add it.
    - `search_per`: whether a search is paid by the query, or by the request that searched at all.
    - `unmodelled`: fields of the source that this engine does not price yet, kept by name so that
      nothing is dropped silently.
    - `price_version`: the version of the list it came from; a charge names it.
    """

    provider: str
    model: str
    currency: str = "USD"
    components: tuple[Component, ...] = ()
    mode: str = ""
    max_input_llm_tokens: int | None = None
    max_output_llm_tokens: int | None = None
    multipliers: dict[str, Decimal] = {}
    unmodelled: tuple[str, ...] = ()
    price_version: str = ""
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    windows: dict[str, Window] = {}
    free_quotas: tuple[FreeQuota, ...] = ()
    search_per: Literal["query", "request"] = "query"
    foreign_fee: ForeignFee | None = None

    def __post_init__(self) -> None:
        for name in ("provider", "model"):
            value = getattr(self, name)
            if not value or len(value) > MAX_NAME_LENGTH:
                raise PriceError(f"{name} {value[:40]!r} must have 1..{MAX_NAME_LENGTH} characters")
        if self.currency not in CURRENCIES:
            raise PriceError(f"currency {self.currency[:20]!r} is not an ISO 4217 code such as USD")
        if len(self.components) > MAX_COMPONENTS:
            raise PriceError(
                f"components has {len(self.components)} items; at most {MAX_COMPONENTS}"
            )
        conditions = [(c.meter, c.above, c.tier, c.variant, c.during) for c in self.components]
        if len(set(conditions)) < len(conditions):
            twice = next(one for one in conditions if conditions.count(one) > 1)
            raise PriceError(f"components has two rates of {twice[0]} under the same conditions")
        for name in ("max_input_llm_tokens", "max_output_llm_tokens"):
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit <= MAX_THRESHOLD:
                raise PriceError(f"{name} is {limit}; expected 0..{MAX_THRESHOLD}")
        for name, factor in self.multipliers.items():
            if not factor.is_finite() or not 0 <= factor <= MAX_RATE:
                raise PriceError(f"multiplier {name[:40]!r} is {factor}; expected 0..{MAX_RATE}")
        self._check_times()

    def _check_times(self) -> None:
        for name in ("effective_at", "expires_at"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise PriceError(f"{name} is {moment}; expected a time with a zone")
        if self.effective_at and self.expires_at and self.effective_at >= self.expires_at:
            raise PriceError(
                f"expires_at is {self.expires_at}; expected after effective_at {self.effective_at}"
            )
        if len(self.windows) > MAX_WINDOWS:
            raise PriceError(f"windows has {len(self.windows)} items; at most {MAX_WINDOWS}")
        for name in self.windows:
            if not name or len(name) > MAX_NAME_LENGTH:
                raise PriceError(f"window {name[:40]!r} must have 1..{MAX_NAME_LENGTH} characters")
        for component in self.components:
            if component.during and component.during not in self.windows:
                raise PriceError(
                    f"during of {component.meter} is {component.during[:40]!r}; "
                    "expected one of the price's windows"
                )
        if len(self.free_quotas) > MAX_FREE_QUOTAS:
            raise PriceError(
                f"free_quotas has {len(self.free_quotas)} items; at most {MAX_FREE_QUOTAS}"
            )
        for quota in self.free_quotas:
            if _meter(quota.meter) in LLM_TOKEN_METERS:
                raise PriceError(f"free_quotas has {quota.meter}; expected no LLM tokens")

    def is_in_force(self, at: datetime) -> bool:
        """Whether `at` (aware) is inside the stretch of time this is a price for."""
        begun = self.effective_at is None or self.effective_at <= at
        return begun and (self.expires_at is None or at < self.expires_at)

    @cached_property
    def is_priced(self) -> bool:
        """Whether a call of this model's mode can be priced at all. Unpriced is not free."""
        standard = {c.meter for c in self.components if not c.tier and not c.during}
        standard.discard(Meter.CAPACITY_SECOND)
        if self.mode in _TWO_WAY_MODES:
            return Meter.INPUT in standard and Meter.OUTPUT in standard
        if self.mode == "embedding":
            return Meter.INPUT in standard
        return bool(standard)

    @cached_property
    def bills_reasoning(self) -> bool:
        """Whether reasoning has a rate of its own anywhere."""
        return any(component.meter is Meter.REASONING for component in self.components)

    @property
    def is_free(self) -> bool:
        """Every rate is an explicit zero (an imported list of zeros is unpriced, not free)."""
        if self.foreign_fee is not None:
            return False
        return self.is_priced and not any(component.rate for component in self.components)

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The context thresholds that any component has, ascending, without 0."""
        return tuple(sorted({c.above for c in self.components if c.above}))


def price_to_json(price: Price) -> bytes:
    """The price as JSON; rates are decimal strings, so nothing is lost."""
    return msgspec.json.encode(price)


def price_from_json(data: bytes | str | msgspec.Raw) -> Price:
    """The inverse of `price_to_json`. Raises PriceError naming the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=Price)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"price is not valid: {error}") from error


def prices_to_json(prices: list[Price]) -> bytes:
    """Several prices as one JSON array, for a price-book frame."""
    return msgspec.json.encode(prices)


def prices_from_json(data: bytes | str) -> list[Price]:
    """The inverse of `prices_to_json`. Raises PriceError naming the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=list[Price])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"prices are not valid: {error}") from error


def llm_token_price(
    provider: str,
    model: str,
    *,
    rates: Mapping[Meter | str, Decimal | int | str],
    currency: str = "USD",
    mode: str = "chat",
    max_input_llm_tokens: int | None = None,
    max_output_llm_tokens: int | None = None,
    price_version: str = "",
) -> Price:
    """A plain price from rates per million LLM tokens: {"input": "2.50", "output": "10"}.

    Raises PriceError for an unknown meter, a float or a rate that is no decimal number.
    """
    components = tuple(
        Component(meter=_meter(name), rate=decimal_rate(name, rate)) for name, rate in rates.items()
    )
    return Price(
        provider=provider,
        model=model,
        currency=currency,
        components=components,
        mode=mode,
        max_input_llm_tokens=max_input_llm_tokens,
        max_output_llm_tokens=max_output_llm_tokens,
        price_version=price_version,
    )


def _meter(name: str) -> Meter:
    try:
        return Meter(name)
    except ValueError:
        expected = ", ".join(sorted(meter.value for meter in Meter))
        raise PriceError(f"meter {name[:40]!r} is unknown; expected one of {expected}") from None


def decimal_rate(name: str, rate: Any) -> Decimal:
    """`rate` exactly, refusing floats, blanks and anything that is no decimal number >= 0."""
    if isinstance(rate, bool) or not isinstance(rate, Decimal | int | str):
        raise PriceError(f"rate of {name} is a {type(rate).__name__}; expected a decimal number")
    try:
        value = Decimal(rate.strip() if isinstance(rate, str) else rate)
    except ArithmeticError:
        raise PriceError(f"rate of {name} is {str(rate)[:40]!r}; expected a number") from None
    if not value.is_finite() or value < 0:
        raise PriceError(f"rate of {name} is {str(rate)[:40]!r}; expected a number >= 0")
    return value
