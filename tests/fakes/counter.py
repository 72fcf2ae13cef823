"""The money side of a sidecar without its data path: book, journal, session and cashier."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from bursar.usage import Usage
from bursar_sidecar.allowances import Book
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.channel import Dialer
from bursar_sidecar.clock import SystemClock
from bursar_sidecar.desk import Call, Outcome, Spender
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.session import Session

KEY = "bk-ada"
USAGE = Usage(input=8, output=68)


class ForwardClock(SystemClock):
    """The machine's clocks, plus what a test skipped."""

    def __init__(self) -> None:
        self.skipped_ns = 0

    def boot_ns(self) -> int:
        return super().boot_ns() + self.skipped_ns

    def skip(self, seconds: int) -> None:
        self.skipped_ns += seconds * 1_000_000_000


class Counter:
    """One life of it."""

    def __init__(
        self,
        dial: Dialer,
        directory: Path,
        *,
        reserve_wait_ms: int = 2_000,
        limits: JournalLimits | None = None,
        boot_id: str = "boot",
    ) -> None:
        self.clock = ForwardClock()
        self.journal = Journal(directory, boot_id=boot_id, limits=limits or JournalLimits())
        self.book = Book()
        self.identity = Identity()
        self.session = Session(
            dial, self.clock, self.book, self.identity, self.journal, build="test/1"
        )
        self.cashier = Cashier(
            self.clock,
            self.book,
            self.identity,
            self.journal,
            self.session,
            reserve_wait_ms=reserve_wait_ms,
        )
        self._task = asyncio.create_task(self.session.run())

    async def identify(self, api_key: str = KEY) -> Spender:
        return await self.cashier.identify(api_key)

    async def call(
        self, ceiling_nanos: int, *, spender: Spender | None = None, model: str = "gpt-4o-mini"
    ) -> Call:
        """A call of the key, about to be reserved."""
        return Call(
            spender=spender or await self.identify(),
            provider="openai",
            model=model,
            requested_model=model,
            ceiling_nanos=ceiling_nanos,
            least_nanos=ceiling_nanos,
            tags=("a:b",),
            customer="ada",
            app="curl/8",
            run="r1",
            price_version="builtin@1",
            started_at=self.clock.wall_ns(),
        )

    def outcome(self, cost_nanos: int) -> Outcome:
        return Outcome(
            kind="final",
            usage=USAGE,
            cost_nanos=cost_nanos,
            provider_request_id="chatcmpl-1",
            http_status=200,
            price_version="builtin@1",
            service_tier="flex",
            region="eu",
            priced_as="openai/gpt-4o-mini",
            finished_at=self.clock.wall_ns(),
        )

    async def spend(self, ceiling_nanos: int, cost_nanos: int) -> str:
        """One whole call; returns its charge id."""
        reservation = await self.cashier.reserve(await self.call(ceiling_nanos))
        return self.cashier.settle(reservation, self.outcome(cost_nanos)).charge_id

    async def crash(self) -> None:
        """What kill -9 does: nothing more is said or written, the lock is free."""
        await self._end()
        sync = self.journal._sync
        sync._stopping.set()
        sync._wake.set()
        assert sync._thread is not None
        sync._thread.join()
        for fd in self.journal._locks:
            os.close(fd)

    async def stop(self) -> bool:
        """An orderly shutdown; whether all was acknowledged."""
        self.session.stopping()
        settled = await self.cashier.drain(1, 5)
        await self._end()
        self.journal.close()
        return settled

    async def _end(self) -> None:
        # A fault of the session fails the test that caused it.
        if self._task.done():
            self._task.result()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def serving(counter: Counter) -> AsyncIterator[Counter]:
    """A life that ends with the test, by a crash."""
    try:
        yield counter
    finally:
        await counter.crash()
