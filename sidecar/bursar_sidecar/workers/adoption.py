"""Journals that nobody opens any more: of workers there are fewer of now, or of a time without any.

What they owe must reach the control plane. They are moved below the first worker's directory, where
its journal reads all that it finds; a move keeps the lock file, by which a journal knows that it is
no copy.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from bursar_sidecar.journal import DIRECTORY_NAME, LOCK_NAME, MAX_DIRECTORIES
from bursar_sidecar.journal_files import DONE_SUFFIX, SEGMENT_SUFFIX

log = structlog.get_logger("bursar.workers")

WORKER: Final = re.compile(r"worker-([0-9]{1,4})")
_JOURNAL: Final = re.compile(rf"{DIRECTORY_NAME}(-[0-9]{{1,4}})?")


def worker_directory(data_directory: Path, number: int) -> Path:
    """Where one worker keeps its journal."""
    return data_directory / f"worker-{number}"


def adopt(data_directory: Path, workers: int) -> list[Path]:
    """Move the journals that none of so many workers would open; 0: there are no workers.

    Returns where they are now. Raises OSError. Journals that a living process holds stay.
    """
    heir = worker_directory(data_directory, 0) if workers else data_directory
    moved = []
    for journal in _left_behind(data_directory, workers):
        with _unlocked(journal) as is_free:
            if not is_free:
                log.warning("journal_in_use", directory=str(journal), effect="it stays there")
                continue
            heir.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = _free_name(heir)
            if target is None:
                log.error("journal_not_adopted", directory=str(journal), heir=str(heir))
                continue
            journal.rename(target)
            moved.append(target)
            log.info("journal_adopted", was=str(journal), now=str(target))
    return moved


def _left_behind(data_directory: Path, workers: int) -> list[Path]:
    homes = [data_directory] if workers else []
    if data_directory.is_dir():
        for home in sorted(data_directory.iterdir()):
            found = WORKER.fullmatch(home.name)
            if found and home.is_dir() and int(found.group(1)) >= workers:
                homes.append(home)
    return [
        journal
        for home in homes
        if home.is_dir()
        for journal in sorted(home.iterdir())
        if _JOURNAL.fullmatch(journal.name) and _holds_something(journal)
    ]


def _holds_something(journal: Path) -> bool:
    return any(path.suffix in (SEGMENT_SUFFIX, DONE_SUFFIX) for path in journal.glob("*"))


def _free_name(heir: Path) -> Path | None:
    # Without a gap: a journal looks no further than the first name that is free.
    for number in range(1, MAX_DIRECTORIES + 1):
        path = heir / (DIRECTORY_NAME if number == 1 else f"{DIRECTORY_NAME}-{number}")
        if not path.exists():
            return path
    return None


@contextmanager
def _unlocked(journal: Path) -> Iterator[bool]:
    fd = os.open(journal / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)
