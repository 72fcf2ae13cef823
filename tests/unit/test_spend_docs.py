"""The examples of docs/spend-service.md do what the document says."""

import asyncio
import re

import grpc
import pytest

from bursar_sidecar import refusals
from bursar_sidecar.desk import Refusal
from bursar_sidecar.local_grpc.refusing import of_refusal
from tests.fakes.desk import KEY
from tests.fakes.spending import spending
from tests.house import tree

DOCUMENT = "docs/spend-service.md"
EXAMPLES = re.findall(r"(?ms)^```python\n(.*?)^```", tree.text(DOCUMENT))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_runs_as_it_is_printed(number: int) -> None:
    async with spending() as app:
        code = compile(EXAMPLES[number], f"{DOCUMENT}, example {number + 1}", "exec")
        given = {"address": app.local.address, "key": KEY}
        await asyncio.to_thread(exec, code, given)
        assert app.desk.outcomes, "it settles what it reserves"
        assert not app.desk.open


def test_every_reason_of_the_table_is_one_that_is_given() -> None:
    """What the document promises is what the code says."""
    code = "".join(
        tree.text(f"sidecar/bursar_sidecar/{name}")
        for name in (
            *("local_grpc/refusing.py", "local_grpc/service.py", "local_grpc/till.py"),
            "refusals.py",
        )
    )
    table = tree.text(DOCUMENT).partition("| status | reasons |")[2].partition("\n\n")[0]
    reasons = set(re.findall(r"`([A-Z]+_[A-Z_]+|OVERLOADED|DRAINING)`", table))
    statuses = {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND"}
    statuses |= {"FAILED_PRECONDITION", "ALREADY_EXISTS"}
    states = {"RESERVATION_SETTLED", "RESERVATION_RELEASED", "RESERVATION_EXPIRED"}
    for reason in reasons - statuses - states:
        assert f'"{reason}"' in code or f'"{reason.lower()}"' in code, reason


def test_every_refusal_of_a_call_has_a_status_of_its_own() -> None:
    """What is not in the table would be UNAVAILABLE, and retried."""
    http_alone = {"unknown_path", "method_not_allowed", "body_encoded", "body_too_large"}
    http_alone |= {"not_as_it_is"}
    told = {
        reason
        for reason, rule in refusals.REASONS.items()
        if rule.status < 500 and reason not in http_alone
    }
    found = {reason: of_refusal(Refusal(reason)).status for reason in told}
    retried = {reason for reason, status in found.items() if status is grpc.StatusCode.UNAVAILABLE}
    assert not retried
