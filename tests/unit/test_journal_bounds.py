"""The journal's directory stays within its named bound, however long it is written and whatever is
never acknowledged; and it refuses new calls before something could not be recorded."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar_sidecar import journal_records as records
from bursar_sidecar.journal import Journal, JournalFullError
from bursar_sidecar.journal_limits import JournalLimits
from tests.fakes.until import until

EPOCH = 7
CALLS = 4_000
LIMITS = JournalLimits(
    segment_bytes=8_000,
    unacknowledged_bytes=6_000,
    open_calls=20,
    open_bytes=4_000,
    live_segments=3,
    keep_bytes=20_000,
    sync_every_s=0,
)


def opened(n: int, app: str = "curl/8") -> records.Opened:
    return records.Opened(
        parts=(records.OpenPart(EPOCH, n, (11, 12)),), reserved_nanos=500, key_id=3,
        provider="openai", model="gpt-4o-mini", requested_model="openai/gpt-4o-mini",
        price_version="builtin@1", customer="ada", app=app, run="r1", tags=("a:b",), stream=True,
        admitted_at=1_700_000_000_000_000_000,
    )  # fmt: skip


def settled(n: int) -> records.Settled:
    return records.Settled(EPOCH, n, f"settlement {n} ".encode() * 8)


def admit(journal: Journal, n: int) -> None:
    """Open a call, once the disk has kept up if it must."""
    try:
        journal.opened(opened(n))
    except JournalFullError:
        # Its own thread alone syncs: two would close each other's files.
        until(lambda: journal._sync.behind < LIMITS.waiting_segments, "the disk keeps up")
        journal.opened(opened(n))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, boot_id="boot", limits=LIMITS)
    journal.session_opened(EPOCH, 20, False)
    yield journal
    journal.close()


def held(path: Path) -> int:
    """Bytes in the directory; a file that goes away meanwhile holds none."""
    total = 0
    for each in (path / "journal").iterdir():
        try:
            total += each.stat().st_size
        except FileNotFoundError:
            continue
    return total


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life_stays_within_the_bound_and_loses_nothing(
    journal: Journal, tmp_path: Path, seed: int
) -> None:
    """Calls open, end and are acknowledged in any order; the first is settled and never is."""
    rng = random.Random(seed)
    journal.opened(opened(1))
    journal.settled([settled(1)])
    open_now: list[int] = []
    owed: list[int] = []
    refused = most = 0
    n = 1
    while n < CALLS:
        step = rng.random()
        if step < 0.4:
            try:
                journal.opened(opened(n + 1))
            except JournalFullError:
                refused += 1
                step = 1.0
            else:
                n += 1
                open_now.append(n)
        if 0.4 <= step < 0.7 and open_now:
            done = open_now.pop(rng.randrange(len(open_now)))
            journal.settled([settled(done)])
            owed.append(done)
        elif step >= 0.7 and owed:
            rng.shuffle(owed)
            told, owed = owed[:8], owed[8:]
            journal.acknowledged(EPOCH, told)
        most = max(most, held(tmp_path))
        assert most <= LIMITS.most_bytes
        assert len(journal._paths) <= LIMITS.live_segments + 1
    assert refused, "no cap was met: the bound was not tried"
    assert journal.fault == ""
    assert most > LIMITS.most_bytes // 4, "the bound is far from what is held"

    journal.close()
    journal._locks.clear()
    (session,) = Journal(tmp_path, boot_id="boot", limits=LIMITS).recovered
    assert sorted(session.open) == sorted(open_now)
    assert sorted(session.unacknowledged) == sorted([1, *owed])
    assert all(session.unacknowledged[each] == settled(each).settlement for each in [1, *owed])


def test_one_settlement_that_nobody_acknowledges_keeps_no_segment(
    journal: Journal, tmp_path: Path
) -> None:
    for n in range(1, 1_000):
        admit(journal, n)
        journal.settled([settled(n)])
        if n > 1:
            journal.acknowledged(EPOCH, [n])
        assert len(journal._paths) <= LIMITS.live_segments + 1
    assert list(journal._unacknowledged) == [(EPOCH, 1)]


def test_open_records_have_a_cap_in_bytes(journal: Journal) -> None:
    """Each segment begins with them: else a few calls with long labels would fill one by one."""
    for n in range(1, 5):
        journal.opened(opened(n, app="x" * 1_000))
    with pytest.raises(JournalFullError, match="describe calls that are open"):
        journal.opened(opened(5))
    journal.settled([settled(1), settled(2)])
    journal.opened(opened(5))


def test_what_is_refused_is_refused_while_all_that_is_open_can_still_be_recorded(
    journal: Journal,
) -> None:
    """The caps are met by new calls only: those in flight settle, and are owed in full."""
    numbers = iter(range(1, 10_000))
    running = [next(numbers) for _ in range(10)]
    for n in running:
        journal.opened(opened(n))
    while journal.unacknowledged_bytes < LIMITS.unacknowledged_bytes:
        n = next(numbers)
        journal.opened(opened(n))
        journal.settled([settled(n)])
    with pytest.raises(JournalFullError, match="not acknowledged"):
        journal.opened(opened(next(numbers)))
    for n in running:
        journal.settled([settled(n)])
    assert journal.fault == ""
    owed = [n for _, n in journal._unacknowledged]
    assert set(running) <= set(owed)
    journal.acknowledged(EPOCH, owed)
    journal.opened(opened(next(numbers)))


def test_a_disk_that_falls_behind_stops_new_calls(journal: Journal) -> None:
    journal._sync.behind = LIMITS.waiting_segments
    with pytest.raises(JournalFullError, match="wait for the disk"):
        journal.opened(opened(1))
    journal._sync.behind = 0
    journal.opened(opened(1))
