"""What a settled call costs by the prices that are known now, and what that changes. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from bursar.exchange import Conversion, ExchangeError, parse_conversion
from bursar.money import MAX_NANOS
from bursar.pricing import Price, PriceBook, booked_nanos, charge, price_of_answer
from bursar.usage import Usage

UNPRICED: Final = "unpriced"
"""The price version of a charge that nothing priced."""
MOST_PARTS: Final = 100
"""Models, budgets and versions told of one re-rating; the rest is one line."""
OTHERS: Final = ""
"""That line's name."""


class Skip(StrEnum):
    """Why a call is left as it is."""

    PROVISIONAL = "provisional"
    """Its outcome is unknown: it is posted at what was reserved until evidence comes."""
    ESTIMATED = "estimated"
    """What it used is an estimate, charged at a bound: no price makes it exact."""
    NOT_CHARGED = "not_charged"
    """The provider refused it, or it reached none: it cost nothing, and does not now."""
    NOT_RECORDED = "not_recorded"
    """Its sidecar was too old to say by which price and service tier it was charged."""
    UNPRICED = "unpriced"
    """There is no price for all that it used."""
    CURRENCY = "currency"
    """Its price is in another currency now, for which it has no exchange rate on record."""


class Call(msgspec.Struct, frozen=True):
    """A settled call, as the ledger has it. Amounts in nanos of `currency`."""

    ledger_id: int
    session_epoch: int
    n: int
    draw_set_id: int
    provider: str
    model: str
    price_version: str
    """Of the last posting."""
    priced_as: str
    service_tier: str
    region: str
    price_currency: str
    exchange_rate: str
    usage: Usage
    http_status: int
    admitted_at: datetime
    currency: str
    is_final: bool
    is_corrected: bool
    amount_nanos: int
    """All that was posted of it."""


class Rated(msgspec.Struct, frozen=True):
    """What a call costs, and by which price."""

    cost_nanos: int
    price_version: str
    priced_as: str


def rate(call: Call, book: PriceBook) -> Rated | Skip:
    """Price a call again. Pure. `book` is that of the instant the call was admitted at."""
    if not call.is_final:
        return Skip.PROVISIONAL
    if not call.usage.is_exact:
        return Skip.ESTIMATED
    if not call.amount_nanos and not call.is_corrected and not 200 <= call.http_status <= 299:
        return Skip.NOT_CHARGED
    if not call.priced_as and call.price_version != UNPRICED:
        return Skip.NOT_RECORDED
    price = price_for(call, book)
    if price is None or not price.is_priced:
        return Skip.UNPRICED
    charged = charge(
        price,
        call.usage,
        service_tier=call.service_tier or None,
        region=call.region or None,
        at=call.admitted_at,
    )
    if charged.unpriced:
        return Skip.UNPRICED
    try:
        cost_nanos = booked_nanos(price, charged.cost, lambda currency: _kept(call, currency))
    except ExchangeError:
        return Skip.CURRENCY
    if cost_nanos > MAX_NANOS:
        return Skip.UNPRICED
    return Rated(cost_nanos, price.price_version, f"{price.provider}/{price.model}")


def _kept(call: Call, currency: str) -> Conversion | None:
    """The rate that was in force at a call's admission is the call's, whatever its price is now;
    no other is on record. Raises ExchangeError."""
    if currency == call.currency:
        return None
    if currency != call.price_currency:
        raise ExchangeError("currency", currency, f"{call.price_currency} or {call.currency}")
    return parse_conversion(currency, call.currency, call.exchange_rate)


def price_for(call: Call, book: PriceBook) -> Price | None:
    """The price that a sidecar with this book would have charged the call by."""
    seller, _, answered = call.priced_as.partition("/")
    asked = _at(book, call.model, call.provider, seller)
    if asked is None:
        return _at(book, answered, call.provider, seller) if answered else None
    if call.priced_as in ("", f"{asked.provider}/{asked.model}"):
        return asked
    found = _at(book, answered, call.provider, seller)
    return price_of_answer(asked, found, call.model, answered)


