"""The way out for money that a session holds and will not account for: a decision of people. Pure.

    held (outstanding, in doubt) -> spent: posted as lost; evidence takes its part of it back
                                 -> free: returned; evidence that it was spent is overrun

A decision waits on record until the writer applies it between two ticks; it is refused then if the
session came back meanwhile.
"""

from collections.abc import Mapping

import msgspec

CONNECTED = "SESSION_IS_CONNECTED"
RETURNED = "SESSION_RETURNED"


class Resolution(msgspec.Struct, frozen=True):
    """A decision that was not applied yet."""

    id: int
    organization_id: int
    session_epoch: int
    decision: str
    returned: bool
    """Whether an open session was seen again after the decision."""

    @property
    def spent(self) -> bool:
        """Whether the money counts as spent; else it is free."""
        return self.decision == "spent"


class Resolved(msgspec.Struct, frozen=True):
    """What became of a decision."""

    resolution: Resolution
    held: Mapping[int, int]
    """What the session held, by window."""
    refusal: str = ""


def draws(amounts: Mapping[int, int]) -> list[tuple[int, tuple[int, ...]]]:
    """The fewest (amount, windows) that add up to `amounts` in each window.

    Budgets lie within one another, so a call that one budget counts its wider ones count too: the
    windows are sorted by amount, and each draw is on all that have at least that much. At most one
    draw for each different amount.
    """
    lines: list[tuple[int, tuple[int, ...]]] = []
    below = 0
    for level in sorted({amount for amount in amounts.values() if amount > 0}):
        windows = tuple(sorted(w for w, amount in amounts.items() if amount >= level))
        lines.append((level - below, windows))
        below = level
    return lines
