"""What a search found, as text."""

from tests.simulation.formal.checker import Search
from tests.simulation.formal.parts import Bounds

FIELDS = "{:<15} {:>10} {:>12} {:>6} {:>8}  {}"


def heading() -> str:
    """The names of the columns of `line`."""
    return FIELDS.format("bounds", "states", "transitions", "depth", "seconds", "what is in it")


def line(bounds: Bounds, found: Search) -> str:
    """One search. Not exhausted: it was stopped before every state was seen."""
    says = bounds.says if found.exhausted else f"NOT EXHAUSTED; {bounds.says}"
    numbers = (f"{found.states:,}", f"{found.transitions:,}", found.depth, f"{found.seconds:.1f}")
    return FIELDS.format(bounds.name, *numbers, says)
