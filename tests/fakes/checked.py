"""Envoy's services over a desk in memory, asked as an Envoy's ext_authz filter asks."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from msgspec import structs
from prometheus_client import CollectorRegistry

from bursar_sidecar.envoy.life import EnvoyServices
from bursar_sidecar.envoy.metadata import charge_id_of
from bursar_sidecar.proxy import build_proxy
from bursar_sidecar.settings import Settings
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.envoy_calls import ANTHROPIC, CHAT, OPENAI
from tests.fakes.spending import FakeEvidence, MovedClock

CHECK = "/envoy.service.auth.v3.Authorization/Check"
FOR_OPENAI = {"bursar.provider": "openai"}
BEARER = {"authorization": f"Bearer {KEY}"}


class Answer:
    """What a Check was answered."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.is_allowed = message.status.code == 0
        denied, ok = message.denied_response, message.ok_response
        options = ok.headers if self.is_allowed else denied.headers
        self.headers = {one.header.key: one.header.value for one in options}
        self.removed = list(ok.headers_to_remove)
        self.told = {one.header.key: one.header.value for one in ok.response_headers_to_add}
        self.status = 0 if self.is_allowed else int(denied.status.code)
        self.body = denied.body
        self.charge_id = charge_id_of({"envoy.filters.http.ext_authz": message.dynamic_metadata})
        self.metadata = dict(message.dynamic_metadata.fields)

    @property
    def error(self) -> dict[str, Any]:
        """Of a refusal in OpenAI's shape."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def asked(
    path: str = "/v1/chat/completions",
    body: bytes = CHAT,
    *,
    method: str = "POST",
    headers: Mapping[str, str] = BEARER,
    extensions: Mapping[str, str] = FOR_OPENAI,
    partial: str | None = "false",
    raw_headers: bool = True,
) -> Any:
    """A CheckRequest as Envoy 1.40 sends it; `partial` is what it says of the body."""
    check = external_auth_pb2.CheckRequest()
    check.attributes.context_extensions.update(extensions)
    http = check.attributes.request.http
    http.method, http.path, http.host, http.protocol = method, path, "llm.test", "HTTP/1.1"
    http.raw_body = body
    http.size = len(body)
    told = {":path": path, ":method": method, **headers}
    if body and "content-length" not in told:
        told["content-length"] = str(len(body))
    if partial is not None and body:
        told["x-envoy-auth-partial-body"] = partial
    for name, value in told.items():
        if raw_headers:
            http.header_map.headers.append(
                base_pb2.HeaderValue(key=name, raw_value=value.encode("latin-1"))
            )
        else:
            http.headers[name] = value
    return check


class Checks:
    """The services of one process, and an Envoy's channel to them."""

    def __init__(self, desk: FakeDesk | None = None, **settings: Any) -> None:
        self.desk = desk or FakeDesk()
        self.clock = MovedClock()
        self.evidence = FakeEvidence(self.desk)
        base = Settings(envoy_address="127.0.0.1:0", providers=(OPENAI, ANTHROPIC), drain_s=0)
        self.settings = structs.replace(base, **settings)
        self.proxy = build_proxy(self.settings, self.desk, self.clock)
        self.registry = CollectorRegistry()
        self.services = EnvoyServices(
            self.settings, self.proxy, self.desk, self.clock, self.evidence, self.registry
        )
        self.channel: Any = None

    @property
    def held(self) -> Any:
        """The calls that are held."""
        return self.services.held

    def call(self, check: Any) -> Any:
        """The rpc, under way."""
        rpc = self.channel.unary_unary(
            CHECK,
            request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
            response_deserializer=external_auth_pb2.CheckResponse.FromString,
        )
        return rpc(check)

    async def check(self, *args: Any, **kwargs: Any) -> Answer:
        """Ask; see `asked`."""
        return Answer(await self.call(asked(*args, **kwargs)))

    @property
    def in_flight(self) -> tuple[int, int]:
        """Calls that the metrics count as under way, and those that hold settings."""
        return int(self.proxy.metrics.in_flight.value), self.proxy.servings.current.calls


@contextlib.asynccontextmanager
async def checks(desk: FakeDesk | None = None, **settings: Any) -> AsyncIterator[Checks]:
    """Served until the end of the block."""
    made = Checks(desk, **settings)
    await made.services.start()
    try:
        async with grpc.aio.insecure_channel(made.services.address) as channel:
            made.channel = channel
            yield made
    finally:
        await made.services.drain(0)
