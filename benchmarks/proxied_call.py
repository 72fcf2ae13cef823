"""What a call through the sidecar costs: CPU of the process, and time added to the call.

Keys, four hard budgets, metering and the journal are on. Against the bare simulated provider, and
pass-throughs before the same provider: over aiohttp, on uvloop and on asyncio's own loop, and over
llhttp, which is the least a proxy in Python can cost. Plain calls and streams of 20 chunks, of
requests that differ in length. All take turns, many times over.

Where LITELLM names the command of LiteLLM's proxy it takes part, with its master key and without
budgets, which would need a database.
"""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import NamedTuple

import uvloop

from benchmarks.calls import Caller, requests
from benchmarks.litellm_proxy import MASTER_KEY, litellm_proxy
from benchmarks.measuring import cpu_s, parsed, percentile, ratios, say, spread, title
from benchmarks.running_stack import make_key, running_stack
from tests.fakes.stack import Stack

CONCURRENCY = 8
WARM_UP_CALLS = 200
SIDECAR = "sidecar"
LITELLM = "LiteLLM"
AIOHTTP = "aiohttp on uvloop"
AIOHTTP_OWN_LOOP = "aiohttp on asyncio"
LLHTTP = "bare llhttp"
PASS_THROUGHS = {
    AIOHTTP: ("benchmarks.passthrough_aiohttp",),
    AIOHTTP_OWN_LOOP: ("benchmarks.passthrough_aiohttp", "asyncio"),
    LLHTTP: ("benchmarks.passthrough_httptools",),
}


class Target(NamedTuple):
    """Who is called."""

    address: str
    pid: int
    key: str = "any"


@contextmanager
def passthrough(upstream: str, module: str, *arguments: str) -> Iterator[Target]:
    """A pass-through as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, upstream, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Target(process.stdout.readline().strip(), process.pid)
    finally:
        process.terminate()
        process.wait()


Figures = Mapping[str, list[float]]
"""By target, a value a repeat."""


async def measure(
    targets: Mapping[str, Target], *, stream: bool, repeats: int, calls: int
) -> tuple[Figures, Figures, Figures]:
    """CPU milliseconds a call, p50 and p99 of one call at a time."""
    cpu: dict[str, list[float]] = defaultdict(list)
    p50: dict[str, list[float]] = defaultdict(list)
    p99: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        busy: dict[str, Caller] = {}
        calm: dict[str, Caller] = {}
        messages = {name: requests(each.key, stream=stream) for name, each in targets.items()}
        for name, target in targets.items():
            busy[name] = await stack.enter_async_context(Caller(target.address, CONCURRENCY))
            calm[name] = await stack.enter_async_context(Caller(target.address, 1))
            await busy[name].calls(messages[name], WARM_UP_CALLS)
        for _ in range(repeats):
            for name, target in targets.items():
                before = cpu_s(target.pid)
                await busy[name].calls(messages[name], calls)
                cpu[name].append((cpu_s(target.pid) - before) * 1_000 / calls)
            for name in targets:
                took = await calm[name].calls(messages[name], calls // 2)
                p50[name].append(percentile(took, 0.50))
                p99[name].append(percentile(took, 0.99))
    return cpu, p50, p99


def report(kind: str, names: Sequence[str], cpu: Figures, p50: Figures, p99: Figures) -> None:
    """Print the outcome for one kind of call."""
    for name in names:
        say(f"{kind}: CPU a call, {name}", spread(cpu[name]), "ms")
    for name in names:
        if name != SIDECAR:
            say(
                f"{kind}: CPU a call, ratio",
                ratios(cpu[SIDECAR], cpu[name]),
                against=name,
                target="<= 0.5" if name in (AIOHTTP, AIOHTTP_OWN_LOOP) else "",
            )
    for name in names:
        for label, took in (("p50", p50), ("p99", p99)):
            added = [a - b for a, b in zip(took[name], took["provider"], strict=True)]
            say(
                f"{kind}: added {label}, {name}",
                spread(added),
                "ms",
                against=f"bare provider, {spread(took['provider'])} ms",
                target="<= 0.3 ms" if (name, label) == (SIDECAR, "p50") else "",
            )


async def run(targets: Mapping[str, Target], repeats: int, calls: int) -> None:
    """Measure and print."""
    names = [name for name in targets if name != "provider"]
    for kind, stream, count in (("plain", False, calls), ("stream", True, calls // 2)):
        report(kind, names, *await measure(targets, stream=stream, repeats=repeats, calls=count))


def targets_of(stack: Stack, within: ExitStack) -> dict[str, Target]:
    """Everybody who takes part; the sidecar last."""
    provider = stack.ready["provider"]
    targets = {"provider": Target(provider, stack.pid("provider"))}
    for name, arguments in PASS_THROUGHS.items():
        targets[name] = within.enter_context(passthrough(provider, *arguments))
    if command := os.environ.get("LITELLM"):
        address, pid = within.enter_context(litellm_proxy(command, provider))
        targets[LITELLM] = Target(address, pid, MASTER_KEY)
    sidecar = stack.ready["sidecars"][0]
    targets[SIDECAR] = Target(sidecar, stack.pid("sidecar-1"), make_key(stack))
    return targets


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=7, calls=400)
    title("A proxied call")
    with running_stack() as stack, ExitStack() as within:
        uvloop.run(run(targets_of(stack, within), option("repeats"), option("calls")))


if __name__ == "__main__":
    main()
