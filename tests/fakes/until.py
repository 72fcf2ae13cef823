"""Waiting for something to become true, with a deadline: for tests of real processes."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 60.0  # far more than anything takes; a test that waits so long has failed
POLL_S = 0.01

Value = TypeVar("Value")


def until(look: Callable[[], Value | None], what: str, deadline_s: float = DEADLINE_S) -> Value:
    """What `look` returns once that is true. Fails naming `what` if it does not come in time."""
    never = threading.Event()
    end = time.monotonic() + deadline_s
    while not (value := look()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s"
        never.wait(POLL_S)
    return value
