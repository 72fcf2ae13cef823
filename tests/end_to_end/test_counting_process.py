"""The counting process itself: shared, started on first need, gone when nobody needs it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bursar.llm_tokens import count_llm_tokens
from bursar_sidecar.counting.counter import (
    SOCKET_NAME,
    START_AGAIN_S,
    SharedCounter,
    StartedProcess,
)
from bursar_sidecar.counting.frames import Text
from tests.fakes.until import until

PATIENTLY_S = 60.0
PROSE = "How much is counted, where nobody said how much it was? " * 40


def text(written: str = PROSE) -> tuple[Text, ...]:
    return (Text(written.encode()),)


async def produced(counter: SharedCounter, encoding: str, texts: tuple[Text, ...]) -> int | None:
    """What is counted of the texts."""
    counted = await counter.count(encoding, texts, b"", PATIENTLY_S)
    return None if counted is None else counted.produced


@asynccontextmanager
async def counting(
    directory: Path, now: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[SharedCounter]:
    """A sidecar's counter; at its end, what it started must end too."""
    process = StartedProcess(directory)
    counter = SharedCounter(process.connect, now)
    try:
        yield counter
    finally:
        counter.close()
        await asyncio.to_thread(until, lambda: not process.running(), "the counting process ends")


async def started(directory: Path, *arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    """A counting process of our own, and the first thing it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bursar_sidecar.counting",
        str(directory / SOCKET_NAME),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, json.loads(await process.stdout.readline())["event"]


async def test_it_starts_when_first_needed_and_counts_as_the_library_does(tmp_path: Path) -> None:
    async with counting(tmp_path) as counter:
        assert not (tmp_path / SOCKET_NAME).exists()
        counted = await produced(counter, "o200k_base", text())
        assert counted == count_llm_tokens(PROSE, "gpt-4o")
        older = await produced(counter, "cl100k_base", text())
        assert older == count_llm_tokens(PROSE, "gpt-4")
        assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o077 == 0


async def test_sidecars_of_one_directory_share_it(tmp_path: Path) -> None:
    process, said = await started(tmp_path)
    assert said == "ready"
    another, told = await started(tmp_path)
    assert told == "another"
    assert await another.wait() == 0
    async with counting(tmp_path) as one, counting(tmp_path) as other:
        expected = count_llm_tokens(PROSE, "gpt-4o")
        counts = await asyncio.gather(
            produced(one, "o200k_base", text()),
            produced(other, "o200k_base", text()),
        )
        assert set(counts) == {expected}
        assert process.returncode is None
    # Both are gone: it ends by itself, and takes its socket with it.
    assert await process.wait() == 0
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_it_ends_when_idle_though_a_sidecar_is_connected(tmp_path: Path) -> None:
    process, _ = await started(tmp_path, "--idle-s", "0.05")
    async with counting(tmp_path) as counter:
        await produced(counter, "o200k_base", text("one"))
        assert await process.wait() == 0
        # The next need starts another.
        counted = await produced(counter, "o200k_base", text("two"))
        if counted is None:  # the end of the first was seen while asking it
            counted = await produced(counter, "o200k_base", text("two"))
        assert counted == 1


async def test_killed_it_leaves_no_count_and_no_lock(tmp_path: Path) -> None:
    process, _ = await started(tmp_path)
    now = 0.0
    async with counting(tmp_path, lambda: now) as counter:
        assert await produced(counter, "o200k_base", text("one")) == 1
        process.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(produced(counter, "o200k_base", text("two")))
        os.kill(process.pid, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert await waiting is None
        now += START_AGAIN_S
        assert await produced(counter, "o200k_base", text("three")) == 1


async def test_where_no_process_can_be_started_there_is_no_count(tmp_path: Path) -> None:
    async with counting(tmp_path / "missing") as counter:
        assert await produced(counter, "o200k_base", text("one")) is None
    async with counting(tmp_path / ("long" * 30)) as counter:
        assert await produced(counter, "o200k_base", text("one")) is None
