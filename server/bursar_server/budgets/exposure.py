"""What could still be spent, by organization, for whoever scrapes the metrics.

Totals, since budgets are without end and would make labels without end; `bursar budget show` and
`bursar sidecar show` tell the parts.
"""

from collections.abc import Callable, Mapping
from typing import Final

import structlog
from prometheus_client import Gauge

from bursar_server.budgets import store
from bursar_server.clock import Clock
from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import BursarError

log = structlog.get_logger(__name__)

# A scrape reads every window of every budget; however many scrape, it is done this often at most.
REFRESH_EVERY_S: Final = 10.0

_LABELS: Final = ("organization", "currency")
OUTSTANDING: Final = Gauge(
    "bursar_outstanding_nanos",
    "Lent to sidecars and neither settled nor returned nor in doubt; added up over budgets.",
    _LABELS,
)
IN_DOUBT: Final = Gauge(
    "bursar_in_doubt_nanos", "Lent, and of unknown fate; added up over budgets.", _LABELS
)
OVERRUN: Final = Gauge(
    "bursar_overrun_nanos",
    "Spent beyond what was lent, in the windows that are open; added up over budgets.",
    _LABELS,
)


RESERVED: Final = Gauge(
    "bursar_reserved_nanos",
    "Of what is outstanding: set aside for calls in flight, as connected sidecars last said.",
    _LABELS,
)
DOUBT_AGE: Final = Gauge(
    "bursar_in_doubt_oldest_seconds",
    "For how long the oldest of what is in doubt has been so; 0: nothing is in doubt.",
    _LABELS,
)


class ExposureMetrics:
    """Keeps the gauges fresh enough for a scrape."""

    def __init__(
        self, pool: Pool, clock: Clock, reserved: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        """`reserved` tells what connected sidecars said they set aside, by organization's slug."""
        self._reserved = reserved
        self._pool = pool
        self._clock = clock
        self._due_s = 0.0

    async def refresh(self) -> None:
        """Read the books again if that is due. Never raises for want of a database: the gauges
        then stay as they were."""
        now_s = self._clock.monotonic()
        if now_s < self._due_s:
            return
        # At once, so that scrapes which overlap do not all read.
        self._due_s = now_s + REFRESH_EVERY_S
        try:
            async with transaction(self._pool, read_only=True) as connection:
                found = await store.exposure(connection, self._clock.now())
        except BursarError as error:
            log.warning("exposure_not_read", cause=repr(error.__cause__))
            return
        reserved = self._reserved()
        now = self._clock.now()
        for gauge in (OUTSTANDING, IN_DOUBT, OVERRUN, RESERVED, DOUBT_AGE):
            gauge.clear()  # an organization may be gone
        for each in found:
            labels = (each.organization_slug, each.currency)
            OUTSTANDING.labels(*labels).set(each.outstanding_nanos)
            IN_DOUBT.labels(*labels).set(each.in_doubt_nanos)
            OVERRUN.labels(*labels).set(each.overrun_nanos)
            RESERVED.labels(*labels).set(reserved.get(each.organization_slug, 0))
            since = each.in_doubt_since or now
            DOUBT_AGE.labels(*labels).set(max(0.0, (now - since).total_seconds()))
