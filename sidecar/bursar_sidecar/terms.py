"""The terms of a call: its price, its bounds, and the most it can cost.

Pure: facts, route and price in; bounds out. Refuses what has no price or no bound under a hard
money budget, because such a call could spend more than anybody decided.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal

import msgspec

from bursar.exchange import Conversion
from bursar.money import ceil_to_nanos
from bursar.pricing import Price, UnpricedError, booked_ceiling, ceiling, integer_rates
from bursar_sidecar.conversion import CallRates, UnconvertibleError
from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.facts import Facts, Media
from bursar_sidecar.hidden_output import reasons
from bursar_sidecar.input_bounds import images_bound, request_bound, text_and_framing_bound
from bursar_sidecar.media_terms import media_bounds
from bursar_sidecar.routing import Route

LEAST_OUTPUT_LLM_TOKENS: Final = 256
"""The least output that a clamped call is left with, for each of its choices: a paragraph, or one
call of a tool. With less than that most answers are of no use, and the call is better refused."""


class Bounds(msgspec.Struct, frozen=True):
    """What the most that a call can cost follows from."""

    price: Price
    input_llm_tokens: int
    output_limit: int
    """LLM tokens that each choice may produce."""
    predicted: int
    """LLM tokens of predicted output that may be billed beside them."""
    choices: int
    service_tier: str | None
    text_only: bool
    rates: CallRates
    """To the organization's currency."""
    provider_units: Mapping[str, int] = {}
    """What else is billed at most, by meter."""

    def ceiling_nanos(self, output_limit: int) -> int:
        """The most it can cost with so much output. Raises UnpricedError."""
        nanos = None
        if not self.provider_units:
            nanos = integer_rates.ceiling_nanos(
                self.price,
                input_llm_tokens=self.input_llm_tokens,
                output_llm_tokens=(output_limit + self.predicted) * self.choices,
                service_tier=self.service_tier,
                text_only=self.text_only,
            )
        if nanos is None:
            nanos = self._exact_ceiling_nanos(output_limit)
        return booked_ceiling(self.price, nanos, self.rates.conversion)

    def _exact_ceiling_nanos(self, output_limit: int) -> int:
        return ceiling(
            self.price,
            input_llm_tokens=self.input_llm_tokens,
            output_llm_tokens=output_limit + self.predicted,
            choices=self.choices,
            service_tier=self.service_tier,
            text_only=self.text_only,
            extra=self.provider_units,
        )


Settles = Literal["used", "told", "reserved", "flat"]
"""On what a call is settled: "used" what was used, counted by the provider or bounded by what was
seen; "told" what the provider counted, and without its count all that was reserved; "reserved" what
was reserved, until somebody knows better; "flat" a price that does not depend on what was used."""


class Terms(msgspec.Struct, frozen=True):
    """What a call may use and cost at most."""

    price: Price | None
    """None when the model has no price; such a call costs nothing that we know of."""
    rates: CallRates
    """What its price is converted by, and a price of the model that answers instead."""
    ceiling_nanos: int
    input_bound: int
    """LLM tokens."""
    output_bound: int
    """LLM tokens over all choices; 0 where nothing is produced."""
    set_output_limit: int | None
    """The output limit to set per choice, because neither request nor price list has one."""
    hidden_output: bool
    service_tier: str
    """What is charged when the answer names no tier."""
    least_nanos: int = 0
    """The least it can begin with: below the ceiling only if its output may be clamped."""
    bounds: Bounds | None = None
    """None when the model has no price."""
    clamped_output: int | None = None
    """The output limit per choice, if it was lowered to what could be reserved."""
    settles: Settles = "used"
    """On what it is settled when it ends well."""

    @property
    def conversion(self) -> Conversion | None:
        """How its price's amounts become the organization's; None where there is nothing to do."""
        return None if self.price is None else self.rates.conversion(self.price.currency)


