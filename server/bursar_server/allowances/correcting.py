"""Posting the corrections of accepted re-ratings, in bounded steps between the writer's ticks.

What is to be posted was decided and written down when the re-rating was accepted. A step takes its
next lines, posts them and takes them off the list in one transaction, under the writer's turn and
its check of the shard: each is posted once, and a crash goes on where it was. A correction moves
what is settled in the windows of its call, closed ones too; like every later difference of a
charge, what it adds is overrun, for nothing was lent for it.
"""

import asyncio
import contextlib
from datetime import datetime
from typing import Final

import asyncpg
import structlog

from bursar_server.allowances import metrics, store
from bursar_server.allowances.records import EventRow
from bursar_server.allowances.rules import MOST_BALANCE
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.writer import CONTENT_FAULTS, Writer
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.queries import Queries
from bursar_server.errors import BursarError

log = structlog.get_logger(__name__)

q = Queries.load("bursar_server.allowances", "correcting.sql")

MOST_LINES: Final = 200
"""Corrections of one step: about ten milliseconds, in which nobody else's charges are posted."""


class Corrector:
    """Posts what was accepted; a task of the process that owns the shard."""

    def __init__(self, pool: Pool, writer: Writer, clock: Clock, settings: LendingSettings) -> None:
        self._pool = pool
        self._writer = writer
        self._clock = clock
        self._settings = settings
        self._wake = asyncio.Event()
        self._applied: dict[tuple[int, int], list[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "asyncio.Task[None]":
        """Begin with what a process before left."""
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="corrector")
        return self._task

    async def stop(self) -> None:
        """End; a step that runs is undone, and the next process goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def rerating_applied(self, organization_id: int, rerating_id: int) -> None:
        """Wait until an accepted re-rating is posted whole, at most `apply_wait_ms`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applied.setdefault((organization_id, rerating_id), []).append(done)
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.apply_wait_ms / 1000):
                await done

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            applied, self._applied = self._applied, {}
            for organization_id, rerating_id in await self._to_post():
                await self._post_all(organization_id, rerating_id)
            for waits in applied.values():
                for done in waits:
                    if not done.done():
                        done.set_result(None)

    async def _to_post(self) -> list[tuple[int, int]]:
        pause_ms = self._settings.retry_first_ms
        while True:
            try:
                async with transaction(self._pool, read_only=True) as connection:
                    rows = await connection.fetch(q.reratings_to_post)
                return [(row["organization_id"], row["id"]) for row in rows]
            except BursarError as error:
                pause_ms = await self._pause(error, pause_ms)

    async def _post_all(self, organization_id: int, rerating_id: int) -> None:
        pause_ms = self._settings.retry_first_ms
        while True:
            try:
                async with self._writer.turn:
                    async with transaction(self._pool) as connection:
                        await self._writer.check(connection)
                        is_done = await self._step(connection, organization_id, rerating_id)
                    self._writer.committed()
            except BursarError as error:
                pause_ms = await self._pause(error, pause_ms)
                continue
            except CONTENT_FAULTS as fault:
                # On record, and tried again when somebody asks or the shard is taken again: it must
                # not keep the others from being posted.
                log.error("rerating_refused", rerating=rerating_id, fault=str(fault))
                return
            if is_done:
                log.info("rerating_applied", rerating=rerating_id)
                return
            pause_ms = self._settings.retry_first_ms

    async def _pause(self, error: BursarError, pause_ms: int) -> int:
        log.warning("rerating_retried", reason=error.reason, pause_ms=pause_ms)
        await asyncio.sleep(pause_ms / 1000)
        return min(pause_ms * 2, self._settings.retry_most_ms)

    async def _step(self, connection: Connection, organization_id: int, rerating_id: int) -> bool:
        """Post the next lines; whether that was the last of them."""
        now = self._clock.now()
        whose = (organization_id, rerating_id)
        await connection.execute(q.step_settings)
        rows = await connection.fetch(q.lines_to_post, *whose, MOST_LINES + 1)
        lines, is_done = rows[:MOST_LINES], len(rows) <= MOST_LINES
        if lines:
            events, overruns = await self._move(connection, lines, now)
            places = [row["place"] for row in lines]
            posted = await connection.fetch(
                q.post_corrections, *whose, places, overruns, now, places[0], places[-1]
            )
            if len(posted) != len(lines):
                raise RuntimeError(f"{len(posted)} of {len(lines)} corrections could be posted")
            await connection.execute(q.drop_lines, *whose, places[-1])
            if events:
                await store.save_events(connection, events, now)
            metrics.ENTRIES.inc(len(lines))
        await connection.execute(q.note_posted, *whose, len(lines), is_done, now)
        return is_done

    @staticmethod
    async def _move(
        connection: Connection, lines: list[asyncpg.Record], now: datetime
    ) -> tuple[list[EventRow], list[int]]:
        """Let the windows follow; returns the events of it, and the overrun of each line."""
        window_ids = {window for row in lines for window in row["budget_window_ids"]}
        books, windows = await store.open_books(connection, window_ids, (), ())
        currencies: dict[int, str] = {}
        overruns: list[int] = []
        for row in lines:
            amount, drawn = row["amount_nanos"], row["budget_window_ids"]
            for window_id in drawn:
                currencies[window_id] = row["currency"]
                window = books.windows[window_id]
                before = window.settled
                books.adjust((window_id,), amount)
                if not (window.hard or window.shadow) and before <= window.limit < window.settled:
                    window.crossed = True
            for window_id in row["would_refuse_window_ids"] or ():
                window = books.windows[window_id]
                room = MOST_BALANCE - window.would_refuse_nanos
                window.would_refuse_nanos += min(amount, room)
                window.changed = True
            is_hard = any(books.windows[window_id].hard for window_id in drawn)
            overruns.append(max(0, amount) if is_hard else 0)
        await store.save_books(connection, books, windows, now)
        events = [
            EventRow(
                organization_id=windows[window.id].organization_id,
                kind="soft_limit_crossed",
                budget_id=window.budget_id,
                budget_window_id=window.id,
                summary="corrected prices took the spend of a soft budget over its limit",
                amount_nanos=window.settled,
                currency=currencies[window.id],
            )
            for window in books.windows.values()
            if window.crossed
        ]
        return events, overruns
