"""What a call through the sidecar costs: CPU of the process, and time added to the call.

Keys, three hard budgets, metering and the journal are on. Against the bare simulated provider, and
against a minimal aiohttp pass-through before the same provider. Plain calls and streams of 20
chunks. All three take turns, many times over.
"""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvloop

from benchmarks.calls import Caller, request
from benchmarks.measuring import cpu_s, parsed, percentile, ratios, say, spread, title
from benchmarks.running_stack import make_key, running_stack
from tests.fakes.stack import Stack

CONCURRENCY = 8
WARM_UP_CALLS = 200


@contextmanager
def passthrough(upstream: str) -> Iterator[tuple[str, int]]:
    """The pass-through as a process of its own: its address and its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.passthrough_aiohttp", upstream],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


async def measure(
    targets: dict[str, tuple[str, int]], message: bytes, repeats: int, calls: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[float]]]:
    """By target: CPU milliseconds a call, p50 and p99 of one call at a time; a value a repeat."""
    cpu: dict[str, list[float]] = defaultdict(list)
    p50: dict[str, list[float]] = defaultdict(list)
    p99: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        busy = {}
        calm = {}
        for name, (address, _) in targets.items():
            busy[name] = await stack.enter_async_context(Caller(address, CONCURRENCY))
            calm[name] = await stack.enter_async_context(Caller(address, 1))
            await busy[name].calls(message, WARM_UP_CALLS)
        for _ in range(repeats):
            for name, (_, pid) in targets.items():
                before = cpu_s(pid)
                await busy[name].calls(message, calls)
                cpu[name].append((cpu_s(pid) - before) * 1_000 / calls)
            for name in targets:
                took = await calm[name].calls(message, calls // 2)
                p50[name].append(percentile(took, 0.50))
                p99[name].append(percentile(took, 0.99))
    return cpu, p50, p99


def report(
    kind: str,
    cpu: dict[str, list[float]],
    p50: dict[str, list[float]],
    p99: dict[str, list[float]],
) -> None:
    """Print the outcome for one kind of call."""
    say(f"{kind}: CPU a call, sidecar", spread(cpu["sidecar"]), "ms")
    say(f"{kind}: CPU a call, aiohttp pass-through", spread(cpu["pass-through"]), "ms")
    say(
        f"{kind}: CPU a call, ratio",
        ratios(cpu["sidecar"], cpu["pass-through"]),
        against="aiohttp pass-through",
        target="<= 0.5",
    )
    for name in ("sidecar", "pass-through"):
        target = "<= 0.3 ms" if name == "sidecar" else ""
        for label, took, wanted in (("p50", p50, target), ("p99", p99, "")):
            added = [a - b for a, b in zip(took[name], took["provider"], strict=True)]
            say(
                f"{kind}: added {label}, {name}",
                spread(added),
                "ms",
                against=f"bare provider, {spread(took['provider'])} ms",
                target=wanted,
            )


async def run(stack: Stack, key: str, through: tuple[str, int], repeats: int, calls: int) -> None:
    """Measure and print."""
    targets = {
        "provider": (stack.ready["provider"], stack.pid("provider")),
        "pass-through": through,
        "sidecar": (stack.ready["sidecars"][0], stack.pid("sidecar-1")),
    }
    for kind, stream, count in (("plain", False, calls), ("stream", True, calls // 2)):
        message = request(key, stream=stream)
        report(kind, *await measure(targets, message, repeats, count))


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=7, calls=400)
    title("A proxied call")
    with running_stack() as stack, passthrough(stack.ready["provider"]) as through:
        key = make_key(stack)
        uvloop.run(run(stack, key, through, option("repeats"), option("calls")))


if __name__ == "__main__":
    main()
