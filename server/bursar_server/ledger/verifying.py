"""A verification, step by step: every entry by itself, then every balance against all entries.

It shares nothing with the code that posts: it knows the tables and what must hold in them. Entries
never change, so that their own checks need no common view: they are read in small ranges, each in a
transaction of its own. Balances are compared in one snapshot, which sums up the entries range by
range into a table of this transaction. So nobody is ever blocked, what the database must keep for
the sake of the snapshot (old versions of rows that change every tick) is bounded by one summing
pass, and neither side holds more than a range and the first differences in memory.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import msgspec

from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.ledger import verify_store as store
from bursar_server.ledger.rules import BALANCE_CHECKS, CHECKS, ENTRY_CHECKS, Check, format_charge_id

RANGE_SIZE: Final = 20_000
"""Entries of one statement: some tens of milliseconds, and a few megabytes."""
MOST_DIFFERENCES: Final = 100
"""Told of each check. More is no use to a reader: the first ones lead to the cause."""
MOST_EXPLAINED: Final = 10
"""Differences of one check whose entries are looked for: each may read a session again."""
MOST_ENTRIES_NAMED: Final = 5
"""Entries named behind one difference of a balance."""


class Found(msgspec.Struct):
    """What one check found, so far."""

    check: Check
    checked_count: int = 0
    difference_count: int = 0
    differences: list[str] = msgspec.field(default_factory=list)
    charge_ids: list[str] = msgspec.field(default_factory=list)
    """Of the entries that the differences name."""

    @property
    def room(self) -> int:
        """How many more differences are told."""
        return MOST_DIFFERENCES - len(self.differences)

    def note(self, difference: str, charge_ids: tuple[str, ...] = ()) -> None:
        """One more difference to tell."""
        self.differences.append(difference)
        self.charge_ids += [each for each in charge_ids if each not in self.charge_ids]


class Progress(msgspec.Struct, frozen=True):
    """How far it is. Every entry is read twice: by itself, and for the balances."""

    step: str
    read_count: int
    expected_count: int


class Outcome(msgspec.Struct, frozen=True):
    """What was found: every check, in the order of `rules.CHECKS`."""

    found: list[Found]
    entry_count: int
    as_of: datetime
    """When the snapshot was taken that the balances are of."""

    @property
    def ok(self) -> bool:
        """Whether all checks hold."""
        return not any(each.difference_count for each in self.found)


class Verifier:
    """Verifies one ledger after another: a second one waits for the first, and reads then."""

    def __init__(self, pool: Pool, clock: Clock, *, range_size: int = RANGE_SIZE) -> None:
        self._pool = pool
        self._clock = clock
        self._range_size = range_size
        self._turn = asyncio.Lock()

    async def verify(self, organization_id: int | None) -> AsyncGenerator[Progress | Outcome]:
        """Verify an organization's ledger, or (None) all; tells how far it is, the outcome last.

        Raises BursarError if the database can't be reached.
        """
        async with self._turn:
            found = {check.name: Found(check) for check in CHECKS}
            async with self._snapshot() as connection:
                expected = await store.entry_count(connection, organization_id)
            counted = 0
            yield Progress("entries", 0, 2 * expected)
            walk = _Walk(organization_id, self._range_size)
            while (count := await self._check_range(walk, found)) is not None:
                counted += count
                yield Progress("entries", counted, counted + max(expected, counted))
            async with self._snapshot() as connection:
                as_of = self._clock.now()
                await store.make_sums(connection)
                walk = _Walk(organization_id, self._range_size)
                read = counted
                while (place := await walk.next(connection)) is not None:
                    await store.sum_range(connection, place)
                    read = min(read + self._range_size, 2 * counted)
                    yield Progress("balances", read, 2 * counted)
                await store.know_sums(connection)
                await connection.execute(store.BALANCE_SETTINGS)
                for check in BALANCE_CHECKS:
                    yield Progress(check.name, 2 * counted, 2 * counted)
                    await _check_balances(connection, organization_id, found[check.name])
            yield Outcome(list(found.values()), counted, as_of)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with transaction(self._pool, snapshot=True) as connection:
            await connection.execute(store.RANGE_SETTINGS)
            yield connection

    async def _check_range(self, walk: "_Walk", found: Mapping[str, Found]) -> int | None:
        """Check the next entries by themselves; how many there were, or None at the end."""
        async with self._snapshot() as connection:
            place = await walk.next(connection)
            if place is None:
                return None
            count = 0
            for check in ENTRY_CHECKS:
                into = found[check.name]
                looked_at, wrong, faults = await store.check_range(
                    connection, check, place, into.room
                )
                into.checked_count += looked_at
                into.difference_count += wrong
                count = max(count, looked_at)
                if faults:
                    name = await store.organization_name(connection, place.organization_id)
                    for fault in faults:
                        charge_id = format_charge_id(fault.session_epoch, fault.n, fault.k)
                        into.note(f"{name} {charge_id}: {fault.fault}", (charge_id,))
            return count


class _Walk:
    """All entries, range by range, organization by organization."""

    def __init__(self, organization_id: int | None, range_size: int) -> None:
        self._only = organization_id is not None
        self._organization_id = organization_id
        self._after = _BEGINNING
        self._last_organization_id = 0
        self._range_size = range_size

    async def next(self, connection: Connection) -> store.Range | None:
        """The next range; None at the end."""
        if self._organization_id is None and not self._only:
            self._organization_id = await store.next_organization(
                connection, self._last_organization_id
            )
            self._after = _BEGINNING
        if self._organization_id is None:
            return None
        place, is_last = await store.next_range(
            connection, self._organization_id, self._after, self._range_size
        )
        self._after = (place.last_epoch, place.last_n)
        if is_last:
            self._last_organization_id, self._organization_id = self._organization_id, None
        return place


_BEGINNING: Final = (store.LEAST_NUMBER, store.LEAST_NUMBER)


async def _check_balances(connection: Connection, organization_id: int | None, into: Found) -> None:
    result = await store.check_balances(connection, into.check, organization_id, MOST_DIFFERENCES)
    into.checked_count, into.difference_count = result.checked_count, result.difference_count
    for number, difference in enumerate(result.told):
        behind: str = ""
        charge_ids: tuple[str, ...] = ()
        if number < MOST_EXPLAINED and difference.organization_id is not None:
            behind, charge_ids = await _explain(connection, difference)
        into.note(difference.difference + behind, charge_ids)


async def _explain(
    connection: Connection, difference: store.Difference
) -> tuple[str, tuple[str, ...]]:
    """What a difference leads to, in words that go on after it, and the charges it names."""
    assert difference.organization_id is not None  # asked by the caller
    organization_id, window_id = difference.organization_id, difference.budget_window_id
    sessions: dict[int, int | None] = {}
    if difference.session_epoch is not None:
        sessions[difference.session_epoch] = difference.off_nanos
    elif window_id is not None:
        sessions |= await store.sessions_behind(
            connection, organization_id, window_id, MOST_EXPLAINED
        )
    words: list[str] = []
    charge_ids: list[str] = []
    for session_epoch in sessions:
        for first, last in await store.missing_numbers(
            connection, organization_id, session_epoch, MOST_ENTRIES_NAMED
        ):
            gap = format_charge_id(session_epoch, first, 0)
            charge_ids.append(gap)
            if last > first:
                gap += f" to {format_charge_id(session_epoch, last, 0)}"
            words.append(f"{gap} not there")
    if difference.off_nanos is not None:
        places: list[tuple[int | None, int | None]] = list(sessions.items())
        for epoch, off in places or [(None, difference.off_nanos)]:
            entries = await store.entries_behind(
                connection, organization_id, epoch, window_id, off or 0, MOST_ENTRIES_NAMED
            )
            # One that is as large as the difference is what the reader looks for; without one, the
            # entries of the session are, but not those of everybody.
            explaining = [entry for entry in entries if entry.explains]
            for entry in explaining or (entries if epoch is not None else ()):
                charge_id = format_charge_id(entry.session_epoch, entry.n, entry.k)
                charge_ids.append(charge_id)
                words.append(f"{charge_id} of {entry.amount_nanos}")
    return (f"; look at {', '.join(words)}" if words else ""), tuple(charge_ids)
