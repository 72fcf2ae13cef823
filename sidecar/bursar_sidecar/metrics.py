"""What the sidecar counts, and the admin endpoints that show it.

Labels are few and bounded: no model, key or tag names, which callers could invent without end.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from bursar_sidecar.desk import OutcomeKind, Receipt
from bursar_sidecar.http_messages import Request, Responder, error_body

_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PLAIN: Final = [(b"content-type", b"text/plain; charset=utf-8")]
_JSON: Final = [(b"content-type", b"application/json")]


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
        self.in_flight = Gauge(
            "bursar_sidecar_calls_in_flight", "Admitted, not yet ended.", registry=self.registry
        )
        self.clamped = Counter(
            "bursar_sidecar_clamped_calls",
            "Calls whose output limit was lowered to what could be reserved.",
            registry=self.registry,
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

    def recounted(self, charged_by: str) -> None:
        """Count a stream without usage that could be counted ("counted"), or not ("bytes")."""
        self._recounts.labels(charged_by).inc()

    def refused(self, reason: str) -> None:
        """Count a call that was not sent."""
        self._refusals.labels(reason).inc()


class Admin:
    """`/metrics`, `/healthz` and `/readyz`."""

    def __init__(self, metrics: Metrics, readiness: Callable[[], str]) -> None:
        self._metrics = metrics
        self._readiness = readiness

    async def handle(self, request: Request, respond: Responder) -> None:
        """Answer one admin request."""
        if request.method not in (b"GET", b"HEAD"):
            body = error_body("method_not_allowed", "Only GET is served here.")
            respond.send(405, _JSON, body)
        elif request.path == b"/metrics":
            headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
            respond.send(200, headers, generate_latest(self._metrics.registry))
        elif request.path == b"/healthz":
            respond.send(200, _PLAIN, b"ok\n")
        elif request.path == b"/readyz":
            self._ready(respond)
        else:
            body = error_body("unknown_path", "Served are /metrics, /healthz and /readyz.")
            respond.send(404, _JSON, body)

    def _ready(self, respond: Responder) -> None:
        reason = self._readiness()
        body = msgspec.json.encode({"ready": not reason, "reason": reason})
        respond.send(503 if reason else 200, _JSON, body)
