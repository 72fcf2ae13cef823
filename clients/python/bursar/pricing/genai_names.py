"""Which model of genai-prices' data a name means: its clauses, as that package reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any, Final

from .conditions import MAX_NAME_LENGTH, PriceError

MAX_CLAUSES: Final = 1_000
MAX_CLAUSE_DEPTH: Final = 16
MAX_PATTERN_LENGTH: Final = 200
# In one pattern, of repetitions without a fixed count and of choices (an option, an alternative).
# Each choice doubles the ways to read a name, each repetition has one a character: within these a
# name of 256 characters is refused after a million steps at the very worst.
MAX_OPEN_REPEATS: Final = 1
MAX_CHOICES: Final = 4

Test = Callable[[str], bool]
"""Whether a name, in lower case, is meant."""

_DATED: Final = re.compile(r"(-)(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_ESCAPES: Final = frozenset("dDwWsSbB")
_FIXED: Final = re.compile(r"\{\d{1,3}\}")
_SIMPLE: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "equals": lambda name, text: name == text,
    "starts_with": lambda name, text: name.startswith(text),
    "ends_with": lambda name, text: name.endswith(text),
    "contains": lambda name, text: text in name,
}


class Names:
    """The models of one provider, to be found by a name."""

    def __init__(self, provider: str, models: list[Any]) -> None:
        """Raises PriceError for a clause that means nothing."""
        self._equal: dict[str, int] = {}
        self._tested: list[tuple[int, Test]] = []
        for index, model in enumerate(models):
            where = _where(provider, index, model)
            spelled: list[str] = []
            left = [MAX_CLAUSES]
            test, only_equal = _read(where, model.get("match"), spelled, left, 0)
            if only_equal:
                for name in spelled:
                    self._equal.setdefault(name.lower(), index)
            else:
                self._tested.append((index, test))

    def find(self, name: str) -> int | None:
        """The place of the first model that is called so; a date without hyphens is tried with."""
        name = name.lower()
        found = self._first(name)
        if found is None:
            dashed = _DATED.sub(_with_hyphens, name)
            found = self._first(dashed) if dashed != name else None
        return found

    def _first(self, name: str) -> int | None:
        best = self._equal.get(name)
        for index, test in self._tested:
            if best is not None and index > best:
                break
            if test(name):
                return index
        return best


def spelled_names(models: Iterable[Any], provider: str) -> set[str]:
    """The names that models and their clauses spell out, without the provider in front."""
    found = set()
    for model in models:
        texts: list[str] = [model["id"]]
        _read("", model.get("match"), texts, [MAX_CLAUSES], 0)
        for text in texts:
            name = text.removeprefix(f"{provider}/")
            plain = all(each.isprintable() and not each.isspace() for each in name)
            if 0 < len(name) <= MAX_NAME_LENGTH and plain:
                found.add(name)
    return found


def _where(provider: str, index: int, model: Any) -> str:
    name = model.get("id") if isinstance(model, Mapping) else None
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH:
        expected = f"an object with an id of 1 to {MAX_NAME_LENGTH} characters"
        raise PriceError(f"models[{index}] of {provider[:80]!r} has no id; expected {expected}")
    return f"{provider}/{name}"[:160]


def _read(
    where: str, clause: Any, spelled: list[str], left: list[int], depth: int
) -> tuple[Test, bool]:
    """A clause as a test, and whether it is nothing but names spelled out; those are added to
    `spelled`. Raises PriceError."""
    left[0] -= 1
    if not isinstance(clause, Mapping) or len(clause) != 1 or left[0] < 0:
        raise _bad(where, clause)
    if depth > MAX_CLAUSE_DEPTH:
        raise PriceError(f"match of {where} is nested more than {MAX_CLAUSE_DEPTH} deep")
    ((kind, value),) = clause.items()
    if kind in ("or", "and"):
        if not isinstance(value, list) or not value:
            raise _bad(where, clause)
        parts = [_read(where, one, spelled, left, depth + 1) for one in value]
        tests = [test for test, _ in parts]
        if kind == "and":
            return (lambda name: all(test(name) for test in tests)), False
        return (lambda name: any(test(name) for test in tests)), all(equal for _, equal in parts)
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH:
        raise _bad(where, clause)
    if kind == "regex":
        return _pattern(where, value), False
    if kind not in _SIMPLE:
        raise _bad(where, clause)
    if kind == "equals":
        spelled.append(value)
    compare, text = _SIMPLE[kind], value.lower()
    return (lambda name: compare(name, text)), kind == "equals"


def _pattern(where: str, text: str) -> Test:
    """A pattern that can't take long. Raises PriceError: what a file says decides how long a
    pattern runs, so one that might run for ever is refused."""
    if len(text) <= MAX_PATTERN_LENGTH and _is_quick(text):
        try:
            compiled = re.compile(text)
        except (re.error, OverflowError, RecursionError):
            pass
        else:
            return lambda name: compiled.search(name) is not None
    expected = "a short regular expression without nested repetition"
    raise PriceError(f"match.regex of {where} is {text[:80]!r}; expected {expected}")


def _is_quick(text: str) -> bool:
    """Whether nothing is repeated but single characters, and few of those without a fixed count."""
    open_repeats = choices = place = 0
    in_class = after_group = False
    while place < len(text):
        mark = text[place]
        step = 1
        if mark == "\\":
            if place + 1 >= len(text):
                return False
            following = text[place + 1]
            if following.isalnum() and following not in _ESCAPES:
                return False
            step = 2
        elif in_class:
            in_class = mark != "]"
        elif mark == "[":
            in_class = True
            # A class may begin with the bracket that would end it.
            step = 2 if text[place + 1 : place + 2] == "]" else 1
        elif mark in "*+{":
            fixed = _FIXED.match(text, place) if mark == "{" else None
            if after_group:
                return False
            open_repeats += fixed is None
            step = len(fixed.group()) if fixed else 1
        elif mark in "?|":
            # The mark behind an opening bracket says what group it is.
            choices += text[place - 1 : place] != "("
        after_group = mark == ")" and not in_class
        place += step
    return not in_class and open_repeats <= MAX_OPEN_REPEATS and choices <= MAX_CHOICES


def _with_hyphens(found: re.Match[str]) -> str:
    year, month, day = (int(found.group(index)) for index in (2, 3, 4))
    try:
        date(year, month, day)
    except ValueError:
        return found.group(0)
    return f"-{year:04d}-{month:02d}-{day:02d}"


def _bad(where: str, clause: Any) -> PriceError:
    kinds = ", ".join((*_SIMPLE, "regex", "or", "and"))
    shown = str(clause)[:80]
    return PriceError(
        f"match of {where} is {shown!r}; expected one of {kinds}, {MAX_CLAUSES} at most"
    )
