"""Growth in the journal: found again wherever the process died, never before it was written."""

import os
from pathlib import Path

import pytest
from msgspec import structs

from bursar.v1 import charges_pb2
from bursar_sidecar import journal_records as records
from bursar_sidecar.journal import Journal, JournalError
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_reading import Reading
from bursar_sidecar.journal_recovery import RecoveredSession, Recovery
from bursar_sidecar.prior import priors_of

BOOT = "boot-1"
EPOCH, PLATFORM_EPOCH = 7, 8
OPENED = records.Opened(
    parts=(records.OpenPart(EPOCH, 1, (11, 12)), records.OpenPart(PLATFORM_EPOCH, 1, (13,))),
    reserved_nanos=500,
    key_id=3,
    provider="openai",
    model="gpt-4o-mini",
    requested_model="gpt-4o-mini",
    price_version="builtin@1",
    customer="ada",
    app="curl/8",
    run="r1",
    tags=("a:b",),
    stream=True,
    admitted_at=1_700_000_000_000_000_000,
)
LIVE = (
    records.SessionRow(EPOCH, 20, False, 0, "live"),
    records.SessionRow(PLATFORM_EPOCH, 1, True, 0, "live"),
)


def grown(nanos: int) -> records.Opened:
    return structs.replace(OPENED, reserved_nanos=nanos)


def begin(path: Path, limits: JournalLimits | None = None) -> Journal:
    journal = Journal(path, boot_id=BOOT, limits=limits or JournalLimits())
    if not journal.recovered:
        journal.session_opened(EPOCH, 20, platform=False)
        journal.session_opened(PLATFORM_EPOCH, 1, platform=True)
        journal.opened(OPENED)
    return journal


def crash(journal: Journal) -> None:
    sync = journal._sync
    sync._stopping.set()
    sync._wake.set()
    assert sync._thread is not None
    sync._thread.join()
    for fd in journal._locks:
        os.close(fd)


def reserved(sessions: tuple[RecoveredSession, ...]) -> list[int]:
    return [opened.reserved_nanos for one in sessions for _, opened in one.open.values()]


def test_the_latest_growth_is_what_a_crash_leaves(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.grown(grown(700))
    journal.grown(grown(900))
    crash(journal)
    again = begin(tmp_path)
    assert reserved(again.recovered) == [900, 900]
    crash(again)
    third = begin(tmp_path)
    assert reserved(third.recovered) == [900, 900]
    charges = [charge for _, charges in priors_of(third, 1) for charge in charges]
    crash(third)
    told = [charges_pb2.Settlement.FromString(charge.message) for charge in charges]
    assert [(t.reserved_nanos, t.cost_nanos, t.kind) for t in told] == [
        (900, 900, charges_pb2.SETTLEMENT_KIND_PROVISIONAL)
    ] * 2


def test_wherever_the_process_dies_no_more_and_no_less_is_recovered() -> None:
    parts = ((EPOCH, 1), (PLATFORM_EPOCH, 1))
    frames = [
        records.encode(each)
        for each in (
            records.Header(records.FORMAT_VERSION, BOOT, LIVE),
            OPENED,
            records.Grown(parts, 700),
            records.Grown(parts, 900),
        )
    ]
    ends = [len(b"".join(frames[: count + 1])) for count in range(len(frames))]
    data = b"".join(frames)
    for cut in range(ends[0], len(data) + 1):
        recovery = Recovery()
        unproven: set[int] = set()
        recovery.read_segment(data[:cut], BOOT, unproven)
        assert not unproven, "a record cut short by the death of its process is no loss"
        whole = sum(cut >= end for end in ends[1:])
        assert reserved(recovery.sessions()) == [0, 500, 700, 900][whole : whole + 1] * (
            2 if whole else 0
        )


def test_reading_twice_or_in_another_order_changes_nothing() -> None:
    parts = ((EPOCH, 1), (PLATFORM_EPOCH, 1))
    header = records.encode(records.Header(records.FORMAT_VERSION, BOOT, LIVE))
    old = header + records.encode(OPENED) + records.encode(records.Grown(parts, 900))
    new = header + records.encode(grown(900)) + records.encode(records.Grown(parts, 1_000))
    for order in ([old, new], [new, old], [old, new, old], [new, header + records.encode(OPENED)]):
        recovery = Recovery()
        for data in order:
            recovery.read_segment(data, BOOT, set())
        assert reserved(recovery.sessions()) == [1_000, 1_000]


def test_growth_of_a_call_that_is_not_open_means_nothing() -> None:
    header = records.encode(records.Header(records.FORMAT_VERSION, BOOT, LIVE))
    unknown = records.encode(records.Grown(((EPOCH, 1), (99, 4)), 900))
    recovery = Recovery()
    recovery.read_segment(header + unknown, BOOT, set())
    assert reserved(recovery.sessions()) == []


def test_a_new_segment_knows_of_growth_in_an_older_one(tmp_path: Path) -> None:
    journal = begin(tmp_path, JournalLimits(segment_bytes=100))
    for nanos in range(600, 1_600, 100):
        journal.grown(grown(nanos))
    assert (
        len(list(journal.directory.glob("*.journal"))) + len(list(journal.directory.glob("*.done")))
        > 1
    )
    crash(journal)
    last = sorted(tmp_path.glob("journal/*.journal"))[-1]
    recovery = Recovery()
    recovery.read_segment(last.read_bytes(), "", set())
    assert reserved(recovery.sessions()) == [1_500, 1_500]


def test_what_can_not_be_written_did_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begin(tmp_path)

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.grown(grown(900))
    with pytest.raises(JournalError, match="No space left"):
        journal.grown(grown(900))
    journal.retry()
    crash(journal)
    again = begin(tmp_path)
    assert reserved(again.recovered) == [500, 500]
    crash(again)


def test_the_caps_of_new_calls_do_not_keep_an_open_one_from_growing(tmp_path: Path) -> None:
    journal = begin(tmp_path, JournalLimits(open_calls=2))
    with pytest.raises(JournalError):
        journal.opened(OPENED)
    journal.grown(grown(900))
    crash(journal)


def test_the_reader_shows_growth_and_counts_it(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.grown(grown(700))
    crash(journal)
    reading = Reading(tmp_path / "journal", boot_id=BOOT)
    rows = [row for row in reading.rows() if row.kind == "grown"]
    assert [(row.session_epoch, row.n, row.reserved_nanos, row.checksum) for row in rows] == [
        (EPOCH, 1, 700, "ok"),
        (PLATFORM_EPOCH, 1, 700, "ok"),
    ]
    assert [(one.in_flight, one.in_flight_nanos) for one in reading.sessions()] == [
        (1, 700),
        (1, 700),
    ]
