"""What it takes to admit a call from held money: eight hard budgets on the path, journal included.

The money side of a sidecar in one process, without its data path. Against one round trip of 64
bytes over TCP on the loopback: the least that asking anybody else could take.
"""

import asyncio
import logging
import socket
import tempfile
import threading
import time
from pathlib import Path

import structlog
import uvloop

from benchmarks.measuring import parsed, ratios, say, spread, title
from bursar_sidecar.desk import Call
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter

BUDGETS = 8
LIMIT_NANOS = 10**18
LENT_NANOS = 10**15
CEILING_NANOS = 75_000
COST_NANOS = 13_500
MESSAGE = b"x" * 64
MICROSECONDS = 1_000_000


class Echo:
    """Answers each message with itself, in a thread of its own."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._client = socket.create_connection(self._server.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(len(MESSAGE)):
            connection.sendall(data)

    def round_trips_us(self, count: int) -> float:
        """Microseconds of one round trip, the mean of `count`."""
        began = time.perf_counter()
        for _ in range(count):
            self._client.sendall(MESSAGE)
            self._client.recv(len(MESSAGE))
        return (time.perf_counter() - began) * MICROSECONDS / count

    def close(self) -> None:
        self._client.close()
        self._server.close()


async def one_repeat(counter: Counter, call: Call, calls: int) -> tuple[float, float]:
    """Microseconds of one admission and of one settlement, the means of `calls`."""
    reserve, settle = counter.cashier.reserve, counter.cashier.settle
    clock = time.perf_counter
    began = clock()
    held = [await reserve(call) for _ in range(calls)]
    reserved = clock()
    outcome = counter.outcome(COST_NANOS)
    for reservation in held:
        settle(reservation, outcome)
    settled = clock()
    return (reserved - began) * MICROSECONDS / calls, (settled - reserved) * MICROSECONDS / calls


async def run(directory: Path, repeats: int, calls: int) -> None:
    """Measure and print."""
    plane = FakeControlPlane()
    plane.extra_nanos = LENT_NANOS
    plane.add_key(KEY, 7)
    for budget_id in range(1, BUDGETS + 1):
        plane.add_budget(budget_id, LIMIT_NANOS)
    counter = Counter(plane.dial, directory)
    await counter.spend(CEILING_NANOS, COST_NANOS)
    call = await counter.call(CEILING_NANOS)
    echo = Echo()
    admissions, settlements, trips = [], [], []
    for _ in range(repeats):
        trips.append(echo.round_trips_us(calls))
        admission, settlement = await one_repeat(counter, call, calls)
        admissions.append(admission)
        settlements.append(settlement)
        # What was settled is sent and acknowledged here, outside the measured stretch.
        async with asyncio.timeout(30):
            await plane.until(
                lambda: len(plane.ledger) == 1 + calls * len(settlements), "all is posted"
            )
    echo.close()
    say("admission, 8 hard budgets, journal included", spread(admissions), "us", target="<= 20 us")
    say("settlement, 8 hard budgets, journal included", spread(settlements), "us")
    say("one TCP round trip on the loopback", spread(trips), "us")
    say("admission, ratio", ratios(admissions, trips), against="one TCP round trip")
    await counter.stop()


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=9, calls=1_000)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    title("Admission")
    with tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as directory:
        uvloop.run(run(Path(directory), option("repeats"), option("calls")))


if __name__ == "__main__":
    main()
