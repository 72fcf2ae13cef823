"""Server reflection that is loaded when somebody first asks: its modules take five megabytes, and
no app needs them."""

from collections.abc import AsyncIterator, Sequence
from importlib import import_module
from typing import Any, Final

import grpc
import grpc.aio

SERVICE_NAME: Final = "grpc.reflection.v1alpha.ServerReflection"
_METHOD: Final = f"/{SERVICE_NAME}/ServerReflectionInfo"


# Generic in its stubs only.
class LazyReflection(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Handles the one method of reflection."""

    def __init__(self, services: Sequence[str]) -> None:
        """`services` are the full names to tell of."""
        self._services = (*services, SERVICE_NAME)
        self._servicer: Any = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the method; None where it is another's."""
        if handler_call_details.method != _METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._answer, None, None)

    async def _answer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        messages = import_module("grpc_reflection.v1alpha.reflection_pb2")
        if self._servicer is None:
            reflection = import_module("grpc_reflection.v1alpha.reflection")
            self._servicer = reflection.aio.ReflectionServicer(self._services)

        async def read() -> AsyncIterator[Any]:
            async for request in requests:
                yield messages.ServerReflectionRequest.FromString(request)

        async for answer in self._servicer.ServerReflectionInfo(read(), context):
            yield answer.SerializeToString()
