"""gRPC over our own frames, as gRPC's own client meets it: all kinds of rpcs, sizes, endings."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bursar_sidecar.grpc_listening import Place
from bursar_sidecar.grpc_wire.listening import WireListening
from bursar_sidecar.grpc_wire.rpc import EOF
from tests.fakes.wire_rpcs import MAX_MESSAGE_BYTES, SERVICE, Behaviours

CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
DEADLINE_S = 30.0
MOST_CONCURRENT = 20
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Served:
    """A server, its handlers, and a channel of gRPC's own client."""

    def __init__(self, listening: WireListening, behaviours: Behaviours, channel: Any) -> None:
        self.listening = listening
        self.behaviours = behaviours
        self.channel = channel

    def unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def stream(self, method: str) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")

    async def refused(self, call: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await call
        return found.value


async def started(place: Place) -> tuple[WireListening, Behaviours]:
    behaviours = Behaviours()
    listening = WireListening(
        place, most_concurrent=MOST_CONCURRENT, max_message_bytes=MAX_MESSAGE_BYTES
    )
    listening.add(SERVICE, behaviours.methods())
    await listening.start([SERVICE])
    return listening, behaviours


@pytest.fixture(params=["tcp", "unix"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    socket = tmp_path / "s"
    address = f"unix:{socket}" if request.param == "unix" else "127.0.0.1:0"
    listening, behaviours = await started(Place("envoy_address", address, "0600"))
    async with grpc.aio.insecure_channel(listening.address, options=ANY_SIZE) as channel:
        yield Served(listening, behaviours, channel)
    await listening.stop(0)
    assert not await asyncio.to_thread(os.path.lexists, socket)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 65_536, 1 << 20, 20 << 20])
async def test_messages_of_every_size(served: Served, size: int) -> None:
    sent = os.urandom(size)
    assert await served.unary("Echo")(sent, timeout=DEADLINE_S) == sent


async def test_a_stream_both_ways(served: Served) -> None:
    call = served.stream("Double")(timeout=DEADLINE_S)
    for size in (3, 0, 100_000, 5 << 20):
        sent = os.urandom(size)
        await call.write(sent)
        assert [await call.read(), await call.read()] == [sent, sent]
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_one_way(served: Served) -> None:
    count = served.channel.unary_stream(f"/{SERVICE}/Count")(b"300", timeout=DEADLINE_S)
    assert [len(each) async for each in count] == list(range(300))

    async def messages() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b"y" * 10_000

    total = served.channel.stream_unary(f"/{SERVICE}/Total")
    assert await total(messages(), timeout=DEADLINE_S) == b"5000000"


async def test_many_at_a_time_on_one_connection(served: Served) -> None:
    sent = [os.urandom(20_000) for _ in range(MOST_CONCURRENT)]
    echo = served.unary("Echo")
    assert await asyncio.gather(*(echo(each, timeout=DEADLINE_S) for each in sent)) == sent


async def test_how_an_rpc_is_refused(served: Served) -> None:
    error = await served.refused(served.unary("Refuse")(b"", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "nö: 100 %\n"
    trailing: Any = error.trailing_metadata()
    assert list(trailing) == [("why", "x"), ("raw-bin", b"\x00\xff")]


async def test_a_fault_of_ours_says_nothing_of_itself(served: Served) -> None:
    error = await served.refused(served.unary("Fail")(b"", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "secret" not in str(error.details())


async def test_what_is_not_served(served: Served) -> None:
    error = await served.refused(served.unary("Other")(b"", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    call = served.unary("Echo")(b"a" * 9_999, compression=grpc.Compression.Gzip, timeout=DEADLINE_S)
    assert (await served.refused(call)).code() is grpc.StatusCode.UNIMPLEMENTED
    call = served.unary("Echo")(b"a" * (MAX_MESSAGE_BYTES + 1), timeout=DEADLINE_S)
    assert (await served.refused(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await served.unary("Echo")(b"next", timeout=DEADLINE_S) == b"next"


async def test_headers_reach_the_handler(served: Served) -> None:
    sent = (("x-one", "1"), ("x-two-bin", b"\xfe\x00"))
    seen = await served.unary("Headers")(b"", metadata=sent, timeout=DEADLINE_S)
    assert b"('x-one', '1')" in seen
    assert b"('x-two-bin', b'\\xfe\\x00')" in seen


async def test_who_gives_up_cancels_the_handler(served: Served) -> None:
    call = served.unary("Wait")(b"")
    await served.behaviours.began.acquire()
    call.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while not served.behaviours.stopped:
            assert await served.unary("Echo")(b"") == b""


async def test_past_so_many_at_a_time_they_are_refused(served: Served) -> None:
    waits = [served.unary("Wait")(b"%d" % n) for n in range(MOST_CONCURRENT)]
    for _ in waits:
        await served.behaviours.began.acquire()
    error = await served.refused(served.unary("Wait")(b"late", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    served.behaviours.goes_on.set()
    assert await asyncio.gather(*waits) == [b"%d" % n for n in range(MOST_CONCURRENT)]
    assert await served.unary("Echo")(b"again", timeout=DEADLINE_S) == b"again"


async def test_a_handler_that_ends_early_ends_the_stream(served: Served) -> None:
    call = served.stream("First")(timeout=DEADLINE_S)
    await call.write(b"one")
    assert await call.read() == b"one"
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_health(served: Served) -> None:
    stub = health_pb2_grpc.HealthStub(served.channel)
    watched = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_S)
    assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
    await served.listening.retire()
    assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watched.cancel()


async def test_its_end_lets_calls_end(served: Served) -> None:
    wait = served.unary("Wait")(b"last")
    await served.behaviours.began.acquire()
    ending = asyncio.create_task(served.listening.stop(DEADLINE_S))
    await asyncio.sleep(0)
    served.behaviours.goes_on.set()
    assert await wait == b"last"
    await ending


async def test_its_end_cancels_what_goes_on(served: Served) -> None:
    wait = served.unary("Wait")(b"")
    await served.behaviours.began.acquire()
    await served.listening.stop(0)
    assert (await served.refused(wait)).code() is grpc.StatusCode.UNAVAILABLE
    assert served.behaviours.stopped == 1


def pem(name: str) -> bytes:
    return (CERTIFICATES / name).read_bytes()


async def test_certificates_are_presented_and_asked_for() -> None:
    place = Place(
        "envoy_address",
        "127.0.0.1:0",
        "0600",
        str(CERTIFICATES / "server.pem"),
        str(CERTIFICATES / "server.key.pem"),
        str(CERTIFICATES / "authority.pem"),
    )
    listening, _ = await started(place)

    async def echoed(credentials: grpc.ChannelCredentials) -> bytes:
        channel: Any = grpc.aio.secure_channel(listening.address, credentials)
        async with channel:
            answer: bytes = await channel.unary_unary(f"/{SERVICE}/Echo")(b"x", timeout=DEADLINE_S)
            return answer

    shown = (pem("client.key.pem"), pem("client.pem"))
    known = grpc.ssl_channel_credentials(pem("authority.pem"), *shown)
    assert await echoed(known) == b"x"
    stranger = grpc.ssl_channel_credentials(pem("authority.pem"))
    with pytest.raises(grpc.aio.AioRpcError) as found:
        await echoed(stranger)
    assert found.value.code() is grpc.StatusCode.UNAVAILABLE
    await listening.stop(0)


async def test_an_address_that_is_taken() -> None:
    first, _ = await started(Place("envoy_address", "127.0.0.1:0", "0600"))
    with pytest.raises(OSError, match="in use"):
        await started(Place("envoy_address", first.address, "0600"))
    await first.stop(0)
