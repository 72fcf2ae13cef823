"""How long a verification takes, how much memory, and what those who write meanwhile notice of it.

A ledger of any size is made through the schema of an embedded Postgres (ten million calls take a
quarter of an hour and 4.4 GB of disk), then verified while one connection updates a budget window
up to a hundred times a second. Against the same updates before it. The memory of the verifying
process and of its Postgres backend is looked at ten times a second.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from benchmarks.measuring import BYTES_A_MB, parsed, percentile, say, title
from bursar_cli.up.embedded_postgres import EmbeddedPostgres
from bursar_server.clock import SystemClock
from bursar_server.database.migrate import migrate
from bursar_server.database.pool import Pool, create_pool
from bursar_server.ledger.verifying import Outcome, Verifier
from tests.fakes import large_ledger

LOOK_EVERY_S = 0.1
WRITE_EVERY_S = 0.01
QUIET_S = 10.0
"""How long it is written before, for comparison."""


class Writer:
    """Updates one budget window, and remembers how long each update took."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.took_ms: list[float] = []

    async def run(self) -> None:
        """Write until it is cancelled."""
        window = await self._pool.fetchval("SELECT min(id) FROM budget_windows")
        while True:
            began = time.perf_counter()
            await self._pool.execute(
                "UPDATE budget_windows SET budget_version = budget_version WHERE id = $1", window
            )
            self.took_ms.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(WRITE_EVERY_S)

    def figures(self) -> str:
        """The median and the 99th percentile, and then a new count."""
        took, self.took_ms = self.took_ms, []
        return f"{percentile(took, 0.5):.3g} ms, p99 {percentile(took, 0.99):.3g} ms"


def private_mb(pid: int) -> float:
    """Memory of a process that is its own: proc(5), status, RssAnon (in units of 1024 B)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / BYTES_A_MB
    raise ValueError(f"/proc/{pid}/status has no RssAnon: the process has ended")


@asynccontextmanager
async def watched(pids: list[int]) -> AsyncIterator[dict[int, float]]:
    """The greatest private memory of these processes, in MB, so far."""
    most: dict[int, float] = {}

    async def look() -> None:
        while True:
            for pid in pids:
                most[pid] = max(most.get(pid, 0.0), private_mb(pid))
            await asyncio.sleep(LOOK_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()


async def run(calls: int) -> None:
    """Make the ledger, verify it, print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        server = EmbeddedPostgres(Path(directory) / "postgres")
        server.start()
        try:
            await migrate(server.url)
            filling = await create_pool(server.url, size=2)
            entries = await large_ledger.fill(filling, calls)
            await filling.execute("VACUUM ANALYZE entries", timeout=3_600)
            await measure(server.url, filling, entries)
            await filling.close()
        finally:
            server.stop()


async def measure(url: str, writing: Pool, entries: int) -> None:
    """Verify while one writes."""
    writer = Writer(writing)
    writing_task = asyncio.create_task(writer.run())
    await asyncio.sleep(QUIET_S)
    before = writer.figures()
    reading = await create_pool(url, size=1)
    backend = int(await reading.fetchval("SELECT pg_backend_pid()"))
    began = time.perf_counter()
    snapshot_began = began
    async with watched([os.getpid(), backend]) as most:
        async for step in Verifier(reading, SystemClock()).verify(None):
            if not isinstance(step, Outcome):
                if step.step == "entries":
                    snapshot_began = time.perf_counter()
                continue
            assert step.ok, [found.differences for found in step.found if found.differences]
            assert step.entry_count == entries
    ended = time.perf_counter()
    writing_task.cancel()
    say("entries", f"{entries:,}")
    say("the verification", f"{ended - began:.1f}", "s")
    say("of it, with a snapshot open", f"{ended - snapshot_began:.1f}", "s")
    say("the verifying process, private memory at most", f"{most[os.getpid()]:.1f}", "MB")
    say("its Postgres backend, private memory at most", f"{most[backend]:.1f}", "MB")
    say("an update of a budget window meanwhile", writer.figures(), against=before)
    await reading.close()


def main() -> None:
    """Run it."""
    option = parsed(__doc__, calls=1_000_000)
    title("Verifying the ledger")
    uvloop.run(run(option("calls")))


if __name__ == "__main__":
    main()
