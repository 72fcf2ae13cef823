"""A whole sidecar data path in memory: an app, the proxy, a fake desk and a fake provider."""

import json
from typing import Any

from bursar_sidecar.desk import Outcome
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.proxy import Proxy, build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.wire import Answer, FakeApp, FakeProvider, delivered, join

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST_NANOS = 13_500  # gpt-4o-mini: 10 at 0.15 and 20 at 0.60 USD a million
CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 100,
}


class FixedClock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.seconds = 1.0

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def monotonic(self) -> float:
        return self.seconds


class Bench:
    """A proxy between an app and a provider, all in memory."""

    def __init__(self, desk: FakeDesk | None = None, **settings: Any) -> None:
        self.desk = desk or FakeDesk()
        self.provider = FakeProvider()
        upstream = settings.pop("upstream", {})
        counter = settings.pop("counter", None)
        self.clock = FixedClock()
        usual = {"name": "openai", "base_url": "http://provider.test/v1", "api_key": "sk-upstream"}
        openai = Provider(**{**usual, **upstream})
        self.settings = Settings(providers=(openai,), **settings)
        self.proxy: Proxy = build_proxy(
            self.settings, self.desk, self.clock, dial=self.provider.dial, counter=counter
        )
        self.app = self.connect()

    def connect(self) -> FakeApp:
        app = FakeApp()
        join(app, Connection(HttpServer(self.proxy.handle)))
        return app

    def post(
        self, body: dict[str, Any] | bytes, path: str = "/v1/chat/completions", **headers: str
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.app.post(path, data, {"authorization": f"Bearer {KEY}", **named})

    async def answered(self, number: int = 1) -> Answer:
        return await self.app.answer(number)

    async def settled(self) -> Outcome:
        await delivered()
        return self.desk.only_outcome


def chat_answer(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": "four"}
    answer = {"id": "c-1", "model": "gpt-4o-mini", "choices": [{"message": message}]}
    return json.dumps({**answer, "usage": USAGE, **fields}).encode()


def chunk(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    payload = {"id": "c-1", "model": "gpt-4o-mini", "choices": [choice], **fields}
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


USAGE_CHUNK = (
    b"data: " + json.dumps({"id": "c-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
)
DONE = b"data: [DONE]\n\n"


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error