def agree(
    facts: Facts,
    route: Route,
    *,
    budgeted: bool,
    rates: CallRates,
    default_max_output: int,
    may_clamp: bool = False,
    free: bool = False,
    most_nanos: int | None = None,
) -> Terms:
    """The terms of a call. Raises Refusal where it has no price or no bound under a budget.

    `free`: the provider bills nothing for such a call, whatever its model. `most_nanos`: what the
    operator takes such a call to cost at most, where nothing else bounds it.
    """
    if free or facts.free:
        return _free_terms(rates)
    if facts.flat_price:
        return agree_flat(ceil_to_nanos(Decimal(facts.flat_price)), rates)
    hard = budgeted or facts.any_model
    if most_nanos is not None:
        try:
            bounded = _bounded_terms(facts, route, True, rates, default_max_output, may_clamp)
        except Refusal as refusal:
            if refusal.reason in _BOUNDED_BY_SETTING:
                return _terms_by_setting(facts, route, rates, most_nanos)
            if hard:
                raise
        else:
            if hard:
                return bounded
    return _bounded_terms(facts, route, hard, rates, default_max_output, may_clamp)


def agree_flat(nanos: int, rates: CallRates) -> Terms:
    """The terms of a call at a price of its own, in nanos of the organization's currency."""
    return msgspec.structs.replace(
        _free_terms(rates), ceiling_nanos=nanos, least_nanos=nanos, settles="flat"
    )


def _terms_by_setting(facts: Facts, route: Route, rates: CallRates, most_nanos: int) -> Terms:
    return msgspec.structs.replace(
        _free_terms(rates),
        price=_usable(facts, route.price),
        ceiling_nanos=most_nanos,
        least_nanos=most_nanos,
        # What a provider's tools bill is not in every answer's usage.
        settles="reserved" if facts.untold_cost or facts.unbounded_tools else "told",
    )


_BOUNDED_BY_SETTING: Final = frozenset(
    {"unbounded_cost", "unbounded_input", "unbounded_tools", "untold_cost"}
)


def _bounded_terms(
    facts: Facts,
    route: Route,
    budgeted: bool,
    rates: CallRates,
    default_max_output: int,
    may_clamp: bool,
) -> Terms:
    price = _usable(facts, route.price)
    if budgeted:
        _check_bounded(facts)
    if price is None:
        if budgeted:
            raise _unpriced(route)
        return _unpriced_terms(facts, rates, default_max_output)
    if budgeted and facts.dearer_tier and not _has_rates(price, facts.service_tier):
        raise _unpriced(route, facts.service_tier)
    _check_convertible(route, price, rates)
    if facts.media is not None:
        return _media_terms(facts, facts.media, route, price, budgeted, rates)
    limit, set_limit = _output_limit(facts, price, budgeted, default_max_output)
    asked_tier = facts.service_tier or route.provider.service_tier
    bounds = Bounds(
        price=price,
        input_llm_tokens=_input_bound(facts, route, price, budgeted),
        output_limit=limit,
        predicted=facts.predicted_bytes,
        choices=facts.choices * facts.rounds,
        service_tier=None if asked_tier == "auto" else asked_tier,
        text_only=facts.text_only,
        rates=rates,
        provider_units=facts.provider_units,
    )
    hidden_output = _hides_output(facts, route, price)
    try:
        ceiling_nanos = least_nanos = bounds.ceiling_nanos(limit)
        # What a model thinks before it answers would use a clamped limit up: paid for, and empty.
        if may_clamp and budgeted and not hidden_output and limit > LEAST_OUTPUT_LLM_TOKENS:
            least_nanos = bounds.ceiling_nanos(LEAST_OUTPUT_LLM_TOKENS)
    except UnpricedError:
        if budgeted:
            raise _unpriced(route) from None
        return _unpriced_terms(facts, rates, default_max_output)
    return Terms(
        price=price,
        rates=rates,
        ceiling_nanos=ceiling_nanos,
        input_bound=bounds.input_llm_tokens,
        output_bound=(limit + facts.predicted_bytes) * bounds.choices,
        set_output_limit=set_limit,
        hidden_output=hidden_output,
        service_tier=_unstated_tier(facts, route),
        least_nanos=least_nanos,
        bounds=bounds,
    )


