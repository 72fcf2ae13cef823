"""What every call of the client passes: who calls is said, it ends in time, it fails alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

# Who answers with google.rpc.ErrorInfo of this domain is a Bursar.
ERROR_DOMAIN: Final = "bursar"

DETAILS_KEY: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request."""

    field: str
    description: str


class BursarError(Exception):
    """A call that did not succeed.

    - `status`: the gRPC status.
    - `reason`: stable upper-case text such as "NOT_FOUND" or "BUDGET_IN_USE"; empty when the
      answer did not come from a Bursar.
    - `message`: for people.
    - `metadata`: further facts, by name.
    - `field_violations`: what is wrong with which field of the request.
    """

    def __init__(
        self,
        status: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.field_violations = field_violations

    @property
    def unreachable(self) -> bool:
        """Whether nothing was decided: no answer came, or the control plane was not serving."""
        return self.status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

    def __str__(self) -> str:
        wrong = "; ".join(f"{each.field}: {each.description}" for each in self.field_violations)
        text = self.message
        if wrong and wrong not in text:
            text = f"{text} ({wrong})" if text else wrong
        return f"{self.reason or self.status.name}: {text}"


class _CallDetails(NamedTuple):
    """What gRPC lets an interceptor change of a call."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


def _with_caller(details: Any, admin_key: str, timeout_s: float | None) -> _CallDetails:
    metadata = list(details.metadata or ())
    if admin_key:
        metadata.append(("authorization", f"Bearer {admin_key}"))
    return _CallDetails(
        method=details.method,
        timeout=timeout_s if details.timeout is None else details.timeout,
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
        compression=getattr(details, "compression", None),
    )


class Caller(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]  # plain at run time
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]  # as above
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]  # as above
):
    """Says who calls, sets the deadline, and turns a failure into a BursarError. A stream that
    shows its progress has no deadline but the caller's: keepalive notices a dead connection."""

    def __init__(self, admin_key: str, timeout_s: float) -> None:
        self._admin_key = admin_key
        self._timeout_s = timeout_s

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(
            _with_caller(client_call_details, self._admin_key, self._timeout_s), request
        )
        if (error := call.exception()) is not None:
            raise _translated(error) from None
        return call

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self.intercept_unary_unary(continuation, client_call_details, request_iterator)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return _messages(
            continuation(_with_caller(client_call_details, self._admin_key, None), request)
        )


class AsyncCaller(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # as above
    """As Caller, awaited."""

    def __init__(self, admin_key: str, timeout_s: float) -> None:
        self._admin_key = admin_key
        self._timeout_s = timeout_s

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        given = _with_caller(client_call_details, self._admin_key, self._timeout_s)
        call = await continuation(_aio(given), request)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None


class AsyncStreamCaller(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]  # as above
    """As Caller for streams; gRPC takes one kind of call from a class."""

    def __init__(self, admin_key: str) -> None:
        self._admin_key = admin_key

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        given = _with_caller(client_call_details, self._admin_key, None)
        return _messages_async(await continuation(_aio(given), request))


class AsyncUploadCaller(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]  # as above
    """As Caller for rpcs that take a stream and answer once."""

    def __init__(self, admin_key: str, timeout_s: float) -> None:
        self._admin_key = admin_key
        self._timeout_s = timeout_s

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        given = _with_caller(client_call_details, self._admin_key, self._timeout_s)
        call = await continuation(_aio(given), request_iterator)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None


def _aio(given: _CallDetails) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*given.metadata)
    return grpc.aio.ClientCallDetails(
        given.method, given.timeout, metadata, given.credentials, given.wait_for_ready
    )


async def _messages_async(call: Any) -> AsyncIterator[Any]:
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise _translated(error) from None
    finally:
        call.cancel()


def _messages(call: Any) -> Iterator[Any]:
    """The messages of a stream; ends the call if the reader goes away."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise _translated(error) from None
    finally:
        call.cancel()


def _translated(error: Any) -> Exception:
    """The BursarError of a gRPC failure; anything else (a fault of the program) stays itself."""
    if not callable(getattr(error, "code", None)):
        return error if isinstance(error, Exception) else RuntimeError(str(error))
    status: grpc.StatusCode = error.code()
    message: str = error.details() or status.name.lower().replace("_", " ")
    reason = ""
    metadata: dict[str, str] = {}
    violations: tuple[FieldViolation, ...] = ()
    for detail in _details(error.trailing_metadata() or ()):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == ERROR_DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = tuple(
                FieldViolation(each.field, each.description) for each in bad.field_violations
            )
    return BursarError(
        status, message, reason=reason, metadata=metadata, field_violations=violations
    )


def _details(trailing_metadata: Any) -> Any:
    """The google.protobuf.Any details of a failure; none if there are none or they are broken."""
    for key, value in trailing_metadata:
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value).details
            except DecodeError:  # some proxy's own; the status itself still says what happened
                return ()
    return ()
