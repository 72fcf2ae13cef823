"""The rates of genai-prices' data -> components."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from bursar.money import EXACT

from .conditions import PriceError
from .model import LLM_TOKEN_METERS, MAX_RATE, MAX_THRESHOLD, OUTPUT_METERS, Component, Meter

MAX_TIERS: Final = 32

_MILLION: Final = 1_000_000
_HOUR: Final = 3_600

# Field -> meter, and for how many of it the rate is.
_FIELDS: Final[Mapping[str, tuple[Meter, int]]] = {
    "input_mtok": (Meter.INPUT, _MILLION),
    "output_mtok": (Meter.OUTPUT, _MILLION),
    "cache_read_mtok": (Meter.CACHED_INPUT, _MILLION),
    "cache_write_mtok": (Meter.CACHE_WRITE_5M, _MILLION),
    "cache_write_5m_mtok": (Meter.CACHE_WRITE_5M, _MILLION),
    "cache_write_1h_mtok": (Meter.CACHE_WRITE_1H, _MILLION),
    "input_audio_mtok": (Meter.AUDIO_INPUT, _MILLION),
    "output_audio_mtok": (Meter.AUDIO_OUTPUT, _MILLION),
    "cache_audio_read_mtok": (Meter.CACHED_AUDIO_INPUT, _MILLION),
    "cache_audio_write_mtok": (Meter.CACHE_WRITE_AUDIO, _MILLION),
    "input_image_mtok": (Meter.IMAGE_INPUT, _MILLION),
    "output_image_mtok": (Meter.IMAGE_OUTPUT, _MILLION),
    "cache_image_read_mtok": (Meter.CACHED_IMAGE_INPUT, _MILLION),
    "input_video_mtok": (Meter.VIDEO_INPUT, _MILLION),
    "output_video_mtok": (Meter.VIDEO_OUTPUT, _MILLION),
    "output_reasoning_mtok": (Meter.REASONING, _MILLION),
    "output_citation_mtok": (Meter.CITATION, _MILLION),
    "input_mchars": (Meter.INPUT_CHARACTER, _MILLION),
    "input_text_messages_kcount": (Meter.TEXT_MESSAGE, 1_000),
    # Of a transcription the seconds that were heard, of speech those that were spoken.
    "audio_hours": (Meter.INPUT_SECOND, _HOUR),
    "input_audio_hours": (Meter.INPUT_SECOND, _HOUR),
    "output_audio_hours": (Meter.OUTPUT_SECOND, _HOUR),
    "input_gpixels": (Meter.INPUT_PIXEL, 1_000_000_000),
    "input_document_kpages": (Meter.PAGE, 1_000),
    "input_annotated_document_kpages": (Meter.ANNOTATED_PAGE, 1_000),
    "rerank_searches_kcount": (Meter.QUERY, 1_000),
    "web_searches_kcount": (Meter.SEARCH, 1_000),
    "storage_searches_kcount": (Meter.FILE_SEARCH, 1_000),
    "requests_kcount": (Meter.REQUEST, 1_000),
}
# Meters whose rate is written for one; the others keep the unit of their field.
_COUNTED_SINGLY: Final = frozenset(meter for meter, _ in _FIELDS.values()) - (
    LLM_TOKEN_METERS | {Meter.INPUT_SECOND, Meter.OUTPUT_SECOND}
)
# The narrower of two fields for one meter is the one that is meant.
_NARROWER: Final = {
    "cache_write_5m_mtok": "cache_write_mtok",
    "input_audio_hours": "audio_hours",
}


class Rate(NamedTuple):
    """One rate, and those that replace it above thresholds of the request's whole input."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...]

    def at(self, crossed: int) -> Decimal:
        """The rate of a request that crossed the threshold `crossed`, and none above it."""
        rate = self.base
        for above, price in self.tiers:
            if above <= crossed:
                rate = price
        return rate


Rates = dict[Meter, Rate]
"""Rates in the unit that `component_of` writes: for a million LLM tokens, else for one (seconds:
for an hour)."""


def read_rates(where: str, prices: Any, unmodelled: set[str]) -> Rates:
    """The rates of one price; a field that is not modelled is noted. Raises PriceError."""
    if not isinstance(prices, Mapping):
        kind = type(prices).__name__
        raise PriceError(f"prices of {where} is a {kind}; expected an object of rates")
    found: Rates = {}
    for field, value in prices.items():
        if value is None:
            continue
        rate = _rate(where, str(field), value)
        if field not in _FIELDS:
            unmodelled.add(str(field)[:120])
        elif all(prices.get(one) is None for one, wide in _NARROWER.items() if wide == field):
            meter, per = _FIELDS[field]
            found[meter] = _scaled(rate, per if meter in _COUNTED_SINGLY else 1)
    return found


