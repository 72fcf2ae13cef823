"""The counting process: `python -m bursar_sidecar.counting SOCKET`.

One at a time for a socket, by a lock beside it; a second one ends at once. Ends when idle, when its
last sidecar is gone, and at any fault.
"""

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bursar_sidecar.counting.frames import (
    PREFIX_BYTES,
    CountAnswer,
    CountRequest,
    FrameError,
    framed,
    length_of,
    read_request,
)
from bursar_sidecar.counting.work import IDLE_S, Idleness, answer

MAX_MEMORY_BYTES: Final = 1_073_741_824
"""Address space; both encodings and the largest request take a fifth of it."""
NICENESS: Final = 10
"""Counting is never as urgent as the calls beside it."""
MAX_CLIENTS: Final = 64
"""Sidecars that share one directory."""

Answer = Callable[[CountRequest], CountAnswer]


class CountingProcess:
    """Serves counts on a unix socket until it is idle."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        idle_s: float = IDLE_S,
        answer: Answer = answer,
    ) -> None:
        self._now = now
        self._answer = answer
        self._idleness = Idleness(now(), idle_s)
        self._changed = asyncio.Event()
        self._clients = 0

    async def serve(self, path: Path, ready: Callable[[], None]) -> None:
        """Listen on `path`; returns when idle."""
        server = await asyncio.start_unix_server(self.client, path)
        try:
            ready()
            await self.until_idle()
        finally:
            server.close()

    async def until_idle(self) -> None:
        """Wait until there is no reason to stay."""
        while (remaining := self._idleness.remaining(self._now())) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._changed.wait()

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One sidecar, until it closes or sends what is no request."""
        if self._clients >= MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        self._idleness.came(self._now())
        try:
            while True:
                prefix = await reader.readexactly(PREFIX_BYTES)
                request = read_request(await reader.readexactly(length_of(prefix)))
                self._idleness.worked(self._now())
                writer.write(framed(self._answer(request)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sidecar is gone, and wants no answer
        except FrameError as error:
            print(f"bursar counting: {error}", file=sys.stderr)
        finally:
            self._clients -= 1
            self._idleness.left()
            self._changed.set()
            writer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until idle. Returns the exit code: 0 also where another one serves already."""
    parser = argparse.ArgumentParser(prog="python -m bursar_sidecar.counting")
    parser.add_argument("socket", type=Path, help="the unix socket to listen on")
    parser.add_argument("--idle-s", type=float, default=IDLE_S)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    lock = os.open(f"{options.socket}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _tell("another")
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    os.nice(NICENESS)

    async def serve() -> None:
        process = CountingProcess(time.monotonic, idle_s=options.idle_s)
        await process.serve(options.socket, lambda: _tell("ready"))

    options.socket.unlink(missing_ok=True)  # of an earlier life; the lock says that it is over
    try:
        asyncio.run(serve())
    finally:
        options.socket.unlink(missing_ok=True)
    return 0


def _tell(state: str) -> None:
    print(json.dumps({"event": state}), flush=True)
