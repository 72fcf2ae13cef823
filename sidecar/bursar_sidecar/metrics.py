"""What the sidecar counts.

Labels are few and bounded: no model, key or tag names, which callers could invent without end.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from bursar_sidecar.desk import OutcomeKind, Receipt

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
        self._calls = Counter(
            "bursar_sidecar_calls",
            "Calls that ended, by provider, outcome and certainty of the usage.",
            ("provider", "outcome", "certainty"),
            registry=self.registry,
        )
        self._refusals = Counter(
            "bursar_sidecar_refusals",
            "Calls refused before they were sent, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._settled = Counter(
            "bursar_sidecar_settled_nanos",
            "Settled cost in nanos (billionths) of the currency.",
            ("provider", "currency"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "bursar_sidecar_call_seconds",
            "From the request's last byte to the answer's, the provider's time included.",
            ("stream",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._held_up = Histogram(
            "bursar_sidecar_before_sending_seconds",
            "From the request's last byte until it is sent on: what the sidecar adds, waiting for "
            "money included.",
            buckets=_SHORT,
            registry=self.registry,
        )
        self.held_up = self._held_up.observe
        """Counts how long a call was here before it was sent, in seconds."""
        self._upstream_errors = Counter(
            "bursar_sidecar_upstream_errors",
            "Calls without a whole answer, by why, and answers that are errors, by the class of "
            "the status (429 apart).",
            ("provider", "error"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "bursar_sidecar_calls_in_flight", "Admitted, not yet ended.", registry=self.registry
        )
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
        # Looking a labelled child up costs more than counting: children are kept.
        self._plain_seconds = self._seconds.labels("false")
        self._stream_seconds = self._seconds.labels("true")
        self._call_children: dict[tuple[str, OutcomeKind, str], Counter] = {}
        self._settled_children: dict[tuple[str, str], Counter] = {}

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
        call = (provider, outcome, certainty)
        child = self._call_children.get(call)
        if child is None:
            child = self._call_children[call] = self._calls.labels(*call)
        child.inc()
        account = (provider, receipt.currency)
        settled = self._settled_children.get(account)
        if settled is None:
            settled = self._settled_children[account] = self._settled.labels(*account)
        settled.inc(receipt.cost_nanos)
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
