"""Where the sidecar's money gets its time from: one clock object, injected.

Validity, windows and waiting are counted on a clock that also runs while the machine sleeps: an
allowance that lapsed during a suspend has lapsed. The wall clock is for people only.
"""

import time
from typing import Protocol

from bursar_sidecar import desk

NANOS_PER_MS = 1_000_000
NANOS_PER_SECOND = 1_000_000_000

# Linux stops CLOCK_MONOTONIC in suspend and has CLOCK_BOOTTIME; where that is missing (macOS)
# CLOCK_MONOTONIC itself runs on.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(desk.Clock, Protocol):
    """The desk's clock, and nanoseconds that count suspended time too."""

    def boot_ns(self) -> int:
        """Nanoseconds since some fixed point; never goes back, runs in suspend."""
        ...


class SystemClock(desk.SystemClock):
    """The machine's own clocks."""

    def boot_ns(self) -> int:
        """Nanoseconds since the machine booted, suspended time included."""
        return time.clock_gettime_ns(_BOOT_CLOCK)
