"""The one interceptor: admits, reads, counts, and turns every failure into an honest status."""

import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from bursar_server.errors import BursarError, Status
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.context import Context
from bursar_server.grpc_server.requests import check_request, malformed, tolerant
from bursar_server.grpc_server.status import refuse
from bursar_server.metrics import RPC_SECONDS, RPCS

log = structlog.get_logger(__name__)

Behaviour = Callable[[Any, Context], Any]


# Generic in its stubs only.
class Border(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """What every rpc passes, unary or streaming."""

    def __init__(self, keys: AdminKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the rpc, guarded; None (UNIMPLEMENTED) for an unknown one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Any) -> Any:
        make, behaviour = _parts(handler)
        deserializer = handler.request_deserializer
        if not handler.request_streaming and deserializer is not None:
            deserializer = tolerant(deserializer)
        guard = self._stream if inspect.isasyncgenfunction(behaviour) else self._call
        return make(guard(method, behaviour), deserializer, handler.response_serializer)

    def _call(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def call(request: Any, context: Context) -> Any:
            async with self._guard(method, context):
                check_request(request)
                return await behaviour(request, context)

        return call

    def _stream(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._guard(method, context):
                check_request(request)
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        yield answer

        return stream

    @asynccontextmanager
    async def _guard(self, method: str, context: Context) -> AsyncIterator[None]:
        outcome, began = "CANCELLED", time.perf_counter()
        try:
            try:
                self._keys.admit(method, context.invocation_metadata() or ())
                yield
                outcome = "OK"
            except BursarError as error:
                outcome = error.status.value
                if error.status is Status.UNAVAILABLE:
                    log.warning("rpc_unavailable", method=method, cause=repr(error.__cause__))
                await refuse(context, error)
            except DecodeError:
                outcome = Status.INVALID_ARGUMENT.value
                await refuse(context, malformed())
            except grpc.aio.AbortError:
                outcome = "ABORTED_BY_SERVICE"
                raise
            except Exception:
                outcome = Status.INTERNAL.value
                log_id = secrets.token_hex(8)
                log.exception("rpc_failed", method=method, log_id=log_id)
                await refuse(context, _internal(log_id))
        finally:
            RPCS.labels(method, outcome).inc()
            RPC_SECONDS.labels(method).observe(time.perf_counter() - began)


def _parts(handler: Any) -> tuple[Any, Behaviour]:
    """What makes a handler of this kind, and what it does."""
    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return kinds[handler.request_streaming, handler.response_streaming]


def _internal(log_id: str) -> BursarError:
    return BursarError(
        Status.INTERNAL,
        "INTERNAL",
        f"the server failed; its log says why, under the id {log_id}",
        metadata={"log_id": log_id},
    )
