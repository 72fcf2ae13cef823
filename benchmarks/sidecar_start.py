"""How long a sidecar takes from exec to ready, and how much memory it holds.

Against a Python that imports gRPC and ends: what no sidecar on the same base can be quicker than.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks.calls import Caller, request
from benchmarks.measuring import parsed, ratios, resident_mb, say, spread, title
from benchmarks.running_stack import make_key, running_stack
from tests.fakes.stack import Stack

IMPORTS = "import grpc.aio"
POLL_S = 0.002
DEADLINE_S = 30
CONCURRENCY = 8
MILLISECONDS = 1_000


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Whether the sidecar says that it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Enrolled:
    """A sidecar of the stack that is started here, by hand."""

    def __init__(self, stack: Stack, home: Path) -> None:
        done = stack.cli("sidecar", "create", "measured")
        self.port, self.admin_port = free_port(), free_port()
        config = home / "sidecar.toml"
        config.write_text(
            f'[providers.openai]\nkind = "openai"\nbase_url = "{stack.ready["provider"]}/v1"\n'
            'api_key_env = "SIMULATED_KEY"\n'
        )
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")},
            "BURSAR_ADDRESS": stack.ready["grpc"],
            "BURSAR_SIDECAR_KEY": next(w for w in done.stdout.split() if w.startswith("bs-")),
            "BURSAR_SIDECAR_HTTP_ADDRESS": f"127.0.0.1:{self.port}",
            "BURSAR_SIDECAR_ADMIN_ADDRESS": f"127.0.0.1:{self.admin_port}",
            "BURSAR_SIDECAR_GRPC_ADDRESS": "127.0.0.1:0",
            "BURSAR_DATA_DIR": str(home / "journal"),
            "BURSAR_CONFIG": str(config),
            "SIMULATED_KEY": "any",
        }

    @contextmanager
    def running(self) -> Iterator[tuple[int, float]]:
        """One life: its process id, and the milliseconds from exec to ready."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "bursar_sidecar"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not is_ready(self.admin_port):
                if process.poll() is not None or time.perf_counter() - began > DEADLINE_S:
                    raise RuntimeError("the sidecar did not get ready")
                time.sleep(POLL_S)
            yield process.pid, (time.perf_counter() - began) * MILLISECONDS
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def bare_start_ms() -> float:
    """A Python that imports gRPC and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return (time.perf_counter() - began) * MILLISECONDS


async def load(address: str, message: bytes, calls: int) -> None:
    """So many calls."""
    async with Caller(address, CONCURRENCY) as caller:
        await caller.calls(message, calls)


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=7, calls=4_000)
    title("Starting a sidecar")
    ready, bare, after_start, after_calls = [], [], [], []
    with (
        running_stack() as stack,
        tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as home,
    ):
        message = request(make_key(stack), stream=False)
        sidecar = Enrolled(stack, Path(home))
        for repeat in range(option("repeats")):
            bare.append(bare_start_ms())
            with sidecar.running() as (pid, took):
                ready.append(took)
                after_start.append(resident_mb(pid))
                if repeat == 0:
                    address = f"http://127.0.0.1:{sidecar.port}"
                    uvloop.run(load(address, message, option("calls")))
                    after_calls.append(resident_mb(pid))
    say("from exec to ready", spread(ready), "ms", target="< 1000 ms")
    say("a Python that imports gRPC", spread(bare), "ms")
    say("from exec to ready, ratio", ratios(ready, bare), against="a Python that imports gRPC")
    say("memory after the start", spread(after_start), "MB", target="<= 60 MB")
    say(f"memory after {option('calls')} calls", spread(after_calls), "MB", target="<= 60 MB")


if __name__ == "__main__":
    main()
