"""Processes that an earlier life left behind, found by their command lines and seen off."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_SECONDS = 0.02  # between two looks at who is still there


def processes(matches: Callable[[list[str]], bool]) -> list[int]:
    """Ids of living processes whose command line (as arguments) satisfies `matches`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        arguments = command_line(int(entry.name))
        if arguments and matches(arguments):
            found.append(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    """The arguments process `pid` runs with; none if it is gone, a zombie or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def see_off(
    find: Callable[[], list[int]], steps: Sequence[tuple[signal.Signals | None, float]]
) -> bool:
    """Wait until `find` finds nobody. Each step sends its signal, then waits so many seconds.

    Returns whether all are gone.
    """
    for number, seconds in steps:
        left = find()
        if number is not None:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while left:
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
            left = find()
        if not left:
            return True
    return not find()
