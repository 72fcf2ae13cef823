"""The admin endpoints: metrics, health, readiness, and what only callers on this machine see."""

import json
from typing import Any

import pytest

from bursar_sidecar.admin import Admin
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.wire import Answer, FakeApp, join

PROVIDER = Provider(
    "openai", "https://api.example.org/v1", api_key="sk-secret", headers=(("x-team", "t-secret"),)
)


class OneProcess:
    """What a process says of itself."""

    def __init__(self, reason: str) -> None:
        self.counted = Metrics()
        self.counted.refused("budget_exhausted")
        self.reason = reason

    async def metrics(self) -> bytes:
        return self.counted.text()

    async def readiness(self) -> str:
        return self.reason

    async def held(self) -> list[dict[str, Any]]:
        return [{"allowances": [{"budget": "budgets/<b>", "free": "1.50"}], "open": []}]


async def asked(
    path: str,
    reason: str = "",
    method: str = "GET",
    *,
    debug_page: str = "loopback",
    peer: object = ("127.0.0.1", 1),
    host: str = "127.0.0.1:7072",
) -> Answer:
    settings = Settings(sidecar_key="bs-secret", providers=(PROVIDER,), debug_page=debug_page)
    app = FakeApp()
    admin = Admin(OneProcess(reason), lambda: settings)
    join(app, Connection(HttpServer(admin.handle)), peername=peer)
    app.send(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode())
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


async def test_the_debug_page_shows_what_is_held_and_no_secret() -> None:
    answer = await asked("/debug.json", "no policy held")
    assert answer.status == 200
    shown = json.loads(answer.body)
    assert shown["ready"] == "no policy held"
    assert shown["processes"][0]["allowances"][0]["free"] == "1.50"
    assert shown["settings"]["sidecar_key"] == "***"
    page = await asked("/debug")
    assert page.headers["content-type"].startswith("text/html")
    assert b"budgets/&lt;b&gt;" in page.body  # what comes from elsewhere is no markup
    for body in (answer.body, page.body):
        assert b"secret" not in body


@pytest.mark.parametrize(
    ("peer", "host", "status"),
    [
        (("127.0.0.1", 1), "localhost:7072", 200),
        (("::1", 1, 0, 0), "[::1]:7072", 200),
        ("", "anything", 200),  # a unix socket
        (("10.0.0.7", 1), "127.0.0.1:7072", 403),
        (("127.0.0.1", 1), "attacker.example:7072", 403),  # a name that was pointed at us
        (None, "localhost", 403),
    ],
)
async def test_only_this_machine_sees_the_debug_page(peer: object, host: str, status: int) -> None:
    assert (await asked("/debug", peer=peer, host=host)).status == status
    assert (await asked("/metrics", peer=peer, host=host)).status == 200


async def test_the_debug_page_can_be_for_anyone_or_for_nobody() -> None:
    outside = ("10.0.0.7", 1)
    assert (await asked("/debug", debug_page="anyone", peer=outside, host="pod")).status == 200
    assert (await asked("/debug", debug_page="off")).status == 404
