"""Runs the control plane: `python -m bursar_server`, which `bursar server` calls.

Exit codes: 0 stopped as asked, 1 can't serve (an address, the database's state), 2 a setting is
wrong, 3 the database can't be reached.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence

import msgspec
import structlog
import uvloop

from bursar_server import collector
from bursar_server.app import ControlPlane, lending_settings
from bursar_server.errors import BursarError, Status
from bursar_server.logs import configure_logs
from bursar_server.settings import (
    NOT_OPTIONS,
    PREFIX,
    Settings,
    SettingsError,
    descriptions,
    load_settings,
)

log = structlog.get_logger(__name__)

REFUSED = 1
BAD_USAGE = 2
UNREACHABLE = 3
# As a shell reports the end by a second Ctrl-C.
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bursar server",
        # `bursar server` looks for some of them, by their whole names.
        allow_abbrev=False,
        description="The control plane: who may spend what, and the ledger of what was spent.",
        epilog="Each setting is also read from the environment (BURSAR_POOL_SIZE for "
        "--pool-size) and from the file; BURSAR_ADMIN_KEY and the file alone may hold the admin "
        "key. Exit codes: 0 stopped as asked, 1 can't serve, 2 a setting is wrong, "
        "3 the database can't be reached.",
    )
    parser.add_argument("--config", metavar="FILE", help="A TOML file with settings.")
    parser.add_argument(
        "--print-settings", action="store_true", help="Print what is in force, masked, and stop."
    )
    for name, default, text in descriptions():
        if name in NOT_OPTIONS:
            continue
        flag = f"--{name.replace('_', '-')}"
        shown = "" if default in (None, "", False) else f" Default: {default}."
        text = f"{text}{shown} ({PREFIX}{name.upper()})".replace("%", "%%")
        if isinstance(default, bool):
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            parser.add_argument(flag, metavar=name.rpartition("_")[2].upper(), help=text)
    return parser


def _say(event: str, **facts: str) -> None:
    """One JSON line on the standard output, for whoever started this."""
    print(json.dumps({"event": event, **facts}), flush=True)


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()

    def asked_to_stop() -> None:
        if stop.is_set():
            # Asked twice: what was promised is in Postgres, the rest comes again.
            os._exit(INTERRUPTED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    plane = ControlPlane(settings, lambda key: _say("admin_key_created", admin_key=key))
    starting = asyncio.create_task(plane.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    stopping.cancel()
    starting.result()
    collector.settle()
    _say("serving", grpc=plane.grpc_address, http=f"http://{plane.http_address}")
    failing = asyncio.create_task(plane.failed.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    log.info("draining", deadline_ms=settings.drain_ms)
    await plane.drain()
    log.info("stopped")
    if plane.failed.is_set():
        raise BursarError(
            Status.INTERNAL, "LENDING_FAILED", "lending can't go on; the log says why"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; returns the exit code."""
    options = vars(_parser().parse_args(arguments))
    try:
        settings = load_settings(os.environ, options)
        lending_settings(settings)
    except SettingsError as error:
        print(f"bursar server: {error}", file=sys.stderr)
        return BAD_USAGE
    if options["print_settings"]:
        print(msgspec.json.format(msgspec.json.encode(settings.masked())).decode())
        return 0
    configure_logs(settings.log_level)
    log.info("starting", settings=settings.masked())
    try:
        uvloop.run(_run(settings))
    except BursarError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        print(f"bursar server: {error.message}{cause}", file=sys.stderr)
        return UNREACHABLE if error.status is Status.UNAVAILABLE else REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
