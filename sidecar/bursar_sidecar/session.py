"""The session stream: the only speaker to the control plane.

One stream, connected for ever, with pauses that grow and vary. It says what the outboxes hold,
hears what the control plane says, and applies it to the book, the policy, the journal and the
prices. It decides nothing about a call: the cashier is told what changed.

In an outage nothing here fails: charges wait in the journal, calls go on with the money that is
held until the validity lapses, and everything is said again after the reconnect.
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import grpc
import structlog

from bursar.exchange import ExchangeRates
from bursar.pricing import PriceBook, snapshot
from bursar.v1 import allowances_pb2
from bursar_sidecar.allowances import Book, Waiter
from bursar_sidecar.channel import Connection, Dialer
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND, Clock
from bursar_sidecar.heard import word_of
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_records import Settled
from bursar_sidecar.outbox import Charge, Outbox
from bursar_sidecar.overlay import Overlay
from bursar_sidecar.pools import Leg
from bursar_sidecar.roster import Roster, StreamRestart

log = structlog.get_logger("bursar.session")

# Charges and reports gather so long before they are sent: the control plane's own tick is longer.
GATHER_S: Final = 0.02
# Under steady traffic a frame is sent so seldom: each costs both sides what a dozen charges cost.
# What is wanted at once (calls that wait, money that is asked for) does not wait for it.
STEADY_S: Final = 0.1
# A call that is behind others which have waited so long joins them in company, later by a part of
# that at most: it costs the line little, and frames are what a long line costs.
LONG_LINE_NS: Final = 400 * NANOS_PER_MS
PART_OF_WAIT: Final = 8
# A reconnect begins quickly, so that a restarted control plane is found within a tenth of a
# second, and never pauses longer than a call waits for money.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
# A stream that lived so long was sound: the next pause is short again.
SOUND_AFTER_NS: Final = 5 * NANOS_PER_SECOND
# How long a new stream may take to its Welcome.
WELCOME_TIMEOUT_S: Final = 10.0
# How often time is told to the book when calls wait (a window may begin, money may have to go
# home), and otherwise (windows end, a full disk may have room again).
WAITING_BEAT_S: Final = 0.05
IDLE_BEAT_S: Final = 0.5


class Listener(Protocol):
    """Who is told what concerns calls: the cashier."""

    def admitted(self, waiter: Waiter) -> None:
        """A waiting call got its money."""
        ...

    def judged(self, waiter: Waiter, verdict: allowances_pb2.Verdict) -> None:
        """The control plane answered a need otherwise than with money."""
        ...

    def policy_changed(self) -> None:
        """Keys or budgets changed."""
        ...


class Session:
    """The stream and everything it keeps current."""

    def __init__(
        self,
        dial: Dialer,
        clock: Clock,
        book: Book,
        identity: Identity,
        journal: Journal,
        *,
        build: str,
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._book = book
        self._identity = identity
        self._journal = journal
        self._build = build
        self._boot_id = uuid.uuid4().hex
        self._roster = Roster(clock, book, journal)
        self._overlay = Overlay()
        self.listener: Listener | None = None
        self.on_drain: Callable[[bool], None] = lambda wanted: None
        """Told whether the control plane wants the sidecar emptied."""
        self._is_drain_wanted = False
        self._is_renewed = False
        self._is_stopping = False
        self.connected = False
        self.last_fault = "it has not answered yet"
        """Why there is no stream, for people."""
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._changed = asyncio.Event()
        self._gathering = False
        self._gathered_at = 0.0
        """When it was last sent what had gathered, in the loop's time."""
        self._resting = False
        self.began = asyncio.Event()
        """Set once the budgets of the present sessions were told."""

    # -- what the cashier uses -----------------------------------------------------------------

    def prices(self) -> PriceBook:
        """The built-in prices, overlay and contracts in force now."""
        return self._overlay.book(self._clock.wall_ns())

    def exchange_rates(self) -> ExchangeRates:
        """What the control plane told of exchange rates."""
        return self._overlay.rates

    def fault(self, now: int) -> str:
        """Why nothing may be admitted now; "" when policy and allowances are valid."""
        return self._roster.fault(now, self.last_fault)

    def is_silent(self) -> bool:
        """Whether the control plane can't be expected to answer now."""
        return not self.connected or self._roster.is_silent(self._clock.boot_ns())

    def ask(self, waiter: Waiter) -> None:
        """Ask for the money a waiting call is short of: at once, unless it is behind others that
        have waited for long already; so much it can wait for company."""
        outboxes = self._roster.outboxes()
        for outbox in outboxes:
            outbox.ask(waiter)
        now = self._clock.boot_ns()
        behind_ns = max((outbox.unanswered_ns(now) for outbox in outboxes), default=0)
        if behind_ns >= LONG_LINE_NS and waiter.growing is None:
            self._gather(behind_ns / PART_OF_WAIT / NANOS_PER_SECOND)
        else:
            self._wake.set()
        if self._resting:
            self._beat.set()

    def withdraw(self, waiter: Waiter) -> None:
        """A call no longer waits."""
        for outbox in self._roster.outboxes():
            outbox.withdraw(waiter)
        self.touched()

    def resolve(self, key_hash: bytes) -> None:
        """Ask who a key is; at once."""
        if self._book.organization is not None:
            self._roster.outbox_of(self._book.organization).resolve([key_hash])
            self._wake.set()

    def charge(self, leg: Leg, charge: Charge) -> None:
        """Send a settlement of a call reserved in `leg`, until it is acknowledged: at once where
        somebody waits for what it leaves free, else soon, in company."""
        self._roster.charge(leg, charge)
        if any(pool.is_awaited for pool in charge.pools):
            self._wake.set()
        else:
            self.touched()

    def can_amend(self, epochs: Iterable[int]) -> bool:
        """Whether the control plane takes another word about a call of these sessions."""
        return all(self._roster.can_amend(epoch) for epoch in epochs)

    def amend(self, settlements: Iterable[Settled]) -> None:
        """Write evidence down about a call that was settled provisionally, and send it; only where
        its sessions can be amended."""
        for settled in settlements:
            self._roster.amend(settled.epoch, settled.n, settled.settlement)
        self.touched()

    def keep(self, epoch: int, until: int) -> None:
        """Let evidence about a session's calls come late, until this instant of `boot_ns`."""
        self._roster.keep(epoch, until)

    def touched(self) -> None:
        """Something changed that can be said a little later, in company."""
        self._gather(GATHER_S)

    def _gather(self, seconds: float) -> None:
        if not self._gathering:
            self._gathering = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time() + seconds, self._gathered_at + STEADY_S), self._gathered)

    def pump(self) -> None:
        """Let all start whose turn has come, while policy and allowances hold."""
        now = self._clock.boot_ns()
        if self.listener is not None and not self.fault(now):
            for waiter in self._book.admit(now):
                self.listener.admitted(waiter)

    def _gathered(self) -> None:
        self._gathering = False
        self._gathered_at = asyncio.get_running_loop().time()
        self._wake.set()

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the stream up until cancelled."""
        beat = asyncio.create_task(self._beats(), name="session-beat")
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                began = self._clock.boot_ns()
                try:
                    await self._converse()
                except (StreamRestart, grpc.RpcError, OSError) as error:
                    self.last_fault = _explain(error)
                    self._consider(error)
                finally:
                    self.connected = False
                    self._roster.lost()
                log.warning("stream_lost", fault=self.last_fault)
                if self._clock.boot_ns() - began >= SOUND_AFTER_NS:
                    pause_s = FIRST_PAUSE_S
                # Jitter: a thousand sidecars must not come back in the same instant.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        finally:
            beat.cancel()

    def stopping(self) -> None:
        """The process ends: sessions that evidence may come about are left for its next life to
        close, unless the sidecar is being emptied for good."""
        self._is_stopping = True

    async def close(self, timeout_s: float) -> bool:
        """Give all free money back and close the sessions; True once all of it was applied.

        Call it when no call is admitted any more. Sessions with open calls stay open.
        """
        outboxes = self._roster.outboxes()
        for outbox in outboxes:
            for pool in outbox.leg.pools.values():
                pool.give_back()
            outbox.report(outbox.leg.pools)
            is_left = self._is_stopping and not self._is_drain_wanted
            if is_left and self._roster.is_kept(outbox.leg.epoch):
                continue
            if not outbox.leg.open_count:
                outbox.closes.append((outbox.leg.epoch, outbox.leg.last_n))
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not all(outbox.is_settled for outbox in outboxes):
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return False

    async def _beats(self) -> None:
        """Tell the time: to the lines, to the journal after a fault, to windows that end."""
        since_wake_s = 0.0
        while True:
            self._resting = not self._book.waiters
            try:
                beat_s = IDLE_BEAT_S if self._resting else WAITING_BEAT_S
                async with asyncio.timeout(beat_s):
                    await self._beat.wait()
                self._beat.clear()  # somebody began to wait: beat fast from now on
            except TimeoutError:
                self._journal.retry()
                if self._book.waiters:
                    self._serve_lines()
                since_wake_s += beat_s
                if since_wake_s >= IDLE_BEAT_S:
                    since_wake_s = 0.0
                    self._wake.set()

    def _serve_lines(self) -> None:
        """Time passed for those who wait: start them, send useless money home, ask again."""
        self._book.rouse()
        self.pump()
        if self.connected:
            for leg, pool in self._book.stuck_pools(self._clock.boot_ns()):
                pool.give_back()
                self._roster.outbox_of(leg).report([pool.window_id])
                self._wake.set()
        for outbox in self._roster.outboxes():
            for waiter in list(self._book.waiters.values()):
                outbox.ask(waiter)
            if outbox.has_news:
                self.touched()

    def _consider(self, error: BaseException) -> None:
        """A Hello that was refused because of earlier lives must not keep this one from working."""
        if isinstance(error, grpc.RpcError) and not self.connected:
            details = error.details() or ""
            if (
                error.code() is grpc.StatusCode.INVALID_ARGUMENT
                and "hello.prior_sessions" in details
            ):
                self._roster.disown(details)

    # -- one stream ----------------------------------------------------------------------------

    async def _converse(self) -> None:
        """One stream from Hello to its end. Raises what ended it."""
        hello = allowances_pb2.Hello(
            boot_id=self._boot_id,
            build=self._build,
            prior_sessions=self._roster.prior_sessions(),
            session_proofs=self._roster.session_proofs(),
            price_snapshot_version=snapshot().version,
            price_overlay_version=self._overlay.version,
        )
        sent_at = self._clock.boot_ns()
        self._is_drain_wanted = False
        async with self._dial() as connection:
            await connection.write(allowances_pb2.SidecarFrame(hello=hello))
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                first = await connection.read()
            if not first.HasField("welcome"):
                raise StreamRestart("the control plane did not begin with a Welcome")
            self._hear(first, sent_at)
            self.connected = True
            sender = asyncio.create_task(self._send(connection), name="session-sender")
            reader = asyncio.create_task(self._listen(connection, sent_at), name="session-reader")
            try:
                await asyncio.wait((sender, reader), return_when=asyncio.FIRST_COMPLETED)
                if not reader.done():
                    # The reader is told why a stream ended, the sender only that it did.
                    await asyncio.wait((reader,), timeout=1)
            finally:
                both = [reader, sender]
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
            for task in both:
                if not task.cancelled():
                    task.result()

    async def _send(self, connection: Connection) -> None:
        while True:
            now = self._clock.boot_ns()
            self._roster.top_up()
            for outbox in self._roster.welcomed():
                if now - outbox.last_sent_at >= self._roster.valid_for_ms * NANOS_PER_MS // 3:
                    outbox.keep_alive()
                while (frame := outbox.compose(self._book, now)) is not None:
                    is_left = outbox.has_news  # did not fit into one frame
                    await connection.write(frame)
                    if not is_left:
                        break  # what came during the write gathers company: its own wake comes
            # Woken by the beat at the latest, twice a second: keep-alives need no timer.
            await self._wake.wait()
            self._wake.clear()

    async def _listen(self, connection: Connection, hello_sent_at: int) -> None:
        # Each of our frames is answered; silence over two keep-alives means a dead peer.
        silence_s = self._roster.valid_for_ms * 2 / 3 / 1000
        while True:
            async with asyncio.timeout(silence_s):
                frame = await connection.read()
            self._hear(frame, hello_sent_at)

    # -- hearing -------------------------------------------------------------------------------

    def _hear(self, frame: allowances_pb2.ControlFrame, hello_sent_at: int) -> None:
        """Apply one frame of the control plane. Raises StreamRestart."""
        now = self._clock.boot_ns()
        if frame.HasField("welcome"):
            self._roster.welcome(frame.welcome, hello_sent_at)
        if frame.HasField("drain"):
            self._is_drain_wanted = not frame.drain.over
            self.on_drain(self._is_drain_wanted)
            self._check_renewed()
        outbox = self._roster.at(frame.session_epoch)
        if outbox is None:
            return
        leg = outbox.leg
        self._roster.acknowledge(outbox.applied(frame.applied_seq))
        self._roster.prolong(leg)
        if frame.HasField("policy"):
            self._policy(outbox, frame.policy, now)
        for allowance in frame.allowances:
            word = word_of(allowance)
            pool = self._book.hear(leg, word, sent_at=outbox.applied_at, received_at=now)
            if pool.is_awaited and pool.free_nanos > 0:
                self._wake.set()
        if frame.HasField("prices") and not leg.platform:
            self._overlay.hear(frame.prices)
        # Before recalls: what was lent for a call that waits is not what lies idle.
        for verdict in frame.verdicts:
            self._verdict(outbox, verdict, now)
        for recall in frame.recalls:
            self._recall(outbox, recall)
        if frame.HasField("fence"):
            self._begin_anew()
            raise StreamRestart(f"the session was fenced: {frame.fence.reason}")
        if frame.HasField("redirect"):
            raise StreamRestart(f"the control plane goes away to {frame.redirect.address}")
        self.pump()
        if outbox.has_news:
            self.touched()
        self._changed.set()

    def renew(self) -> None:
        """Begin a new life, as soon as what is being heard now is done with: the present sessions
        are settled and closed."""
        self._is_renewed = True

    def _check_renewed(self) -> None:
        """Raises StreamRestart."""
        if self._is_renewed:
            self._is_renewed = False
            self._begin_anew()
            raise StreamRestart("it was drained and is let in again")

    def _begin_anew(self) -> None:
        """A new life: both sessions end with the old one."""
        self._roster.fence()
        self.began.clear()
        self._boot_id = uuid.uuid4().hex

    def _policy(self, outbox: Outbox, delta: allowances_pb2.PolicyDelta, now: int) -> None:
        leg = outbox.leg
        first = not self._roster.is_fresh(leg)
        identity = self._identity
        if leg.platform:
            identity.apply_platform(delta, whole=first)
        else:
            if first:
                trusted_until = leg.valid_until if leg.policy_known else now
                outbox.resolve(identity.begin_generation(trusted_until))
            identity.apply(delta, leg.organization, leg.organization_id, leg.currency, now)
        if first and not leg.platform:
            # A stream that has not asked for it by now does not want it.
            self.on_drain(self._is_drain_wanted)
            self._check_renewed()
        if first:
            self._roster.told_policy(leg)
            if not self.fault(now):
                self.began.set()
        for budget_id in delta.removed_budget_ids:
            outbox.report(pool.window_id for pool in leg.close_budget(budget_id))
            self._book.touch(budget_id)
        for budget in delta.budgets:
            leg.reopen_budget(budget.budget_id)
            self._book.touch(budget.budget_id)
        # The platform's budgets are in force at once, keys once all have been told again.
        if leg.platform or identity.is_current:
            outbox.policy_ack = (delta.policy_version, leg.last_n)
        if self.listener is not None:
            self.listener.policy_changed()

    def _recall(self, outbox: Outbox, recall: allowances_pb2.Recall) -> None:
        pool = outbox.leg.pools.get(recall.budget_window_id)
        if pool is not None:
            pool.give_back(recall.amount_nanos or None)
            pool.tail = pool.tail or recall.tail
            outbox.report([pool.window_id])
            self._wake.set()

    def _verdict(self, outbox: Outbox, verdict: allowances_pb2.Verdict, now: int) -> None:
        waiter = outbox.answered(verdict.need_id)
        listener = self.listener
        if waiter is None or listener is None:
            return
        clamped = verdict.outcome == allowances_pb2.NEED_OUTCOME_CLAMPED
        if clamped or verdict.outcome == allowances_pb2.NEED_OUTCOME_GRANTED:
            if self.fault(now):
                return  # the money stays in the pool; the line is looked at when all is well
            for started in self._book.admit_granted(waiter, now, clamped=clamped):
                listener.admitted(started)
        else:
            listener.judged(waiter, verdict)


def _explain(error: BaseException) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details() or 'no details'}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__