def tier_components(tier: str, own: Rates, standard: Rates) -> list[Component]:
    """The components of a tier whose rates are `own`, and the standard ones where it has none.

    A tier answers at every threshold, its own and the standard one's: what it leaves open there
    would be taken from the standard rates, above the threshold and at their full height.
    """
    components = []
    for meter, rate in (standard | own).items() if tier else own.items():
        if tier and meter not in LLM_TOKEN_METERS:
            # Of the other units only the standard rate is ever used.
            continue
        steps = {above for above, _ in (*rate.tiers, *standard.get(meter, rate).tiers)}
        for above in sorted({0, *steps}):
            components.append(component_of(meter, rate.at(above), above=above, tier=tier))
    return components


def window_components(during: str, rates: Rates, standard: Rates) -> list[Component]:
    """The components of a price that holds for some hours; it replaces the standard one whole."""
    components = []
    for meter in dict.fromkeys((*rates, *standard)):
        if meter not in LLM_TOKEN_METERS:
            continue
        whole = Meter.OUTPUT if meter in OUTPUT_METERS else Meter.INPUT
        rate = rates.get(meter, rates.get(whole))
        if rate is not None:
            for above in (0, *(above for above, _ in rate.tiers)):
                components.append(component_of(meter, rate.at(above), above=above, during=during))
    return components


def component_of(
    meter: Meter, rate: Decimal, *, above: int = 0, tier: str = "", during: str = ""
) -> Component:
    """One component, in the unit of `Rates`."""
    per = 1
    if meter in LLM_TOKEN_METERS:
        per = _MILLION
    elif meter in (Meter.INPUT_SECOND, Meter.OUTPUT_SECOND):
        per = _HOUR
    return Component(meter=meter, rate=rate, per=per, above=above, tier=tier, during=during)


def _scaled(rate: Rate, divisor: int) -> Rate:
    return Rate(_plain(rate.base, divisor), tuple((a, _plain(r, divisor)) for a, r in rate.tiers))


def _plain(rate: Decimal, divisor: int) -> Decimal:
    """Without trailing zeros and without an exponent: one text for one rate."""
    scaled = EXACT.divide(rate, Decimal(divisor)).normalize(EXACT)
    return scaled if int(scaled.as_tuple().exponent) <= 0 else scaled.quantize(Decimal(1))


def _rate(where: str, field: str, value: Any) -> Rate:
    if not isinstance(value, Mapping):
        return Rate(_number(where, field, value), ())
    base = _number(where, f"{field}.base", value.get("base"))
    tiers = value.get("tiers")
    if not isinstance(tiers, list) or len(tiers) > MAX_TIERS:
        raise PriceError(f"{field}.tiers of {where} is no list of at most {MAX_TIERS} tiers")
    steps = []
    for tier in tiers:
        start = tier.get("start") if isinstance(tier, Mapping) else None
        if not isinstance(start, int) or isinstance(start, bool) or not 1 <= start <= MAX_THRESHOLD:
            expected = f"a whole number 1..{MAX_THRESHOLD}"
            raise PriceError(
                f"{field}.tiers.start of {where} is {start!r:.40}; expected {expected}"
            )
        steps.append((start, _number(where, f"{field}.tiers.price", tier.get("price"))))
    if len({start for start, _ in steps}) < len(steps):
        raise PriceError(f"{field}.tiers of {where} has a start twice; expected each once")
    return Rate(base, tuple(sorted(steps)))


def _number(where: str, field: str, value: Any) -> Decimal:
    """The decimal that the text of a rate says. Raises PriceError."""
    number: Decimal | None = None
    if isinstance(value, int | Decimal | str) and not isinstance(value, bool):
        try:
            number = Decimal(value)
        except ArithmeticError:
            number = None
    if number is None or not number.is_finite() or not 0 <= number <= MAX_RATE:
        shown = f"{value!r:.40}" if isinstance(value, str) else f"{value!s:.40}"
        raise PriceError(f"{field} of {where} is {shown}; expected a number 0..{MAX_RATE}")
    return number
