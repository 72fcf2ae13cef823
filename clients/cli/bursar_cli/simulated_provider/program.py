"""Runs the simulated provider as a process: listens, says where, drains when told to stop."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bursar_cli.simulated_provider.connection import Connection, Provider

DRAIN_SECONDS = 10.0  # calls still being served after this are cut, as any provider's deploy would
BACKLOG = 1_024  # connections not yet accepted; a burst of test clients opens hundreds at once


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop where it is installed; None for Python's own."""
    try:
        import uvloop  # noqa: PLC0415  (optional: it comes with the sidecar)
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(
    provider: Provider,
    host: str,
    port: int,
    *,
    listening: "asyncio.Future[tuple[str, int]] | None" = None,
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set, then let calls in flight end for `DRAIN_SECONDS`.

    `port` 0 takes any free one; `listening` gets the address. Raises OSError if it can't listen.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(provider), host, port, backlog=BACKLOG)
    address: tuple[str, int] = server.sockets[0].getsockname()[:2]
    if listening is not None:
        listening.set_result(address)
    await stop.wait()
    provider.is_draining = True
    server.close()
    for connection in list(provider.connections):
        connection.drain()
    if provider.connections:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(provider.drained.wait(), DRAIN_SECONDS)
    for connection in list(provider.connections):
        connection.close()


async def run(provider: Provider, host: str, port: int, ready_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM; prints the address and writes it to `ready_file`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    listening: asyncio.Future[tuple[str, int]] = loop.create_future()
    serving = asyncio.ensure_future(serve(provider, host, port, listening=listening, stop=stop))
    either: set[asyncio.Future[Any]] = {serving, listening}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if listening.done():
        bound_host, bound_port = listening.result()
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        url = f"http://{shown}:{bound_port}"
        print(f"simulated provider on {url}/v1", flush=True)
        if ready_file is not None:
            write_ready_file(ready_file, {"provider": url, "pid": os.getpid()})
    await serving


def write_ready_file(path: Path, content: object) -> None:
    """Write `content` as JSON so that a reader sees all of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content) + "\n")
    partial.replace(path)
