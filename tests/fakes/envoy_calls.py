"""The calls that Envoy carries, over a desk in memory and time that a test moves."""

from typing import Any

from msgspec import structs

from bursar_sidecar.dialects.registry import find
from bursar_sidecar.envoy.held_calls import HeldCall, HeldCalls, Tier
from bursar_sidecar.http_messages import Headers, Request
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.spending import FakeEvidence, MovedClock

OPENAI = Provider("openai", "http://provider.test/v1", api_key="sk-upstream")
ANTHROPIC = Provider("anthropic", "http://claude.test", kind="anthropic", api_key="sk-claude")
CHAT = b'{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'


class EnvoyCalls:
    """A proxy's parts, and the registry over them."""

    def __init__(self, desk: FakeDesk | None = None, **settings: Any) -> None:
        self.desk = desk or FakeDesk()
        self.clock = MovedClock()
        self.evidence = FakeEvidence(self.desk)
        counter = settings.pop("counter", None)
        base = Settings(envoy_address="127.0.0.1:0", providers=(OPENAI, ANTHROPIC), drain_s=0)
        self.settings = structs.replace(base, **settings)
        self.proxy = build_proxy(self.settings, self.desk, self.clock, counter=counter)
        self.held = HeldCalls(
            self.settings,
            self.clock,
            self.proxy.admission,
            self.proxy.servings,
            self.evidence,
        )

    async def admit(
        self, tier: Tier = "strict", body: bytes = CHAT, path: bytes = b"/v1/chat/completions"
    ) -> str:
        """One call, as a Check admits it; returns its charge id."""
        seat = self.held.seat()
        serving = self.proxy.servings.begin()
        headers: Headers = [(b"authorization", b"Bearer " + KEY.encode())]
        request = Request(b"POST", path, headers, body)
        found = find(request)
        assert found is not None
        admitted = await self.proxy.admission.admit(
            serving,
            await self.desk.identify(KEY),
            self.clock.monotonic(),
            found,
            request,
            edits=tier == "strict",
        )
        call = HeldCall(admitted, found.endpoint, serving, request, tier)
        return self.held.open(seat, call)

    @property
    def in_flight(self) -> tuple[int, int]:
        """Calls that the metrics count as under way, and those that hold settings."""
        return int(self.proxy.metrics.in_flight.value), self.proxy.servings.current.calls
