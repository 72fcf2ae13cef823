"""What a sidecar says again to a control plane whose database forgot it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.v1 import allowances_pb2
from bursar_sidecar import journal_records as records
from bursar_sidecar.allowances import Book
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_kept import Kept
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.roster import Roster, StreamRestart

EPOCH, EARLIER = 17, 7


class Still:
    """A clock that stands."""

    def boot_ns(self) -> int:
        """Always now."""
        return 1_000_000_000

    def wall_ns(self) -> int:
        """Always today."""
        return 1_800_000_000_000_000_000

    def monotonic(self) -> float:
        """Always."""
        return 1.0


def opened(epoch: int, n: int) -> records.Opened:
    return records.Opened(
        (records.OpenPart(epoch, n, (11,)),), 500, 3, "openai", "m", "m", "v", "", "", "", (),
        False, 1_700_000_000_000_000_000,
    )  # fmt: skip


def spend(journal: Journal, epoch: int, *numbers: int) -> None:
    for n in numbers:
        journal.opened(opened(epoch, n))
        journal.settled([records.Settled(epoch, n, b"")])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal in which an earlier session is closed, all of it acknowledged."""
    limits = JournalLimits(segment_bytes=1_000)
    journal = Journal(tmp_path, boot_id="boot", limits=limits)
    journal.session_opened(EARLIER, 20, False, b"earlier")
    spend(journal, EARLIER, 1, 2)
    journal.acknowledged(EARLIER, [1, 2])
    journal.session_closed(EARLIER)
    yield journal
    journal.close()


def welcome(last_seq: int = 0, lost_tails: int = 0) -> allowances_pb2.Welcome:
    return allowances_pb2.Welcome(
        session_epoch=EPOCH, organization="organizations/acme", organization_id=20,
        currency="USD", last_seq=last_seq, valid_for_ms=30_000, proof=b"present",
        lost_tails=lost_tails,
    )  # fmt: skip


def roster_of(journal: Journal) -> Roster:
    clock: Any = Still()
    roster = Roster(clock, Book(), journal)
    roster.welcome(welcome(), 1)
    return roster


def charges(roster: Roster) -> list[tuple[int, int]]:
    roster.top_up()
    return [(c.epoch, c.n) for box in roster.outboxes() for c in box.charges]


def test_acknowledged_rows_are_found_in_done_segments_and_in_live_ones(journal: Journal) -> None:
    journal.session_opened(EPOCH, 20, False, b"present")
    spend(journal, EPOCH, *range(1, 30))
    journal.acknowledged(EPOCH, range(1, 30))
    journal._sync._once()
    assert list(journal.directory.glob("*.done"))
    kept = Kept(journal.directories)
    assert {e: (s.last_n, s.proof) for e, s in kept.sessions.items()} == {
        EARLIER: (2, b"earlier"), EPOCH: (29, b"present"),
    }  # fmt: skip
    found = {(s.epoch, s.n) for s in kept.settlements()}
    assert found == {(EARLIER, 1), (EARLIER, 2), *((EPOCH, n) for n in range(1, 30))}


def test_a_segment_that_is_done_after_it_was_listed_is_read_all_the_same(journal: Journal) -> None:
    kept = Kept(journal.directories)
    for path in journal.directory.glob("*.journal"):
        path.rename(path.with_suffix(".done"))
    assert [(s.epoch, s.n) for s in kept.settlements()] == [(EARLIER, 1), (EARLIER, 2)]


def test_nothing_is_said_again_while_nothing_was_forgotten(journal: Journal) -> None:
    roster = roster_of(journal)
    roster.lost()
    roster.welcome(welcome(), 1)
    assert charges(roster) == []


def test_a_lost_tail_is_answered_with_all_that_is_kept(journal: Journal) -> None:
    roster = roster_of(journal)
    spend(journal, EPOCH, 1)
    journal.acknowledged(EPOCH, [1])
    roster.lost()
    with pytest.raises(StreamRestart, match="named first"):
        roster.welcome(welcome(lost_tails=1), 1)
    named = roster.prior_sessions()
    assert [(p.session_epoch, p.last_n, p.proof) for p in named] == [(EARLIER, 2, b"earlier")]
    assert roster.session_proofs() == [b"present"]
    roster.welcome(welcome(lost_tails=1), 1)
    assert charges(roster) == [(EARLIER, 1), (EARLIER, 2), (EPOCH, 1)]
    (outbox,) = roster.outboxes()
    assert list(outbox.closes) == [(EARLIER, 2)]


def test_it_is_said_once_for_each_lost_tail(journal: Journal) -> None:
    roster = roster_of(journal)
    with pytest.raises(StreamRestart):
        roster.welcome(welcome(lost_tails=3), 1)
    roster.prior_sessions()
    roster.welcome(welcome(lost_tails=3), 1)
    roster.top_up()
    for box in roster.outboxes():
        box.charges.clear()
    roster.welcome(welcome(lost_tails=3), 1)
    assert charges(roster) == []


def test_a_frame_that_is_not_applied_any_more_tells_it_too(journal: Journal) -> None:
    roster = roster_of(journal)
    (outbox,) = roster.outboxes()
    outbox.seq = 5
    with pytest.raises(StreamRestart, match="named first"):
        roster.welcome(welcome(last_seq=3), 1)


def test_what_no_disk_took_before_it_was_acknowledged_is_kept(journal: Journal) -> None:
    journal.session_opened(EPOCH, 20, False, b"present")
    journal.opened(opened(EPOCH, 1))
    row = records.Settled(EPOCH, 1, b"cost")
    journal._unwritten[EPOCH, 1] = records.encode(row)
    journal._unacknowledged[EPOCH, 1] = (records.encode(row), journal._number)
    journal._owed[journal._number] += 1
    journal.acknowledged(EPOCH, [1])
    kept = Kept(journal.directories, journal.late)
    assert row in list(kept.settlements())
    journal.fault = "full"
    journal.retry()
    assert journal.late == b""
    assert row in list(Kept(journal.directories).settlements())


def test_sessions_the_other_side_refuses_are_not_spoken_of_again(journal: Journal) -> None:
    roster = roster_of(journal)
    with pytest.raises(StreamRestart):
        roster.welcome(welcome(lost_tails=1), 1)
    roster.prior_sessions()
    roster.welcome(welcome(lost_tails=1), 1)
    roster.top_up()
    roster.disown("hello.prior_sessions: not ours")
    (outbox,) = roster.outboxes()
    assert (list(outbox.charges), list(outbox.closes)) == ([], [])
