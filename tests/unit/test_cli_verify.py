"""`bursar ledger verify` against a fake control plane: what is told on the way, and at the end."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from bursar.client import AsyncBursarClient, BursarClient, BursarError
from bursar.v1 import ledger_pb2
from bursar_cli.__main__ import build_app
from tests.fakes.admin_server import ADMIN_KEY, AdminServer, serving
from tests.fakes.admin_state import AdminState

WHOLE = ledger_pb2.LedgerCheck(name="trial_balance", description="is zero", checked_count=9)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminState]:
    with AdminServer() as running:
        monkeypatch.setenv("BURSAR_ADDRESS", running.address)
        monkeypatch.setenv("BURSAR_ADMIN_KEY", ADMIN_KEY)
        yield running.state


def verify(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(build_app(), ["ledger", "verify", *arguments])
    assert result.exit_code == code, result.output
    return result


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_whole_ledger_is_told(state: AdminState) -> None:
    state.verdict = ledger_pb2.VerifyLedgerResponse(ok=True, checks=[WHOLE], entry_count=10)
    told = verify()
    assert told.stdout.endswith("10 entries read: the ledger is whole\n")
    assert told.stderr.splitlines() == [
        "x: 10 of 20 entries read",
        "x: 20 of 20 entries read",
    ]


def test_programs_read_the_outcome_alone(state: AdminState) -> None:
    state.verdict = ledger_pb2.VerifyLedgerResponse(ok=True, checks=[WHOLE])
    told = verify("-o", "json")
    assert json.loads(told.stdout)["ok"] is True
    assert told.stderr == ""


def test_each_difference_is_told_and_how_many_more(state: AdminState) -> None:
    check = ledger_pb2.LedgerCheck()
    check.CopyFrom(WHOLE)
    check.differences.append("acme 17-42: 1 nano too much")
    check.charge_ids.append("17-42")
    check.difference_count = 1_235
    state.verdict = ledger_pb2.VerifyLedgerResponse(ok=False, checks=[check])
    told = verify(code=1).stdout
    assert "trial_balance: acme 17-42: 1 nano too much\n" in told
    assert "trial_balance: and 1,234 more\n" in told
    assert "THE LEDGER DOES NOT HOLD" in told
    (row,) = rows(verify("-o", "csv", code=1).stdout)
    assert (row["holds"], row["differences"]) == ("false", "1235")


def test_a_terminal_sees_a_bar(state: AdminState, monkeypatch: pytest.MonkeyPatch) -> None:
    state.verdict = ledger_pb2.VerifyLedgerResponse(ok=True, checks=[WHOLE])
    shown: list[dict[str, Any]] = []

    class Bar:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...
        def add_task(self, *_: object, **__: object) -> int:
            return 0

        def update(self, _: int, **fields: Any) -> None:
            shown.append(fields)

    monkeypatch.setattr("bursar_cli.ledger.RichProgress", Bar)
    monkeypatch.setattr("bursar_cli.ledger._is_terminal", lambda: True)
    assert verify().stderr == ""
    assert [step["completed"] for step in shown] == [0, 10, 20]


def test_a_stream_that_is_refused_raises_as_every_call() -> None:
    with (
        AdminServer() as server,
        BursarClient(server.address, "ba-wrong") as client,
        pytest.raises(BursarError) as caught,
    ):
        list(client.ledger.WatchVerification(ledger_pb2.VerifyLedgerRequest()))
    assert caught.value.status is grpc.StatusCode.UNAUTHENTICATED


async def test_the_asynchronous_client_reads_streams() -> None:
    async with serving(AdminState()) as address:
        async with AsyncBursarClient(address, ADMIN_KEY) as client:
            call = client.ledger.WatchVerification(ledger_pb2.VerifyLedgerRequest())
            assert [step.read_count async for step in call] == [0, 10, 20, 0]
        async with AsyncBursarClient(address, "ba-wrong") as client:
            refused = client.ledger.WatchVerification(ledger_pb2.VerifyLedgerRequest())
            with pytest.raises(BursarError) as caught:
                await anext(aiter(refused))
    assert caught.value.status is grpc.StatusCode.UNAUTHENTICATED