def _at(book: PriceBook, model: str, provider: str, seller: str) -> Price | None:
    # A provider is priced under its own name, else under its kind's; the ledger knows that only
    # from what the call was priced as.
    found = book.lookup(model, provider)
    return book.lookup(model, seller) if found is None and seller else found


class Part(msgspec.Struct):
    """What changes of one model, budget or pair of versions."""

    call_count: int = 0
    before_nanos: int = 0
    difference_nanos: int = 0

    def add(self, before_nanos: int, difference_nanos: int) -> None:
        """One more call."""
        self.call_count += 1
        self.before_nanos += before_nanos
        self.difference_nanos += difference_nanos


class Outcome(msgspec.Struct):
    """What a re-rating changes, as it is kept on record."""

    call_count: int = 0
    line_count: int = 0
    """Corrections, those in the platform's ledger included."""
    total: Part = msgspec.field(default_factory=Part)
    models: dict[str, Part] = {}
    budgets: dict[str, Part] = {}
    skips: dict[str, int] = {}
    versions: dict[str, int] = {}
    """By "from to": how many calls."""


class Line(msgspec.Struct, frozen=True):
    """A correction to be posted."""

    ledger_id: int
    session_epoch: int
    n: int
    amount_nanos: int
    price_version: str
    priced_as: str


class Tally:
    """Sums a re-rating up, call by call, in bounded memory."""

    def __init__(self, organization_id: int) -> None:
        self._organization_id = organization_id
        self._hash = hashlib.sha256()
        self.outcome = Outcome()
        self.draw_sets: dict[tuple[int, int], Part] = {}
        """By (ledger, draw set); who knows the budgets in them empties it."""

    @property
    def etag(self) -> str:
        """A hash of all lines, in their order."""
        return self._hash.hexdigest()[:32]

    def count(self, call: Call, rated: Rated | Skip) -> Line | None:
        """Take a call in; the line to post, if it changes."""
        own = call.ledger_id == self._organization_id
        outcome = self.outcome
        if own:
            outcome.call_count += 1
        if isinstance(rated, Skip):
            if own:
                outcome.skips[rated.value] = outcome.skips.get(rated.value, 0) + 1
            return None
        difference = rated.cost_nanos - call.amount_nanos
        if not difference:
            return None
        outcome.line_count += 1
        amounts = (call.amount_nanos, difference)
        if own:
            outcome.total.add(*amounts)
            outcome.models.setdefault(rated.priced_as, Part()).add(*amounts)
            pair = f"{call.price_version} {rated.price_version}"
            outcome.versions[pair] = outcome.versions.get(pair, 0) + 1
        self.draw_sets.setdefault((call.ledger_id, call.draw_set_id), Part()).add(*amounts)
        line = Line(
            call.ledger_id,
            call.session_epoch,
            call.n,
            difference,
            rated.price_version,
            rated.priced_as,
        )
        self._hash.update(msgspec.json.encode(line))
        return line

    def add_budgets(self, budgets: Mapping[tuple[int, int], list[str]]) -> None:
        """Hand the sums by draw set over to the budgets in them."""
        for key, part in self.draw_sets.items():
            for name in budgets.get(key, ()):
                into = self.outcome.budgets.setdefault(name, Part())
                into.call_count += part.call_count
                into.before_nanos += part.before_nanos
                into.difference_nanos += part.difference_nanos
        self.draw_sets.clear()


def shortened(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts with the largest differences, and the rest as one."""
    ordered = sorted(parts.items(), key=lambda item: (-abs(item[1].difference_nanos), item[0]))
    kept = dict(ordered[:MOST_PARTS])
    rest = Part()
    for _, part in ordered[MOST_PARTS:]:
        rest.call_count += part.call_count
        rest.before_nanos += part.before_nanos
        rest.difference_nanos += part.difference_nanos
    if rest.call_count:
        kept[OTHERS] = rest
    return kept


def most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent ones."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_PARTS])
