"""A control plane in memory: lends by the rules, and does what a test tells it.

It speaks the session stream to whoever dials: in the same process through `dial`, or over a real
gRPC server through `serving`. It keeps a ledger of what was settled, and checks what the real one
checks: numbers without gaps, settlements that are the same when they come again.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from bursar.v1 import allowances_pb2, allowances_pb2_grpc, charges_pb2
from tests.fakes.settled_again import judged

ControlFrame = allowances_pb2.ControlFrame
SidecarFrame = allowances_pb2.SidecarFrame

ORGANIZATION_ID = 20
PLATFORM_ID = 1
DEADLINE_S = 20
"""For something that must happen: a test that waits longer has failed."""

HARD = True
SOFT = False


@dataclass
class Session:
    """What the control plane knows of one session."""

    epoch: int
    organization_id: int
    boot_id: str
    applied_seq: int = 0
    fenced: bool = False
    closed_at: int | None = None
    journal: int = 0
    granted: dict[int, int] = field(default_factory=dict)
    returned: dict[int, int] = field(default_factory=dict)
    reports: dict[int, allowances_pb2.AllowanceUsage] = field(default_factory=dict)


@dataclass
class Stream:
    """One open stream."""

    sessions: dict[int, Session] = field(default_factory=dict)
    outbox: "asyncio.Queue[ControlFrame | Exception]" = field(default_factory=asyncio.Queue)
    received: dict[int, int] = field(default_factory=dict)

    def send(self, session: Session, **fields: Any) -> None:
        frame = ControlFrame(session_epoch=session.epoch, applied_seq=session.applied_seq, **fields)
        self.outbox.put_nowait(frame)


class StreamCutError(OSError):
    """The stream was cut by the test."""


class FakeControlPlane:
    """One organization, its budgets and keys, and the platform."""

    def __init__(self) -> None:
        self.credentials: list[str] = []
        self.valid_for_ms = 30_000
        self.currency = self.platform_currency = "USD"
        self.applying = True
        """False: frames are received and not applied, as when the database is away."""
        self.accepting = True  # False: nobody can connect
        self.telling_policy = True
        self.judging = True
        """False: needs are applied and not answered."""
        self.extra_nanos = 0
        """Granted beyond every need."""
        self.refused_priors: set[int] = set()
        self.limits: dict[int, int] = {}
        self.budgets: dict[int, allowances_pb2.BudgetPolicy] = {}
        self.keys: dict[bytes, allowances_pb2.KeyPolicy] = {}
        self.ends_in_ms: dict[int, int] = {}
        self.ledger: dict[tuple[int, int], charges_pb2.Settlement] = {}
        self.judgements: list[str] = []
        self.turned_away = 0
        self.sessions: dict[int, Session] = {}
        self.streams: list[Stream] = []
        self.hellos: list[allowances_pb2.Hello] = []
        self.frames: list[SidecarFrame] = []
        self.prices: list[allowances_pb2.PriceBook] = []
        self._waiting: list[tuple[Stream, Session, allowances_pb2.Need]] = []
        self._changed = asyncio.Event()
        self._last_epoch = 100

    # -- what there is -------------------------------------------------------------------------

    def add_budget(
        self,
        budget_id: int,
        limit_nanos: int,
        *,
        hard: bool = HARD,
        scope_kind: "allowances_pb2.ScopeKind.ValueType" = allowances_pb2.SCOPE_KIND_ORGANIZATION,
        scope_id: int = ORGANIZATION_ID,
        models: tuple[str, ...] = (),
        providers: tuple[str, ...] = (),
    ) -> allowances_pb2.BudgetPolicy:
        """A budget whose window has the id `10 * budget_id`."""
        policy = allowances_pb2.BudgetPolicy(
            budget_id=budget_id,
            name=f"budgets/b-{budget_id}",
            scope_kind=scope_kind,
            scope_id=scope_id,
            scope="organizations/acme",
            models=models,
            providers=providers,
            hard=hard,
            version=1,
        )
        self.budgets[budget_id] = policy
        self.limits[budget_id] = limit_nanos
        return policy

    def add_key(self, secret: str, key_id: int, **fields: Any) -> allowances_pb2.KeyPolicy:
        key_hash = hashlib.sha256(secret.encode()).digest()
        key = allowances_pb2.KeyPolicy(
            key_hash=key_hash, key_id=key_id, name=f"keys/k-{key_id}", **fields
        )
        self.keys[key_hash] = key
        return key

    def settled(self, budget_id: int) -> int:
        return sum(
            s.cost_nanos for s in self.ledger.values() if budget_id * 10 in s.budget_window_ids
        )

    def outstanding(self, budget_id: int) -> int:
        """What all sessions hold: granted, neither returned nor settled."""
        window = budget_id * 10
        held = 0
        for session in self.sessions.values():
            settled = sum(
                s.cost_nanos
                for (epoch, _n), s in self.ledger.items()
                if epoch == session.epoch and window in s.budget_window_ids
            )
            granted = session.granted.get(window, 0) - session.returned.get(window, 0)
            held += max(0, granted - settled)
        return held

    def live(self, organization_id: int = ORGANIZATION_ID) -> Session:
        """The session of the latest stream."""
        return next(
            s for s in self.streams[-1].sessions.values() if s.organization_id == organization_id
        )

    async def until(self, look: Callable[[], object], what: str) -> None:
        """Wait until something is true here; looks again whenever a frame was handled."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not look():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not within {DEADLINE_S} s") from None

    # -- what a test makes it do ---------------------------------------------------------------

    def say(self, organization_id: int = ORGANIZATION_ID, **fields: Any) -> None:
        """Send one frame on the latest stream."""
        self.streams[-1].send(self.live(organization_id), **fields)

    def push_key(self, key: allowances_pb2.KeyPolicy) -> None:
        self.keys[key.key_hash] = key
        self.say(policy=allowances_pb2.PolicyDelta(policy_version=2, keys=[key]))

    def revoke(self, secret: str) -> None:
        key_hash = hashlib.sha256(secret.encode()).digest()
        self.push_key(
            allowances_pb2.KeyPolicy(key_hash=key_hash, refusal=allowances_pb2.KEY_REFUSAL_REVOKED)
        )

    def remove_budget(self, budget_id: int) -> None:
        del self.budgets[budget_id]
        self.say(policy=allowances_pb2.PolicyDelta(removed_budget_ids=[budget_id]))

    def recall(self, budget_id: int, amount_nanos: int = 0) -> None:
        window = budget_id * 10
        self.say(
            recalls=[allowances_pb2.Recall(budget_window_id=window, amount_nanos=amount_nanos)]
        )

    def fence(self) -> None:
        session = self.live()
        session.fenced = True
        self.streams[-1].send(session, fence=allowances_pb2.Fence(reason="a test says so"))

    def cut(self) -> None:
        """End the latest stream."""
        self.streams[-1].outbox.put_nowait(StreamCutError("cut by the test"))

    def apply_again(self) -> None:
        """The database is back: apply what was received on the latest stream meanwhile."""
        self.applying = True
        self.cut()

    # -- the stream ----------------------------------------------------------------------------

    async def speak(self, frames: "AsyncIterator[SidecarFrame]") -> AsyncIterator[ControlFrame]:
        """One stream. Raises ValueError for a frame that breaks the rules."""
        if not self.accepting:
            self.turned_away += 1
            self._changed.set()
            raise StreamCutError("nobody is here")
        hello = (await anext(frames)).hello
        self.hellos.append(hello)
        named = {prior.session_epoch for prior in hello.prior_sessions}
        if named & self.refused_priors:
            raise ValueError("hello.prior_sessions: sessions of this sidecar")
        stream = Stream()
        self.streams.append(stream)
        for prior in hello.prior_sessions:
            self.sessions[prior.session_epoch].fenced = True
            self.sessions[prior.session_epoch].journal = prior.journal
        for organization_id in (ORGANIZATION_ID, PLATFORM_ID):
            self._open(stream, organization_id, hello.boot_id)
        if self.telling_policy:
            self.tell_policy(stream)
        reader = asyncio.create_task(self._read(stream, frames))
        try:
            while True:
                taking = asyncio.create_task(stream.outbox.get())
                await asyncio.wait((taking, reader), return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    reader.result()
                    return
                frame = taking.result()
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            reader.cancel()
            self._waiting = [w for w in self._waiting if w[0] is not stream]

    def _open(self, stream: Stream, organization_id: int, boot_id: str) -> None:
        session = next(
            (
                s
                for s in self.sessions.values()
                if (s.organization_id, s.boot_id) == (organization_id, boot_id)
            ),
            None,
        )
        resumed = session is not None
        if session is None:
            self._last_epoch += 1
            session = Session(self._last_epoch, organization_id, boot_id)
            self.sessions[session.epoch] = session
        stream.sessions[session.epoch] = session
        stream.received[session.epoch] = session.applied_seq
        platform = organization_id == PLATFORM_ID
        stream.send(
            session,
            welcome=allowances_pb2.Welcome(
                session_epoch=session.epoch,
                organization="organizations/platform" if platform else "organizations/acme",
                organization_id=organization_id,
                currency=self.platform_currency if platform else self.currency,
                last_seq=session.applied_seq,
                valid_for_ms=self.valid_for_ms,
                platform=platform,
                resumed=resumed,
            ),
        )

    def tell_policy(self, stream: Stream | None = None) -> None:
        """Say to each session the budgets of its own scope."""
        stream = stream or self.streams[-1]
        for session in stream.sessions.values():
            kind = allowances_pb2.SCOPE_KIND_ORGANIZATION
            if session.organization_id == PLATFORM_ID:
                kind = allowances_pb2.SCOPE_KIND_PLATFORM
            budgets = [b for b in self.budgets.values() if b.scope_kind == kind]
            stream.send(
                session, policy=allowances_pb2.PolicyDelta(policy_version=1, budgets=budgets)
            )
            if session.organization_id == ORGANIZATION_ID:
                for part in self.prices:
                    stream.send(session, prices=part)

    async def _read(self, stream: Stream, frames: "AsyncIterator[SidecarFrame]") -> None:
        async for frame in frames:
            session = stream.sessions[frame.session_epoch]
            expected = stream.received[session.epoch] + 1
            if frame.seq != expected:
                raise ValueError(f"seq: {frame.seq} is not accepted, expected {expected}")
            stream.received[session.epoch] = frame.seq
            if self.applying:
                self._apply(stream, session, frame)
            self._changed.set()

    def _apply(self, stream: Stream, session: Session, frame: SidecarFrame) -> None:
        self.frames.append(frame)
        session.applied_seq = frame.seq
        for settlement in frame.settlements:
            identity = (settlement.session_epoch, settlement.n)
            self.judgements.append(judged(self.ledger.get(identity), settlement))
            if self.judgements[-1] != "repeat":
                self.ledger[identity] = settlement
        for usage in frame.usage:
            window = usage.budget_window_id
            returned = max(session.returned.get(window, 0), usage.returned_nanos)
            assert returned <= session.granted.get(window, 0), "returned more than was granted"
            session.returned[window] = returned
            session.reports[window] = usage
        for close in frame.close_sessions:
            self.sessions[close.session_epoch].closed_at = close.last_n
        withdrawn = set(frame.withdrawn_need_ids)
        self._waiting = [
            w for w in self._waiting if w[1] is not session or w[2].need_id not in withdrawn
        ]
        self._waiting += [(stream, session, need) for need in frame.needs]
        shown = {usage.budget_window_id // 10 for usage in frame.usage}
        stream.send(session, allowances=[self.allowance(session, b) for b in shown])
        for ask in frame.resolve_keys:
            self._answer_key(stream, session, ask.key_hash)
        self.judge()

    def _answer_key(self, stream: Stream, session: Session, key_hash: bytes) -> None:
        key = self.keys.get(key_hash) or allowances_pb2.KeyPolicy(
            key_hash=key_hash, refusal=allowances_pb2.KEY_REFUSAL_UNKNOWN
        )
        scopes = {
            (allowances_pb2.SCOPE_KIND_KEY, key.key_id),
            (allowances_pb2.SCOPE_KIND_TEAM, key.team_id),
            (allowances_pb2.SCOPE_KIND_PROJECT, key.project_id),
            (allowances_pb2.SCOPE_KIND_USER, key.user_id),
        }
        budgets = [b for b in self.budgets.values() if (b.scope_kind, b.scope_id) in scopes]
        stream.send(
            session,
            policy=allowances_pb2.PolicyDelta(policy_version=1, keys=[key], budgets=budgets),
        )

    def judge(self) -> None:
        """Answer the needs that can be answered."""
        still: list[tuple[Stream, Session, allowances_pb2.Need]] = []
        for stream, session, need in self._waiting if self.judging else ():
            if not self._judge(stream, session, need):
                still.append((stream, session, need))
        if self.judging:
            self._waiting = still

    def contend(self) -> None:
        """Tell all that wait to come again."""
        for stream, session, need in self._waiting:
            verdict = self._verdict(need, allowances_pb2.NEED_OUTCOME_CONTENDED)
            stream.send(session, verdicts=[verdict])
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """How many needs are not answered."""
        return len(self._waiting)

    def _judge(self, stream: Stream, session: Session, need: allowances_pb2.Need) -> bool:
        if any(line.budget_id not in self.budgets for line in need.lines):
            verdict = self._verdict(need, allowances_pb2.NEED_OUTCOME_STALE)
            stream.send(session, verdicts=[verdict])
            return True
        hard = [line for line in need.lines if self.budgets[line.budget_id].hard]
        attainable = {b: self.limits[b] - self.settled(b) for b in (x.budget_id for x in hard)}
        if any(attainable[line.budget_id] < line.least_nanos for line in hard):
            verdict = self._verdict(need, allowances_pb2.NEED_OUTCOME_EXHAUSTED)
            stream.send(session, verdicts=[verdict])
            return True
        free = {b: most - self.outstanding(b) for b, most in attainable.items()}
        outcome = allowances_pb2.NEED_OUTCOME_GRANTED
        if any(free[line.budget_id] < line.amount_nanos for line in hard):
            never = any(attainable[line.budget_id] < line.amount_nanos for line in hard)
            if not never or any(free[line.budget_id] < line.least_nanos for line in hard):
                return False
            outcome = allowances_pb2.NEED_OUTCOME_CLAMPED
        for line in hard:
            window, most = line.budget_id * 10, line.amount_nanos + self.extra_nanos
            session.granted.setdefault(window, 0)
            session.granted[window] += min(most, free[line.budget_id])
        told = [self.allowance(session, line.budget_id) for line in need.lines]
        stream.send(session, allowances=told, verdicts=[self._verdict(need, outcome)])
        return True

    def _verdict(
        self, need: allowances_pb2.Need, outcome: "allowances_pb2.NeedOutcome.ValueType"
    ) -> allowances_pb2.Verdict:
        contended = outcome == allowances_pb2.NEED_OUTCOME_CONTENDED
        verdict = allowances_pb2.Verdict(
            need_id=need.need_id, outcome=outcome, retry_after_ms=1_500 if contended else 60_000
        )
        lent = outcome in (allowances_pb2.NEED_OUTCOME_GRANTED, allowances_pb2.NEED_OUTCOME_CLAMPED)
        for line in need.lines if not lent else ():
            if line.budget_id in self.limits:
                verdict.binding.add(
                    budget_id=line.budget_id,
                    budget_window_id=line.budget_id * 10,
                    limit_nanos=self.limits[line.budget_id],
                    settled_nanos=self.settled(line.budget_id),
                    outstanding_nanos=self.outstanding(line.budget_id),
                )
        return verdict

    def allowance(self, session: Session, budget_id: int) -> allowances_pb2.Allowance:
        """How one session's allowance stands."""
        window = budget_id * 10
        policy = self.budgets.get(budget_id)
        lent = policy is None or policy.hard
        modes = (allowances_pb2.ALLOWANCE_MODE_OBSERVED, allowances_pb2.ALLOWANCE_MODE_LENT)
        return allowances_pb2.Allowance(
            budget_window_id=window,
            budget_id=budget_id,
            mode=modes[lent],
            granted_nanos=session.granted.get(window, 0),
            returned_nanos=session.returned.get(window, 0),
            limit_nanos=self.limits[budget_id],
            settled_nanos=self.settled(budget_id),
            ends_in_ms=self.ends_in_ms.get(budget_id, 0),
        )

    # -- ways in -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def dial(self) -> AsyncIterator["MemoryConnection"]:
        """A `channel.Dialer` without a network."""
        connection = MemoryConnection(self)
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """A real gRPC server on a free port of the loopback; yields its address."""
        server = grpc.aio.server()
        allowances_pb2_grpc.add_AllowanceServiceServicer_to_server(_Servicer(self), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


class MemoryConnection:
    """Both ends of a stream, as queues."""

    def __init__(self, plane: FakeControlPlane) -> None:
        self._sent: asyncio.Queue[SidecarFrame] = asyncio.Queue()
        self._answers = plane.speak(self._frames())

    async def _frames(self) -> AsyncIterator[SidecarFrame]:
        while True:
            # As bytes and back: what travels is a copy.
            yield SidecarFrame.FromString((await self._sent.get()).SerializeToString())

    async def write(self, frame: SidecarFrame) -> None:
        self._sent.put_nowait(frame)

    async def read(self) -> ControlFrame:
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            raise StreamCutError("the stream ended") from None

    async def close(self) -> None:
        await self._answers.aclose()  # type: ignore[attr-defined]  # an async generator has it


class _Servicer(allowances_pb2_grpc.AllowanceServiceServicer):
    def __init__(self, plane: FakeControlPlane) -> None:
        self._plane = plane

    async def Session(
        self,
        request_iterator: AsyncIterator[SidecarFrame],
        context: "grpc.aio.ServicerContext[SidecarFrame, ControlFrame]",
    ) -> AsyncIterator[ControlFrame]:
        told = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
        self._plane.credentials.append(told)
        if not told.startswith("Bearer bs-"):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no credential")
        try:
            async for frame in self._plane.speak(aiter(request_iterator)):
                yield frame
        except StreamCutError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
