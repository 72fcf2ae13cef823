"""How far a change has come, as the command line tells it."""

import pytest

from bursar.v1 import policy_pb2
from bursar_cli import policy
from tests.fakes.admin_server import at
from tests.fakes.admin_state import AdminState
from tests.unit.conftest import Bursar

DONE = policy_pb2.Propagation(
    policy_version=7, session_count=2, applied_count=2,
    effective_everywhere_time=at("2026-03-15T12:00:01Z"),
)  # fmt: skip
PENDING = policy_pb2.Propagation(
    policy_version=7, session_count=2, applied_count=1,
    pending=[
        policy_pb2.PendingSession(
            sidecar="sidecars/eu", session_epoch=12, policy_version=6,
            lapse_time=at("2026-03-15T12:00:31Z"),
        )
    ],
)  # fmt: skip


def test_a_revocation_says_when_it_was_effective_everywhere(
    bursar: Bursar, state: AdminState, waits: list[float]
) -> None:
    bursar("key", "create", "ci")
    state.propagation = [PENDING, DONE]
    shown = bursar("key", "revoke", "ci", "-o", "json")
    assert shown["effective_everywhere_time"] == "2026-03-15T12:00:01Z"
    assert state.seen(policy_pb2.GetPropagationRequest).name == "keys/ci"
    assert len(waits) == 1


def test_a_revocation_that_is_not_heard_says_by_whom_and_until_when(
    bursar: Bursar, state: AdminState, waits: list[float]
) -> None:
    bursar("key", "create", "ci")
    state.propagation = [PENDING]
    shown = bursar("key", "revoke", "ci")
    assert "not yet: 1 of 2 sidecar sessions are pending" in shown
    assert "sidecars/eu" in shown
    assert sum(waits) == pytest.approx(policy.SOON_S, abs=0.2)


def test_who_waits_is_told_by_the_exit_code(
    bursar: Bursar, state: AdminState, waits: list[float]
) -> None:
    state.propagation = [PENDING]
    said = bursar("policy", "show", "keys/ci", "--wait", code=1)
    assert "sidecars/eu" in said
    assert sum(waits) == pytest.approx(policy.LONGEST_WAIT_S, abs=0.2)
    state.propagation = [PENDING, PENDING, DONE]
    assert bursar("policy", "show", "keys/ci", "--wait", "-o", "json")["appliedCount"] == 2


def test_without_waiting_the_answer_comes_at_once(
    bursar: Bursar, state: AdminState, waits: list[float]
) -> None:
    state.propagation = [PENDING]
    found = bursar("policy", "show", "organizations/acme", "-o", "json")
    assert found["pending"][0]["lapseTime"] == "2026-03-15T12:00:31Z"
    assert waits == []
