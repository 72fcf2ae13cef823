"""Where the control plane's time comes from; injected, so that a test decides what time it is."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for what people read, one for durations."""

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def monotonic_ms(self) -> int:
        """The same clock in whole milliseconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """The wall-clock time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def monotonic_ms(self) -> int:
        """The same clock in whole milliseconds."""
        return time.monotonic_ns() // 1_000_000
