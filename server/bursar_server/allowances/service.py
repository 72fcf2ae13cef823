"""The session stream: who speaks, in which session, and whether a frame may count.

A stream begins with Hello, which opens or resumes a session in the sidecar's organization and one
in the platform; earlier lives that it names are fenced. Then frames are checked and handed to the
writer, and questions about keys to the policy desk. A frame that breaks the rules ends the stream
and moves nothing.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import grpc
import structlog

from bursar.v1 import allowances_pb2, allowances_pb2_grpc
from bursar_server.allowances import healing, life, messages, metrics, store
from bursar_server.allowances.frames import check_frame
from bursar_server.allowances.hub import Hub, LiveSession, Stream
from bursar_server.allowances.policy import PolicyDesk
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.writer import Writer
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status, invalid, unauthenticated
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import organization_by_id
from bursar_server.sidecars.records import SidecarRecord
from bursar_server.sidecars.store import sidecar_by_secret_hash

log = structlog.get_logger(__name__)

MOST_BOOT_ID = 64
MOST_BUILD = 128
MOST_PRIOR_SESSIONS = 256
"""A sidecar closes its earlier lives as it starts; more of them than this is a fault."""

_JOURNALS = {
    allowances_pb2.JOURNAL_STATE_COMPLETE: "complete",
    allowances_pb2.JOURNAL_STATE_TRUNCATED: "truncated",
}

Context = grpc.aio.ServicerContext[allowances_pb2.SidecarFrame, allowances_pb2.ControlFrame]


class AllowanceService(allowances_pb2_grpc.AllowanceServiceServicer):
    """The sidecars' side of the control plane."""

    def __init__(
        self,
        pool: Pool,
        hub: Hub,
        writer: Writer,
        desk: PolicyDesk,
        clock: Clock,
        settings: LendingSettings,
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._writer = writer
        self._desk = desk
        self._clock = clock
        self._settings = settings
        self._streams: Counter[int] = Counter()
        """Open streams, by sidecar."""

    async def Session(
        self,
        request_iterator: AsyncIterator[allowances_pb2.SidecarFrame],
        context: Context,
    ) -> AsyncIterator[allowances_pb2.ControlFrame]:
        """One sidecar's stream, from Hello to its end."""
        sidecar, secret_hash = await self._authenticate(context)
        stream = Stream(
            sidecar.id,
            sidecar.organization_id,
            f"sidecars/{sidecar.slug}",
            secret_hash,
            self._settings.max_outbox_frames,
        )
        hello = await self._first_frame(request_iterator)
        self._count_in(sidecar)
        reader: asyncio.Task[None] | None = None
        try:
            await self._open(stream, sidecar, hello)
            log.info("stream_opened", sidecar=stream.name, sessions=sorted(stream.sessions))
            reader = asyncio.create_task(self._read(stream, request_iterator))
            async for frame in self._outgoing(stream, reader):
                yield frame
        finally:
            self._streams[sidecar.id] -= 1
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            self._desk.forget(stream)
            self._writer.session_gone(self._hub.remove(stream))
            metrics.SESSIONS.set(len(self._hub.sessions))
            log.info("stream_closed", sidecar=stream.name)

    def _count_in(self, sidecar: SidecarRecord) -> None:
        most = self._settings.max_streams_of_sidecar
        if self._streams[sidecar.id] >= most:
            log.warning("stream_refused", sidecar=f"sidecars/{sidecar.slug}", open_streams=most)
            raise BursarError(
                Status.RESOURCE_EXHAUSTED,
                "TOO_MANY_STREAMS",
                f"sidecars/{sidecar.slug} has {most} open streams, as many as one credential may",
            )
        self._streams[sidecar.id] += 1

    async def _authenticate(self, context: Context) -> tuple[SidecarRecord, bytes]:
        metadata = context.invocation_metadata() or ()
        credential = next((str(v) for k, v in metadata if k == "authorization"), "")
        scheme, _, secret = credential.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise unauthenticated("a sidecar's credential is needed: authorization: Bearer bs-...")
        secret_hash = hashlib.sha256(secret.encode()).digest()
        async with transaction(self._pool, read_only=True) as connection:
            sidecar = await sidecar_by_secret_hash(connection, secret_hash)
        if sidecar is None or sidecar.disabled:
            raise unauthenticated("the sidecar's credential is unknown, replaced or disabled")
        return sidecar, secret_hash

    async def _first_frame(
        self, request_iterator: AsyncIterator[allowances_pb2.SidecarFrame]
    ) -> allowances_pb2.Hello:
        try:
            async with asyncio.timeout(self._settings.hello_timeout_ms / 1000):
                frame = await anext(request_iterator)
        except (TimeoutError, StopAsyncIteration) as error:
            raise invalid("hello", "", "a first frame with Hello") from error
        if not frame.HasField("hello"):
            raise invalid("hello", "", "set in the first frame")
        hello = frame.hello
        for field, text, least, most in (
            ("boot_id", hello.boot_id, 1, MOST_BOOT_ID),
            ("build", hello.build, 0, MOST_BUILD),
            ("price_snapshot_version", hello.price_snapshot_version, 0, MOST_BUILD),
        ):
            # Postgres stores no NUL.
            if not least <= len(text) <= most or "\x00" in text:
                expected = f"{least} to {most} characters, none of them NUL"
                raise invalid(f"hello.{field}", text, expected)
        if len(hello.prior_sessions) > MOST_PRIOR_SESSIONS:
            raise invalid(
                "hello.prior_sessions",
                f"{len(hello.prior_sessions)} sessions",
                f"at most {MOST_PRIOR_SESSIONS}",
            )
        for i, prior in enumerate(hello.prior_sessions):
            if prior.journal not in _JOURNALS:
                raise invalid(
                    f"hello.prior_sessions[{i}].journal", prior.journal, "complete or truncated"
                )
        return hello

    async def _open(
        self, stream: Stream, sidecar: SidecarRecord, hello: allowances_pb2.Hello
    ) -> None:
        """Open or resume the sessions, fence earlier lives, and greet."""
        stream.price_snapshot_version = hello.price_snapshot_version
        # Between ticks: a frame that an older stream of this life left behind must not be
        # applied after the last applied number was read here.
        async with self._writer.turn:
            async with transaction(self._pool) as connection:
                await self._writer.check(connection)
                draining = await store.see_sidecar(
                    connection, sidecar.organization_id, sidecar.id, hello.build, self._clock.now()
                )
                is_tail_lost = await self._take_up(connection, sidecar, hello)
                live = await self._open_sessions(connection, stream, sidecar, hello)
                fenced = await self._fence_prior(
                    connection, sidecar, hello, [session for session, _ in live]
                )
                lost_tails = await self._writer.lost_tails(connection)
            self._writer.committed()
            if is_tail_lost:
                self._writer.cut_all()
            # Told only now that it is committed, and the Welcome before anything else.
            for session, opened in live:
                welcome = _welcome(session, opened, self._settings.valid_for_ms)
                welcome.welcome.lost_tails = lost_tails
                session.send(welcome)
                self._hub.add(session)
            # Before the policy, with which it would begin to admit calls.
            stream.drain(wanted=draining)
            for older in fenced:
                older.send(
                    allowances_pb2.ControlFrame(fence=allowances_pb2.Fence(reason=life.REPLACED))
                )
        metrics.SESSIONS.set(len(self._hub.sessions))
        async with transaction(self._pool, read_only=True) as connection:
            for session, opened in live:
                await self._greet(connection, session, opened, hello)

    async def _take_up(
        self, connection: Connection, sidecar: SidecarRecord, hello: allowances_pb2.Hello
    ) -> bool:
        return await healing.take_up(
            connection,
            self._writer.shard_id,
            await self._writer.seal(connection),
            sidecar,
            hello,
            self._clock.now(),
            await self._writer.served_ms(connection),
        )

    async def _open_sessions(
        self,
        connection: Connection,
        stream: Stream,
        sidecar: SidecarRecord,
        hello: allowances_pb2.Hello,
    ) -> list[tuple[LiveSession, store.OpenedSession]]:
        """The sidecar's sessions in its organization and in the platform, begun or found again."""
        now = self._clock.now()
        served_ms = await self._writer.served_ms(connection)
        organizations = []
        for id in (sidecar.organization_id, PLATFORM_ORGANIZATION_ID):
            record = await organization_by_id(connection, id)
            assert record is not None  # the sidecar's row refers to it; the platform's stays
            organizations.append(record)
        live = []
        for record in organizations:
            opened = await store.open_session(
                connection,
                record.id,
                sidecar.organization_id,
                sidecar.id,
                hello.boot_id,
                now,
                served_ms,
            )
            session = _live(stream, record, organizations[0].slug, opened)
            session.boot_id, session.seal = hello.boot_id, await self._writer.seal(connection)
            live.append((session, opened))
        return live

    async def _fence_prior(
        self,
        connection: Connection,
        sidecar: SidecarRecord,
        hello: allowances_pb2.Hello,
        live: Sequence[LiveSession],
    ) -> list[LiveSession]:
        """Fence the earlier lives that Hello names; returns those that are on a stream still."""
        named = {prior.session_epoch: prior for prior in hello.prior_sessions}
        mine = {session.organization_id: session for session in live}
        known = await store.prior_sessions(
            connection, sidecar.organization_id, sidecar.id, named.keys()
        )
        fenced: list[LiveSession] = []
        for row in known:
            session = mine.get(row.organization_id)
            if session is None or row.session_epoch == session.session_epoch:
                continue
            session.own_epochs.add(row.session_epoch)
            await store.fence(
                connection,
                row.organization_id,
                row.session_epoch,
                _JOURNALS[named[row.session_epoch].journal],
            )
            older = self._hub.sessions.get(row.session_epoch)
            if older is not None:
                fenced.append(older)
        unknown = named.keys() - {row.session_epoch for row in known}
        if unknown:
            raise invalid("hello.prior_sessions", sorted(unknown), "sessions of this sidecar")
        return fenced

    async def _greet(
        self,
        connection: Connection,
        session: LiveSession,
        opened: store.OpenedSession,
        hello: allowances_pb2.Hello,
    ) -> None:
        if opened.state != "open":
            # First: its money was decided about, so it must not hear that it may go on.
            session.send(
                allowances_pb2.ControlFrame(
                    fence=allowances_pb2.Fence(reason="the session was closed")
                )
            )
        if opened.resumed:
            now = self._clock.now()
            held = await store.session_allowances(
                connection, session.organization_id, session.session_epoch, now
            )
            session.send(
                allowances_pb2.ControlFrame(
                    allowances=[
                        messages.allowance(
                            window, balance, totals, now, session.prove(window, totals.granted)
                        )
                        for window, balance, totals in held
                    ]
                )
            )
        for frame in await self._desk.greet(connection, session, hello.price_snapshot_version):
            session.send(frame)

    async def _read(
        self, stream: Stream, request_iterator: AsyncIterator[allowances_pb2.SidecarFrame]
    ) -> None:
        async for message in request_iterator:
            session = stream.sessions.get(message.session_epoch)
            if session is None:
                raise invalid(
                    "session_epoch", message.session_epoch, "a session opened on this stream"
                )
            if message.seq != session.received_seq + 1:
                raise invalid("seq", message.seq, f"{session.received_seq + 1}, without gaps")
            frame = check_frame(message, session.organization_id, session.own_epochs)
            if frame.policy_ack is not None:
                session.hear_policy(*frame.policy_ack)
            session.received(message.seq, len(frame.raw))
            if frame.resolve:
                self._desk.ask(session, frame.resolve)
            await self._writer.submit(session, frame)
            await session.room(
                self._settings.max_unapplied_frames, self._settings.max_unapplied_bytes
            )

    async def _outgoing(
        self, stream: Stream, reader: "asyncio.Task[None]"
    ) -> AsyncIterator[allowances_pb2.ControlFrame]:
        """The frames for the sidecar until either side ends the stream.

        Raises BursarError when the sidecar broke a rule or was cut off.
        """
        pending: asyncio.Task[allowances_pb2.ControlFrame] | None = None
        try:
            while True:
                pending = pending or asyncio.create_task(stream.next_frame())
                await asyncio.wait(
                    (pending, reader, stream.cut), return_when=asyncio.FIRST_COMPLETED
                )
                if pending.done():
                    yield pending.result()
                    pending = None
                elif reader.done():
                    _raise_refusal(stream, reader)
                    return
                else:
                    raise BursarError(Status.ABORTED, "STREAM_CUT", stream.cut.result())
        finally:
            if pending is not None:
                pending.cancel()


def _live(
    stream: Stream, record: OrganizationRecord, spender: str, opened: store.OpenedSession
) -> LiveSession:
    return LiveSession(
        stream,
        opened.session_epoch,
        record.id,
        record.slug,
        record.currency,
        opened.applied_seq,
        spender_organization=spender,
        platform=record.id == PLATFORM_ORGANIZATION_ID,
    )


def _welcome(
    session: LiveSession, opened: store.OpenedSession, valid_for_ms: int
) -> allowances_pb2.ControlFrame:
    return allowances_pb2.ControlFrame(
        welcome=allowances_pb2.Welcome(
            session_epoch=session.session_epoch,
            organization=f"organizations/{session.organization}",
            organization_id=session.organization_id,
            currency=session.currency,
            last_seq=session.applied_seq,
            valid_for_ms=valid_for_ms,
            platform=session.platform,
            resumed=opened.resumed,
            proof=session.proof(),
        )
    )


def _raise_refusal(stream: Stream, reader: "asyncio.Task[None]") -> None:
    error = reader.exception()
    if error is not None:
        log.warning("frame_refused", sidecar=stream.name, fault=str(error))
        raise error
