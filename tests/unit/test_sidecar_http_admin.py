"""The admin endpoints: metrics, health and readiness."""

import json

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.metrics import Admin, Metrics
from tests.fakes.wire import Answer, FakeApp, join


async def asked(path: str, reason: str = "", method: str = "GET") -> Answer:
    metrics = Metrics()
    metrics.refused("budget_exhausted")
    app = FakeApp()
    join(app, Connection(HttpServer(Admin(metrics, lambda: reason).handle)))
    app.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    return await app.answer()


async def test_metrics_are_in_the_format_of_prometheus() -> None:
    answer = await asked("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert b'bursar_sidecar_refusals_total{reason="budget_exhausted"} 1.0' in answer.body


async def test_health_does_not_depend_on_readiness() -> None:
    assert (await asked("/healthz", "no control plane")).status == 200


async def test_readiness_fails_with_its_reason() -> None:
    assert (await asked("/readyz")).status == 200
    answer = await asked("/readyz", "no policy held")
    assert answer.status == 503
    assert json.loads(answer.body) == {"ready": False, "reason": "no policy held"}


async def test_nothing_else_is_served() -> None:
    assert (await asked("/")).status == 404
    assert (await asked("/metrics", method="POST")).status == 405
