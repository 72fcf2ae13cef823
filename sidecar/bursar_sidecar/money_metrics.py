"""What a sidecar tells of its money: allowances, lines, journal, session.

Read when scraped, so that counting costs a call nothing. No label names a budget or a key: callers
could make them without end.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bursar_sidecar.allowances import Book
from bursar_sidecar.cashier import Cashier
from bursar_sidecar.clock import Clock
from bursar_sidecar.journal import Journal
from bursar_sidecar.pools import Pool
from bursar_sidecar.session import Session

_AMOUNTS: Final[tuple[tuple[str, str, Callable[[Pool], int]], ...]] = (
    ("free", "Lent, and held by no call.", lambda pool: max(0, pool.free_nanos)),
    ("reserved", "Set aside for calls in flight.", lambda pool: pool.reserved_nanos),
    ("overdrawn", "Settled beyond what was lent.", lambda pool: max(0, -pool.free_nanos)),
)


class MoneyMetrics:
    """A collector for the registry of the proxy's metrics."""

    def __init__(
        self, book: Book, journal: Journal, session: Session, cashier: Cashier, clock: Clock
    ) -> None:
        self._book = book
        self._journal = journal
        self._session = session
        self._cashier = cashier
        self._clock = clock

    def register(self, registry: CollectorRegistry) -> None:
        """Be scraped with the rest."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        legs = [leg for leg in (self._book.organization, self._book.platform) if leg]
        for name, text, amount in _AMOUNTS:
            family = GaugeMetricFamily(
                f"bursar_sidecar_{name}_nanos", text, labels=("organization", "currency")
            )
            for leg in legs:
                total_nanos = sum(amount(pool) for pool in leg.pools.values() if pool.lent)
                family.add_metric((leg.organization, leg.currency), total_nanos)
            yield family
        now = self._clock.boot_ns()
        for name, text, value in (
            ("connected", "1 while the session stream is up.", int(self._session.connected)),
            ("admitting", "1 while policy and allowances hold.", int(not self._session.fault(now))),
            ("waiters", "Calls that wait for money.", len(self._book.waiters)),
            ("journal_open_records", "Dispatched, not settled.", self._journal.open_calls),
            (
                "journal_unacknowledged_bytes",
                "Settlements that the control plane has not committed yet.",
                self._journal.unacknowledged_bytes,
            ),
            (
                "journal_faulty",
                "1 while the journal can't be written.",
                int(bool(self._journal.fault)),
            ),
        ):
            yield GaugeMetricFamily(f"bursar_sidecar_{name}", text, value)
        yield CounterMetricFamily(
            "bursar_sidecar_overruns",
            "Calls that cost more than was lent for them.",
            self._cashier.overrun_count,
        )
