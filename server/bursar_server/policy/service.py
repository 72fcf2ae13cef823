"""PolicyService: how far a change has come."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from bursar.v1 import policy_pb2 as pb
from bursar.v1.policy_pb2_grpc import PolicyServiceServicer
from bursar_server.budgets.store import budget_by_slug
from bursar_server.changes import ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import invalid, not_found
from bursar_server.grpc_server.context import Context
from bursar_server.identity.store import (
    SpenderKind,
    key_by_slug,
    resolve_organization,
    spender_by_slug,
)
from bursar_server.names import parse_name
from bursar_server.policy import rules, store
from bursar_server.policy.messages import pending_sessions
from bursar_server.policy.store import ChangeRecord
from bursar_server.sidecars.store import sidecar_by_slug
from bursar_server.times import timestamp


async def _key_id(connection: Connection, organization_id: int, slug: str) -> int | None:
    found = await key_by_slug(connection, organization_id, slug)
    return found.id if found else None


async def _budget_id(connection: Connection, organization_id: int, slug: str) -> int | None:
    found = await budget_by_slug(connection, organization_id, slug)
    return found.id if found else None


async def _sidecar_id(connection: Connection, organization_id: int, slug: str) -> int | None:
    found = await sidecar_by_slug(connection, organization_id, slug)
    return found.id if found else None


def _spender_id(kind: SpenderKind) -> "Find":
    async def find(connection: Connection, organization_id: int, slug: str) -> int | None:
        found = await spender_by_slug(connection, kind, organization_id, slug)
        return found.id if found else None

    return find


Find = Callable[[Connection, int, str], Awaitable[int | None]]
SUBJECTS: Final[Mapping[str, tuple[ChangeKind, Find]]] = {
    "keys": (ChangeKind.KEY, _key_id),
    "teams": (ChangeKind.TEAM, _spender_id(SpenderKind.TEAM)),
    "projects": (ChangeKind.PROJECT, _spender_id(SpenderKind.PROJECT)),
    "users": (ChangeKind.USER, _spender_id(SpenderKind.USER)),
    "budgets": (ChangeKind.BUDGET, _budget_id),
    "sidecars": (ChangeKind.SIDECAR, _sidecar_id),
}


class PolicyService(PolicyServiceServicer):
    """How far changes of policy have come."""

    def __init__(
        self, pool: Pool, clock: Clock, valid_for_ms: int, is_connected: Callable[[int], bool]
    ) -> None:
        """`valid_for_ms` is what sidecars are told; `is_connected` tells of a session."""
        self._pool = pool
        self._clock = clock
        self._valid_for = timedelta(milliseconds=valid_for_ms)
        self._is_connected = is_connected

    async def GetPropagation(
        self, request: pb.GetPropagationRequest, context: Context
    ) -> pb.Propagation:
        table, _, slug = request.name.partition("/")
        if table != "organizations" and table not in SUBJECTS:
            kinds = ", ".join(f"{each}/..." for each in (*SUBJECTS, "organizations"))
            raise invalid("name", request.name, f"one of {kinds}")
        slug = parse_name(table, request.name)
        async with transaction(self._pool) as connection:
            named = request.name if table == "organizations" else request.organization
            owner = await resolve_organization(connection, named)
            subject = None
            if table in SUBJECTS:
                kind, find = SUBJECTS[table]
                id = await find(connection, owner.id, slug)
                if id is None:
                    raise not_found(kind.value, request.name)
                subject = (kind, id)
            # The change first: a session that is not among the holders read after it is told of it.
            change = await store.latest_change(connection, owner.id, subject)
            now = self._clock.now()
            version = change.policy_version if change else owner.policy_version
            standing = rules.standing(
                await store.holders(connection, [owner.id]),
                version,
                change.created_at if change else now,
                now,
                self._valid_for,
            )
            effective_at = change.effective_at if change else None
            if effective_at is None and standing.is_effective:
                await store.mark_effective(connection, owner.id, version, now)
                # Somebody else may have been first; only the first time counts.
                effective_at = await store.effective_at(connection, owner.id, version) or now
        return self._message(request.name, owner.name, version, change, standing, effective_at)

    def _message(
        self,
        name: str,
        organization: str,
        version: int,
        change: ChangeRecord | None,
        standing: rules.Standing,
        effective_at: datetime | None,
    ) -> pb.Propagation:
        pending = () if effective_at is not None else standing.pending
        return pb.Propagation(
            name=name,
            organization=organization,
            policy_version=version,
            change_time=timestamp(change.created_at) if change else None,
            effective_everywhere_time=timestamp(effective_at) if effective_at else None,
            session_count=standing.applied + standing.lapsed + len(pending),
            applied_count=standing.applied,
            lapsed_count=standing.lapsed,
            pending=pending_sessions(pending, self._valid_for, self._is_connected),
        )
