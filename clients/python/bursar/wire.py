"""How prices, exchange rates and usages travel: the library's values as messages, and back.

Reading checks everything: what comes back is a value the library accepts, or a WireError that
names the field. A price's list of fields its source had and nobody prices yet (`unmodelled`) does
not travel.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.exchange import ExchangeError, ExchangeRate, format_rate, parse_rate
from bursar.money import CURRENCIES
from bursar.pricing import (
    Component,
    Contract,
    FreeQuota,
    Meter,
    Price,
    PriceError,
    Span,
    Window,
)
from bursar.pricing.model import MAX_WINDOWS
from bursar.usage import MAX_COUNT, Usage
from bursar.v1 import charges_pb2, contracts_pb2, exchange_rates_pb2, prices_pb2

# Rates are written by people and price lists; the longest published one has 17 characters.
MAX_DECIMAL_TEXT: Final = 64
MAX_MULTIPLIERS: Final = 64
MAX_FURTHER_METERS: Final = 64
MAX_METER_TEXT: Final = 64
MAX_CONDITION_TEXT: Final = 64
MAX_MODE_TEXT: Final = 64
MAX_VERSION_TEXT: Final = 128
MAX_REASON_TEXT: Final = 1024
# Searches are paid by the query where nothing is said.
_SEARCH_PER: Final[dict[str, Literal["query", "request"]]] = {
    "": "query",
    "query": "query",
    "request": "request",
}
_PERIODS: Final[dict[str, Literal["request", "day", "month"]]] = {
    "request": "request",
    "day": "day",
    "month": "month",
}
_METERS: Final = frozenset(meter.value for meter in Meter)
_DIGITS: Final = frozenset("0123456789.")


class WireError(ValueError):
    """A message that means nothing; `field` is the path inside it, `expected` what would do."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= MAX_DECIMAL_TEXT else shown[:MAX_DECIMAL_TEXT] + "..."
        super().__init__(f"{field}: {shown} is not accepted, expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected


def price_to_proto(price: Price) -> prices_pb2.Price:
    """The price as a message; exact."""
    message = prices_pb2.Price(
        provider=price.provider,
        model=price.model,
        currency=price.currency,
        components=[_component_to_proto(component) for component in price.components],
        max_input_llm_tokens=price.max_input_llm_tokens or 0,
        max_output_llm_tokens=price.max_output_llm_tokens or 0,
        mode=price.mode,
        version=price.price_version,
        multipliers={name: format_decimal(value) for name, value in price.multipliers.items()},
    )
    for name, window in price.windows.items():
        message.windows.append(_window_to_proto(name, window))
    for quota in price.free_quotas:
        message.free_quotas.append(
            prices_pb2.FreeQuota(
                meter=quota.meter, count=quota.count, period=quota.period, group=quota.group
            )
        )
    if price.search_per != "query":
        message.search_per = price.search_per
    _set_times(message, price)
    return message


def price_from_proto(message: prices_pb2.Price) -> Price:
    """The price a message holds. Raises WireError naming the field that is wrong."""
    for field, limit in (("mode", MAX_MODE_TEXT), ("version", MAX_VERSION_TEXT)):
        _check_length(field, getattr(message, field), limit)
    if message.currency not in CURRENCIES:
        raise WireError("currency", message.currency, "an ISO 4217 code such as USD")
    if len(message.multipliers) > MAX_MULTIPLIERS:
        raise WireError(
            "multipliers", len(message.multipliers), f"at most {MAX_MULTIPLIERS} factors"
        )
    multipliers = {}
    for name, text in sorted(message.multipliers.items()):
        if name.partition("/")[0] not in {"region", "tier"} or not name.partition("/")[2]:
            raise WireError("multipliers", name, "names such as region/eu and tier/batch")
        _check_length("multipliers", name, MAX_CONDITION_TEXT)
        multipliers[name] = parse_decimal(f"multipliers[{name}]", text)
    components = tuple(
        _component_from_proto(f"components[{index}]", component)
        for index, component in enumerate(message.components)
    )
    _check_distinct(components)
    if message.search_per not in _SEARCH_PER:
        raise WireError("search_per", message.search_per, "query or request")
    try:
        return Price(
            provider=message.provider,
            model=message.model,
            currency=message.currency,
            components=components,
            mode=message.mode,
            max_input_llm_tokens=message.max_input_llm_tokens or None,
            max_output_llm_tokens=message.max_output_llm_tokens or None,
            multipliers=multipliers,
            price_version=message.version,
            effective_at=_time(message, "effective_time"),
            expires_at=_time(message, "expire_time"),
            windows=_windows_from_proto(message),
            free_quotas=_quotas_from_proto(message),
            search_per=_SEARCH_PER[message.search_per],
        )
    except PriceError as error:
        field = _named_field(str(error))
        raise WireError(field, _shown(message, field), f"a price that can be: {error}") from (error)


def exchange_rate_to_proto(rate: ExchangeRate) -> exchange_rates_pb2.ExchangeRate:
    """The rate as a session is told of it: without name, source and time of recording."""
    message = exchange_rates_pb2.ExchangeRate(
        base_currency=rate.base,
        quote_currency=rate.quote,
        rate="" if rate.rate is None else format_rate(rate.rate),
    )
    message.effective_time.FromDatetime(rate.effective_at)
    return message


def exchange_rate_from_proto(message: exchange_rates_pb2.ExchangeRate) -> ExchangeRate:
    """The rate a message holds; without a rate the pair has none from then on.

    Raises WireError naming the field that is wrong.
    """
    if not message.HasField("effective_time"):
        raise WireError("effective_time", "", "from when it holds")
    try:
        effective_at = message.effective_time.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as error:
        seconds = message.effective_time.seconds
        raise WireError("effective_time", seconds, "a time of the calendar") from error
    try:
        rate = parse_rate(message.rate) if message.rate else None
        return ExchangeRate(message.base_currency, message.quote_currency, rate, effective_at)
    except ExchangeError as error:
        field = {"base": "base_currency", "quote": "quote_currency"}.get(error.field, error.field)
        raise WireError(field, error.value, error.expected) from error


def contract_to_proto(contract: Contract) -> contracts_pb2.PriceContract:
    """The contract as a message; exact. Whose it is, is said by PLATFORM or an empty name."""
    message = contracts_pb2.PriceContract(
        organization="" if contract.own else PLATFORM,
        provider=contract.provider,
        model=contract.model,
        discount_factor=_optional(contract.discount),
        margin_factor=_optional(contract.margin),
        call_fee=_optional(contract.call_fee),
        currency=contract.currency,
        version=contract.version,
    )
    _set_times(message, contract)
    return message


def contract_from_proto(message: contracts_pb2.PriceContract, order: int) -> Contract:
    """The contract a message holds. Raises WireError naming the field that is wrong.

    `order` is its place among those of its owner: the higher one was set later.
    """
    _check_length("version", message.version, MAX_VERSION_TEXT)
    factors = {
        name: parse_decimal(field, text) if (text := getattr(message, field)) else None
        for name, field in _TERMS.items()
    }
    try:
        return Contract(
            provider=message.provider or "*",
            model=message.model or "*",
            currency=message.currency,
            own=message.organization != PLATFORM,
            order=order,
            version=message.version,
            effective_at=_time(message, "effective_time"),
            expires_at=_time(message, "expire_time"),
            **factors,
        )
    except PriceError as error:
        word = str(error).partition(" ")[0]
        field = {**_TERMS, **_TIMES}.get(word, word)
        raise WireError(
            field, _shown(message, field), f"a contract that can be: {error}"
        ) from error


PLATFORM: Final = "organizations/platform"
_TERMS: Final = {
    "discount": "discount_factor",
    "margin": "margin_factor",
    "call_fee": "call_fee",
}
# The first word of a PriceError -> what it is on the wire.
_TIMES: Final = {"effective_at": "effective_time", "expires_at": "expire_time"}


def _shown(message: Message, field: str) -> object:
    """A field's value as a refusal tells it: a time as one, "" for what is no field."""
    value = getattr(message, field, "")
    return value.ToJsonString() if isinstance(value, Timestamp) else value


def _optional(value: Decimal | None) -> str:
    return "" if value is None else format_decimal(value)


def _set_times(
    message: prices_pb2.Price | contracts_pb2.PriceContract, dated: Price | Contract
) -> None:
    if dated.effective_at is not None:
        message.effective_time.FromDatetime(dated.effective_at)
    if dated.expires_at is not None:
        message.expire_time.FromDatetime(dated.expires_at)


def _time(message: prices_pb2.Price | contracts_pb2.PriceContract, field: str) -> datetime | None:
    if not message.HasField(field):  # type: ignore[arg-type]  # both messages have both fields
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise WireError(field, stamp.seconds, "an instant between the years 1 and 9999") from error


def usage_to_proto(usage: Usage) -> charges_pb2.Usage:
    """The usage as a message; exact."""
    reason = usage.estimate_reason
    if not usage.is_exact and not reason:
        reason = "estimated"
    return charges_pb2.Usage(
        input_llm_tokens=usage.input,
        cached_input_llm_tokens=usage.cached_input,
        cache_write_5m_llm_tokens=usage.cache_write_5m,
        cache_write_1h_llm_tokens=usage.cache_write_1h,
        output_llm_tokens=usage.output,
        reasoning_llm_tokens=usage.reasoning,
        further=usage.extra,
        estimate_reason=reason[:MAX_REASON_TEXT],
    )


def usage_from_proto(message: charges_pb2.Usage) -> Usage:
    """The usage a message holds. Raises WireError naming the field that is wrong."""
    counts = {}
    for field, name in _USAGE_FIELDS.items():
        counts[name] = _count(field, getattr(message, field))
    if counts["reasoning"] > counts["output"]:
        raise WireError(
            "reasoning_llm_tokens",
            counts["reasoning"],
            f"at most output_llm_tokens ({counts['output']}), which includes it",
        )
    if len(message.further) > MAX_FURTHER_METERS:
        raise WireError("further", len(message.further), f"at most {MAX_FURTHER_METERS} meters")
    further = {}
    for name, value in sorted(message.further.items()):
        if not name or len(name) > MAX_METER_TEXT:
            raise WireError("further", name, f"names of 1 to {MAX_METER_TEXT} characters")
        further[name] = _count(f"further[{name}]", value)
    _check_length("estimate_reason", message.estimate_reason, MAX_REASON_TEXT)
    return Usage(
        **counts,
        extra=further,
        certainty="estimated" if message.estimate_reason else "exact",
        estimate_reason=message.estimate_reason,
    )


_USAGE_FIELDS: Final = {
    "input_llm_tokens": "input",
    "cached_input_llm_tokens": "cached_input",
    "cache_write_5m_llm_tokens": "cache_write_5m",
    "cache_write_1h_llm_tokens": "cache_write_1h",
    "output_llm_tokens": "output",
    "reasoning_llm_tokens": "reasoning",
}


def format_decimal(value: Decimal) -> str:
    """Exact decimal text without an exponent and without useless zeros: "0.15", "0"."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text or "0"


def parse_decimal(field: str, text: str) -> Decimal:
    """The number a rate's text says: digits and a point, no sign, no exponent.

    Raises WireError naming `field`.
    """
    digits = text.replace(".", "", 1)
    if not digits or len(text) > MAX_DECIMAL_TEXT or not _DIGITS.issuperset(digits + "."):
        raise WireError(field, text, 'decimal text such as "0.15", zero or more')
    if "." in digits:
        raise WireError(field, text, 'decimal text such as "0.15", with one point')
    return Decimal(text)


def _component_to_proto(component: Component) -> prices_pb2.PriceComponent:
    message = prices_pb2.PriceComponent(
        meter=component.meter.value, rate=format_decimal(component.rate), per=component.per
    )
    condition = message.condition
    if component.above:
        condition.input_above_llm_tokens = component.above
    if component.tier:
        condition.service_tier = component.tier
    if component.variant:
        condition.variant = component.variant
    if component.during:
        condition.during = component.during
    return message


def _window_to_proto(name: str, window: Window) -> prices_pb2.PriceWindow:
    spans = [
        prices_pb2.PriceSpan(
            start=span.start,
            end=span.end,
            weekdays=span.weekdays,
            time_zone=span.zone,
            weekday_time_zone=span.weekday_zone,
        )
        for span in window.spans
    ]
    return prices_pb2.PriceWindow(name=name, spans=spans)


def _windows_from_proto(message: prices_pb2.Price) -> dict[str, Window]:
    if len(message.windows) > MAX_WINDOWS:
        raise WireError("windows", len(message.windows), f"at most {MAX_WINDOWS} windows")
    windows: dict[str, Window] = {}
    for index, told in enumerate(message.windows):
        if told.name in windows:
            raise WireError(f"windows[{index}].name", told.name, "each name once")
        try:
            windows[told.name] = Window(tuple(map(_span_from_proto, told.spans)))
        except PriceError as error:
            field = f"windows[{index}].spans"
            raise WireError(field, told.name, f"hours that can be: {error}") from error
    return windows


def _span_from_proto(told: prices_pb2.PriceSpan) -> Span:
    return Span(
        told.start,
        told.end,
        weekdays=tuple(told.weekdays),
        zone=told.time_zone or "UTC",
        weekday_zone=told.weekday_time_zone,
    )


def _quotas_from_proto(message: prices_pb2.Price) -> tuple[FreeQuota, ...]:
    quotas = []
    for index, told in enumerate(message.free_quotas):
        period = _PERIODS.get(told.period)
        if period is None:
            field = f"free_quotas[{index}].period"
            raise WireError(field, told.period, f"one of {', '.join(_PERIODS)}")
        try:
            quotas.append(FreeQuota(told.meter, told.count, period, group=told.group))
        except PriceError as error:
            field = f"free_quotas[{index}]"
            raise WireError(field, told.meter, f"a quota that can be: {error}") from error
    return tuple(quotas)


def _component_from_proto(path: str, message: prices_pb2.PriceComponent) -> Component:
    if message.meter not in _METERS:
        raise WireError(f"{path}.meter", message.meter, f"one of {', '.join(sorted(_METERS))}")
    condition = message.condition
    if condition.region:
        raise WireError(
            f"{path}.condition.region", condition.region, "no region: use multipliers region/NAME"
        )
    for field in ("service_tier", "variant", "during"):
        _check_length(f"{path}.condition.{field}", getattr(condition, field), MAX_CONDITION_TEXT)
    above = condition.input_above_llm_tokens
    if condition.HasField("input_above_llm_tokens") and not 1 <= above <= MAX_COUNT:
        raise WireError(f"{path}.condition.input_above_llm_tokens", above, f"1 to {MAX_COUNT}")
    if not 1 <= message.per <= MAX_COUNT:
        raise WireError(f"{path}.per", message.per, f"1 to {MAX_COUNT}")
    try:
        return Component(
            meter=Meter(message.meter),
            rate=parse_decimal(f"{path}.rate", message.rate),
            per=message.per,
            above=above,
            tier=condition.service_tier,
            variant=condition.variant,
            during=condition.during,
        )
    except PriceError as error:
        field = _COMPONENT_FIELDS.get(str(error).partition(" ")[0], "rate")
        raise WireError(f"{path}.{field}", message.rate, f"a rate that can be: {error}") from error


# The first word of a PriceError -> what it is on the wire.
_COMPONENT_FIELDS: Final = {
    "rate": "rate",
    "per": "per",
    "above": "condition.input_above_llm_tokens",
    "tier": "condition.service_tier",
    "variant": "condition.variant",
}


def _check_distinct(components: tuple[Component, ...]) -> None:
    seen = set()
    for index, one in enumerate(components):
        when = (one.meter, one.above, one.tier, one.variant, one.during)
        if when in seen:
            raise WireError(
                f"components[{index}]", one.meter.value, "one rate for a meter and a condition"
            )
        seen.add(when)


def _named_field(text: str) -> str:
    """The field that a PriceError begins with."""
    word = _TIMES.get(text.partition(" ")[0], text.partition(" ")[0])
    return word if word in prices_pb2.Price.DESCRIPTOR.fields_by_name else "components"


def _check_length(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise WireError(field, text, f"at most {limit} characters")


def _count(field: str, value: int) -> int:
    if not 0 <= value <= MAX_COUNT:
        raise WireError(field, value, f"a whole number 0 to {MAX_COUNT}")
    return value
