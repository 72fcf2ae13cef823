"""Reads counts out of what a provider sent, and keeps what was wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .counts import MAX_COUNT, fault_of


class Reader:
    """Reads counts out of a provider's object and collects what was wrong with it."""

    __slots__ = ("faults",)

    def __init__(self) -> None:
        self.faults: list[str] = []

    def section(self, source: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
        for name in names:
            value = source.get(name)
            if value is None:
                continue
            if type(value) is dict or isinstance(value, Mapping):
                return value
            self.faults.append(f"{name} is a {type(value).__name__}, not an object")
        return {}

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
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            fault = fault_of(value)
            if not fault:
                return int(value)
            self.faults.append(f"{name} is {fault}")
            return None
        return None

    def part(self, source: Mapping[str, Any], *names: str) -> int:
        """Like `count`, for what is none where it is not there."""
        return (self.count(source, *names) or 0) if source else 0


def fit_parts(read: Reader, parts: dict[str, int], whole: int, name: str, *, overlap: int) -> None:
    """Cuts parts of a count to what the count has room for.

    Kinds may overlap with what was cached by up to `overlap`, which nobody breaks down; anything
    beyond that contradicts the count itself.
    """
    claimed = sum(parts.values())
    if claimed > whole + overlap:
        read.faults.append(f"kinds of LLM tokens ({claimed}) exceed {name} ({whole + overlap})")
    room = whole
    for part, count in parts.items():
        parts[part] = max(0, min(count, room))
        room -= parts[part]
