"""What 500 streams that are open at once take of the sidecar's memory, and what its counting takes.

The process that counts LLM tokens is apart: it is started by the first stream without usage.
"""

import asyncio
from pathlib import Path

import uvloop

from benchmarks.calls import Caller, request
from benchmarks.measuring import parsed, resident_mb, say, title
from benchmarks.running_stack import make_key, running_stack

CHUNK_DELAY_MS = 250
"""Between 20 chunks: all streams are open together for some seconds."""
AT_ITS_HEIGHT_S = 2.5
COUNTED_WITHIN_S = 20.0
POLL_S = 0.1


def children(pid: int) -> list[int]:
    """Processes that a process has started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


async def run(address: str, key: str, pid: int, streams: int) -> None:
    """Measure and print."""
    before = resident_mb(pid)
    message = request(key, stream=True, chunk_delay_ms=CHUNK_DELAY_MS)
    async with Caller(address, streams) as caller:
        calls = asyncio.create_task(caller.calls(message, streams))
        await asyncio.sleep(AT_ITS_HEIGHT_S)
        open_mb = resident_mb(pid)
        await calls
        await caller.calls(message, streams)
        again_mb = resident_mb(pid)
    say("memory before", f"{before:.1f}", "MB")
    say(f"memory with {streams} open streams", f"{open_mb:.1f}", "MB")
    say("memory of one open stream", f"{(open_mb - before) * 1_000 / streams:.1f}", "kB")
    say(f"memory after {2 * streams} streams", f"{again_mb:.1f}", "MB")
    async with Caller(address, 1) as caller:
        await caller.calls(request(key, stream=True, missing_usage=True), 1)
    for _ in range(int(COUNTED_WITHIN_S / POLL_S)):
        if children(pid):
            break
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(AT_ITS_HEIGHT_S)  # it loads its ranks
    for child in children(pid):
        say("memory of the process that counts LLM tokens", f"{resident_mb(child):.1f}", "MB")


def main() -> None:
    """Run it."""
    option = parsed(__doc__, streams=500)
    title("Open streams")
    with running_stack() as stack:
        sidecar = stack.ready["sidecars"][0]
        uvloop.run(run(sidecar, make_key(stack), stack.pid("sidecar-1"), option("streams")))


if __name__ == "__main__":
    main()
