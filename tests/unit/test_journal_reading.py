"""The journal's reader: every record told, sessions judged, damage placed, nothing touched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bursar.v1 import charges_pb2
from bursar_cli.__main__ import build_app
from bursar_sidecar import journal_records as records
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.journal_reading import (
    JournalReadError,
    JournalRow,
    Reading,
    SessionSummary,
)

BOOT = "boot-1"
EPOCH, PLATFORM_EPOCH = 7, 8
SEGMENT = "journal/00000001.journal"
NOON = 1_800_000_000_250_000_000


def open_record(n: int) -> records.Opened:
    return records.Opened(
        parts=(
            records.OpenPart(EPOCH, n, (11, 12)),
            records.OpenPart(PLATFORM_EPOCH, n, (13,)),
        ),
        reserved_nanos=500,
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
        admitted_at=NOON,
    )


def settled_record(epoch: int, n: int) -> records.Settled:
    settlement = charges_pb2.Settlement(
        session_epoch=epoch,
        n=n,
        kind=charges_pb2.SETTLEMENT_KIND_PROVISIONAL,
        budget_window_ids=[11, 12],
        reserved_nanos=500,
        cost_nanos=420,
        key_id=3,
        model="gpt-4o-mini",
    )
    settlement.finish_time.FromNanoseconds(NOON + 1_000_000_000)
    return records.Settled(epoch, n, settlement.SerializeToString())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A running sidecar's journal: two calls, the first settled in one of its two sessions."""
    running = Journal(tmp_path, boot_id=BOOT, limits=JournalLimits())
    running.session_opened(EPOCH, 20, False)
    running.session_opened(PLATFORM_EPOCH, 1, True)
    running.opened(open_record(1))
    running.opened(open_record(2))
    running.settled([settled_record(EPOCH, 1)])
    yield running
    running.close()


def read(path: Path, boot: str = BOOT) -> tuple[list[JournalRow], dict[int, SessionSummary]]:
    reading = Reading(path, boot_id=boot)
    rows = list(reading.rows())
    return rows, {session.session_epoch: session for session in reading.sessions()}


def test_a_running_journal_is_told_whole_and_left_alone(journal: Journal, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in journal.directory.iterdir()}
    rows, sessions = read(tmp_path)
    assert {path: path.read_bytes() for path in journal.directory.iterdir()} == before
    assert [(row.kind, row.session_epoch, row.n) for row in rows] == [
        ("header", 0, 0),
        ("session opened", EPOCH, 0),
        ("session opened", PLATFORM_EPOCH, 0),
        ("opened", EPOCH, 1),
        ("opened", PLATFORM_EPOCH, 1),
        ("opened", EPOCH, 2),
        ("opened", PLATFORM_EPOCH, 2),
        ("settled", EPOCH, 1),
    ]
    assert {row.checksum for row in rows} == {"ok"}
    assert {row.segment for row in rows} == {SEGMENT}
    opened, settled = rows[3], rows[-1]
    assert (opened.reserved_nanos, opened.window_ids) == (500, (11, 12))
    assert opened.time == "2027-01-15T08:00:00.250Z"
    assert (settled.cost_nanos, settled.outcome) == (420, "provisional")
    assert settled.time == "2027-01-15T08:00:01.250Z"
    assert (opened.model, settled.key_id) == ("gpt-4o-mini", 3)
    assert sessions[EPOCH] == SessionSummary(
        EPOCH, 20, False, "complete", 2, 2, 1, 0, owed=1, in_flight=1, in_flight_nanos=500,
        torn_at="",
    )  # fmt: skip
    assert (sessions[PLATFORM_EPOCH].in_flight, sessions[PLATFORM_EPOCH].platform) == (2, True)


def test_acknowledged_and_closed_sessions_owe_nothing(journal: Journal) -> None:
    journal.acknowledged(EPOCH, [1])
    journal.session_closed(PLATFORM_EPOCH)
    rows, sessions = read(journal.directory)
    assert rows[-2].kind == "acknowledged"
    assert (rows[-2].n, rows[-2].numbers) == (1, 1)
    assert rows[-1].kind == "session closed"
    assert (sessions[EPOCH].acknowledged, sessions[EPOCH].owed) == (1, 0)
    assert (sessions[PLATFORM_EPOCH].state, sessions[PLATFORM_EPOCH].in_flight) == ("closed", 0)


@pytest.mark.parametrize(
    ("damage", "checksum", "state"),
    [("torn", "cut short", "complete"), ("flipped", "wrong", "truncated")],
)
def test_damage_is_placed(journal: Journal, damage: str, checksum: str, state: str) -> None:
    path = journal.directory / "00000001.journal"
    whole = path.read_bytes()
    rows, _ = read(path)
    last = rows[-1].offset
    os.truncate(path, len(whole) - 1)
    if damage == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    rows, sessions = read(path)
    assert (rows[-1].kind, rows[-1].offset, rows[-1].checksum) == ("damaged", last, checksum)
    assert sessions[EPOCH].torn_at == f"00000001.journal:{last}"
    assert sessions[EPOCH].state == state
    assert (sessions[EPOCH].settled, sessions[EPOCH].in_flight) == (0, 2)


def test_after_another_boot_or_in_a_copy_the_tail_is_not_proven(
    journal: Journal, tmp_path: Path
) -> None:
    assert read(journal.directory, "boot-2")[1][EPOCH].state == "truncated"
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "00000001.journal").write_bytes((journal.directory / "00000001.journal").read_bytes())
    assert read(copy)[1][EPOCH].state == "truncated"


@pytest.mark.parametrize(("name", "told"), [("none", "does not exist"), ("", "holds no journal")])
def test_no_journal_is_said(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(JournalReadError, match=told):
        Reading(tmp_path / name, boot_id=BOOT)
    result = CliRunner().invoke(build_app(), ["sidecar", "journal", str(tmp_path / name)])
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize("form", ["table", "json", "csv", "yaml"])
def test_the_command_line_writes_it(journal: Journal, form: str) -> None:
    arguments = ["sidecar", "journal", str(journal.directory), "-o", form]
    for more, there in (([], True), (["--sessions"], False)):
        result = CliRunner().invoke(build_app(), [*arguments, *more])
        assert result.exit_code == 0, result.output
        assert ("gpt-4o-mini" in result.stdout) is there
        # Labels are read from the ledger, not from here.
        assert "ada" not in result.stdout
