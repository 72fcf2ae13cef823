"""The Check as a real Envoy asks it: what goes on, what it looks like upstream, what is refused.

The configuration is the shipped one of the light tier, with routes of the test.
"""

import asyncio
import gzip
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from bursar_sidecar.desk import Call
from tests.fakes.desk import KEY, FakeDesk, FakeReservation
from tests.fakes.envoy import Envoy, before, endpoint_of, envoy, filter_of, shipped
from tests.fakes.live_envoy_services import LiveEnvoyServices, live_envoy_services
from tests.fakes.recording_upstream import RecordingUpstream, recording_upstream
from tests.fakes.until import DEADLINE_S, until

CHAT = b'{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'
BEARER = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
AUTHZ = "envoy.filters.http.ext_authz"
MOST_BODY_BYTES = 2_000


class WaitingDesk(FakeDesk):
    """A reservation of the customer "wait" waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def reserve(self, call: Call) -> FakeReservation:
        if call.customer == "wait":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        return await super().reserve(call)


class Mesh(NamedTuple):
    """An Envoy between apps, a sidecar and an upstream."""

    sidecar: LiveEnvoyServices
    upstream: RecordingUpstream
    envoy: Envoy

    def asked(
        self,
        path: str = "/v1/chat/completions",
        body: bytes | Iterator[bytes] | None = CHAT,
        headers: Mapping[str, str] = BEARER,
        method: str = "POST",
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the answer to an app."""
        connection = http.client.HTTPConnection(self.envoy.address, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()


def route(match: Mapping[str, Any], does: Mapping[str, Any], **extensions: str) -> dict[str, Any]:
    """A route, with the settings that the Check is told of it."""
    settings = {f"bursar.{name}": value for name, value in extensions.items()}
    per_route = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "check_settings": {"context_extensions": settings},
    }
    return {"match": match, **does, "typed_per_filter_config": {AUTHZ: per_route}}


