"""What another price list changes: which models, which of their rates, and by how much. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from bursar.money import EXACT
from bursar.usage import PART_OF

from .lists import plain
from .model import LLM_TOKENS_PER, Component, Meter, Price

Place = tuple[str, str, datetime | None]
"""Provider, model, and from when on a price is one for it; None is the one that holds now."""

_STANDS_FOR: Final = {
    **{Meter(part): Meter(whole) for part, whole in PART_OF.items()},
    Meter.CACHED_INPUT: Meter.INPUT,
    Meter.CACHE_WRITE_5M: Meter.INPUT,
    Meter.CACHE_WRITE_1H: Meter.CACHE_WRITE_5M,
    Meter.CACHE_WRITE_12H: Meter.CACHE_WRITE_5M,
    Meter.REASONING: Meter.OUTPUT,
}
_HUNDRED: Final = Decimal(100)
_HUNDREDTH: Final = Decimal("0.01")
_ONE: Final = Decimal(1)

# Conditions of a component besides threshold and tier, and what they are where there is none.
_OTHERS: Final = {
    name: getattr(Component(meter=Meter.INPUT, rate=Decimal(0)), name)
    for name in Component.__struct_fields__
    if name not in {"meter", "rate", "per", "above", "tier"}
}

# Of a price, besides its rates and what does not decide a charge; times are told with the price
# that follows.
_NOTED: Final = sorted(
    set(Price.__struct_fields__)
    - {"provider", "model", "components", "multipliers", "unmodelled", "price_version"}
    - {"effective_at", "expires_at"}
)

_When = tuple[object, ...]


class ChangeOf(StrEnum):
    """What happened to a model's price."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class RateChange(NamedTuple):
    """One rate before and after, in the unit `per`; None where there is none of its own.

    `percent` says how much more the same use costs than before: a rate that is new is compared
    with the one that stood in for it, one that is gone with the one that does now. It is None
    where there is nothing to compare with; `from_nothing` tells a charge where there was none.
    """

    what: str
    old: Decimal | None
    new: Decimal | None
    per: int
    percent: Decimal | None
    from_nothing: bool = False


class PriceChange(NamedTuple):
    """What becomes of one model's price. `since`: from when on, None is now."""

    kind: ChangeOf
    provider: str
    model: str
    since: datetime | None
    rates: tuple[RateChange, ...]
    notes: tuple[str, ...] = ()

    @property
    def percent(self) -> Decimal | None:
        """The largest change of any rate, up or down; None where none can be compared."""
        known = [rate.percent for rate in self.rates if rate.percent is not None]
        return max(known, key=abs, default=None)


def compare(old: Mapping[Place, Price], new: Mapping[Place, Price]) -> list[PriceChange]:
    """What changes where `new` takes the place of `old`, by provider and model.

    A price that begins later is compared with the one of that moment, or else with the one of now.
    """
    changes = []
    places = sorted(
        old.keys() | new.keys(), key=lambda p: (p[0], p[1], p[2].isoformat() if p[2] else "")
    )
    for place in places:
        provider, model, since = place
        before = old.get(place)
        after = new.get(place)
        if since is not None and before is None:
            before = old.get((provider, model, None))
        if after is None:
            if since is not None:
                note = ("is not announced any more",)
                changes.append(PriceChange(ChangeOf.CHANGED, *place, rates=(), notes=note))
            elif before is not None:
                changes.append(PriceChange(ChangeOf.REMOVED, *place, rates=_all(before, old=True)))
        elif before is None:
            changes.append(PriceChange(ChangeOf.ADDED, *place, rates=_all(after, old=False)))
        elif plain(before) != plain(after):
            rates, notes = _rates(before, after), _notes(before, after)
            if rates or notes:
                changes.append(PriceChange(ChangeOf.CHANGED, *place, rates=rates, notes=notes))
    return changes


def _all(price: Price, *, old: bool) -> tuple[RateChange, ...]:
    return tuple(
        RateChange(_what(c), c.rate if old else None, None if old else c.rate, c.per, None)
        for c in price.components
    )


