"""The journal: what is written is found again, what is damaged is said, what fails stops calls."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bursar_sidecar import journal_records as records
from bursar_sidecar.journal import Journal, JournalError, JournalFullError
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_recovery import RecoveredSession

BOOT = "3f0c9b9e-boot"
EPOCH = 7


def open_record(n: int, *, epoch: int = EPOCH, reserved_nanos: int = 500) -> records.Opened:
    return records.Opened(
        parts=(records.OpenPart(epoch, n, (11, 12)),),
        reserved_nanos=reserved_nanos,
        key_id=3,
        provider="openai",
        model="gpt-4o-mini",
        requested_model="openai/gpt-4o-mini",
        price_version="builtin@1",
        customer="ada",
        app="curl/8",
        run="r1",
        tags=("a:b",),
        stream=True,
        admitted_at=1_700_000_000_000_000_000,
    )


def settled_record(n: int, text: str = "settlement") -> records.Settled:
    return records.Settled(EPOCH, n, f"{text} {n}".encode())


Opener = Callable[..., Journal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Opener]:
    """Starts journals over one data directory, as lives of a sidecar; a crash is `crash`."""
    alive: list[Journal] = []

    def begin(*, boot: str = BOOT, limits: JournalLimits | None = None) -> Journal:
        journal = Journal(tmp_path, boot_id=boot, limits=limits or JournalLimits())
        alive.append(journal)
        return journal

    yield begin
    for journal in alive:
        crash(journal)


def crash(journal: Journal) -> None:
    """What kill -9 does to a journal: the lock is gone, nothing else happens."""
    sync = journal._sync
    sync._stopping.set()
    sync._wake.set()
    if sync._thread:
        sync._thread.join()
    for fd in journal._locks:
        os.close(fd)
    journal._locks.clear()


def only(journal: Journal) -> RecoveredSession:
    (session,) = journal.recovered
    return session


def test_a_crash_keeps_open_calls_and_settlements(start: Opener) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    for n in (1, 2, 3):
        journal.opened(open_record(n))
    journal.settled([settled_record(2)])
    crash(journal)

    session = only(start())
    assert (session.epoch, session.organization_id, session.platform) == (EPOCH, 20, False)
    assert (session.last_n, session.journal) == (3, "complete")
    assert session.unacknowledged == {2: b"settlement 2"}
    assert {n: opened for n, (_part, opened) in session.open.items()} == {
        1: open_record(1),
        3: open_record(3),
    }


def test_what_was_acknowledged_or_closed_is_not_owed(start: Opener) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    journal.settled([settled_record(1)])
    journal.acknowledged(EPOCH, [1])
    assert (journal.open_calls, journal.unacknowledged_bytes) == (0, 0)
    crash(journal)

    journal = start()
    assert (only(journal).unacknowledged, only(journal).open) == ({}, {})
    journal.session_closed(EPOCH)
    crash(journal)
    assert start().recovered == ()


def test_two_crashes_in_a_row_lose_nothing(start: Opener) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    journal.opened(open_record(2))
    journal.settled([settled_record(1)])
    crash(journal)
    crash(start())

    session = only(start())
    assert session.unacknowledged == {1: b"settlement 1"}
    assert list(session.open) == [2]
    assert session.last_n == 2


def test_a_call_in_two_sessions_is_open_until_both_are_settled(start: Opener) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.session_opened(EPOCH + 1, 1, True)
    one = open_record(1)
    parts = (records.OpenPart(EPOCH, 1, (11,)), records.OpenPart(EPOCH + 1, 1, (90,)))
    journal.opened(records.Opened(parts, *(getattr(one, f) for f in one.__struct_fields__[1:])))
    assert journal.open_calls == 2
    journal.settled([settled_record(1)])
    crash(journal)

    first, second = start().recovered
    assert (first.open, list(second.open)) == ({}, [1])
    assert second.open[1][0].window_ids == (90,)


def test_a_tail_cut_at_any_byte_keeps_every_whole_record(start: Opener, tmp_path: Path) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    ends = []
    for n in range(1, 6):
        journal.opened(open_record(n))
        ends.append(journal._size)
    crash(journal)
    path = tmp_path / "journal" / "00000001.journal"
    data = path.read_bytes()
    for cut in range(ends[0], len(data) + 1):
        scan = records.Scan(data[:cut])
        found = [record for record, _raw in scan if isinstance(record, records.Opened)]
        whole = sum(end <= cut for end in ends)
        assert [record.parts[0].n for record in found] == list(range(1, whole + 1))
        assert scan.damage == ("" if cut in ends else "torn")

    path.write_bytes(data[:-3])
    session = only(start())
    assert (sorted(session.open), session.journal) == ([1, 2, 3, 4], "complete")


def test_a_changed_byte_is_damage_and_ends_the_reading(start: Opener, tmp_path: Path) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    whole = journal._size
    journal.opened(open_record(2))
    journal.opened(open_record(3))
    crash(journal)
    path = tmp_path / "journal" / "00000001.journal"
    data = bytearray(path.read_bytes())
    data[whole + 20] ^= 1
    path.write_bytes(data)

    session = only(start())
    assert (sorted(session.open), session.journal) == ([1], "truncated")


def test_after_another_boot_of_the_machine_the_tail_is_not_proven(start: Opener) -> None:
    journal = start(boot="first")
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    crash(journal)

    journal = start(boot="second")
    assert only(journal).journal == "truncated"
    crash(journal)
    assert only(start(boot="second")).journal == "truncated"


def test_a_judgement_once_made_is_kept_over_later_boots(start: Opener) -> None:
    journal = start(boot="first")
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    crash(journal)
    crash(start(boot="first"))
    assert only(start(boot="second")).journal == "complete"


def test_an_orderly_end_proves_completeness_over_a_boot(start: Opener) -> None:
    tiny = JournalLimits(segment_bytes=600)
    journal = start(boot="first", limits=tiny)
    journal.session_opened(EPOCH, 20, False)
    for n in range(1, 20):
        journal.opened(open_record(n))
        journal.settled([settled_record(n)])
    assert journal._number > 3
    journal.close()
    journal._locks.clear()

    session = only(start(boot="second"))
    assert (session.journal, session.last_n, len(session.unacknowledged)) == ("complete", 19, 19)


def test_without_a_boot_id_only_an_orderly_end_proves_anything(start: Opener) -> None:
    journal = start(boot="")
    journal.session_opened(EPOCH, 20, False)
    crash(journal)
    assert only(start(boot="")).journal == "truncated"


def test_a_locked_journal_is_left_alone(start: Opener, tmp_path: Path) -> None:
    first = start()
    first.session_opened(EPOCH, 20, False)
    first.opened(open_record(1))
    second = start()
    assert second.recovered == ()
    assert second.directory == tmp_path / "journal-2"
    second.session_opened(EPOCH + 1, 20, False)
    second.opened(open_record(1, epoch=EPOCH + 1))
    crash(first)
    crash(second)

    third = start()
    assert third.directory == tmp_path / "journal"
    assert [session.epoch for session in third.recovered] == [EPOCH, EPOCH + 1]
    crash(third)
    assert [session.epoch for session in start().recovered] == [EPOCH, EPOCH + 1]


def test_segments_roll_over_and_carry_open_calls(start: Opener, tmp_path: Path) -> None:
    journal = start(limits=JournalLimits(segment_bytes=1_000, sync_every_s=0, waiting_segments=100))
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    for n in range(2, 40):
        journal.opened(open_record(n))
        journal.settled([settled_record(n)])
        journal.acknowledged(EPOCH, [n])
    assert journal._number > 5
    assert list(journal._paths) == [journal._number]
    crash(journal)
    session = only(start())
    assert (list(session.open), session.last_n) == ([1], 39)


def test_old_segments_are_deleted_by_age_and_size(start: Opener, tmp_path: Path) -> None:
    journal = start(limits=JournalLimits(segment_bytes=500, keep_bytes=1_500, waiting_segments=100))
    journal.session_opened(EPOCH, 20, False)
    for n in range(1, 60):
        journal.opened(open_record(n))
        journal.settled([settled_record(n)])
        journal.acknowledged(EPOCH, [n])
    journal.close()
    journal._locks.clear()
    done = list((tmp_path / "journal").glob("*.done"))
    assert 0 < sum(path.stat().st_size for path in done) <= 1_500


def fill_the_disk(journal: Journal) -> None:
    """From now on each write fails as on a full disk."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._fd)
    os.close(full)


