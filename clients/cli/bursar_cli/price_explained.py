"""Quotes in words, and quotes without a server. Of `price quote`."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from bursar.money import EXACT, MAX_NANOS
from bursar.pricing import Meter, Price, charge, rule_of, snapshot
from bursar.pricing.contracts import terms_for
from bursar.pricing.model import LLM_TOKEN_METERS, LLM_TOKENS_PER
from bursar.v1 import money_pb2, prices_pb2
from bursar.wire import (
    WireError,
    contract_from_proto,
    format_decimal,
    price_to_proto,
    usage_from_proto,
)
from bursar_cli.rates import percent_text
from bursar_cli.typed import UsageFault, shown

_LAYERS = {
    "builtin": "the built-in list",
    "imported": "the imported list",
    "platform": "the platform's own prices",
    "custom": "the organization's own prices",
}


def quoted_offline(
    request: prices_pb2.QuotePriceRequest, now: datetime
) -> prices_pb2.QuotePriceResponse:
    """The answer of a server that has nothing but the built-in list. Raises UsageFault."""
    at = now
    if request.HasField("at_time"):
        at = request.at_time.ToDatetime(tzinfo=now.tzinfo)
    try:
        usage = usage_from_proto(request.usage)
    except WireError as error:
        raise UsageFault("--input, --output ...", str(error)) from None
    book = snapshot()
    provider, slash, model = request.model.partition("/")
    price = book.lookup(model, provider) if slash and model else None
    price = price or book.lookup(request.model)
    if price is None:
        sellers = ", ".join(book.provider_of(request.model)[:20])
        where = f"is sold by {sellers}: name one" if sellers else "is not on the built-in list"
        raise UsageFault("MODEL", f"{shown(request.model)} {where}")
    tier, region = request.service_tier or None, request.region or None
    quoted = charge(price, usage, service_tier=tier, region=region, at=at)
    if not price.is_priced or quoted.unpriced or quoted.cost_nanos > MAX_NANOS:
        what = ", ".join(quoted.unpriced) or "it"
        raise UsageFault("MODEL", f"{shown(request.model)} has no rate for {what}")
    answer = prices_pb2.QuotePriceResponse(
        cost=money_pb2.Money(nanos=quoted.cost_nanos, currency=quoted.currency),
        exact_cost=format_decimal(quoted.cost),
        price=price_to_proto(price),
    )
    for line in quoted.breakdown:
        meter = Meter(str(line.meter).partition(".")[0])
        per = LLM_TOKENS_PER if meter in LLM_TOKEN_METERS else 1
        answer.lines.add(
            meter=str(line.meter),
            quantity=line.quantity,
            rate=format_decimal(EXACT.multiply(line.rate, Decimal(per))),
            per=per,
            amount=format_decimal(line.amount),
            rule=rule_of(price, line, usage, service_tier=tier, region=region, at=at),
        )
    return answer


def explanation(answer: prices_pb2.QuotePriceResponse) -> Iterator[str]:
    """Where the price of a quote comes from, line by line."""
    listed = answer.list_price if answer.HasField("list_price") else answer.price
    version = listed.version
    layer = next((words for name, words in _LAYERS.items() if version.startswith(name)), "")
    yield f"Price: {listed.provider}/{listed.model} of {layer or 'a list'}, {version}"
    holds = _terms(listed, answer)
    for contract in answer.contracts:
        terms = []
        if contract.discount_factor and holds.discount == contract.version:
            off = percent_text(1 - Decimal(contract.discount_factor))
            terms.append(f"discount {off} (x{contract.discount_factor})")
        if contract.margin_factor and holds.margin == contract.version:
            on = percent_text(Decimal(contract.margin_factor) - 1)
            terms.append(f"margin {on} (x{contract.margin_factor})")
        if contract.call_fee and holds.call_fee == contract.version:
            terms.append(f"fee {contract.call_fee} {contract.currency} a call")
        whose = f"{contract.provider}/{contract.model}"
        yield f"Contract: {contract.version} for {whose}: {', '.join(terms)}"
    if answer.contracts:
        yield "The rates above are those of the list with the contracts' factors in them."


class _Holds(NamedTuple):
    """The version of the contract that each term is from: the strongest that has the term."""

    discount: str
    margin: str
    call_fee: str


def _terms(listed: prices_pb2.Price, answer: prices_pb2.QuotePriceResponse) -> _Holds:
    currency = listed.currency or answer.cost.currency
    price = Price(provider=listed.provider, model=listed.model, currency=currency, components=())
    terms = terms_for(
        price,
        # A contract's version ends in its number: the higher one was set later.
        [contract_from_proto(one, _number(one.version)) for one in answer.contracts],
    )
    chosen = (terms.discount, terms.margin, terms.call_fee)
    return _Holds(*("" if one is None else one.version for one in chosen))


def _number(version: str) -> int:
    number = version.rpartition("@")[2]
    return int(number) if number.isdecimal() else 0
