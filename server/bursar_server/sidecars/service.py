"""SidecarService: translate, one transaction, answer. Credentials leave here once."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import money_pb2
from bursar.v1 import sidecars_pb2 as pb
from bursar.v1.sidecars_pb2_grpc import SidecarServiceServicer
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.credentials import new_credential
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import already_exists, not_found
from bursar_server.grpc_server.context import Context
from bursar_server.identity.messages import timestamp
from bursar_server.identity.rules import platform_refuses
from bursar_server.identity.store import hold_policy, record_change, resolve_organization
from bursar_server.names import (
    format_name,
    page_size,
    page_token_after,
    parse_name,
    place_of_page,
)
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.sidecars import store
from bursar_server.sidecars.records import HeldRecord, SessionRecord, SidecarRecord

_Named = pb.RotateSidecarRequest | pb.SetSidecarDisabledRequest | pb.SetSidecarDrainingRequest
T = TypeVar("T")

STATES = {
    "open": pb.SESSION_STATE_OPEN,
    "fenced": pb.SESSION_STATE_FENCED,
    "closed": pb.SESSION_STATE_CLOSED,
}


class SidecarService(SidecarServiceServicer):
    """Sidecars of an organization."""

    def __init__(
        self,
        pool: Pool,
        feed: ChangeFeed,
        connected: Callable[[], set[int]],
        reserved: Callable[[int, int], int | None] = lambda session_epoch, window_id: None,
    ) -> None:
        """`connected` tells the ids of the sidecars with an open stream, `reserved` what a session
        last said is set aside of a window."""
        self._reserved = reserved
        self._pool = pool
        self._feed = feed
        self._connected = connected

    async def GetSidecar(self, request: pb.GetSidecarRequest, context: Context) -> pb.Sidecar:
        slug = parse_name("sidecars", request.name)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await resolve_organization(connection, request.organization)
            sidecar = await _sidecar(connection, owner.id, slug)
            return (await self._messages(connection, [sidecar]))[0]

    async def ListSidecars(
        self, request: pb.ListSidecarsRequest, context: Context
    ) -> pb.ListSidecarsResponse:
        size, after = page_size(request.page_size), place_of_page(request.page_token, request)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await resolve_organization(connection, request.organization)
            sidecars = await store.sidecars_page(connection, owner.id, after, size + 1)
            messages = await self._messages(connection, sidecars[:size])
        more = len(sidecars) > size
        return pb.ListSidecarsResponse(
            sidecars=messages,
            next_page_token=page_token_after(sidecars[size - 1].slug, request) if more else "",
        )

    async def CreateSidecar(
        self, request: pb.CreateSidecarRequest, context: Context
    ) -> pb.CreateSidecarResponse:
        wanted = request.sidecar
        slug = parse_name("sidecars", wanted.name, "sidecar.name")
        credential, content = new_credential("bs"), content_hash(request)
        async with transaction(self._pool) as connection:
            owner = await resolve_organization(
                connection, wanted.organization, "sidecar.organization"
            )
            if owner.id == PLATFORM_ORGANIZATION_ID:
                raise platform_refuses("every sidecar holds its budgets, and it has none itself")
            await hold_policy(connection, owner.id)
            memory = (owner.id, request.request_id, "CreateSidecar", content)
            if await remembered(connection, *memory) is not None:
                sidecar = await _sidecar(connection, owner.id, slug)
                messages = await self._messages(connection, [sidecar])
                return pb.CreateSidecarResponse(sidecar=messages[0])
            id = await store.insert_sidecar(
                connection, owner.id, slug, credential, disabled=wanted.disabled
            )
            if id is None:
                raise already_exists("sidecar", wanted.name)
            await remember(connection, *memory, wanted.name)
            sidecar = await _sidecar(connection, owner.id, slug)
            messages = await self._messages(connection, [sidecar])
            change = await _record(connection, sidecar)
        self._feed.publish(change)
        return pb.CreateSidecarResponse(sidecar=messages[0], secret=credential.secret)

    async def RotateSidecar(
        self, request: pb.RotateSidecarRequest, context: Context
    ) -> pb.RotateSidecarResponse:
        credential = new_credential("bs")
        sidecar = await self._change(request, store.set_sidecar_secret, credential)
        return pb.RotateSidecarResponse(sidecar=sidecar, secret=credential.secret)

    async def SetSidecarDisabled(
        self, request: pb.SetSidecarDisabledRequest, context: Context
    ) -> pb.Sidecar:
        return await self._change(request, store.set_sidecar_disabled, request.disabled)

    async def SetSidecarDraining(
        self, request: pb.SetSidecarDrainingRequest, context: Context
    ) -> pb.Sidecar:
        return await self._change(request, store.set_sidecar_draining, request.draining)

    async def _change(
        self, request: _Named, change: Callable[[Connection, int, int, T], Awaitable[None]], to: T
    ) -> pb.Sidecar:
        """Set something of the sidecar that a request names; returns it as it is then."""
        slug = parse_name("sidecars", request.name)
        async with transaction(self._pool) as connection:
            owner = await resolve_organization(connection, request.organization)
            await hold_policy(connection, owner.id)
            before = await _sidecar(connection, owner.id, slug)
            await change(connection, owner.id, before.id, to)
            sidecar = await _sidecar(connection, owner.id, slug)
            messages = await self._messages(connection, [sidecar])
            recorded = await _record(connection, sidecar)
        self._feed.publish(recorded)
        return messages[0]

    async def _messages(
        self, connection: Connection, sidecars: Sequence[SidecarRecord]
    ) -> list[pb.Sidecar]:
        """Sidecars of one organization, with what they hold."""
        if not sidecars:
            return []
        sessions = await store.live_sessions(
            connection, sidecars[0].organization_id, [sidecar.id for sidecar in sidecars]
        )
        held: defaultdict[int, list[HeldRecord]] = defaultdict(list)
        for allowance in await store.held(connection, sessions) if sessions else []:
            held[allowance.session_epoch].append(allowance)
        by_sidecar: defaultdict[int, list[pb.SidecarSession]] = defaultdict(list)
        for session in sessions:
            allowances = [
                _held(each, self._reserved(session.session_epoch, each.budget_window_id))
                for each in held[session.session_epoch]
            ]
            by_sidecar[session.sidecar_id].append(_session(session, allowances))
        connected = self._connected()
        return [
            _message(sidecar, by_sidecar[sidecar.id], sidecar.id in connected)
            for sidecar in sidecars
        ]


async def _record(connection: Connection, sidecar: SidecarRecord) -> Change:
    change = Change(sidecar.organization_id, ChangeKind.SIDECAR, sidecar.id)
    await record_change(connection, change)
    return change


async def _sidecar(connection: Connection, organization_id: int, slug: str) -> SidecarRecord:
    sidecar = await store.sidecar_by_slug(connection, organization_id, slug)
    if sidecar is None:
        raise not_found("sidecar", format_name("sidecars", slug))
    return sidecar


def _message(
    sidecar: SidecarRecord, sessions: Sequence[pb.SidecarSession], connected: bool
) -> pb.Sidecar:
    seen: Timestamp | None = timestamp(sidecar.last_seen_at) if sidecar.last_seen_at else None
    return pb.Sidecar(
        name=format_name("sidecars", sidecar.slug),
        organization=format_name("organizations", sidecar.organization_slug),
        disabled=sidecar.disabled,
        secret_prefix=sidecar.secret_prefix,
        create_time=timestamp(sidecar.created_at),
        last_seen_time=seen,
        build=sidecar.build,
        connected=connected,
        draining=sidecar.draining,
        sessions=sessions,
    )


def _session(session: SessionRecord, allowances: Sequence[pb.HeldAllowance]) -> pb.SidecarSession:
    return pb.SidecarSession(
        session_epoch=session.session_epoch,
        organization=format_name("organizations", session.organization_slug),
        state=STATES[session.state],
        settled_count=session.settled_count,
        allowances=allowances,
        last_seen_time=timestamp(session.last_seen_at),
    )


def _held(held: HeldRecord, reserved_nanos: int | None) -> pb.HeldAllowance:
    def money(nanos: int) -> money_pb2.Money:
        return money_pb2.Money(nanos=nanos, currency=held.currency)

    # What is in doubt may have been spent, so it is exposure as well.
    outstanding_nanos = max(0, held.granted_nanos - held.returned_nanos - held.settled_nanos)
    return pb.HeldAllowance(
        budget=format_name("budgets", held.budget_slug),
        window_start_time=timestamp(held.window_start_at),
        granted=money(held.granted_nanos),
        returned=money(held.returned_nanos),
        settled=money(held.settled_nanos),
        outstanding=money(outstanding_nanos),
        in_doubt=money(held.in_doubt_nanos),
        in_doubt_since_time=timestamp(held.in_doubt_since) if held.in_doubt_since else None,
        reserved=None if reserved_nanos is None else money(reserved_nanos),
    )
