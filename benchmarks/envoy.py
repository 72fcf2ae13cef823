"""What Bursar costs a call that an Envoy carries: CPU of Envoy and of the sidecar, and time.

An Envoy with the configuration that ships but without Bursar, then with ext_authz, light, strict,
all before one simulated provider; and what tells where the cost is: services that do nothing, on
grpc.aio and on the server that Bursar uses, a unix socket against TCP, ext_proc with and without
the request's head, the sidecar itself as the proxy. Plain calls and streams of 1, 20 and 200
chunks, which tell what a chunk costs. All take turns, and every figure stands beside Envoy alone in
the same run.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.calls import Caller, requests
from benchmarks.measuring import cpu_s, parsed, percentile, ratios, say, spread, title
from benchmarks.running_envoys import (
    ALONE,
    ANSWER_ONLY,
    BARE_AIO,
    BARE_CHECK,
    BARE_WIRE,
    BODY_TOO,
    CHECK,
    LIGHT,
    PROXY,
    STRICT,
    STRICT_TCP,
    TOGETHER,
    Way,
    running_envoys,
)

CONCURRENCY = 8
WARM_UP_CALLS = 40
FEWEST_CALLS = 16
PLAIN = "plain"
SHORT, MIDDLE, LONG = 1, 20, 200
CHUNKS = {PLAIN: 0, "1 chunk": SHORT, "20 chunks": MIDDLE, "200 chunks": LONG}
"""By kind of call, how many there are, a millisecond apart."""
EVERY_WAY = (ALONE, CHECK, LIGHT, STRICT, PROXY)
ASIDE = (BARE_CHECK, BARE_AIO, BARE_WIRE)
"""Services that do nothing: what is left is what Envoy and Python take for asking."""
LEVERS = (
    (STRICT, STRICT_TCP, "unix socket against TCP"),
    (BARE_WIRE, BODY_TOO, "request's body not sent, bare"),
    (ANSWER_ONLY, BARE_WIRE, "request's phase skipped, bare"),
    (TOGETHER, BARE_WIRE, "ten chunks together, bare"),
    (BARE_WIRE, BARE_AIO, "our frames against grpc.aio, bare"),
)
TIMED = (PLAIN, "20 chunks")
"""Kinds of call, and ways, whose time is measured too: one call at a time."""
TIMED_WAYS = (*EVERY_WAY, BARE_AIO, BARE_WIRE)


class Figures(NamedTuple):
    """Of one way and kind of call, a value a repeat: CPU in ms a call, times in ms."""

    envoy: list[float]
    service: list[float]
    p50: list[float]
    p99: list[float]

    @property
    def both(self) -> list[float]:
        """CPU of Envoy and of who it asks."""
        return [a + b for a, b in zip(self.envoy, self.service, strict=True)]


Outcome = Mapping[tuple[str, str], Figures]
"""By kind of call and way."""


async def measure(ways: Mapping[str, Way], repeats: int, calls: int) -> Outcome:
    """Every way, in turn, with each kind of call, many times over."""
    found: dict[tuple[str, str], Figures] = defaultdict(lambda: Figures([], [], [], []))
    async with AsyncExitStack() as stack:
        busy = {
            name: await stack.enter_async_context(Caller(way.address, CONCURRENCY))
            for name, way in ways.items()
        }
        calm = {
            name: await stack.enter_async_context(Caller(way.address, 1))
            for name, way in ways.items()
        }
        for name, way in ways.items():
            for stream in (False, True):
                await busy[name].calls(requests(way.key, stream=stream), WARM_UP_CALLS)
        for _ in range(repeats):
            for kind, chunks in CHUNKS.items():
                count = max(FEWEST_CALLS, calls // max(1, chunks // 4))
                for name, way in ways.items():
                    messages = requests(way.key, stream=chunks > 0, chunks=max(1, chunks))
                    await _one(found[kind, name], busy[name], way, messages, count)
                    if kind in TIMED and name in TIMED_WAYS:
                        took = await calm[name].calls(messages, max(FEWEST_CALLS, count // 2))
                        found[kind, name].p50.append(percentile(took, 0.50))
                        found[kind, name].p99.append(percentile(took, 0.99))
    return found


async def _one(
    figures: Figures, caller: Caller, way: Way, messages: list[bytes], count: int
) -> None:
    pids = (way.envoy, way.service)
    before = [_cpu_s(pid) for pid in pids]
    await caller.calls(messages, count)
    took = [(_cpu_s(pid) - was) * 1_000 / count for pid, was in zip(pids, before, strict=True)]
    figures.envoy.append(took[0])
    figures.service.append(took[1])


def _cpu_s(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_s(pid)


def a_chunk(outcome: Outcome, name: str) -> tuple[list[float], list[float]]:
    """Microseconds of CPU that a chunk adds over one that Envoy alone carries: Envoy's and the
    service's, a value a repeat."""
    long, short = outcome["200 chunks", name], outcome["1 chunk", name]
    alone_long, alone_short = outcome["200 chunks", ALONE], outcome["1 chunk", ALONE]
    each = 1_000 / (LONG - SHORT)
    envoys = [
        (a - b - (c - d)) * each
        for a, b, c, d in zip(
            long.envoy, short.envoy, alone_long.envoy, alone_short.envoy, strict=True
        )
    ]
    services = [(a - b) * each for a, b in zip(long.service, short.service, strict=True)]
    return envoys, services


