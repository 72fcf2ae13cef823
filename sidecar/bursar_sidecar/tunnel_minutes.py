"""What a connection costs that is paid by its opening and by the minute, and how long it is paid.

Pure: times are seconds since the connection was opened, amounts nanos. What is charged is never
more than what was reserved: a minute is reserved before it begins, or does not begin.

    paid --(ask_at)--> asking --granted--> paid, a minute further
                       asking --refused--> paid, asking again later
    paid --(close_at)--> to be closed
"""

from typing import Final

MINUTE_S: Final = 60.0
ASK_AHEAD_S: Final = 15.0
"""How long before the paid minute is over the next one is asked for: several waits for money."""
ASK_AGAIN_S: Final = 3.0
"""After a minute was refused."""
LAST_S: Final = 5.0
"""How long before the paid minute is over a connection that has no other is closed, so that the
farewell of both sides is within it."""
_NEVER: Final = float("inf")


class Minutes:
    """The minutes of one connection."""

    __slots__ = ("_flat_nanos", "_longest", "_minute_nanos", "_not_before_s", "paid")

    def __init__(self, flat_nanos: int, minute_nanos: int, longest_s: float) -> None:
        """The first minute is reserved with the connection."""
        self._flat_nanos = flat_nanos
        self._minute_nanos = minute_nanos
        self._longest = max(1, _begun(longest_s))
        self._not_before_s = 0.0
        self.paid = 1
        """Minutes that are reserved."""

    @property
    def first_nanos(self) -> int:
        """What a connection begins with."""
        return self._flat_nanos + self._minute_nanos

    @property
    def reserved_nanos(self) -> int:
        """What is set aside."""
        return self._flat_nanos + self.paid * self._minute_nanos

    @property
    def next_nanos(self) -> int:
        """What must be set aside for one minute more."""
        return self.reserved_nanos + self._minute_nanos

    @property
    def ask_at(self) -> float:
        """When the next minute is to be asked for; never where none is to come."""
        if not self._minute_nanos or self.paid >= self._longest:
            return _NEVER
        return max(self.paid * MINUTE_S - ASK_AHEAD_S, self._not_before_s)

    @property
    def close_at(self) -> float:
        """When the connection is to be closed unless another minute is reserved; never where the
        last one is that it may have."""
        if not self._minute_nanos or self.paid >= self._longest:
            return _NEVER
        return self.paid * MINUTE_S - LAST_S

    def granted(self) -> None:
        """The next minute is reserved."""
        self.paid += 1

    def refused(self, at_s: float) -> None:
        """It is not to be had now."""
        self._not_before_s = at_s + ASK_AGAIN_S

    def begun(self, lasted_s: float) -> int:
        """Minutes to charge for a connection that lasted so long: those begun, the first in any
        case, and never more than were reserved."""
        return min(self.paid, max(1, _begun(lasted_s)))

    def cost_nanos(self, lasted_s: float) -> int:
        """What such a connection costs."""
        return self._flat_nanos + self.begun(lasted_s) * self._minute_nanos


def _begun(seconds: float) -> int:
    return int(-(-seconds // MINUTE_S))
