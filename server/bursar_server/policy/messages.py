"""Sessions that may act on an older policy, as they are told. Pure."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from bursar.v1 import policy_pb2 as pb
from bursar_server.names import format_name
from bursar_server.policy.rules import Holder, lapse_at
from bursar_server.times import timestamp

MOST_PENDING_SHOWN: Final = 1_000
"""Enough to find out what is wrong; an answer stays far below what gRPC carries."""


def pending_sessions(
    holders: Sequence[Holder], valid_for: timedelta, is_connected: Callable[[int], bool]
) -> list[pb.PendingSession]:
    """The first of them, with when each lapses at the latest."""
    return [
        pb.PendingSession(
            sidecar=format_name("sidecars", holder.sidecar_slug),
            organization=format_name("organizations", holder.sidecar_organization_slug),
            session_epoch=holder.session_epoch,
            connected=is_connected(holder.session_epoch),
            policy_version=holder.policy_version,
            last_seen_time=timestamp(holder.last_seen_at),
            lapse_time=timestamp(lapse_at(holder, valid_for)),
        )
        for holder in holders[:MOST_PENDING_SHOWN]
    ]
