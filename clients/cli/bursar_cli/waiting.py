"""Asking again until something is so, for as long as a person waits."""

import time
from collections.abc import Callable
from typing import TypeVar

# Replaced in tests, which do not wait.
seconds = time.monotonic
pause = time.sleep

Answer = TypeVar("Answer")


def ask_until(
    ask: Callable[[], Answer],
    is_so: Callable[[Answer], bool],
    *,
    wait_s: float,
    every_s: float,
    first: Answer | None = None,
) -> Answer:
    """The first answer that `is_so`, or the last one after `wait_s`.

    It asks at once, unless what it begins with is known as `first`; then each `every_s`.
    """
    deadline = seconds() + wait_s
    found = ask() if first is None else first
    while not is_so(found) and seconds() < deadline:
        pause(every_s)
        found = ask()
    return found
