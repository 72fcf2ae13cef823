"""Where mutants are registered, and how one is let live."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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


def alive(name: str) -> AbstractContextManager[None]:
    """The mutant of this name lives inside."""
    return living(MUTANTS[name]())


@contextmanager
def living(replacements: Sequence[Replacement]) -> Iterator[None]:
    """A mutant lives inside."""
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in replacements]
    for owner, attribute, value in replacements:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
