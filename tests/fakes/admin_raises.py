"""The part of the forgetful admin API that keeps temporary raises."""

from typing import Any

from bursar.v1 import budgets_pb2, budgets_pb2_grpc


class TemporaryRaises(budgets_pb2_grpc.BudgetServiceServicer):
    """Keeps what it is told."""

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests
        self._raises: list[budgets_pb2.TemporaryRaise] = []

    async def CreateTemporaryRaise(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        raised = request.temporary_raise
        raised.name = f"raises/r-{len(self._raises) + 1}"
        raised.state = budgets_pb2.RAISE_STATE_RUNNING
        raised.actor = "admin"
        made = budgets_pb2.RAISE_STEP_KIND_MADE
        raised.steps.add(kind=made, actor="admin", reason=raised.reason)
        self._raises.append(raised)
        return raised

    async def ListTemporaryRaises(self, request: Any, context: Any) -> Any:
        found = [raised for raised in self._raises if request.budget in ("", raised.budget)]
        return budgets_pb2.ListTemporaryRaisesResponse(raises=found)

    async def CancelTemporaryRaise(self, request: Any, context: Any) -> Any:
        self._requests.append(request)
        (raised,) = (raised for raised in self._raises if raised.name == request.name)
        raised.state = budgets_pb2.RAISE_STATE_CANCELLED
        return raised
