"""Doors: an app that brings no Bursar key is whom its door says it is."""

import json

import pytest

from bursar_sidecar.doors import Door
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_limits import Limits
from bursar_sidecar.listener_settings import Listener
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.sidecar_bench import CHAT, Bench, chat_answer
from tests.fakes.wire import FakeApp, join

DOOR_KEY = "bk-door"
PATH = "/v1/chat/completions"


class AtDoor:
    """An app at a door of a sidecar that knows two keys."""

    def __init__(self, listener: Listener) -> None:
        self.bench = Bench(FakeDesk(spenders={KEY: spender(), DOOR_KEY: spender(tags=("door",))}))
        self.door = Door(listener, self.bench.proxy.handle, Limits())
        self.app = FakeApp()
        join(self.app, Connection(self.door.server))

    async def admitted_by(self, path: str = PATH, **headers: str) -> str:
        """The key that the call was admitted with."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.app.post(path, json.dumps(CHAT).encode(), named)
        call = await self.bench.provider.request()
        assert "door" not in f"{call.heads}{call.targets}"  # nothing of it goes to the provider
        call.send_json(chat_answer())
        assert (await self.app.answer()).status == 200
        return DOOR_KEY if "door" in self.bench.desk.calls[0].tags else KEY


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-placeholder"},  # an SDK demands some key
        {"x_api_key": "unused"},
    ],
)
async def test_a_call_without_a_bursar_key_is_the_doors(headers: dict[str, str]) -> None:
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY))
    assert await door.admitted_by(**headers) == DOOR_KEY


@pytest.mark.parametrize("header", ["authorization", "x_api_key"])
async def test_an_own_key_counts_before_the_doors(header: str) -> None:
    value = f"Bearer {KEY}" if header == "authorization" else KEY
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY))
    assert await door.admitted_by(**{header: value}) == KEY


@pytest.mark.parametrize("header", ["authorization", "x_api_key", "x_goog_api_key"])
async def test_a_door_may_forbid_own_keys(header: str) -> None:
    value = f"Bearer {KEY}" if header == "authorization" else KEY
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY, own_keys="forbid"))
    assert await door.admitted_by(**{header: value}) == DOOR_KEY


async def test_a_door_may_forbid_own_keys_in_the_query() -> None:
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY, own_keys="forbid"))
    assert await door.admitted_by(f"{PATH}?key={KEY}") == DOOR_KEY


async def test_a_door_without_a_key_leaves_the_call_to_itself() -> None:
    door = AtDoor(Listener("unix:/a", app="reports"))
    door.app.post(PATH, json.dumps(CHAT).encode(), {})
    assert (await door.app.answer()).status == 401


async def test_the_doors_key_rotates() -> None:
    door = AtDoor(Listener("unix:/a", api_key="bk-old"))
    door.door.rekey(DOOR_KEY)
    assert await door.admitted_by() == DOOR_KEY


async def test_the_doors_app_is_what_reports_call_it() -> None:
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY, app="nightly-reports"))
    await door.admitted_by(user_agent="OpenAI/Python 1.0", x_bursar_app="somebody-else")
    assert door.bench.desk.calls[0].app == "nightly-reports"


async def test_an_app_may_name_itself_where_its_door_does_not() -> None:
    door = AtDoor(Listener("unix:/a", api_key=DOOR_KEY))
    await door.admitted_by(user_agent="OpenAI/Python 1.0")
    assert door.bench.desk.calls[0].app == "OpenAI/Python 1.0"
