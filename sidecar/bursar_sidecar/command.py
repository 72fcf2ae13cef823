"""The sidecar's command line: reads the settings, and runs one process or several."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog
import uvloop

from bursar_sidecar.logs import log_to_stderr, set_level
from bursar_sidecar.settings import Settings, SettingsError, effective, load_settings

BAD_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 drained, 1 failed, 2 bad settings."""
    parser = argparse.ArgumentParser(
        prog="bursar sidecar",
        description="Admits LLM calls from locally held allowances, forwards and meters them.",
        epilog="Settings come from BURSAR_* environment variables over the TOML file. SIGHUP reads "
        "them again.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file (also BURSAR_CONFIG)")
    parser.add_argument(
        "--workers", metavar="N", help="processes that serve the same addresses (BURSAR_WORKERS)"
    )
    parser.add_argument(
        "--show-settings", action="store_true", help="print the effective settings and end"
    )
    # How a supervisor starts its workers.
    parser.add_argument("--worker-channel", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    log_to_stderr()
    if options.worker_channel is not None:
        # The supervisor needs nothing of it, and is small without it.
        from bursar_sidecar.program import run_worker  # noqa: PLC0415  (see above)

        return _run(run_worker(options.worker_channel))
    environ = dict(os.environ)
    if options.workers is not None:
        environ["BURSAR_WORKERS"] = options.workers

    def load() -> Settings:
        return load_settings(environ, options.config)

    try:
        settings = load()
    except SettingsError as error:
        for fault in error.faults:
            print(f"bursar sidecar: {fault}", file=sys.stderr)
        return BAD_USAGE
    if options.show_settings:
        print(json.dumps(effective(settings), indent=2))
        return 0
    if not settings.sidecar_key:
        print(
            "bursar sidecar: sidecar_key is empty; expected bs-... "
            "(set BURSAR_SIDECAR_KEY to what `bursar sidecar create` printed)",
            file=sys.stderr,
        )
        return BAD_USAGE
    set_level(settings.log_level)
    structlog.get_logger("bursar.sidecar").info("starting", settings=effective(settings))
    if settings.workers > 1:
        from bursar_sidecar.workers.supervisor import supervise  # noqa: PLC0415  (one or the other)

        return _run(supervise(settings, load))
    from bursar_sidecar.program import run_alone  # noqa: PLC0415  (see above)

    return _run(run_alone(settings, load))


def _run(program: Coroutine[Any, Any, int]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(program)
