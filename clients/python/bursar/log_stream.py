"""Where log lines go: a file descriptor, and never a fault of who logs.

A full disk, or a collector that went away, must not stop what the line is about. Lines that can't
be written are counted, and told once one can be.
"""

import json
import os


class LogStream:
    """Writes lines to a file descriptor, unbuffered. Never raises for the descriptor's sake."""

    def __init__(self, fd: int) -> None:
        self.lost_count = 0
        """Lines lost and not told yet."""
        self._fd = fd

    def write(self, text: str) -> int:
        """Write, or count what is lost."""
        if not text:
            return 0
        try:
            if self.lost_count:
                told = json.dumps({"event": "log_lines_lost", "count": self.lost_count})
                self._write_all(f"{told}\n")
                self.lost_count = 0
            self._write_all(text)
        except OSError:
            self.lost_count += text.count("\n") or 1
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def _write_all(self, text: str) -> None:
        left = text.encode("utf-8", "backslashreplace")
        while left:
            left = left[os.write(self._fd, left) :]
