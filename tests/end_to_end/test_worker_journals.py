"""Journals that nobody opens any more find an heir; those in use are left alone."""

from pathlib import Path

from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_records import Settled
from bursar_sidecar.workers.adoption import adopt, worker_directory

BOOT = "boot-1"


def opened(directory: Path) -> Journal:
    return Journal(directory, boot_id=BOOT, limits=JournalLimits())


def left_behind(directory: Path, epoch: int) -> None:
    """A journal of an earlier life that owes a settlement."""
    journal = opened(directory)
    journal.session_opened(epoch, 1, False)
    journal.settled([Settled(epoch, 1, b"a settlement")])
    journal.close()


def owed(journal: Journal) -> set[int]:
    return {session.epoch for session in journal.recovered if session.unacknowledged}


def test_fewer_workers_take_over_what_more_of_them_owe(tmp_path: Path) -> None:
    for number in range(4):
        left_behind(worker_directory(tmp_path, number), 10 + number)
    assert len(adopt(tmp_path, 2)) == 2
    heir = opened(worker_directory(tmp_path, 0))
    assert owed(heir) == {10, 12, 13}
    # A move is no copy: what they prove of their sessions counts.
    assert {session.journal for session in heir.recovered} == {"complete"}
    other = opened(worker_directory(tmp_path, 1))
    assert owed(other) == {11}
    heir.close()
    other.close()


def test_a_sidecar_without_workers_takes_over_all(tmp_path: Path) -> None:
    left_behind(tmp_path, 9)
    for number in range(2):
        left_behind(worker_directory(tmp_path, number), 10 + number)
    adopt(tmp_path, 0)
    journal = opened(tmp_path)
    assert owed(journal) == {9, 10, 11}
    journal.close()
    assert adopt(tmp_path, 0) == []


def test_workers_take_over_what_a_sidecar_without_them_owes(tmp_path: Path) -> None:
    left_behind(tmp_path, 9)
    adopt(tmp_path, 2)
    heir = opened(worker_directory(tmp_path, 0))
    assert owed(heir) == {9}
    heir.close()


def test_a_journal_that_a_living_process_holds_stays(tmp_path: Path) -> None:
    left_behind(worker_directory(tmp_path, 5), 15)
    living = opened(worker_directory(tmp_path, 5))
    assert adopt(tmp_path, 2) == []
    assert living.directory.exists()
    living.close()
    assert len(adopt(tmp_path, 2)) == 1


def test_nothing_is_made_where_nothing_was(tmp_path: Path) -> None:
    assert adopt(tmp_path / "new", 3) == []
    assert not (tmp_path / "new").exists()