def report_calls(outcome: Outcome, kind: str) -> None:
    """Print what a call costs in every way."""
    for name in (*EVERY_WAY, *ASIDE):
        figures = outcome[kind, name]
        say(f"{kind}: CPU a call, {name}", spread(figures.both), "ms")
        if name not in (ALONE, PROXY):
            say(f"{kind}:    of Envoy", spread(figures.envoy), "ms")
            say(f"{kind}:    of who it asks", spread(figures.service), "ms")
        if name != ALONE:
            alone = outcome[kind, ALONE].both
            say(f"{kind}:    times {ALONE}", ratios(figures.both, alone))


def report_times(outcome: Outcome, kind: str) -> None:
    """Print what is added to the time of one call."""
    alone = outcome[kind, ALONE]
    for name in TIMED_WAYS[1:]:
        figures = outcome[kind, name]
        for label, took, base in (("p50", figures.p50, alone.p50), ("p99", figures.p99, alone.p99)):
            added = [a - b for a, b in zip(took, base, strict=True)]
            against = f"{ALONE}, {spread(base)} ms"
            say(f"{kind}: added {label}, {name}", spread(added), "ms", against=against)


def report_chunks(outcome: Outcome) -> None:
    """Print what one of many chunks costs."""
    for name in (LIGHT, STRICT, STRICT_TCP, BARE_AIO, BARE_WIRE, TOGETHER):
        envoys, services = a_chunk(outcome, name)
        both = [a + b for a, b in zip(envoys, services, strict=True)]
        say(f"a chunk: CPU added, {name}", spread(both), "us")
        say("a chunk:    of Envoy", spread(envoys), "us")
        say("a chunk:    of who it asks", spread(services), "us")


def report_levers(outcome: Outcome) -> None:
    """Print what brings the cost down: CPU of both, as a ratio."""
    for ours, other, what in LEVERS:
        for kind in CHUNKS:
            figures = ratios(outcome[kind, ours].both, outcome[kind, other].both)
            say(f"{kind}: {what}", figures, against=other)


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=5, calls=200)
    title("A call that an Envoy carries")
    before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        running_envoys(Path(directory)) as ways,
    ):
        outcome = uvloop.run(measure(ways, option("repeats"), option("calls")))
    for kind in CHUNKS:
        report_calls(outcome, kind)
    for kind in TIMED:
        report_times(outcome, kind)
    report_chunks(outcome)
    report_levers(outcome)
    say("load of the machine, before and after", f"{before:.1f}, {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
