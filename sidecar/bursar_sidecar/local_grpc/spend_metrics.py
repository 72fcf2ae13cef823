"""What the local gRPC service counts. Labels are few and bounded: verbs, reasons, states."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bursar_sidecar.local_grpc.till import Till

_STATES: Final = ("settled", "released", "expired", "adjusted")


class SpendMetrics:
    """A collector for the registry of the proxy's metrics."""

    def __init__(self, till: Till, registry: CollectorRegistry) -> None:
        self._till = till
        self._asked = Counter(
            "bursar_sidecar_spend_commands",
            "What apps asked of the local gRPC service, by verb and outcome.",
            ("verb", "outcome"),
            registry=registry,
        )
        registry.register(self)

    def asked(self, verb: str, outcome: str) -> None:
        """Count one command."""
        self._asked.labels(verb, outcome).inc()

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        yield GaugeMetricFamily(
            "bursar_sidecar_reservations_open",
            "Reservations that apps hold, or wait for.",
            self._till.open_count,
        )
        ended = CounterMetricFamily(
            "bursar_sidecar_reservations_ended",
            "Reservations that ended, by how; adjusted: by evidence that came late.",
            labels=("state",),
        )
        for state in _STATES:
            ended.add_metric((state,), self._till.ended[state])
        yield ended
