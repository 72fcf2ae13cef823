"""Money of the next window, lent before it begins. Pure.

At the end of a window every sidecar that uses it would ask for money of the next one in the same
instant, and every call would wait for it. So a session that is busy in a window is lent from the
next one shortly before the end, each at its own moment.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

SPREAD_PERCENT: Final = 75
"""The sessions' moments are spread over so much of the stretch before the end; the rest is left
for the answer to arrive, and for a report that comes once a second."""
MOST_OF_WINDOW: Final = 4
"""The stretch is at most this part (a quarter) of the window that ends."""
_PRIME: Final = 2_654_435_761


class Ahead(NamedTuple):
    """A session that is lent from the window that follows one it uses."""

    session_epoch: int
    window_id: int
    """The next one."""
    after_window_id: int
    """The one that ends."""
    want: int
    """What it would like to have free, in nanos."""


def is_due(
    session_epoch: int, start_at: datetime, end_at: datetime, now: datetime, ahead_ms: int
) -> bool:
    """Whether a session's moment has come, in a window from `start_at` to `end_at`.

    The moment lies at most `ahead_ms` before the end, and is the same whenever it is asked for.
    """
    stretch = min(timedelta(milliseconds=ahead_ms), (end_at - start_at) / MOST_OF_WINDOW)
    # Fibonacci hashing: epochs that follow one another lie far apart.
    percent = (session_epoch * _PRIME % 2**32) * SPREAD_PERCENT // 2**32
    return end_at - stretch + stretch * percent / 100 <= now < end_at