def _media_terms(
    facts: Facts, media: Media, route: Route, price: Price, budgeted: bool, rates: CallRates
) -> Terms:
    given, made, units = media_bounds(media, price, route.listed, strict=budgeted)
    asked_tier = facts.service_tier or route.provider.service_tier
    bounds = Bounds(
        price=price,
        input_llm_tokens=given,
        output_limit=made,
        predicted=0,
        choices=1,
        service_tier=None if asked_tier == "auto" else asked_tier,
        text_only=False,
        rates=rates,
        provider_units=units,
    )
    try:
        ceiling_nanos = bounds.ceiling_nanos(made)
    except UnpricedError:
        if budgeted:
            raise _unpriced(route) from None
        ceiling_nanos = 0
    return Terms(
        price=price,
        rates=rates,
        ceiling_nanos=ceiling_nanos,
        input_bound=given,
        output_bound=made,
        set_output_limit=None,
        hidden_output=False,
        service_tier=_unstated_tier(facts, route),
        least_nanos=ceiling_nanos,
        settles="told",
    )


class Counts(msgspec.Struct, frozen=True):
    """What a call can use at most, said by who makes it."""

    input_llm_tokens: int
    output_limit: int
    """LLM tokens for each choice, reasoning included."""
    choices: int = 1
    service_tier: str = ""
    text_only: bool = False


def agree_counts(counts: Counts, route: Route, *, budgeted: bool, rates: CallRates) -> Terms:
    """The terms of a call that is not forwarded here. Raises Refusal where it has no price under a
    budget."""
    price = route.price if route.price is not None and route.price.is_priced else None
    ceiling_nanos, bounds = 0, None
    if price is not None:
        _check_convertible(route, price, rates)
        asked_tier = counts.service_tier or route.provider.service_tier
        bounds = Bounds(
            price=price,
            input_llm_tokens=counts.input_llm_tokens,
            output_limit=counts.output_limit,
            predicted=0,
            choices=counts.choices,
            service_tier=None if asked_tier == "auto" else asked_tier,
            text_only=counts.text_only,
            rates=rates,
        )
        try:
            ceiling_nanos = bounds.ceiling_nanos(counts.output_limit)
        except UnpricedError:
            price = bounds = None
    if price is None and budgeted:
        raise _unpriced(route)
    tier = route.provider.service_tier
    return Terms(
        price=price,
        rates=rates,
        ceiling_nanos=ceiling_nanos,
        input_bound=counts.input_llm_tokens,
        output_bound=counts.output_limit * counts.choices,
        set_output_limit=None,
        hidden_output=False,
        service_tier=_charged_tier(counts.service_tier, tier),
        least_nanos=ceiling_nanos,
        bounds=bounds,
    )


def agree_amount(nanos: int, route: Route, *, budgeted: bool, rates: CallRates) -> Terms:
    """The terms of a call whose cost its maker bounds by an amount in nanos of the organization's
    currency. Raises Refusal where it has no price under a budget."""
    price = route.price if route.price is not None and route.price.is_priced else None
    if price is not None:
        _check_convertible(route, price, rates)
    elif budgeted:
        raise _unpriced(route)
    return Terms(
        price=price,
        rates=rates,
        ceiling_nanos=nanos,
        input_bound=0,
        output_bound=0,
        set_output_limit=None,
        hidden_output=False,
        service_tier=_charged_tier("", route.provider.service_tier),
        least_nanos=nanos,
    )


def clamp(terms: Terms, reserved_nanos: int) -> Terms:
    """The terms of a call for which less than its ceiling was reserved: with the largest output
    limit that is covered. Unchanged where all of it was reserved."""
    bounds = terms.bounds
    if bounds is None or reserved_nanos >= terms.ceiling_nanos:
        return terms
    # The last one that is affordable; with more output a call never costs less.
    low, high = 1, bounds.output_limit
    while low < high:
        middle = (low + high + 1) // 2
        if bounds.ceiling_nanos(middle) <= reserved_nanos:
            low = middle
        else:
            high = middle - 1
    return msgspec.structs.replace(
        terms,
        ceiling_nanos=reserved_nanos,
        output_bound=(low + bounds.predicted) * bounds.choices,
        set_output_limit=None if terms.set_output_limit is None else low,
        clamped_output=low,
    )


def _check_bounded(facts: Facts) -> None:
    if facts.unbounded_tools:
        raise Refusal(
            "unbounded_tools",
            f"{facts.unbounded_tools!r} is run and billed by the provider without a bound, and "
            "this call falls under a hard budget.",
        )
    if facts.untold_cost:
        raise Refusal(
            "untold_cost",
            f"This call falls under a hard budget, or may, and {facts.untold_cost}; an operator "
            "can set a bound with [[bounds]] in the sidecar's settings.",
        )


