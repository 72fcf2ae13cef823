"""How long after the commit of a revocation the last connected sidecar has heard of it.

Scripted sidecars on real streams, all of which know the key. Against one bare unary round trip on
the same machine, by a server that does nothing. The listeners run in the same process.
"""

import asyncio
import time
from typing import Any

import grpc.aio
import uvloop

from benchmarks.measuring import parsed, percentile, ratios, say, spread, title
from benchmarks.running_control_plane import (
    ControlPlane,
    running_control_plane,
    scripted_sidecars,
)
from bursar.v1 import allowances_pb2
from tests.fakes.scripted_sidecar import ScriptedSidecar

REVOKED = allowances_pb2.KEY_REFUSAL_REVOKED
FIRST_KEY_ID = 6_000
MILLISECONDS = 1_000
ECHO_SERVICE = "benchmark.Echo"


async def round_trip_ms(channel: grpc.aio.Channel) -> float:
    """One bare unary call."""
    # The stubs' types know only the form that is given serializers; bytes need none.
    stub: Any = channel
    say_it = stub.unary_unary(f"/{ECHO_SERVICE}/Say")
    began = time.perf_counter()
    await say_it(b"x" * 64)
    return (time.perf_counter() - began) * MILLISECONDS


def echo_server() -> grpc.aio.Server:
    """Answers with what it was sent."""

    async def answer(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO_SERVICE, handlers),))
    return server


async def one_revocation(
    plane: ControlPlane, sidecars: list[ScriptedSidecar], key_id: int
) -> list[float]:
    """Milliseconds from the commit until each sidecar was told."""
    key_hash = await plane.add_key(key_id, f"bk-{key_id}")

    def names(frame: allowances_pb2.ControlFrame, refusal: int) -> bool:
        return any(k.key_hash == key_hash and k.refusal == refusal for k in frame.policy.keys)

    async def learn(sidecar: ScriptedSidecar) -> None:
        await sidecar.say(resolve_keys=[allowances_pb2.ResolveKey(key_hash=key_hash)])
        await sidecar.until(lambda frame: names(frame, 0))

    async def told(sidecar: ScriptedSidecar) -> float:
        await sidecar.until(lambda frame: names(frame, REVOKED))
        return time.perf_counter()

    await asyncio.gather(*(learn(sidecar) for sidecar in sidecars))
    listening = [asyncio.create_task(told(sidecar)) for sidecar in sidecars]
    await plane.revoke(key_id, key_hash)
    committed = time.perf_counter()
    return [(at - committed) * MILLISECONDS for at in await asyncio.gather(*listening)]


async def run(repeats: int, count: int) -> None:
    """Measure and print."""
    echo = echo_server()
    port = echo.add_insecure_port("127.0.0.1:0")
    await echo.start()
    took: list[float] = []
    last: list[float] = []
    trips: list[float] = []
    async with (
        running_control_plane() as plane,
        scripted_sidecars(plane, count) as sidecars,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for repeat in range(repeats + 1):
            told = await one_revocation(plane, sidecars, FIRST_KEY_ID + repeat)
            trip = await round_trip_ms(channel)
            if repeat:  # the first one warms up
                took += told
                last.append(max(told))
                trips.append(trip)
    await echo.stop(0)
    say(f"told, {count} sidecars, p50", f"{percentile(took, 0.5):.3g}", "ms")
    say(f"told, {count} sidecars, p99", f"{percentile(took, 0.99):.3g}", "ms", target="<= 1000 ms")
    say("until the last was told", spread(last), "ms")
    say("one bare gRPC round trip", spread(trips), "ms")
    say("until the last was told, ratio", ratios(last, trips), against="one bare gRPC round trip")


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=10, sidecars=100)
    title("Revocation")
    uvloop.run(run(option("repeats"), option("sidecars")))


if __name__ == "__main__":
    main()
