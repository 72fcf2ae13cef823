"""What spend can be summed by. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

# The rows are combinations; with more than three nobody reads them, and they multiply.
MOST_DIMENSIONS: Final = 3
DEFAULT_ROWS: Final = 1_000
MOST_ROWS: Final = 10_000


class Dimension(StrEnum):
    """What to sum by."""

    ORGANIZATION = "organization"
    TEAM = "team"
    PROJECT = "project"
    USER = "user"
    KEY = "key"
    CUSTOMER = "customer"
    APP = "app"
    MODEL = "model"
    PROVIDER = "provider"
    TAG = "tag"
    DAY = "day"


class QueryFault(ValueError):
    """A report that can't be; `field`, `value` and `expected` say why."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}: {value!r} is not accepted, expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected


def dimensions(numbers: Sequence[int]) -> list[Dimension]:
    """The dimensions by their numbers on the wire (from 1). Raises QueryFault."""
    if len(numbers) > MOST_DIMENSIONS:
        raise QueryFault("group_by", f"{len(numbers)} dimensions", f"at most {MOST_DIMENSIONS}")
    known = list(Dimension)
    found: list[Dimension] = []
    for place, number in enumerate(numbers):
        field = f"group_by[{place}]"
        if not 1 <= number <= len(known):
            raise QueryFault(field, number, f"one of {', '.join(known)}")
        if known[number - 1] in found:
            raise QueryFault(field, known[number - 1].value, "each dimension once")
        found.append(known[number - 1])
    return found


def row_limit(asked: int) -> int:
    """How many rows to answer with: 0 means 1,000. Raises QueryFault."""
    if not 0 <= asked <= MOST_ROWS:
        raise QueryFault("limit", asked, f"1 to {MOST_ROWS}, or 0 for {DEFAULT_ROWS}")
    return asked or DEFAULT_ROWS
