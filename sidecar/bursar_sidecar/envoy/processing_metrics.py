"""What the processing service counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from bursar_sidecar.envoy.envoys_word import Word


class ProcessingMetrics:
    """Counters in the registry of the sidecar."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge(
            "bursar_envoy_processing_streams",
            "Streams of ext_proc that are open: one for each request that Envoy carries.",
            registry=registry,
        )
        self._unreserved = Counter(
            "bursar_envoy_unreserved",
            "Requests that came to ext_proc without a reservation, by what was done: refused, or "
            "passed unmetered.",
            ("done",),
            registry=registry,
        )
        self._unanswered = Counter(
            "bursar_envoy_own_answers",
            "Answers that Envoy gave itself to calls with a reservation, by provider and by "
            "whether it is proven that the call never left.",
            ("provider", "sent"),
            registry=registry,
        )
        self.resent = Counter(
            "bursar_envoy_resent_calls",
            "Calls that Envoy sent more than once, of which one is metered.",
            registry=registry,
        )
        for done in ("refused", "passed"):
            self._unreserved.labels(done)

    def unreserved(self, done: str) -> None:
        """Count a request without a reservation: "refused" or "passed"."""
        self._unreserved.labels(done).inc()

    def unanswered(self, provider: str, word: Word) -> None:
        """Count an answer of Envoy's own."""
        self._unanswered.labels(provider, "never" if word.never_sent else "maybe").inc()