def _rates(before: Price, after: Price) -> tuple[RateChange, ...]:
    old, new = _by_condition(before), _by_condition(after)
    found = []
    for when in sorted(old.keys() | new.keys(), key=repr):
        was, becomes = old.get(when), new.get(when)
        shown = becomes or was
        if shown is None or (was and becomes and _one(was) == _one(becomes)):
            continue
        charged = _one(was) if was else _stand_in(before, shown)
        will_be = _one(becomes) if becomes else _stand_in(after, shown)
        found.append(
            RateChange(
                _what(shown),
                None if was is None else _for(was, shown.per),
                None if becomes is None else becomes.rate,
                shown.per,
                _percent(charged, will_be),
                from_nothing=not charged and bool(will_be),
            )
        )
    return (*found, *_factors(before, after))


def _factors(before: Price, after: Price) -> list[RateChange]:
    found = []
    for name in sorted(before.multipliers.keys() | after.multipliers.keys()):
        was, becomes = before.multipliers.get(name), after.multipliers.get(name)
        if was != becomes:
            percent = _percent(_ONE if was is None else was, _ONE if becomes is None else becomes)
            found.append(RateChange(f"factor {name}", was, becomes, 1, percent))
    return found


def _notes(before: Price, after: Price) -> tuple[str, ...]:
    """What else is different."""
    notes = []
    for name in _NOTED:
        was, becomes = getattr(before, name), getattr(after, name)
        if was != becomes:
            is_plain = isinstance(was, str | int | None) and isinstance(becomes, str | int | None)
            told = f"{_shown(was)} -> {_shown(becomes)}" if is_plain else "changed"
            notes.append(f"{name} {told}")
    return tuple(notes)


def _shown(value: object) -> str:
    return "none" if value in (None, "") else str(value)


def _by_condition(price: Price) -> dict[_When, Component]:
    return {
        (c.meter, c.above, c.tier, *(getattr(c, name) for name in _OTHERS)): c
        for c in price.components
    }


def _stand_in(price: Price, instead_of: Component) -> Decimal | None:
    """What is charged for one where there is no rate for exactly this: the rate with fewer
    conditions, else that of the meter it is part of."""
    meter, above, tier = instead_of.meter, instead_of.above, instead_of.tier
    plain_ones = [c for c in price.components if _is_plain(c)]
    while True:
        sizes = [_one(c) for c in price.components if c.meter == meter and c.variant]
        if sizes and not any(c.meter == meter for c in plain_ones):
            # An unknown size is charged as the dearest one.
            return max(sizes)
        for asked in dict.fromkeys((tier, "")):
            lower = [c for c in plain_ones if (c.meter, c.tier) == (meter, asked)]
            found = max((c for c in lower if c.above <= above), key=_above, default=None)
            if found is not None:
                factors = price.multipliers if asked != tier else {}
                return EXACT.multiply(_one(found), factors.get(f"tier/{tier}", _ONE))
        if meter not in _STANDS_FOR:
            return None
        meter = _STANDS_FOR[meter]


def _above(component: Component) -> int:
    return component.above


def _is_plain(component: Component) -> bool:
    return all(getattr(component, name) == usual for name, usual in _OTHERS.items())


def _one(component: Component) -> Decimal:
    return EXACT.divide(component.rate, Decimal(component.per))


def _for(component: Component, per: int) -> Decimal:
    if component.per == per:
        return component.rate
    return EXACT.multiply(_one(component), Decimal(per))


def _percent(was: Decimal | None, becomes: Decimal | None) -> Decimal | None:
    if not was or becomes is None:
        return None
    change = EXACT.divide(EXACT.multiply(becomes - was, _HUNDRED), was)
    return change.quantize(_HUNDREDTH, context=EXACT)


def _what(component: Component) -> str:
    """The meter with its conditions, as they are typed: "input>200000@batch"."""
    text = component.meter.value
    if component.above:
        text += f">{component.above}"
    if component.tier:
        text += f"@{component.tier}"
    for name, usual in _OTHERS.items():
        value = getattr(component, name)
        if name != "variant" and value != usual:
            text += f" {name} {value}"
    return f"{text} ({component.variant})" if component.variant else text


def per_text(per: int) -> str:
    """Behind a rate: nothing for a million LLM tokens, "/1" for each."""
    return "" if per == LLM_TOKENS_PER else f"/{per}"
