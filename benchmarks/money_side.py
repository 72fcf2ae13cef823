"""A sidecar without HTTP: its real session, cashier, book, outbox and roster.

The journal writes to memory: a hundred of them in one process would measure its disk.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.spending import Offer, Serve, Tally
from bursar.usage import Usage
from bursar_sidecar import journal
from bursar_sidecar.allowances import Book
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.channel import Dialer
from bursar_sidecar.clock import Clock
from bursar_sidecar.desk import Call, Outcome, Refusal
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.session import Session
from tests.simulation import driving
from tests.simulation.disk import Disk, DiskPath

MODEL = "gpt-4o-mini"
BEGIN_AT_A_TIME = 10
"""Sessions: how a herd of them fares is measured elsewhere."""


class MoneySide:
    """One of them; `session.run()` is the caller's to start, inside `journals_in_memory`."""

    def __init__(self, number: int, dial: Dialer, clock: Clock) -> None:
        self.clock = clock
        directory: Any = DiskPath(Disk(), "")
        self.journal = Journal(directory, boot_id=f"machine-{number}", limits=JournalLimits())
        self.book = Book()
        identity = Identity()
        self.session = Session(dial, clock, self.book, identity, self.journal, build="benchmark/1")
        self.cashier = Cashier(
            clock, self.book, identity, self.journal, self.session, reserve_wait_ms=2_000
        )

    async def call(self, key: str, ceiling_nanos: int) -> Call:
        """A call about to be reserved. Raises Refusal."""
        spender = await self.cashier.identify(key)
        return Call(
            spender, "openai", MODEL, MODEL, ceiling_nanos, ceiling_nanos,
            price_version="builtin@1", started_at=self.clock.wall_ns(),
        )  # fmt: skip

    def outcome(self, cost_nanos: int) -> Outcome:
        """The end of a call."""
        return Outcome("final", Usage(), cost_nanos, finished_at=self.clock.wall_ns())


@contextmanager
def journals_in_memory() -> Iterator[None]:
    """Journals made inside are bytes in memory."""
    stand_ins = [(name, new) for module, name, new in driving._stand_ins() if module is journal]
    before = [(name, getattr(journal, name)) for name, _ in stand_ins]
    for name, stand_in in stand_ins:
        setattr(journal, name, stand_in)
    try:
        yield
    finally:
        for name, value in before:
            setattr(journal, name, value)


def serving(sides: Sequence[MoneySide], key: str) -> Serve:
    """Calls at their cashiers."""

    async def serve(offer: Offer, tally: Tally) -> None:
        side = sides[offer.sidecar]
        try:
            hold = await side.cashier.reserve(await side.call(key, offer.ceiling_nanos))
        except Refusal as refusal:
            tally.refuse(refusal.reason, asyncio.get_running_loop().time())
            return
        tally.admitted(offer.ceiling_nanos)
        await asyncio.sleep(offer.duration_s)
        side.cashier.settle(hold, side.outcome(offer.cost_nanos))
        tally.finished(offer.ceiling_nanos, offer.cost_nanos)

    return serve


async def begun(sides: Sequence[MoneySide]) -> "list[asyncio.Task[None]]":
    """Start their sessions, some at a time; returns once each was told its budgets."""
    tasks = []
    for first in range(0, len(sides), BEGIN_AT_A_TIME):
        some = sides[first : first + BEGIN_AT_A_TIME]
        tasks += [asyncio.create_task(side.session.run()) for side in some]
        for side in some:
            await side.session.began.wait()
    return tasks


async def ended(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """Stop them as a crash does; a fault of theirs is raised."""
    for task in tasks:
        task.cancel()
    for fault in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(fault, BaseException) and not isinstance(fault, asyncio.CancelledError):
            raise fault
