"""Reads counts out of what a provider sent, and keeps what was wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeGuard

from .counts import MAX_COUNT, Usage, fault_of

MAX_FAULTS: Final = 8
"""Faults kept of one usage: the first ones say what is wrong, a thousand say no more."""
MAX_ITEMS: Final = 10_000
"""Items of one list that are read. No answer has so many calls of tools, candidates or parts."""
MAX_TEXT: Final = 256
"""Characters of a name (model, tier, id) that are kept; no provider's are longer."""
MAX_METERS: Final = 48
"""Further meters of one usage, those included that are named after a provider's tools."""
MAX_METER_NAME: Final = 64
"""Characters of a meter's name."""
MAX_COST: Final = Decimal(10**9)
"""A cost above this is a fault of the sender, whatever the currency."""
MAX_COST_DECIMALS: Final = 40


class Reader:
    """Reads counts out of a provider's object and collects what was wrong with it."""

    __slots__ = ("faults",)

    def __init__(self) -> None:
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        """Note what makes this usage an estimate."""
        if len(self.faults) < MAX_FAULTS and text not in self.faults:
            self.faults.append(text)

    def section(self, source: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
        """The first of `names` that is there; {} when none is, or when it is no object."""
        for name in names:
            value = source.get(name)
            if value is None:
                continue
            if type(value) is dict or isinstance(value, Mapping):
                return value
            self.fault(f"{name} is a {type(value).__name__}, not an object")
        return {}

    def items(self, source: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        """The objects of a list; [] when it isn't there. What is no list or object is a fault."""
        value = source.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple) or not all(isinstance(i, Mapping) for i in value):
            self.fault(f"{name} is no list of objects")
            return []
        if len(value) > MAX_ITEMS:
            self.fault(f"{name} has more than {MAX_ITEMS} items")
        return list(value[:MAX_ITEMS])

    def count(self, source: Mapping[str, Any], *names: str) -> int | None:
        """The first of `names` that is there; None when none is, or when it is nonsense.

        A whole float (12.0) counts: some servers write all numbers so.
        """
        for name in names:
            value = source.get(name)
            if value is None:
                continue
            if type(value) is int and 0 <= value <= MAX_COUNT:
                return value
            value = _whole(value)
            fault = fault_of(value)
            if not fault:
                return int(value)
            self.fault(f"{name[:MAX_METER_NAME]} is {fault}")
            return None
        return None

    def part(self, source: Mapping[str, Any], *names: str) -> int:
        """Like `count`, for what is none where it is not there."""
        return (self.count(source, *names) or 0) if source else 0

    def seconds(self, source: Mapping[str, Any], *names: str) -> int | None:
        """A duration in whole seconds, a begun one counted whole; None when there is none."""
        for name in names:
            value = source.get(name)
            if value is None:
                continue
            if not _is_number(value):
                self.fault(f"{name} is a {type(value).__name__}")
            elif not _is_finite(value) or not 0 <= value <= MAX_COUNT:
                self.fault(f"{name} is no duration in seconds")
            else:
                return math.ceil(value)
            return None
        return None

    def usage(self, counts: Mapping[str, int], extra: Mapping[str, int]) -> Usage:
        """The usage read: estimated, with the reasons, if anything was wrong.

        `counts` are the fields of `Usage`; meters of `extra` that are 0 are left out.
        """
        kept = {name: self._bounded(name, count) for name, count in counts.items()}
        if kept.get("reasoning", 0) > kept.get("output", 0):
            self.fault(f"reasoning ({kept['reasoning']}) exceeds output ({kept.get('output', 0)})")
            kept["output"] = kept["reasoning"]
        further: dict[str, int] = {}
        for name, count in extra.items():
            if not count:
                continue
            if len(further) >= MAX_METERS or not 0 < len(name) <= MAX_METER_NAME:
                self.fault("more is counted, or under longer names, than can be kept")
            else:
                further[name] = self._bounded(name, count)
        return Usage(
            **kept,
            extra=further,
            certainty="estimated" if self.faults else "exact",
            estimate_reason="; ".join(self.faults),
        )

    def _bounded(self, name: str, count: int) -> int:
        # Each number may be plausible and their sum still absurd.
        if count <= MAX_COUNT:
            return count
        self.fault(f"{name} is absurdly large")
        return MAX_COUNT


def fit_parts(read: Reader, parts: dict[str, int], whole: int, name: str, *, overlap: int) -> None:
    """Cuts parts of a count to what the count has room for.

    Kinds may overlap with what was cached by up to `overlap`, which nobody breaks down; anything
    beyond that contradicts the count itself.
    """
    if not any(parts.values()):
        return
    claimed = sum(parts.values())
    if claimed > whole + overlap:
        read.fault(f"kinds of LLM tokens ({claimed}) exceed {name} ({whole + overlap})")
    room = whole
    for part, count in parts.items():
        parts[part] = max(0, min(count, room))
        room -= parts[part]


def text_of(source: Mapping[str, Any], *names: str) -> str:
    """The first of `names` that is a short text; "" when none is. Names are no money: never a
    fault."""
    for name in names:
        value = source.get(name)
        if isinstance(value, str) and 0 < len(value) <= MAX_TEXT:
            return value
    return ""


def inner(source: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The object at `path`, {} where there is none."""
    for name in path:
        value = source.get(name)
        if type(value) is not dict and not isinstance(value, Mapping):
            return {}
        source = value
    return source


def listed(source: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """The objects in the list `name`; whatever else is in it, or instead of it, is passed over."""
    value = source.get(name)
    if isinstance(value, list | tuple):
        yield from (item for item in value[:MAX_ITEMS] if isinstance(item, Mapping))


def money_of(source: Mapping[str, Any], name: str) -> Decimal | None:
    """An amount of money as the provider wrote it; None when there is none, or none that can be.

    Exact where the JSON text was decoded with decimals (as `read_usage` does with bytes); a float
    of a caller's own decoding is taken as the shortest decimal that stands for it.
    """
    value = source.get(name)
    if not _is_number(value) or not _is_finite(value) or not 0 <= value <= MAX_COST:
        return None
    amount = value if isinstance(value, Decimal) else Decimal(repr(value))
    return amount if -int(amount.as_tuple().exponent) <= MAX_COST_DECIMALS else None


def _is_number(value: Any) -> TypeGuard[int | float | Decimal]:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_finite(value: int | float | Decimal) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) or math.isfinite(value)


def _whole(value: Any) -> Any:
    """A float or decimal that is a whole number, as that number; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Decimal) and value.is_finite() and abs(value) <= MAX_COUNT:
        # The size first: the whole number of 1E+999999 has a million digits.
        return int(value) if value == int(value) else value
    return value
