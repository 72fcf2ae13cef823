"""What the quota service counts. Labels are the names of limits, which settings bound."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

_OPEN: Final = (
    ("streams", "Filters of Envoys that are connected."),
    ("buckets", "Their buckets that are known."),
    ("requests_lent", "Requests that were lent and not reported so far."),
)


class QuotaMetrics:
    """A collector, and counters."""

    def __init__(self, registry: CollectorRegistry, open_now: Callable[[], Iterable[int]]) -> None:
        """`open_now` gives the values of the gauges."""
        self._open_now = open_now
        self._requests = Counter(
            "bursar_sidecar_envoy_quota_requests",
            "Requests of buckets: lent, reported, uncovered (reported beyond what was lent), "
            "unreported (lent, charged, never reported).",
            ("limit", "what"),
            registry=registry,
        )
        registry.register(self)

    def lent(self, limit: str, requests: int) -> None:
        """A slice."""
        self._requests.labels(limit, "lent").inc(requests)

    def reported(self, limit: str, requests: int) -> None:
        """Of a slice that is over."""
        self._requests.labels(limit, "reported").inc(requests)

    def uncovered(self, limit: str, requests: int) -> None:
        """Beyond all slices."""
        self._requests.labels(limit, "uncovered").inc(requests)

    def unreported(self, limit: str, requests: int) -> None:
        """Of a slice that was given up."""
        self._requests.labels(limit, "unreported").inc(requests)

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        for (name, text), value in zip(_OPEN, self._open_now(), strict=True):
            yield GaugeMetricFamily(f"bursar_sidecar_envoy_quota_{name}", text, value)
