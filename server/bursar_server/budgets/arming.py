"""How a new budget comes into force, as it is shown."""

from collections.abc import Callable
from datetime import datetime, timedelta

from bursar.v1 import budgets_pb2
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.pool import Connection
from bursar_server.policy import store
from bursar_server.policy.messages import pending_sessions
from bursar_server.policy.rules import Holder, lapse_at
from bursar_server.times import timestamp


async def arming_message(
    connection: Connection,
    record: BudgetRecord,
    now: datetime,
    valid_for: timedelta,
    is_connected: Callable[[int], bool],
) -> budgets_pb2.Arming | None:
    """Whether all who spend know a budget, and who does not; None while nobody looked."""
    found = await store.arming(connection, record.organization_id, record.id)
    if found is None:
        return None
    pending: list[Holder] = []
    if found.armed_at is None:
        pending = [
            holder
            for holder in await store.arming_holders(connection, record.organization_id, record.id)
            if lapse_at(holder, valid_for) > now
        ]
    armed_at = found.armed_at or (None if pending else now)
    return budgets_pb2.Arming(
        policy_version=found.policy_version,
        begin_time=timestamp(found.began_at),
        armed_time=timestamp(armed_at) if armed_at else None,
        pending=pending_sessions(pending, valid_for, is_connected),
    )
