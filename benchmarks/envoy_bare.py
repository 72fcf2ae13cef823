"""What Envoy's questions cost in Python by themselves: a Check that says yes, a processor that
echoes.

`python -m benchmarks.envoy_bare SERVER ADDRESS` serves both and looks at nothing; it prints its
address. SERVER is `grpc.aio`, or `wire` for the server of our own that Bursar uses, or `together`
for that with ten chunks answered by one message. ADDRESS is host:port or unix:/path.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from bursar_sidecar.grpc_listening import GrpcListening, Place
from bursar_sidecar.grpc_wire.listening import WireListening

MOST_CONCURRENT = 4_096
MAX_MESSAGE_BYTES = 16 << 20
AUTHORIZATION = "envoy.service.auth.v3.Authorization"
TOGETHER = 10
PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"


async def check(request: CheckRequest, context: Any) -> CheckResponse:
    """Every call may pass."""
    answer = CheckResponse()
    answer.ok_response.SetInParent()
    return answer


async def process(messages: AsyncIterator[ProcessingRequest], context: Any) -> None:
    """Every message is answered by itself, nothing is changed."""
    await _process(messages, context, 1)


async def process_together(messages: AsyncIterator[ProcessingRequest], context: Any) -> None:
    """Chunks are answered ten at a time, as no app would like it."""
    await _process(messages, context, TOGETHER)


async def _process(messages: AsyncIterator[ProcessingRequest], context: Any, together: int) -> None:
    held: list[bytes] = []
    async for message in messages:
        answer = ProcessingResponse()
        kind = message.WhichOneof("request")
        if kind in ("request_body", "response_body"):
            body = getattr(message, kind)
            held.append(body.body)
            if len(held) < together and not body.end_of_stream:
                continue
            part = getattr(answer, kind).response.body_mutation.streamed_response
            part.body = b"".join(held)
            part.end_of_stream = body.end_of_stream
            held.clear()
        else:
            getattr(answer, kind).SetInParent()
        await context.write(answer)


def _methods(processor: Any) -> dict[str, dict[str, Any]]:
    return {
        AUTHORIZATION: {
            "Check": grpc.unary_unary_rpc_method_handler(
                check, CheckRequest.FromString, CheckResponse.SerializeToString
            )
        },
        PROCESSOR: {
            "Process": grpc.stream_stream_rpc_method_handler(
                processor, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
            )
        },
    }


async def _serve(server: str, address: str) -> None:
    place = Place("address", address, "0600")
    made = GrpcListening if server == "grpc.aio" else WireListening
    listening: Any = made(
        place, most_concurrent=MOST_CONCURRENT, max_message_bytes=MAX_MESSAGE_BYTES
    )
    served = _methods(process_together if server == "together" else process)
    for name, methods in served.items():
        if isinstance(listening, WireListening):
            listening.add(name, methods)
        else:
            handler = grpc.method_handlers_generic_handler(name, methods)
            listening.server.add_generic_rpc_handlers((handler,))
    await listening.start(list(served))
    print(listening.address, flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await listening.stop(0)


def main() -> None:
    """Serve until SIGTERM."""
    uvloop.run(_serve(sys.argv[1], sys.argv[2]))


if __name__ == "__main__":
    main()
