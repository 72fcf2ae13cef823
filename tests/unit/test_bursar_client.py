"""The public client, both kinds, against a fake control plane."""

import grpc
import pytest

from bursar.client import (
    AddressError,
    AsyncBursarClient,
    BursarClient,
    BursarError,
    FieldViolation,
    list_all,
    list_all_async,
    new_request_id,
)
from bursar.v1 import budgets_pb2, identity_pb2
from tests.fakes.admin_server import ADMIN_KEY, AdminServer, serving
from tests.fakes.admin_state import AdminState


@pytest.mark.parametrize(
    "address",
    ["", "localhost", ":7443", "http://localhost:7443", "localhost:port", "localhost:70000", "a:²"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(AddressError, match="address"):
        BursarClient(address)


def test_plain_text_and_a_certificate_exclude_each_other() -> None:
    with pytest.raises(AddressError, match="exclude"):
        BursarClient("example.org:7443", tls_ca=b"x", insecure=True)
    with pytest.raises(AddressError, match="unix"):
        BursarClient("unix:/tmp/x", tls_ca=b"x")


def test_calls_pages_and_refusals() -> None:
    with AdminServer() as server:
        server.state.add_organization("acme")
        with BursarClient(server.address, ADMIN_KEY) as client:
            for place in range(5):
                team = identity_pb2.Team(name=f"teams/t{place}")
                made = client.teams.CreateTeam(
                    identity_pb2.CreateTeamRequest(team=team, request_id=new_request_id())
                )
                assert made.organization == "organizations/acme"
            found = list(list_all(client.teams.ListTeams, identity_pb2.ListTeamsRequest()))
            assert [each.name for each in found] == [f"teams/t{place}" for place in range(5)]
            request = identity_pb2.ListTeamsRequest()
            assert len(list(list_all(client.teams.ListTeams, request, limit=3))) == 3
            server.state.refuse_budgets = True
            with pytest.raises(BursarError) as caught:
                client.budgets.CreateBudget(budgets_pb2.CreateBudgetRequest())
    error = caught.value
    assert error.status is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_ARGUMENT"
    assert error.field_violations == (FieldViolation("budget.limit", "0 or more in EUR, not USD"),)
    assert not error.unreachable


def test_an_address_where_nobody_listens() -> None:
    with (
        BursarClient("127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(BursarError) as caught,
    ):
        client.keys.ListKeys(identity_pb2.ListKeysRequest())
    assert caught.value.unreachable
    assert caught.value.reason == ""


async def test_the_asynchronous_client() -> None:
    state = AdminState()
    state.add_organization("acme")
    async with serving(state) as address, AsyncBursarClient(address, ADMIN_KEY) as client:
        for place in range(3):
            team = identity_pb2.Team(name=f"teams/t{place}")
            await client.teams.CreateTeam(identity_pb2.CreateTeamRequest(team=team))
        listed = list_all_async(client.teams.ListTeams, identity_pb2.ListTeamsRequest())
        assert len([team async for team in listed]) == 3
        with pytest.raises(BursarError) as caught:
            await client.teams.GetTeam(identity_pb2.GetTeamRequest(name="teams/none"))
    assert caught.value.reason == "NOT_FOUND"