def _usable(facts: Facts, price: Price | None) -> Price | None:
    # A price of an embedding model says nothing about what a chat would produce.
    wrong_mode = facts.generates and price is not None and price.mode == "embedding"
    return price if price is not None and price.is_priced and not wrong_mode else None


def _output_limit(
    facts: Facts, price: Price, budgeted: bool, default_max_output: int
) -> tuple[int, int | None]:
    """(limit per choice, the limit to write into the request or None)."""
    if not facts.generates:
        return 0, None
    if facts.output_limit is not None:
        return facts.output_limit, None
    if price.max_output_llm_tokens:
        return price.max_output_llm_tokens, None
    return default_max_output, default_max_output if budgeted else None


def _input_bound(facts: Facts, route: Route, price: Price, budgeted: bool) -> int:
    bounded = request_bound(facts, route.listed)
    if bounded is not None:
        return bounded
    if price.max_input_llm_tokens:
        # Whatever the input refers to, the model takes no more than its context window; some bill
        # images at many times what they take of it.
        window = price.max_input_llm_tokens + (images_bound(facts, route.listed) or 0)
        return window * facts.rounds
    if budgeted:
        reason = facts.unbounded_input or "the input holds images"
        if facts.rounds > 1:
            reason = "the provider's tools add to the input"
        raise Refusal(
            "unbounded_input",
            f"{reason[:1].upper()}{reason[1:]}, whose size in LLM tokens is not bounded by the "
            f"request; the context window of {route.listed!r} is not known, and this call falls "
            "under a hard budget.",
        )
    return text_and_framing_bound(facts, route.listed)


def _has_rates(price: Price, tier: str) -> bool:
    return f"tier/{tier}" in price.multipliers or any(
        component.tier == tier for component in price.components
    )


def _unpriced(route: Route, tier: str = "") -> Refusal:
    what = f"no price for its tier {tier!r}" if tier else "no price"
    return Refusal(
        "model_unpriced",
        f"Model {route.listed!r} of provider {route.provider.name!r} has {what}, and this call "
        "falls under a money budget. An administrator can set one with `bursar price set`.",
    )


def _check_convertible(route: Route, price: Price, rates: CallRates) -> None:
    fee = price.foreign_fee
    try:
        rates.conversion(price.currency)
        if fee is not None:
            rates.conversion(fee.currency)
    except UnconvertibleError as error:
        what = "priced" if error.price_currency == price.currency else "charged a fee"
        raise Refusal(
            "exchange_rate_missing",
            f"Model {route.listed!r} is {what} in {error.price_currency}, the organization keeps "
            f"its books in {rates.currency}, and {error}. An administrator can set one with "
            f"`bursar fx set {error.price_currency} {rates.currency} RATE`.",
        ) from None


def _unpriced_terms(facts: Facts, rates: CallRates, default_max_output: int) -> Terms:
    limit = (facts.output_limit or default_max_output) if facts.generates else 0
    return Terms(
        price=None,
        rates=rates,
        ceiling_nanos=0,
        input_bound=text_and_framing_bound(facts, ""),
        output_bound=limit * facts.choices,
        set_output_limit=None,
        hidden_output=False,
        service_tier="",
    )


def _free_terms(rates: CallRates) -> Terms:
    return Terms(
        price=None,
        rates=rates,
        ceiling_nanos=0,
        input_bound=0,
        output_bound=0,
        set_output_limit=None,
        hidden_output=False,
        service_tier="",
    )


def _hides_output(facts: Facts, route: Route, price: Price) -> bool:
    if not facts.generates:
        return False
    return facts.reasoning or reasons(route.listed) or price.bills_reasoning


def _unstated_tier(facts: Facts, route: Route) -> str:
    return _charged_tier(facts.service_tier, route.provider.service_tier)


def _charged_tier(asked: str, tier: str) -> str:
    # A cheaper tier is only believed when the answer says so; a dearer one is believed when asked.
    if asked == "priority":
        return "priority"
    return "" if tier == "auto" else tier
