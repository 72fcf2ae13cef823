"""An event loop whose clock jumps: whole programs run on it, as fast as the machine computes.

Where a real loop would sleep until its next timer, this one sets its clock to that timer. Nothing
on it may wait for a file, a socket or a thread.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

NANOS_PER_SECOND = 1_000_000_000
BEGIN_S = 1_000.0
"""Not 0: clocks that count from the boot of a machine are never there."""


class _Skipping(selectors.SelectSelector):
    """Waits by moving the time."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """No file is ever ready. Raises RuntimeError when nothing will ever happen again."""
        if timeout is None:
            raise RuntimeError("everything waits, and no timer is set: nothing will ever happen")
        if timeout > 0:
            self._skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._now_s = BEGIN_S
        super().__init__(_Skipping(self._move))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds; what the simulation's clocks read."""
        return round(self._now_s * NANOS_PER_SECOND)

    def _move(self, seconds: float) -> None:
        self._now_s += seconds


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to its end on a loop of its own; what it left running is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))
