"""Opening a websocket through the sidecar: who may, what the provider is told, what is refused."""

import json
from typing import Any

import pytest

from bursar_sidecar.doors import Door
from bursar_sidecar.http_limits import Limits
from bursar_sidecar.listener_settings import Listener
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.raw_wire import RawEnd
from tests.fakes.websockets_raw import (
    ACCEPT,
    BY_MINUTE,
    DOLLAR,
    SWITCHED,
    TunnelBench,
    frame,
    offer,
)
from tests.fakes.wire import delivered


def error_in(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


async def refused(bench: TunnelBench, request: bytes) -> tuple[int, dict[str, Any]]:
    bench.app.send(request)
    await bench.app.until(lambda: bench.app.ended)
    assert not bench.provider.ends
    assert not bench.desk.open
    return error_in(bench.app.received)


async def test_the_provider_gets_the_offer_with_its_own_credential() -> None:
    bench = TunnelBench()
    bench.app.send(
        offer(
            "/v1/realtime?model=gpt-realtime&x=%31",
            OpenAI_Beta="realtime=v1",
            Sec_WebSocket_Protocol="realtime",
            Cookie="a=b",
            x_bursar_tags="a:b",
        )
    )
    provider = await bench.provider_end()
    lines = provider.received.split(b"\r\n")
    assert lines[0] == b"GET /v1/realtime?model=gpt-realtime&x=%31 HTTP/1.1"
    assert b"Authorization: Bearer sk-up" in lines
    assert b"OpenAI-Beta: realtime=v1" in lines
    assert b"Sec-WebSocket-Protocol: realtime" in lines
    assert lines.count(b"Connection: Upgrade") == lines.count(b"Upgrade: websocket") == 1
    told = provider.received.lower()
    for kept in (KEY.encode(), b"cookie", b"x-bursar", b"content-length"):
        assert kept not in told
    assert bench.desk.calls[0].model == "gpt-realtime"
    assert bench.desk.calls[0].tags == ("a:b",)


async def test_the_app_gets_the_answer_and_the_id_of_its_charge() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    (await bench.provider_end()).send(SWITCHED)
    await bench.app.until(lambda: bench.app.received.endswith(b"\r\n\r\n"))
    assert bench.app.received == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\nX-Request-Id: r-1\r\nx-bursar-charge-id: 7-1\r\n\r\n" % ACCEPT
    )


@pytest.mark.parametrize(
    "told",
    [
        {"Sec_WebSocket_Protocol": f"realtime, openai-insecure-api-key.{KEY}, openai-project.p-1"},
        {"api_key": KEY},
        {"x_goog_api_key": KEY},
        {"target": f"/v1/realtime?api-key={KEY}&model=gpt-realtime"},
        {"target": f"/v1/realtime?model=gpt-realtime&%6Bey={KEY}"},
    ],
)
async def test_a_key_may_come_as_browsers_and_other_libraries_send_it(
    told: dict[str, str],
) -> None:
    bench = TunnelBench()
    bench.app.send(offer(**{"target": "/v1/realtime?model=gpt-realtime", **told}, key=""))
    received = (await bench.provider_end()).received
    assert received.startswith(b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\n")
    assert KEY.encode() not in received
    assert b"openai-" not in received
    assert (b"Sec-WebSocket-Protocol: realtime\r\n" in received) == (
        "Sec_WebSocket_Protocol" in told
    )
    assert b"Authorization: Bearer sk-up" in received


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (offer(key=""), 401, "key_missing"),
        (offer(key="bk-other"), 401, "key_unknown"),
        (offer("/v1/realtime/x"), 404, "unknown_path"),
        (offer("/v1/real%74ime"), 404, "unknown_path"),
        (offer(version="1.0"), 404, "unknown_path"),
        (offer(Upgrade="h2c"), 404, "unknown_path"),
        (offer(Upgrade="websocket, h2c"), 404, "unknown_path"),
        (offer(Connection="keep-alive") + b"", 404, "unknown_path"),
        (offer(Sec_WebSocket_Version="8"), 400, "invalid_value"),
        (offer(Sec_WebSocket_Key="short"), 400, "invalid_value"),
        (offer(Sec_WebSocket_Key=""), 400, "invalid_value"),
        (offer("/v1/realtime?model=a&Model=b"), 400, "invalid_value"),
        (offer("/v1/realtime?model="), 400, "invalid_value"),
        (offer(Content_Length="3") + b"abc", 400, "invalid_value"),
        (offer(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400, "invalid_value"),
        (offer() + frame(b"hi", masked=True), 400, "malformed_http"),
    ],
)
async def test_what_is_no_proper_offer_is_refused(request_: bytes, status: int, code: str) -> None:
    bench = TunnelBench()
    if b"keep-alive" in request_:  # no offer at all: the connection goes on
        bench.app.send(request_)
        await delivered()
        answered = error_in(bench.app.received)
    else:
        answered = await refused(bench, request_)
    assert (answered[0], answered[1]["code"]) == (status, code)
    assert not bench.desk.calls


