"""How a refusal travels: the one table from our statuses to gRPC's, and the details beside it."""

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from bursar_server.errors import BursarError, Status
from bursar_server.grpc_server.context import Context

# `domain` of ErrorInfo: whose reasons these are.
ERROR_DOMAIN = "bursar"
DETAILS_KEY = "grpc-status-details-bin"
# Details travel as a header, of which clients accept 8 kB in all by default.
MOST_CHARACTERS_OF_A_MESSAGE = 1024
MOST_FIELD_VIOLATIONS = 16

STATUS_CODES = {
    Status.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Status.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Status.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Status.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Status.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Status.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Status.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.ABORTED: grpc.StatusCode.ABORTED,
    Status.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Status.INTERNAL: grpc.StatusCode.INTERNAL,
}


def details_of(error: BursarError) -> status_pb2.Status:
    """The refusal as google.rpc.Status: ErrorInfo always, BadRequest where fields are at fault."""
    details = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
        )
    ]
    if error.field_violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field,
                description=violation.description[:MOST_CHARACTERS_OF_A_MESSAGE],
            )
            for violation in error.field_violations[:MOST_FIELD_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    result = status_pb2.Status(
        code=STATUS_CODES[error.status].value[0],
        message=error.message[:MOST_CHARACTERS_OF_A_MESSAGE],
    )
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        result.details.append(packed)
    return result


async def refuse(context: Context, error: BursarError) -> None:
    """End the rpc with the refusal. Always raises grpc.aio.AbortError."""
    details = details_of(error)
    await context.abort(
        STATUS_CODES[error.status],
        details.message,
        trailing_metadata=((DETAILS_KEY, details.SerializeToString()),),
    )
