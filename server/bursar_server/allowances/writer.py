"""The one writer of balances: gathers frames, applies them tick by tick, tells what was committed.

Only the process that owns the shard writes; every transaction checks it. A transaction that fails
because the database is away is tried again for ever: its frames are facts. One that fails by its
own content is taken apart, first without lending, then frame by frame; a frame that fails alone is
set aside raw, acknowledged and counted, so that it never stops the shard.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import asyncpg
import structlog

from bursar.v1 import allowances_pb2
from bursar_server.allowances import healing, life, messages, metrics, restoring, rules, store
from bursar_server.allowances.frames import Frame
from bursar_server.allowances.healing import Rewound
from bursar_server.allowances.hub import Hub, LiveSession
from bursar_server.allowances.proofs import Seal
from bursar_server.allowances.recalls import Recalls
from bursar_server.allowances.records import EventRow
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.step import FrameFault
from bursar_server.allowances.tick import Batch, Deposed, Outcome, Tick
from bursar_server.allowances.waiting import WaitingNeed
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import BursarError, unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

CONTENT_FAULTS = (
    FrameFault,
    rules.RuleViolation,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    RuntimeError,
)
"""Failures that come from what is applied, not from the database being away."""


class Writer:
    """The writer of one shard."""

    def __init__(
        self, pool: Pool, hub: Hub, clock: Clock, settings: LendingSettings, shard_id: int
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._tick = Tick(shard_id, hub, settings)
        self._inbox: asyncio.Queue[tuple[LiveSession, Frame]] = asyncio.Queue(
            settings.max_inbox_frames
        )
        self._waiting: list[WaitingNeed] = []
        self._changed_budgets: set[tuple[int, int]] = set()
        self._applied: dict[tuple[int, int], list[asyncio.Future[None]]] = {}
        self._resolutions: dict[int, list[asyncio.Future[None]]] = {}
        self._next_boundary: datetime | None = None
        """When time changes a limit next."""
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._beat_at_ms = 0
        """When time was last told to sessions; 0: not yet."""
        self._gathered_at_ms = 0
        """When the last transaction began."""
        self._recalls = Recalls(hub, settings)
        self._unheard = False
        """Whether a commit may have happened whose answer was lost, since grants were last told."""
        self.fault: Exception | None = None
        """Why nothing can be written here any more."""
        self._seal: Seal | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.turn = asyncio.Lock()
        """Held while a tick runs: who resumes a session takes it, so that no frame of the older
        stream is applied behind its back."""

    async def start(self) -> "asyncio.Task[None]":
        """Take the shard over and begin. Raises BursarError if the database is away.

        The task ends with an error (Deposed, or a fault of the program) when nothing can be
        written any more; the process must end then.
        """
        async with transaction(self._pool) as connection:
            owner = f"{socket.gethostname()}/{os.getpid()}"
            self._tick.owner_epoch = await store.take_shard(connection, self._tick.shard_id, owner)
            await self.served_ms(connection)  # the clock begins to run
            await restoring.skip_numbers(connection, healing.NUMBERS_SKIPPED, healing.SPREAD)
            stale = await store.budgets_with_stale_windows(connection, self._clock.now())
            self._resolutions = {id: [] for id in await store.unapplied_resolutions(connection)}
        self._changed_budgets.update(stale)
        # What time did meanwhile is looked for first.
        self._next_boundary = self._clock.now()
        self._wake.set()
        log.info("shard_taken", shard=self._tick.shard_id, owner_epoch=self._tick.owner_epoch)
        self._task = asyncio.create_task(self._run(), name="allowance-writer")
        return self._task

    async def stop(self) -> None:
        """Apply what is in the inbox, then end; give up when the database does not come back in
        `stop_wait_ms`. What is not applied is not acknowledged: sidecars say it again."""
        self._stopping = True
        self._urgent.set()
        self._wake.set()
        if self._task is not None:
            # Why it failed, if it did, was logged when it did.
            await asyncio.wait({self._task}, timeout=self._settings.stop_wait_ms / 1000)
            if not self._task.done():
                log.warning("writer_gave_up", effect="sidecars say again what was not applied")
                self._task.cancel()
                await asyncio.wait({self._task})

    async def submit(self, session: LiveSession, frame: Frame) -> None:
        """Hand a frame in; waits while the inbox is full."""
        await self._inbox.put((session, frame))
        if frame.needs or self._waiting:
            self._urgent.set()
        self._wake.set()

    def budget_changed(self, organization_id: int, budget_id: int) -> None:
        """A budget's limit or life changed: apply it in the next tick."""
        self._changed_budgets.add((organization_id, budget_id))
        self._urgent.set()
        self._wake.set()

    async def budget_applied(self, organization_id: int, budget_id: int) -> None:
        """Wait until a committed change of a budget holds for its windows, at most `apply_wait_ms`:
        it is durable, so that a slow database makes it late, not lost."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applied.setdefault((organization_id, budget_id), []).append(done)
        self.budget_changed(organization_id, budget_id)
        await self._at_most_apply_wait(done)

    async def resolution_applied(self, resolution_id: int) -> None:
        """Wait until a recorded decision about a session is applied, at most `apply_wait_ms`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resolutions.setdefault(resolution_id, []).append(done)
        self._urgent.set()
        self._wake.set()
        await self._at_most_apply_wait(done)

    async def _at_most_apply_wait(self, done: "asyncio.Future[None]") -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.apply_wait_ms / 1000):
                await done

    def session_gone(self, session_epochs: list[int]) -> None:
        """Their calls no longer wait here; they say so again when they come back."""
        gone = set(session_epochs)
        self._waiting = [n for n in self._waiting if n.session.session_epoch not in gone]
        self._recalls.forget(gone)

    async def _run(self) -> None:
        try:
            await self._take_turns()
        except Rewound:
            # What is kept here is of a state that is gone: the next process begins with what is.
            await self.note_lost_tail()
            raise

    async def note_lost_tail(self) -> None:
        """The database went back: write it down, so that sidecars send again what they keep."""

        async def work(connection: Connection) -> None:
            now, events = self._clock.now(), list[EventRow]()
            await healing.note(connection, self._tick.shard_id, events, now)
            await store.save_events(connection, events, now)

        await self._until_committed(work)
        metrics.LOST_TAILS.inc()

    async def _take_turns(self) -> None:
        while not (self._stopping and self._inbox.empty()):
            await self._gather()
            if self.fault is not None:
                raise self.fault
            async with self.turn:
                batch = self._take()
                if (
                    batch.frames
                    or batch.needs
                    or batch.changed_budgets
                    or batch.resolutions
                    or batch.boundary_due
                ):
                    await self._apply(batch)
                if not self._stopping:
                    await self.pass_time()

    async def pass_time(self) -> None:
        """Tell the time to sessions, when it is time to."""
        now_ms = self._clock.monotonic_ms()
        if self._beat_at_ms and now_ms - self._beat_at_ms < self._settings.life_beat_ms:
            return
        self._beat_at_ms = now_ms
        batch = Batch([], [], set(), [], passing=True)
        outcome = await self._commit(batch, lending=False)
        if outcome is None:
            return  # it was logged; facts are posted in other transactions
        self._tell(batch, outcome)
        if len(outcome.passed) >= self._settings.max_due_sessions:
            self._beat_at_ms = 0  # there are more
            self._wake.set()

    async def seal(self, connection: Connection) -> Seal:
        """What proves to sidecars what they are told."""
        if self._seal is None:
            key = await restoring.proof_key(connection, self._tick.shard_id)
            self._seal = Seal(key)
        return self._seal

    async def check(self, connection: Connection) -> None:
        """Before something is written by others than the writer, in its turn. Raises BursarError
        if this process may not write any more; it ends then."""
        try:
            await self._tick.check(connection)
        except (Deposed, Rewound) as fault:
            self.fault = fault
            self._urgent.set()
            self._wake.set()
            raise unavailable("this control plane can't lend any more", "LENDING_ENDS") from fault

    async def lost_tails(self, connection: Connection) -> int:
        """How often the database forgot a tail, if it did lately."""
        since = self._clock.now() - healing.ASKED_AGAIN
        return await restoring.lost_tails(connection, self._tick.shard_id, since)

    @property
    def shard_id(self) -> int:
        """The shard it writes."""
        return self._tick.shard_id

    def committed(self) -> None:
        """What was checked is committed."""
        self._tick.commits.committed()

    def cut_all(self) -> None:
        """A lost tail was found: every sidecar comes back, and is asked for what it keeps."""
        metrics.LOST_TAILS.inc()
        log.critical("ledger_tail_lost", effect="sidecars send again what they keep")
        for stream in self._hub.streams():
            stream.end("the database forgot what it had committed")

    async def served_ms(self, connection: Connection) -> int:
        """How long the shard was served until now."""
        return await self._tick.passing.served_ms(connection, self._clock.monotonic_ms())

    async def _gather(self) -> None:
        """Wait until there is work, then a little longer for company."""
        settings = self._settings
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s()):
                await self._wake.wait()
        if self._urgent.is_set():
            # What came during the last transaction has waited for company already.
            since_ms = self._clock.monotonic_ms() - self._gathered_at_ms
            await asyncio.sleep(max(0, settings.need_tick_ms - since_ms) / 1000)
        elif not self._stopping and self._inbox.qsize() < settings.max_tick_frames:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.idle_tick_ms / 1000):
                    await self._urgent.wait()
        self._gathered_at_ms = self._clock.monotonic_ms()
        self._urgent.clear()
        self._wake.clear()

    def _patience_s(self) -> float:
        """How long to wait for work."""
        waits = [self._settings.life_beat_ms / 1000]
        if self._waiting:
            waits.append(self._settings.recall_again_ms / 1000)
        if self._next_boundary is not None:
            left_s = (self._next_boundary - self._clock.now()).total_seconds()
            waits.append(min(max(left_s, 0.0), self._settings.boundary_look_ms / 1000))
        return min(waits)

    def _take(self) -> Batch:
        frames: list[tuple[LiveSession, Frame]] = []
        while len(frames) < self._settings.max_tick_frames and not self._inbox.empty():
            session, frame = self._inbox.get_nowait()
            # What an older stream of a resumed session still said is said again on the new one.
            if not session.superseded:
                frames.append((session, frame))
        if self._inbox.empty():
            self._hub.all_taken()
        else:
            self._urgent.set()
            self._wake.set()
        now_ms = self._clock.monotonic_ms()
        # Counted once: with thousands that wait, once a frame would be most of a tick.
        waiting_of = Counter(need.session.session_epoch for need in self._waiting)
        for session, frame in frames:
            self._hub.note(session, frame, now_ms)
            if frame.needs or frame.withdrawn:
                self._note_needs(session, frame, waiting_of, now_ms)
        changed, self._changed_budgets = self._changed_budgets, set()
        applied = [done for key in changed for done in self._applied.pop(key, ())]
        # A decision whose tick fails by its content is on record, and tried again when it is
        # asked for again or the shard is taken again: it must not stop every tick.
        resolutions, self._resolutions = self._resolutions, {}
        for waits in resolutions.values():
            applied += waits
        waiting, self._waiting = self._waiting, []
        due = self._next_boundary is not None and self._next_boundary <= self._clock.now()
        return Batch(frames, waiting, changed, applied, frozenset(resolutions), boundary_due=due)

    def _note_needs(
        self, session: LiveSession, frame: Frame, waiting_of: Counter[int], now_ms: int
    ) -> None:
        epoch = session.session_epoch
        if frame.withdrawn:
            withdrawn = frozenset(frame.withdrawn)
            before = len(self._waiting)
            self._waiting = [
                need
                for need in self._waiting
                if need.session.session_epoch != epoch or need.request.need_id not in withdrawn
            ]
            waiting_of[epoch] -= before - len(self._waiting)
        for request in frame.needs:
            room = (
                len(self._waiting) < self._settings.max_waiting_needs
                and waiting_of[epoch] < self._settings.max_waiting_needs_of_session
            )
            waiting_of[epoch] += 1
            wait_ms = min(request.wait_ms, self._settings.max_wait_ms) if room else 0
            self._waiting.append(WaitingNeed(session, request, now_ms + wait_ms))

    async def _apply(self, batch: Batch) -> None:
        outcome = await self._commit(batch, lending=True)
        if outcome is not None:
            if batch.changed_budgets or batch.boundary_due:
                self._next_boundary = outcome.next_boundary
            self._tell(batch, outcome)
            for done in batch.applied:
                if not done.done():
                    done.set_result(None)
            return
        # By its content, not by the database's health: take it apart.
        self._changed_budgets |= batch.changed_budgets
        if batch.boundary_due:
            # Not at once, lest it is all that is ever tried.
            look = timedelta(milliseconds=self._settings.boundary_look_ms)
            self._next_boundary = self._clock.now() + look
        if not batch.frames:
            # Nothing to set aside: the calls that waited are told to come again.
            for need in batch.needs:
                messages.contended(need, self._settings.contended_retry_ms)
            return
        self._waiting = batch.needs + self._waiting
        self._urgent.set()
        self._wake.set()
        if len(batch.frames) > 1 and await self._commit_facts(batch.frames):
            return
        for session, frame in batch.frames:
            if not await self._commit_facts([(session, frame)]):
                await self._set_aside(session, frame)

    async def _commit_facts(self, frames: list[tuple[LiveSession, Frame]]) -> bool:
        batch = Batch(frames, [], set(), [])
        outcome = await self._commit(batch, lending=False)
        if outcome is None:
            return False
        self._tell(batch, outcome)
        return True

    async def _commit(self, batch: Batch, *, lending: bool) -> Outcome | None:
        """Apply in one transaction, again and again while the database is away.

        None: the content is at fault. Raises Deposed.
        """

        async def work(connection: Connection) -> Outcome | None:
            now, now_ms = self._clock.now(), self._clock.monotonic_ms()
            try:
                return await self._tick.apply(connection, batch, now, now_ms, lending=lending)
            except CONTENT_FAULTS as fault:
                raise FrameFault(str(fault)) from fault

        started = time.perf_counter()
        try:
            outcome = await self._until_committed(work)
        except FrameFault as fault:
            self._tick.forget()
            log.error("tick_refused", fault=str(fault), frames=len(batch.frames), lending=lending)
            return None
        metrics.TICK_SECONDS.observe(time.perf_counter() - started)
        self._tick.passing.committed(self._clock.monotonic_ms())
        self._tick.commits.committed()
        return outcome

    async def _until_committed(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        pause_ms = self._settings.retry_first_ms
        while True:
            try:
                async with transaction(self._pool) as connection:
                    return await work(connection)
            except BursarError as error:
                self._tick.forget()
                self._unheard = True
                metrics.RETRIES.inc()
                log.warning(
                    "tick_retried",
                    reason=error.reason,
                    cause=str(error.__cause__),
                    pause_ms=pause_ms,
                )
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, self._settings.retry_most_ms)

    async def _set_aside(self, session: LiveSession, frame: Frame) -> None:
        """Keep a frame raw that can't be applied, and acknowledge it."""

        async def work(connection: Connection) -> None:
            await store.quarantine(connection, session, frame.seq, frame.raw, self._clock.now())

        await self._until_committed(work)
        metrics.QUARANTINED.inc()
        log.error("frame_quarantined", session_epoch=session.session_epoch, seq=frame.seq)
        session.applied_seq = max(session.applied_seq, frame.seq)
        for report in frame.reports:
            # What it claims there is believed by nobody: the window may not even exist.
            self._hub.forget_report(session, report.window_id)
        session.send(allowances_pb2.ControlFrame())
        session.quarantined += 1
        if session.quarantined > self._settings.max_quarantined_of_stream:
            session.stream.end("too many of its frames could not be applied")

    def _tell(self, batch: Batch, outcome: Outcome) -> None:
        """Say what was committed: to each session one frame."""
        metrics.ENTRIES.inc(outcome.entry_count)
        metrics.DUPLICATES.inc(outcome.repeat_count)
        metrics.SHADOW_REFUSALS.inc(outcome.shadow_refusal_count)
        for event in outcome.events:
            if event.kind in metrics.OF_EVENTS:
                metrics.OF_EVENTS[event.kind].inc()
        outcome.unheard = self._unheard
        if outcome.lent:
            self._hub.note_tail(outcome.windows, outcome.tail)
            self._unheard = False
        now, now_ms = self._clock.now(), self._clock.monotonic_ms()
        self._waiting = [
            outcome.by_need[need.session_epoch, need.need_id] for need in outcome.decisions.waiting
        ] + self._waiting
        metrics.WAITING.set(len(self._waiting))
        recalls = self._recalls.due(outcome.recalls, now_ms)
        metrics.RECALLS.inc(len(recalls))
        for session, frame in batch.frames:
            session.applied_seq = max(session.applied_seq, frame.seq)
            for report in frame.reports:
                end_at = outcome.windows[report.window_id].end_at
                held = outcome.books.of(session.session_epoch, report.window_id).held
                if end_at is not None and end_at <= now and not held:
                    self._hub.forget_report(session, report.window_id)
        for session, message in messages.of_outcome(
            self._hub, batch, outcome, recalls, now, self._settings
        ):
            session.send(message)
        self._tell_fenced(outcome)
        if outcome.is_tail_lost:
            self.cut_all()

    def _tell_fenced(self, outcome: Outcome) -> None:
        """Sessions with a stream still that time, or a decision, ended must hear it: also those
        that it was not told because the answer to a commit was lost."""
        fenced = dict(outcome.fenced)
        for passed in outcome.passed:
            epoch = passed.row.session_epoch
            if passed.fenced:
                fenced[epoch] = life.SILENT
            if passed.held:
                kind = "session_lost" if passed.lost else "session_silent"
                log.warning(kind, session_epoch=epoch)
        for epoch, reason in fenced.items():
            live = self._hub.sessions.get(epoch)
            if live is not None:
                fence = allowances_pb2.Fence(reason=reason)
                live.send(allowances_pb2.ControlFrame(fence=fence))