async def test_by_default_it_is_refused_with_the_setting_that_allows_it() -> None:
    bench = TunnelBench()
    status, error = await refused(bench, offer("/v1/other"))
    assert status == 404
    assert "[[websockets]]" in error["message"]


async def test_a_key_with_a_list_of_models_opens_only_what_is_on_it() -> None:
    spenders = {KEY: spender(allowed_models=("gpt-realtime*",))}
    bench = TunnelBench(desk=FakeDesk(spenders=spenders))
    for target in ("/v1/realtime?model=gpt-4o", "/v1/realtime"):
        bench.app = bench.connect()
        status, error = await refused(bench, offer(target))
        assert (status, error["code"]) == (403, "model_not_allowed")
    bench.app = bench.connect()
    bench.app.send(offer("/v1/realtime?deployment=gpt-realtime-mini"))
    assert b"deployment=gpt-realtime-mini" in (await bench.provider_end()).received


async def test_a_budget_that_is_exhausted_opens_nothing() -> None:
    bench = TunnelBench(BY_MINUTE, FakeDesk(DOLLAR // 100 * 39))
    status, error = await refused(bench, offer())
    assert (status, error["code"]) == (402, "budget_exhausted")


async def test_as_many_are_open_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar_sidecar.tunnels.MAX_TUNNELS", 1)
    bench = TunnelBench()
    await bench.opened()
    app = bench.connect()
    app.send(offer())
    await app.until(lambda: app.ended)
    status, error = error_in(app.received)
    assert (status, error["code"]) == (503, "overloaded")


async def test_a_provider_that_refuses_is_heard_and_costs_nothing() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: no\r\n\r\nnope"
    (await bench.provider_end()).send(refusal)
    await bench.app.until(lambda: bench.app.ended)
    assert bench.app.received.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"X-Why: no\r\n" in bench.app.received
    assert bench.app.received.endswith(b"\r\n\r\nnope")
    outcome = bench.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("provider_error", 0)


async def test_a_plain_answer_is_no_way_round_the_flat_price() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    (await bench.provider_end()).send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await bench.app.until(lambda: bench.app.ended)
    assert bench.app.received.endswith(b"\r\n\r\n{}")
    assert bench.desk.only_outcome.cost_nanos == DOLLAR // 10


BROKEN = [
    SWITCHED.replace(ACCEPT, b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    SWITCHED.replace(b"Sec-WebSocket-Accept: %b\r\n" % ACCEPT, b""),
    SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    SWITCHED.replace(b"Connection: Upgrade\r\n", b""),
    SWITCHED.replace(b"Upgrade: websocket\r\n", b""),
    SWITCHED.replace(b"X-Request-Id: r-1", b"Content-Length: 5"),
    SWITCHED.replace(b"X-Request-Id: r-1", b"Transfer-Encoding: chunked"),
    SWITCHED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    b"HTTP/1.1 101\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
]


@pytest.mark.parametrize("answer", BROKEN)
async def test_a_broken_handshake_opens_nothing_and_costs_nothing(answer: bytes) -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    provider = await bench.provider_end()
    provider.send(answer)
    await bench.app.until(lambda: bench.app.ended)
    status, error = error_in(bench.app.received)
    assert (status, error["code"]) == (502, "provider_broke")
    assert bench.desk.only_outcome.cost_nanos == 0
    await provider.until(lambda: provider.ended)


async def test_a_provider_that_hangs_up_costs_nothing() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    provider = await bench.provider_end()
    assert provider.transport is not None
    provider.transport.close()
    await bench.app.until(lambda: bench.app.ended)
    assert error_in(bench.app.received)[0] == 502
    assert bench.desk.only_outcome.cost_nanos == 0


async def test_an_app_that_hangs_up_meanwhile_ends_the_offer() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    provider = await bench.provider_end()
    assert bench.app.transport is not None
    bench.app.transport.close()
    await provider.until(lambda: provider.ended)
    assert bench.desk.only_outcome.cost_nanos == 0


async def test_bytes_that_come_before_the_answer_are_not_let_through() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    provider = await bench.provider_end()
    bench.app.send(b"GET /v1/files HTTP/1.1\r\n\r\n")
    await delivered()
    before = provider.received
    provider.send(SWITCHED)
    await bench.app.until(lambda: bench.app.ended)
    assert error_in(bench.app.received)[0] == 400
    assert provider.received == before
    # The provider had opened it: that costs what a connection costs.
    assert bench.desk.only_outcome.cost_nanos == DOLLAR // 10


async def test_an_offer_behind_another_request_waits_for_its_turn() -> None:
    bench = TunnelBench()
    bench.app.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + offer())
    provider = await bench.provider_end()
    provider.send(SWITCHED)
    await bench.app.until(lambda: b" 101 " in bench.app.received)
    assert bench.app.received.startswith(b"HTTP/1.1 200 OK\r\n")
    await echoed(bench, provider)


async def echoed(bench: TunnelBench, provider: RawEnd) -> None:
    said = frame(b"hello", masked=True)
    bench.app.send(said)
    await provider.until(lambda: provider.received.endswith(said))
    answered = frame(b"world", masked=False)
    provider.send(answered)
    await bench.app.until(lambda: bench.app.received.endswith(answered))


async def test_what_comes_with_the_providers_answer_is_not_lost() -> None:
    bench = TunnelBench()
    bench.app.send(offer())
    first = frame(b"session.created", masked=False)
    (await bench.provider_end()).send(SWITCHED + first)
    await bench.app.until(lambda: bench.app.received.endswith(first))


async def test_a_provider_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TunnelBench()

    async def no(*given: object) -> tuple[Any, Any]:
        raise ConnectionRefusedError(111, "Connection refused")

    upstream = bench.proxy.servings.current.upstreams["openai"]
    monkeypatch.setattr(upstream.pool, "_dial", no)
    status, error = await refused(bench, offer())
    assert (status, error["code"]) == (502, "provider_unreachable")
    assert bench.desk.only_outcome.kind == "released"


async def test_an_idle_connection_gives_its_place_up() -> None:
    bench = TunnelBench(upstream={"max_connections": 1})
    bench.app.send(b"GET /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n"
                   % KEY.encode())  # fmt: skip
    provider = await bench.provider_end()
    provider.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await bench.app.until(lambda: bench.app.received.endswith(b"{}"))
    bench.app = bench.connect()
    provider = await bench.opened()
    await echoed(bench, provider)
    assert len(bench.provider.ends) == 2


@pytest.mark.parametrize("own_keys", ["allow", "forbid"])
@pytest.mark.parametrize(
    ("shown", "is_own"),
    [
        ({}, False),
        ({"Sec_WebSocket_Protocol": "realtime, openai-insecure-api-key.bk-own"}, True),
        ({"target": "/v1/realtime?api-key=bk-own"}, True),
        ({"Sec_WebSocket_Protocol": "openai-insecure-api-key.sk-any"}, False),
    ],
)
async def test_an_app_without_a_key_is_whom_its_door_says(
    own_keys: str, shown: dict[str, str], is_own: bool
) -> None:
    spenders = {KEY: spender(tags=("door",)), "bk-own": spender()}
    bench = TunnelBench(desk=FakeDesk(spenders=spenders))
    listener = Listener("unix:/a", api_key=KEY, own_keys=own_keys)
    bench.server = Door(listener, bench.proxy.handle, Limits()).server
    bench.app = bench.connect()
    bench.app.send(offer(**{"target": "/v1/realtime", **shown}, key=""))
    received = (await bench.provider_end()).received
    assert b"bk-" not in received
    assert b"sk-any" not in received
    by_door = bench.desk.calls[0].tags == ("door",)
    assert by_door == (own_keys == "forbid" or not is_own)
