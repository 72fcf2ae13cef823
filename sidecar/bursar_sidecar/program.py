"""The sidecar's program: settings, parts, signals."""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
import uvloop

from bursar.log_stream import LogStream
from bursar_sidecar.allowances import Book
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.channel import dialer
from bursar_sidecar.clock import SystemClock
from bursar_sidecar.counting.counter import SharedCounter, StartedProcess
from bursar_sidecar.draining import Draining
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal, JournalError, machine_boot_id
from bursar_sidecar.journal_limits import JournalLimits
from bursar_sidecar.money_metrics import MoneyMetrics
from bursar_sidecar.proxy import Proxy, build_proxy
from bursar_sidecar.session import Session
from bursar_sidecar.settings import Settings, SettingsError, effective, load_settings

# At shutdown, how long the control plane may take to acknowledge the last charges. What it does
# not acknowledge is in the journal.
CLOSE_TIMEOUT_S: Final = 5.0
# After the proxy has ended its calls (its own deadline is `drain_s`), settling takes no time.
SETTLE_TIMEOUT_S: Final = 1.0
BAD_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 drained, 1 failed, 2 bad settings."""
    parser = argparse.ArgumentParser(
        prog="bursar sidecar",
        description="Admits LLM calls from locally held allowances, forwards and meters them.",
        epilog="Settings come from BURSAR_* environment variables over the TOML file.",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file (also BURSAR_CONFIG)")
    parser.add_argument(
        "--show-settings", action="store_true", help="print the effective settings and end"
    )
    options = parser.parse_args(arguments)
    _log_to_stderr()
    try:
        settings = load_settings(os.environ, options.config)
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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    log = structlog.get_logger("bursar.sidecar")
    log.info("starting", settings=effective(settings))
    clock = SystemClock()
    try:
        dial = dialer(settings)
        journal = Journal(
            Path(settings.data_dir), boot_id=machine_boot_id(), limits=JournalLimits()
        )
    except (OSError, JournalError) as error:
        print(f"bursar sidecar: {error}", file=sys.stderr)
        return 1
    book = Book(max_waiters=settings.max_waiters)
    identity = Identity()
    build = f"bursar-sidecar/{version('bursar')}"
    session = Session(dial, clock, book, identity, journal, build=build)
    cashier = Cashier(
        clock, book, identity, journal, session, reserve_wait_ms=settings.reserve_wait_ms
    )
    counter = None
    if settings.cut_streams == "count":  # its process is started by the first stream that needs it
        counting = StartedProcess(Path(settings.data_dir))
        counter = SharedCounter(counting.connect, clock.monotonic)
    proxy = build_proxy(settings, cashier, clock, readiness=cashier.readiness, counter=counter)
    draining = Draining(cashier, session, longest_call_s=settings.longest_call_s)
    MoneyMetrics(book, journal, session, cashier, clock).register(proxy.metrics.registry)
    stream = asyncio.create_task(session.run(), name="session")
    stopped = _stop_signals()
    try:
        await proxy.start()
    except OSError as error:
        stream.cancel()
        journal.close()
        print(f"bursar sidecar: cannot listen: {error}", file=sys.stderr)
        return 1
    # Everything made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # A call makes a few hundred objects and next to no cycles: look for them ten times less often
    # than by default.
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
    serving = {"event": "serving", "http": proxy.http_address, "admin": proxy.admin_address}
    print(json.dumps(serving), flush=True)
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait((stopping, stream), return_when=asyncio.FIRST_COMPLETED)
    failed = stream.done()
    if failed:  # it never ends by itself: a fault of ours; say it and end in an orderly way
        log.critical("session_failed", exc_info=stream.exception())
    await draining.stop()
    await _drain(proxy, cashier, journal)
    stream.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(stream, return_exceptions=True)
    log.info("stopped")
    return 1 if failed else 0


async def _drain(proxy: Proxy, cashier: Cashier, journal: Journal) -> None:
    """Let calls end, settle, give all money back, close the sessions, close the journal."""
    log = structlog.get_logger("bursar.sidecar")
    await proxy.drain()
    if not await cashier.drain(SETTLE_TIMEOUT_S, CLOSE_TIMEOUT_S):
        log.warning("not_all_acknowledged", effect="the journal holds the rest for the next start")
    journal.close()


def _stop_signals() -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT; a second one ends the process at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            # The journal holds everything; the next start sorts it out.
            os._exit(1)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped


def _log_to_stderr() -> None:
    stream = LogStream(sys.stderr.fileno())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]  # uses write and flush
        cache_logger_on_first_use=True,
    )
