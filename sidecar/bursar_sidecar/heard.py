"""Frames of the control plane, in the words of the book."""

from bursar.v1 import allowances_pb2
from bursar_sidecar.pools import AllowanceWord


def word_of(allowance: allowances_pb2.Allowance) -> AllowanceWord:
    """What an allowance of a frame says of its pool."""
    end = ""
    if allowance.HasField("window_end_time"):
        end = allowance.window_end_time.ToJsonString()
    return AllowanceWord(
        window_id=allowance.budget_window_id,
        budget_id=allowance.budget_id,
        lent=allowance.mode != allowances_pb2.ALLOWANCE_MODE_OBSERVED,
        granted_nanos=allowance.granted_nanos,
        returned_nanos=allowance.returned_nanos,
        starts_in_ms=allowance.starts_in_ms,
        ends_in_ms=allowance.ends_in_ms,
        window_end=end,
        limit_nanos=allowance.limit_nanos,
        settled_nanos=allowance.settled_nanos,
        proof=allowance.grant_proof,
        tail=allowance.tail,
        hold_idle_ms=allowance.hold_idle_ms,
    )
