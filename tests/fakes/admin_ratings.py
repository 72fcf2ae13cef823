"""Contracts and re-ratings in the admin API that forgets: what was asked, and canned answers."""

from typing import Any

import grpc

from bursar.v1 import (
    contracts_pb2,
    contracts_pb2_grpc,
    money_pb2,
    ratings_pb2,
    ratings_pb2_grpc,
)
from tests.fakes.admin_state import AdminState, refuse

ETAG = "5f0d"


class _Contracts(contracts_pb2_grpc.PriceContractServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state
        self._made: list[contracts_pb2.PriceContract] = []

    async def SetPriceContract(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        made = request.contract
        made.name = f"contracts/{len(self._made) + 1}"
        made.organization = request.organization or "organizations/acme"
        made.version = f"contract@{len(self._made) + 1}"
        self._made.append(made)
        return made

    async def ListPriceContracts(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        return contracts_pb2.ListPriceContractsResponse(contracts=self._made)

    async def DeletePriceContract(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        self._made = [each for each in self._made if each.name != request.name]
        return contracts_pb2.DeletePriceContractResponse()


class _Ratings(ratings_pb2_grpc.RatingServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state
        self._planned = ratings_pb2.Rerating()

    async def PlanRerating(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)

        def euros(nanos: int) -> money_pb2.Money:
            return money_pb2.Money(nanos=nanos, currency="EUR")

        self._planned = ratings_pb2.Rerating(
            name="reratings/4711",
            organization="organizations/acme",
            state=ratings_pb2.RERATING_STATE_PLANNED,
            since_time=request.since_time,
            until_time=request.until_time,
            model=request.model,
            reason=request.reason,
            etag=ETAG,
            call_count=9,
            corrected_count=4,
            before=euros(2_000_000_000),
            difference=euros(-500_000_000),
            skips=[ratings_pb2.ReratingSkip(reason="estimated", call_count=3)],
            versions=[
                ratings_pb2.ReratingVersions(
                    from_version="custom@1", to_version="custom@2", call_count=4
                )
            ],
        )
        for parts, name in (
            (self._planned.models, "openai/gpt-4o"),
            (self._planned.budgets, "budgets/b-1"),
            (self._planned.budgets, ""),
        ):
            parts.add(
                name=name, call_count=4, before=euros(2 * 10**9), difference=euros(-5 * 10**8)
            )
        return self._planned

    async def GetRerating(self, request: Any, context: Any) -> Any:
        return self._planned

    async def ApplyRerating(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        if request.etag != ETAG:
            text = "reratings/4711 is not what would be posted now"
            status = grpc.StatusCode.FAILED_PRECONDITION
            await refuse(context, status, "RERATING_DIFFERS", text)
        self._planned.state = ratings_pb2.RERATING_STATE_APPLIED
        self._planned.posted_count = 4
        return self._planned

    async def ListReratings(self, request: Any, context: Any) -> Any:
        return ratings_pb2.ListReratingsResponse(reratings=[self._planned])


def add_services(server: grpc.aio.Server, state: AdminState) -> None:
    """Both services over one state."""
    contracts_pb2_grpc.add_PriceContractServiceServicer_to_server(_Contracts(state), server)
    ratings_pb2_grpc.add_RatingServiceServicer_to_server(_Ratings(state), server)
