"""Deciding about a session that does not come back: recorded here, applied by who lends.

The decision is on record, with who made it and why, before anything moves; whoever owns the
balances applies it between two of its transactions, also after a restart.
"""

from datetime import timedelta
from typing import Final, Protocol

from bursar.v1 import ledger_pb2, money_pb2
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import BursarError, failed_precondition, invalid, not_found, unavailable
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import resolve_organization
from bursar_server.ledger import store
from bursar_server.names import validate_text
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.times import timestamp

MOST_CHARACTERS_OF_A_REASON: Final = 500

# Who decides, until there are roles: the holder of the admin key.
ADMIN: Final = "admin"

_DECISIONS: Final = {
    ledger_pb2.SESSION_DECISION_SPENT: "spent",
    ledger_pb2.SESSION_DECISION_FREE: "free",
}
_WORDS: Final = {word: decision for decision, word in _DECISIONS.items()}
_REFUSALS: Final = {
    "SESSION_IS_CONNECTED": "its sidecar is connected: what it holds, it gives back itself",
    "SESSION_RETURNED": "it came back after the decision was made, and before it was applied",
}


class Lending(Protocol):
    """What is asked of who lends."""

    @property
    def resolve_after_ms(self) -> int:
        """How long a session that nobody gave up must be silent."""

    def is_connected(self, session_epoch: int) -> bool:
        """Whether the session has an open stream."""

    async def resolution_applied(self, resolution_id: int) -> None:
        """Wait until a recorded decision is applied, or a bounded time."""


async def resolve_session(
    pool: Pool, clock: Clock, lending: Lending, request: ledger_pb2.ResolveSessionRequest
) -> ledger_pb2.ResolveSessionResponse:
    """Record the decision, wait until it is applied, tell what it did. Raises BursarError."""
    decision = _DECISIONS.get(request.decision)
    if decision is None:
        raise invalid("decision", request.decision, "SESSION_DECISION_SPENT or _FREE")
    if request.session_epoch < 1:
        raise invalid("session_epoch", request.session_epoch, "the number of a session")
    reason = validate_text(request.reason.strip(), "reason", MOST_CHARACTERS_OF_A_REASON)
    if not reason:
        raise invalid("reason", request.reason, "why it is decided so, for the record")
    content = content_hash(request)
    async with transaction(pool) as connection:
        organization = await resolve_organization(connection, request.organization)
        memory = (organization.id, request.request_id, "ResolveSession", content)
        known = await remembered(connection, *memory)
        if known is None:
            await _check(connection, organization, request.session_epoch, clock, lending)
            resolution_id = await store.insert_resolution(
                connection,
                organization.id,
                request.session_epoch,
                decision,
                reason,
                ADMIN,
                clock.now(),
            )
            await remember(connection, *memory, _name(resolution_id))
        else:
            resolution_id = int(known.rpartition("/")[2])
    async with transaction(pool, read_only=True) as connection:
        record = await store.resolution(connection, organization.id, resolution_id)
    if record.applied_at is None:
        await lending.resolution_applied(resolution_id)
    async with transaction(pool, read_only=True) as connection:
        return await _answer(connection, organization, resolution_id)


async def _check(
    connection: Connection,
    organization: OrganizationRecord,
    session_epoch: int,
    clock: Clock,
    lending: Lending,
) -> None:
    session = await store.session(connection, organization.id, session_epoch)
    if session is None:
        raise not_found("session", str(session_epoch))
    if lending.is_connected(session_epoch):
        raise _refused(session_epoch, "SESSION_IS_CONNECTED", _REFUSALS["SESSION_IS_CONNECTED"])
    if session.state == "closed":
        raise _refused(session_epoch, "SESSION_IS_CLOSED", "it is closed and holds nothing")
    due_at = session.last_seen_at + timedelta(milliseconds=lending.resolve_after_ms)
    if session.state == "open" and clock.now() < due_at:
        raise _refused(
            session_epoch,
            "SESSION_MAY_RETURN",
            f"it was seen at {session.last_seen_at.isoformat(timespec='seconds')} and may still"
            f" come back: not before {due_at.isoformat(timespec='seconds')}",
        )
    if not session.held_nanos:
        raise _refused(session_epoch, "SESSION_HOLDS_NOTHING", "it holds nothing")


def _refused(session_epoch: int, reason: str, why: str) -> BursarError:
    return failed_precondition(
        reason,
        f"session {session_epoch} can't be resolved: {why}",
        {"session_epoch": str(session_epoch)},
    )


async def _answer(
    connection: Connection, organization: OrganizationRecord, resolution_id: int
) -> ledger_pb2.ResolveSessionResponse:
    record = await store.resolution(connection, organization.id, resolution_id)
    if record.applied_at is None:
        raise unavailable(
            f"{_name(resolution_id)} is on record and not applied yet: repeat with the same"
            " request id to hear what it did",
            "RESOLUTION_PENDING",
        )
    if record.refusal:
        why = _REFUSALS.get(record.refusal, record.refusal)
        raise _refused(record.session_epoch, record.refusal, why)
    windows = await store.windows_by_id(
        connection, organization.id, [int(window_id) for window_id in record.held or {}]
    )
    return ledger_pb2.ResolveSessionResponse(
        name=_name(resolution_id),
        decision=_WORDS[record.decision],
        windows=[
            ledger_pb2.ResolvedWindow(
                budget=window.budget,
                start_time=timestamp(window.start_at),
                amount=money_pb2.Money(
                    nanos=(record.held or {})[str(window.id)], currency=organization.currency
                ),
            )
            for window in windows
        ],
        apply_time=timestamp(record.applied_at),
    )


def _name(resolution_id: int) -> str:
    return f"resolutions/{resolution_id}"
