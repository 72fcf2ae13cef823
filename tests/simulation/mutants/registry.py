"""Where mutants are registered, and how one is let live."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Replacement = tuple[Any, str, Any]
"""Owner, name of its attribute, and what stands there while the mutant lives."""
MUTANTS: dict[str, Callable[[], list[Replacement]]] = {}
"""Name -> what it replaces; asked for anew each time, so that nothing is carried over."""


def mutant(make: Callable[[], list[Replacement]]) -> Callable[[], list[Replacement]]:
    """Register one under its name."""
    assert make.__name__ not in MUTANTS
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def alive(name: str) -> Iterator[None]:
    """The mutant lives inside."""
    replacements = MUTANTS[name]()
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in replacements]
    for owner, attribute, value in replacements:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
