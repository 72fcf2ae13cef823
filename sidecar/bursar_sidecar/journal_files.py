"""The files of a journal's directory: segments, and those that owe nothing any more."""

import os
from pathlib import Path
from typing import Final

SEGMENT_SUFFIX: Final = ".journal"
DONE_SUFFIX: Final = ".done"


def segments_in(directory: Path) -> list[Path]:
    """The segments that may owe something, the oldest first."""
    return sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))


def last_number_in(directory: Path) -> int:
    """The highest number that a segment has; 0 where there is none."""
    names = [*directory.glob(f"*{SEGMENT_SUFFIX}"), *directory.glob(f"*{DONE_SUFFIX}")]
    return max((int(path.stem) for path in names if path.stem.isdigit()), default=0)


def sync_directory(path: Path) -> None:
    """Have the directory's entries on disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
