"""What the sidecar counts.

Labels are few and bounded: no model, key or tag names, which callers could invent without end.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest

from bursar_sidecar.desk import OutcomeKind, Receipt
from bursar_sidecar.tallies import Durations, Level, Totals

_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5)
"""Seconds; most calls are sent on within one of the first."""
_GROWING: Final = {
    "assembled": "Plain calls that were run as a stream, and assembled.",
    "cut": "Calls that were cut where their money ended.",
}


class Metrics:
    """Counters of one sidecar, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Totals(
            "bursar_sidecar_calls",
            "Calls that ended, by provider, outcome and certainty of the usage.",
            ("provider", "outcome", "certainty"),
        )
        self._refusals = Counter(
            "bursar_sidecar_refusals",
            "Calls refused before they were sent, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._settled = Totals(
            "bursar_sidecar_settled_nanos",
            "Settled cost in nanos (billionths) of the currency.",
            ("provider", "currency"),
        )
        seconds = Durations(
            "bursar_sidecar_call_seconds",
            "From the request's last byte to the answer's, the provider's time included.",
            _SECONDS,
            "stream",
            "false",
            "true",
        )
        held_up = Durations(
            "bursar_sidecar_before_sending_seconds",
            "From the request's last byte until it is sent on: what the sidecar adds, waiting for "
            "money included.",
            _SHORT,
        )
        self._plain_seconds, self._stream_seconds = seconds.of("false"), seconds.of("true")
        self.held_up = held_up.of().observe
        """Counts how long a call was here before it was sent, in seconds."""
        self._upstream_errors = Counter(
            "bursar_sidecar_upstream_errors",
            "Calls without a whole answer, by why, and answers that are errors, by the class of "
            "the status (429 apart).",
            ("provider", "error"),
            registry=self.registry,
        )
        self.in_flight = Level("bursar_sidecar_calls_in_flight", "Admitted, not yet ended.")
        for tally in (self._calls, self._settled, seconds, held_up, self.in_flight):
            self.registry.register(tally)
        self.clamped = Counter(
            "bursar_sidecar_clamped_calls",
            "Calls whose output limit was lowered to what could be reserved.",
            registry=self.registry,
        )
        self.assembled, self.cut = (
            Counter(f"bursar_sidecar_{name}_calls", text, registry=self.registry)
            for name, text in _GROWING.items()
        )
        self._recounts = Counter(
            "bursar_sidecar_streams_without_usage",
            "Streams whose usage never came, by what they were charged by: counted, or bytes.",
            ("charged_by",),
            registry=self.registry,
        )

    def ended(
        self,
        provider: str,
        outcome: OutcomeKind,
        certainty: str,
        receipt: Receipt,
        seconds: float,
        *,
        stream: bool,
    ) -> None:
        """Count a call that was settled."""
        self._calls.add((provider, outcome, certainty))
        self._settled.add((provider, receipt.currency), receipt.cost_nanos)
        (self._stream_seconds if stream else self._plain_seconds).observe(seconds)

    def upstream_failed(self, provider: str, fault: str, status: int) -> None:
        """Count an answer that was none (`fault`), or that was an error."""
        error = fault or ("429" if status == 429 else f"{status // 100}xx")
        self._upstream_errors.labels(provider, error).inc()

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def recounted(self, charged_by: str) -> None:
        """Count a stream without usage that could be counted ("counted"), or not ("bytes")."""
        self._recounts.labels(charged_by).inc()

    def refused(self, reason: str) -> None:
        """Count a call that was not sent."""
        self._refusals.labels(reason).inc()
