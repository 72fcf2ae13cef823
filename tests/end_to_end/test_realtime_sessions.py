"""Realtime sessions through the sidecar, opened by OpenAI's own library and by a plain client."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from bursar_cli.simulated_provider.served_calls import Ended
from bursar_sidecar.extra_call_settings import Websocket
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.live_sidecar import LiveSidecar, live_sidecar

DOLLAR = 10**9
LINE = Websocket(path="/v1/realtime", provider="openai", flat_price="0.10", price_per_minute="0.30")
COST = 4 * DOLLAR // 10


@pytest.fixture
def sidecar() -> Iterator[LiveSidecar]:
    with live_sidecar(websockets=(LINE,)) as serving:
        yield serving


def library(sidecar: LiveSidecar) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sidecar.address}/v1", api_key=KEY, max_retries=0)


def plain(sidecar: LiveSidecar, target: str = "/v1/realtime?model=gpt-realtime", **options: Any
          ) -> ClientConnection:  # fmt: skip
    headers = options.pop("headers", {"Authorization": f"Bearer {KEY}"})
    address = sidecar.address.replace("http://", "ws://")
    opened: ClientConnection = connect(address + target, additional_headers=headers, **options)
    return opened


def test_the_library_talks_to_its_provider_and_each_session_costs_its_price(
    sidecar: LiveSidecar,
) -> None:
    with library(sidecar) as app:
        for _ in range(2):
            with app.realtime.connect(model="gpt-realtime") as session:
                session.session.update(session={"type": "realtime", "instructions": "Be brief."})
                item = {"type": "message", "role": "user",
                        "content": [{"type": "input_text", "text": "hello"}]}  # fmt: skip
                session.conversation.item.create(item=item)  # type: ignore[arg-type]  # a plain one
                session.response.create()
                heard = []
                for event in session:
                    heard.append(event)
                    if event.type == "response.done":
                        break
            kinds = [event.type for event in heard]
            assert kinds[:2] == ["session.created", "session.updated"]
            assert kinds.count("response.output_text.delta") == 8
    for call, outcome in sidecar.settled(2):
        assert (call.endpoint, call.model, call.ended) == (
            "realtime",
            "gpt-realtime",
            Ended.COMPLETE,
        )
        assert call.billed.output == 8
        assert (outcome.kind, outcome.cost_nanos, outcome.usage.is_exact) == ("final", COST, True)


async def test_the_librarys_other_client_does_too(sidecar: LiveSidecar) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{sidecar.address}/v1", api_key=KEY) as app,
        app.realtime.connect(model="gpt-realtime") as session,
    ):
        await session.response.create()
        async for event in session:
            if event.type == "response.done":
                assert event.response.usage is not None
                break
    ((_, outcome),) = sidecar.settled()
    assert outcome.cost_nanos == COST


def test_azures_client_names_its_deployment() -> None:
    line = Websocket(path="/openai/*", provider="azure", flat_price="0.10")
    desk = FakeDesk(spenders={KEY: spender(allowed_models=("gpt-realtime",))})
    deployments = (("voice", "gpt-realtime"), ("other", "gpt-4o-realtime-preview"))
    upstream = {"name": "azure", "kind": "azure", "deployments": deployments}
    with live_sidecar(desk, upstream, websockets=(line,)) as sidecar:
        app = openai.AzureOpenAI(
            azure_endpoint=sidecar.address,
            api_key=KEY,
            api_version="2025-04-01-preview",
            websocket_base_url=sidecar.address.replace("http", "ws") + "/openai",
        )
        with app.realtime.connect(model="voice") as session:
            assert session.recv().type == "session.created"
        ((call, outcome),) = sidecar.settled()
        assert (call.model, outcome.cost_nanos) == ("voice", DOLLAR // 10)
        assert desk.calls[0].model == "gpt-realtime"
        with pytest.raises(InvalidStatus) as caught, app.realtime.connect(model="other"):
            pass
        assert caught.value.response.status_code == 403


def test_by_default_the_library_is_refused() -> None:
    with live_sidecar() as sidecar, library(sidecar) as app:
        with (
            pytest.raises(InvalidStatus) as caught,
            app.realtime.connect(model="gpt-realtime"),
        ):
            pass
        assert caught.value.response.status_code == 404
        assert b"[[websockets]]" in caught.value.response.body
        assert not sidecar.desk.calls


def test_a_browsers_way_to_show_a_key(sidecar: LiveSidecar) -> None:
    offered = [Subprotocol(one) for one in ("realtime", f"openai-insecure-api-key.{KEY}")]
    with plain(sidecar, headers={}, subprotocols=offered) as session:
        assert session.subprotocol == "realtime"
        assert "session.created" in session.recv()
    sidecar.settled()


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_large_messages_and_pings_pass(sidecar: LiveSidecar, compression: str | None) -> None:
    with plain(sidecar, compression=compression, max_size=None) as session:
        session.recv()
        text = "x" * 3_000_000
        session.send(f'{{"type": "conversation.item.create", "item": {{"text": "{text}"}}}}')
        assert session.ping().wait(10)
        assert text in session.recv()
    sidecar.settled()


def test_what_the_provider_refuses_is_heard(sidecar: LiveSidecar) -> None:
    with pytest.raises(InvalidStatus) as caught:
        plain(sidecar, headers={"Authorization": f"Bearer {KEY}", "x-simulate": "no json"})
    assert caught.value.response.status_code == 400
    assert sidecar.desk.only_outcome.cost_nanos == 0


def test_many_sessions_at_once(sidecar: LiveSidecar) -> None:
    def talk() -> None:
        with plain(sidecar) as session:
            for _ in range(5):
                session.send('{"type": "response.create"}')
                while "response.done" not in session.recv():
                    pass

    threads = [threading.Thread(target=talk) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = sidecar.settled(20)
    assert {call.billed.output for call, _ in calls} == {40}
    assert {outcome.cost_nanos for _, outcome in calls} == {COST}


def test_an_app_is_told_when_the_sidecar_goes_down() -> None:
    with live_sidecar(websockets=(LINE,)) as sidecar, plain(sidecar) as session:
        session.recv()
        stopping = threading.Thread(target=sidecar.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed) as caught:
            session.recv()
        stopping.join()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    assert sidecar.desk.only_outcome.cost_nanos == COST
