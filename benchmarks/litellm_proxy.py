"""LiteLLM's proxy before the simulated provider, where it happens to be installed."""

import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.calls import MODEL
from benchmarks.sidecar_start import free_port

MASTER_KEY = "sk-master"
START_S = 120.0
POLL_S = 0.5


@contextmanager
def litellm_proxy(command: str, provider: str) -> Iterator[tuple[str, int]]:
    """Its address and process id. `command` is that of LiteLLM's own installation."""
    with tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as directory:
        config = Path(directory) / "config.yaml"
        served = {"model": f"openai/{MODEL}", "api_base": f"{provider}/v1", "api_key": "any"}
        # JSON is YAML too.
        config.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": MODEL, "litellm_params": served}],
                    "general_settings": {"master_key": MASTER_KEY},
                }
            )
        )
        port = free_port()
        process = subprocess.Popen(
            [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_ready(address, process)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/health/liveliness") as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(POLL_S)
    raise RuntimeError("LiteLLM's proxy did not get ready")
