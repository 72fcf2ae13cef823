"""Messages and streams: who calls, what is asked, how it is answered. No verb is decided here."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from bursar.v1 import spend_pb2
from bursar_sidecar.desk import Refusal
from bursar_sidecar.local_grpc.border import MAX_APP, check_known
from bursar_sidecar.local_grpc.refusing import (
    DETAILS_KEY,
    SpendFault,
    details_of,
    error_of,
    invalid,
    of_refusal,
)
from bursar_sidecar.local_grpc.spend_metrics import SpendMetrics
from bursar_sidecar.local_grpc.till import Till

log = structlog.get_logger("bursar.spend")

SERVICE_NAME: Final = spend_pb2.DESCRIPTOR.services_by_name["SpendService"].full_name
MOST_COMMANDS_AT_A_TIME: Final = 64
"""Of one stream; the next one is read when one of them is answered."""

# Generic in its stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class _Malformed:
    """In place of a request whose bytes can't be read: gRPC itself would blame us."""


_MALFORMED: Final = _Malformed()


class SpendService:
    """The rpcs, over one till."""

    def __init__(self, till: Till, metrics: SpendMetrics) -> None:
        self._till = till
        self._metrics = metrics
        self._verbs: Mapping[str, Callable[[str, str, Any], Awaitable[Any]]] = {
            "quote": till.quote,
            "reserve": till.reserve,
            "extend": lambda key, app, request: till.extend(key, request),
            "settle": lambda key, app, request: till.settle(key, request),
            "release": lambda key, app, request: till.release(key, request),
        }

    def register(self, server: grpc.aio.Server) -> None:
        """Add the rpcs to a server."""
        unary: Mapping[str, Any] = {
            "Quote": spend_pb2.QuoteRequest,
            "Reserve": spend_pb2.ReserveRequest,
            "Extend": spend_pb2.ExtendRequest,
            "Settle": spend_pb2.SettleRequest,
            "Release": spend_pb2.ReleaseRequest,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(name.lower()), _tolerant(kind.FromString), _serialized
            )
            for name, kind in unary.items()
        }
        handlers["Spend"] = grpc.stream_stream_rpc_method_handler(
            self._spend, _tolerant(spend_pb2.SpendRequest.FromString), _serialized
        )
        generic = grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
        server.add_generic_rpc_handlers((generic,))

    def _unary(self, verb: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            try:
                if request is _MALFORMED:
                    raise _malformed()
                check_known(request)
                metadata = list(context.invocation_metadata() or ())
                return await self._do(verb, request, key_of(metadata), app_of(metadata))
            except SpendFault as fault:
                await _abort(context, fault)

        return call

    async def _spend(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[spend_pb2.SpendResponse]:
        try:
            metadata = list(context.invocation_metadata() or ())
            key, app = key_of(metadata), app_of(metadata)
            async with contextlib.aclosing(self._answers(requests, key, app)) as answers:
                async for answer in answers:
                    yield answer
        except SpendFault as fault:
            await _abort(context, fault)

    async def _answers(
        self, requests: AsyncIterator[Any], key: str, app: str
    ) -> AsyncGenerator[spend_pb2.SpendResponse]:
        """Each command's answer as it is ready. What is under way when the stream breaks is given
        up, as when an rpc breaks; what is reserved stays so."""
        working: set[asyncio.Task[spend_pb2.SpendResponse]] = set()
        reading: asyncio.Task[Any] | None = None
        try:
            ended = False
            while working or not ended:
                if reading is None and not ended and len(working) < MOST_COMMANDS_AT_A_TIME:
                    reading = asyncio.ensure_future(_next(requests))
                waited = {*working, reading} if reading is not None else set(working)
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading in done:
                    request, reading = reading.result(), None
                    if request is None:
                        ended = True
                    else:
                        working.add(asyncio.create_task(self._command(request, key, app)))
                for task in done & working:
                    working.discard(task)
                    yield task.result()
        finally:
            left = [*working] if reading is None else [*working, reading]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _command(self, request: Any, key: str, app: str) -> spend_pb2.SpendResponse:
        if request is _MALFORMED:
            raise _malformed()
        answer = spend_pb2.SpendResponse(id=request.id)
        verb = request.WhichOneof("command")
        try:
            check_known(request)
            if verb is None:
                raise invalid("command", "", "one of quote, reserve, extend, settle, release")
            result = await self._do(verb, getattr(request, verb), key, app)
        except SpendFault as fault:
            answer.error.CopyFrom(error_of(fault))
            return answer
        if isinstance(result, spend_pb2.QuoteResponse):
            answer.quote.CopyFrom(result)
        elif isinstance(result, spend_pb2.Reservation):
            answer.reservation.CopyFrom(result)
        else:
            answer.receipt.CopyFrom(result)
        return answer

    async def _do(self, verb: str, request: Any, key: str, app: str) -> Any:
        """One verb. Raises SpendFault, whatever went wrong."""
        outcome = "cancelled"
        try:
            result = await self._verbs[verb](key, app, request)
            outcome = "ok"
            return result
        except Refusal as refusal:
            outcome = refusal.reason
            raise of_refusal(refusal) from refusal
        except SpendFault as fault:
            outcome = fault.reason.lower()
            raise
        except Exception as error:
            outcome = "internal"
            log_id = secrets.token_hex(8)
            log.exception("spend_failed", verb=verb, log_id=log_id)
            raise SpendFault(
                grpc.StatusCode.INTERNAL,
                "INTERNAL",
                f"the sidecar failed; its log says why, under the id {log_id}",
                metadata={"log_id": log_id},
            ) from error
        finally:
            self._metrics.asked(verb, outcome)


def key_of(metadata: Metadata) -> str:
    """The key that the app presents. Raises SpendFault."""
    told = {
        name: _text(value) for name, value in metadata if name in ("authorization", "x-api-key")
    }
    scheme, _, key = told.get("authorization", "").partition(" ")
    found = key.strip() if scheme.lower() == "bearer" else ""
    found = found or told.get("x-api-key", "").strip()
    if not found:
        expected = 'metadata "authorization: Bearer bk-..." or "x-api-key: bk-..."'
        raise of_refusal(Refusal("key_missing", f"No key given; expected {expected}."))
    return found


def app_of(metadata: Metadata) -> str:
    """The app's name for reports, "" when it gives none that can be shown."""
    for name, value in metadata:
        if name == "user-agent":
            text = _text(value)[:MAX_APP]
            return text if text.isprintable() else ""
    return ""


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


async def _next(requests: AsyncIterator[Any]) -> Any:
    """The next one; None at the end of the stream."""
    return await anext(requests, None)


def _tolerant(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _MALFORMED

    return tolerant


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _malformed() -> SpendFault:
    return SpendFault(
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MALFORMED",
        "the request is not a message of this rpc: its bytes can't be read",
    )


async def _abort(context: Context, fault: SpendFault) -> None:
    """End the rpc with the refusal. Always raises grpc.aio.AbortError."""
    await context.abort(
        fault.status, fault.message, trailing_metadata=((DETAILS_KEY, details_of(fault)),)
    )