def routes() -> list[dict[str, Any]]:
    """What the tests call."""
    to_provider = {"route": {"cluster": "openai", "timeout": "0s"}}
    nowhere = {"direct_response": {"status": 404}}
    answered = {
        "prefix": "/chosen",
        "dynamic_metadata": [
            {
                "filter": AUTHZ,
                "path": [{"key": "bursar"}, {"key": "provider"}],
                "value": {"string_match": {"exact": "openai"}},
            }
        ],
    }
    again = {"retry_on": "5xx", "num_retries": 3}
    rewritten = {"route": {**to_provider["route"], "prefix_rewrite": "/"}}
    return [
        route(answered, rewritten),
        route({"prefix": "/chosen"}, nowhere, provider="*", tier="light", prefix="/chosen"),
        route({"prefix": "/free/"}, to_provider, **{"pass": "true"}),
        route(
            {"prefix": "/anew/"}, to_provider,
            provider="openai", tier="light", prefix="/anew", rewrite="host,path", tags="env:test",
        ),
        route(
            {"prefix": "/again/"},
            {"route": to_provider["route"] | {"retry_policy": again}},
            provider="openai", tier="light", prefix="/again",
        ),
        route({"prefix": "/wrong/"}, to_provider, provider="openai", budget="mine"),
        route({"prefix": "/"}, to_provider, provider="openai", tier="light"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One for all tests here."""
    with recording_upstream() as upstream, live_envoy_services(WaitingDesk()) as sidecar:
        config = before(
            shipped("light"),
            sidecar=endpoint_of(sidecar.envoy_address),
            provider=endpoint_of(upstream.address),
        )
        authz = filter_of(config, AUTHZ)
        authz["clear_route_cache"] = True
        authz["grpc_service"]["timeout"] = "0.2s"
        authz["with_request_body"] |= {
            "max_request_bytes": MOST_BODY_BYTES,
            "allow_partial_message": True,
        }
        listener = config["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        # Apps on a mesh's own network are believed more than others.
        ours = {"address_prefix": "127.0.0.0", "prefix_len": 8}
        manager["internal_address_config"] = {"cidr_ranges": [ours]}
        manager["route_config"]["virtual_hosts"][0]["routes"] = routes()
        with envoy(tmp_path_factory.mktemp("envoy"), config) as running:
            yield Mesh(sidecar, upstream, running)


@pytest.fixture(autouse=True)
def fresh(mesh: Mesh) -> None:
    mesh.upstream.taken.clear()
    mesh.upstream.status = 200
    mesh.upstream.says.clear()
    mesh.sidecar.desk.calls.clear()


def test_what_goes_on_carries_the_providers_credential_and_nothing_of_ours(mesh: Mesh) -> None:
    told = {
        "x-bursar-tags": "a:b",
        "x-bursar-charge-id": "1-1",
        "x-litellm-tags": "c:d",
        "cookie": "a=b",
        "accept-encoding": "br, gzip",
        "user-agent": "app/1",
    }
    mesh.upstream.says["x-bursar-cost"] = "0"
    status, headers, _ = mesh.asked(headers=BEARER | told)
    assert status == 200
    (call,) = mesh.upstream.taken
    assert call.body == CHAT
    assert call.header("authorization") == "Bearer sk-simulated"
    assert call.header("accept-encoding") in ("", "identity")
    assert call.header("user-agent") == "app/1"
    assert not call.header("cookie")
    assert not [name for name, _ in call.headers if name.startswith(("x-bursar", "x-litellm"))]
    assert not any(KEY in value for _, value in call.headers)
    assert set(mesh.sidecar.desk.calls[0].tags) == {"a:b", "c:d"}
    assert headers["x-bursar-charge-id"].startswith("7-")
    assert "x-bursar-cost" not in headers


def test_an_app_cannot_have_its_call_sent_more_than_once(mesh: Mesh) -> None:
    """Envoy's router takes such orders from headers: paid for once, bought four times."""
    mesh.upstream.status = 500
    orders = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3"}
    assert mesh.asked(headers=BEARER | orders)[0] == 500
    assert len(mesh.upstream.taken) == 1


def test_a_route_cannot_have_a_call_sent_more_than_once(mesh: Mesh) -> None:
    """Whatever its policy is: the call was paid for once."""
    mesh.upstream.status = 500
    assert mesh.asked("/again/v1/chat/completions")[0] == 500
    assert len(mesh.upstream.taken) == 1


def test_a_refusal_is_the_dialects_own(mesh: Mesh) -> None:
    status, headers, body = mesh.asked(headers={"authorization": "Bearer bk-nobody"})
    assert (status, headers["content-type"]) == (401, "application/json")
    assert json.loads(body)["error"]["code"] == "key_unknown"
    assert headers["x-bursar-refused"] == "key_unknown"
    assert not mesh.upstream.taken


def test_models_are_told_by_the_sidecar(mesh: Mesh) -> None:
    status, headers, body = mesh.asked("/v1/models", None, method="GET")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert "gpt-4o-mini" in {one["id"] for one in json.loads(body)["data"]}
    status, headers, body = mesh.asked("/v1/models", None, method="HEAD")
    assert (status, body) == (200, b"")
    assert not mesh.upstream.taken


# -- bodies --------------------------------------------------------------------------------------


def test_a_body_past_envoys_limit_is_refused_in_the_dialects_shape(mesh: Mesh) -> None:
    large = CHAT[:-1] + b',"user":"' + b"x" * MOST_BODY_BYTES + b'"}'
    status, _, body = mesh.asked(body=large)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    status, _, body = mesh.asked(body=iter([large]))  # in chunks: nobody knows its length
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert not mesh.upstream.taken


def test_an_app_cannot_say_that_a_part_is_the_whole(mesh: Mesh) -> None:
    large = CHAT[:-1] + b" " * MOST_BODY_BYTES + b',"n":9}'
    status, _, _ = mesh.asked(body=large, headers=BEARER | {"x-envoy-auth-partial-body": "false"})
    assert status == 413


def test_bodies_in_chunks_and_compressed_ones_are_read(mesh: Mesh) -> None:
    assert mesh.asked(body=iter([CHAT[:20], CHAT[20:]]))[0] == 200
    packed = gzip.compress(CHAT)
    assert mesh.asked(body=packed, headers=BEARER | {"content-encoding": "gzip"})[0] == 200
    assert [call.body for call in mesh.upstream.taken] == [CHAT, packed]
    assert mesh.upstream.taken[1].header("content-encoding") == "gzip"
    assert [call.model for call in mesh.sidecar.desk.calls] == ["gpt-4o-mini"] * 2


def test_compression_that_nobody_reads_is_refused(mesh: Mesh) -> None:
    status, _, body = mesh.asked(headers=BEARER | {"content-encoding": "br"})
    assert (status, json.loads(body)["error"]["code"]) == (415, "body_encoded")


# -- routes --------------------------------------------------------------------------------------


def test_envoy_may_route_by_what_the_check_answers(mesh: Mesh) -> None:
    assert mesh.asked("/chosen/v1/chat/completions")[0] == 200
    assert len(mesh.upstream.taken) == 1
    assert mesh.asked("/chosen/v1/nothing")[0] == 404


def test_host_and_path_are_the_providers_where_the_route_says_so(mesh: Mesh) -> None:
    assert mesh.asked("/anew/v1/chat/completions?beta=1")[0] == 200
    (call,) = mesh.upstream.taken
    assert call.target == "/v1/chat/completions?beta=1"
    assert call.header("host") == mesh.sidecar.provider_address.removeprefix("http://")
    assert mesh.sidecar.desk.calls[0].tags == ("env:test",)


def test_a_path_that_no_dialect_knows_is_refused_or_goes_on_as_its_route_says(mesh: Mesh) -> None:
    assert mesh.asked("/v1/nowhere")[0] == 404
    assert not mesh.upstream.taken
    assert mesh.asked("/free/status", headers=BEARER | {"x-kept": "1"})[0] == 200
    (call,) = mesh.upstream.taken
    assert (call.header("authorization"), call.header("x-kept")) == ("", "1")
    assert mesh.asked("/free/status", headers={})[0] == 401
    assert not mesh.sidecar.desk.calls


def test_a_setting_that_is_not_understood_closes_its_route(mesh: Mesh) -> None:
    status, _, body = mesh.asked("/wrong/v1/chat/completions")
    assert (status, json.loads(body)["error"]["code"]) == (503, "envoy_misconfigured")


# -- a Check that comes to nothing ---------------------------------------------------------------


def waiting(mesh: Mesh) -> int:
    desk = mesh.sidecar.desk
    assert isinstance(desk, WaitingDesk)
    return desk.waiting


def test_a_check_that_takes_too_long_is_refused_and_has_reserved_nothing(mesh: Mesh) -> None:
    held = mesh.sidecar.services.held.open_count
    status, _, _ = mesh.asked(headers=BEARER | {"x-bursar-customer": "wait"})
    assert status == 503
    until(lambda: not waiting(mesh), "the Check is given up")
    until(lambda: mesh.sidecar.services.held.open_count <= held, "nothing more is held")
    assert not mesh.upstream.taken
    assert not mesh.sidecar.desk.calls


def test_an_app_that_hangs_up_while_its_check_waits_has_reserved_nothing(mesh: Mesh) -> None:
    held = mesh.sidecar.services.held.open_count
    host, _, port = mesh.envoy.address.rpartition(":")
    with socket.create_connection((host, int(port))) as app:
        app.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-bursar-customer: wait\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (KEY.encode(), len(CHAT), CHAT)
        )
        until(lambda: waiting(mesh) == 1, "the Check waits")
    until(lambda: not waiting(mesh), "the Check is given up")
    until(lambda: mesh.sidecar.services.held.open_count <= held, "nothing more is held")
    assert not mesh.sidecar.desk.calls
