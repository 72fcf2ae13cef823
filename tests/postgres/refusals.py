"""What a client sees when it is refused."""

from collections.abc import Awaitable
from typing import Any, cast

import grpc
import grpc.aio
import msgspec
import pytest
from google.rpc import error_details_pb2, status_pb2


class Refused(msgspec.Struct, frozen=True):
    """A refusal, taken apart."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]


def refusal_of(error: grpc.aio.AioRpcError) -> Refused:
    """The refusal as its details tell it; they must be there."""
    metadata: dict[str, Any] = dict(cast("Any", error.trailing_metadata() or ()))
    data: bytes = metadata["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(data)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert info.domain == "bursar"
    if len(status.details) > 1:
        assert status.details[1].Unpack(bad)
    return Refused(
        error.code(),
        status.message,
        info.reason,
        dict(info.metadata),
        [violation.field for violation in bad.field_violations],
    )


async def refused(call: Awaitable[Any]) -> Refused:
    """The refusal that `call` must end in."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)