def test_a_write_that_fails_stops_admission_and_loses_no_charge(start: Opener) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    fill_the_disk(journal)
    journal.settled([settled_record(1)])
    assert "No space left" in journal.fault
    with pytest.raises(JournalError, match="No space left"):
        journal.opened(open_record(2))

    journal.retry()
    assert journal.fault == ""
    journal.opened(open_record(2))
    crash(journal)
    session = only(start())
    assert (session.unacknowledged, list(session.open)) == ({1: b"settlement 1"}, [2])


def test_a_disk_that_stays_full_keeps_admission_stopped(start: Opener, tmp_path: Path) -> None:
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    fill_the_disk(journal)
    with pytest.raises(JournalError):
        journal.opened(open_record(1))
    # The name of the next segment is taken: a new one can't be begun either.
    blocker = tmp_path / "journal" / "00000002.journal"
    blocker.touch()
    journal.retry()
    assert journal.fault
    blocker.unlink()
    journal.retry()
    assert journal.fault == ""


def test_open_calls_have_a_cap(start: Opener) -> None:
    journal = start(limits=JournalLimits(open_calls=2))
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    journal.opened(open_record(2))
    with pytest.raises(JournalFullError, match="2 calls are open"):
        journal.opened(open_record(3))
    journal.settled([settled_record(1)])
    journal.opened(open_record(3))


def test_unacknowledged_settlements_have_a_cap(start: Opener) -> None:
    journal = start(limits=JournalLimits(unacknowledged_bytes=20))
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    journal.settled([settled_record(1)])
    with pytest.raises(JournalFullError, match="not acknowledged"):
        journal.opened(open_record(2))
    journal.acknowledged(EPOCH, [1])
    journal.opened(open_record(2))


def test_nothing_is_readable_by_others(start: Opener, tmp_path: Path) -> None:
    start()
    directory = tmp_path / "journal"
    assert directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_a_session_number_used_again_begins_empty(start: Opener) -> None:
    """Another control plane, whose numbers begin again, gave a number that is owed here already."""
    journal = start()
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    journal.opened(open_record(2))
    journal.settled([settled_record(1, "old")])
    crash(journal)

    journal = start()
    journal.session_closed(EPOCH)
    assert (journal.open_calls, journal.unacknowledged_bytes) == (0, 0)
    journal.session_opened(EPOCH, 20, False)
    journal.opened(open_record(1))
    crash(journal)
    session = only(start())
    assert (session.unacknowledged, list(session.open), session.last_n) == ({}, [1], 1)
