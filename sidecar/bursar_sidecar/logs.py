"""Logs: a line of JSON for each event, to standard error, at a level that can change."""

import logging
import sys
from typing import Final

import structlog

from bursar.log_stream import LogStream

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_threshold = logging.INFO


def log_to_stderr() -> None:
    """Set the logs of this process up."""
    stream = LogStream(sys.stderr.fileno())
    structlog.configure(
        processors=[
            _above_threshold,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]  # uses write and flush
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Log what is of this level or above, from now on."""
    global _threshold
    _threshold = LEVELS[level]


def _above_threshold(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    # The level of a cached logger can't change: what is below is dropped here.
    name = "error" if method in ("critical", "exception") else method
    if LEVELS.get(name, logging.ERROR) < _threshold:
        raise structlog.DropEvent
    return event
