"""The settings that let calls through which nothing meters or bounds."""

from pathlib import Path

import msgspec
import pytest

from bursar_sidecar.extra_call_settings import CallBound, Unmetered
from bursar_sidecar.settings import SettingsError, load_settings
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import CHAT, Bench, chat_answer, error_of

PROVIDER = '[providers.openai]\nbase_url = "https://api.openai.com/v1"\n'
UNMETERED = """
[[unmetered]]
path = "/v1/fine_tuning/*"
method = "GET"
flat_price = "0.05"
provider = "openai"
"""
BOUND = """
[[bounds]]
endpoint = "audio/speech"
models = ["gpt-4o-mini-tts"]
most = "0.10"
"""
ENOUGH = {"BURSAR_SIDECAR_KEY": "bs-x"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sidecar.toml"
    path.write_text(text)
    return path


def test_paths_and_bounds_are_read(tmp_path: Path) -> None:
    settings = load_settings(ENOUGH, written(tmp_path, PROVIDER + UNMETERED + BOUND))
    (allowed,), (bound,) = settings.unmetered, settings.bounds
    assert allowed.allows(b"GET", b"/v1/fine_tuning/jobs/j-1")
    assert bound.nanos == 100_000_000
    assert bound.holds_for("audio/speech", "gpt-4o-mini-tts")
    assert not bound.holds_for("audio/speech", "tts-1")
    assert not bound.holds_for("batches", "gpt-4o-mini-tts")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/fine_tuning/jobs"),
        (b"GET", b"/v1/fine_tuning"),
        (b"GET", b"/v1/fine_tuning/../chat/completions"),
        (b"GET", b"/v1/fine_tuning/%2e%2e/chat/completions"),
        (b"GET", b"/v1/fine_tuning//x"),
        (b"GET", b"/v1/Fine_tuning/x"),
    ],
)
def test_nothing_else_is_allowed_by_it(tmp_path: Path, method: bytes, path: bytes) -> None:
    settings = load_settings(ENOUGH, written(tmp_path, PROVIDER + UNMETERED))
    assert not settings.unmetered[0].allows(method, path)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (UNMETERED.replace('"0.05"', "0.05"), "unmetered[0].flat_price"),
        (UNMETERED.replace('"0.05"', '"-1"'), "unmetered[0].flat_price"),
        (UNMETERED.replace('"0.05"', '"99999999"'), "unmetered[0].flat_price"),
        (UNMETERED.replace('"GET"', '"get"'), "unmetered[0].method"),
        (UNMETERED.replace("/v1/fine_tuning/*", "fine"), "unmetered[0].path"),
        (UNMETERED.replace("fine_tuning/*", "../*"), "unmetered[0].path"),
        (UNMETERED.replace('provider = "openai"', 'provider = "other"'), "unmetered[0].provider"),
        (UNMETERED.replace('provider = "openai"', ""), "unmetered[0].provider"),
        (UNMETERED + 'reason = "x"', "unmetered[0].reason"),
        (BOUND.replace('"0.10"', "1"), "bounds[0].most"),
        (BOUND.replace('["gpt-4o-mini-tts"]', '"x"'), "bounds[0].models"),
        ('bounds = "all"\n', "bounds"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, line: str, field: str) -> None:
    text = line + PROVIDER if line.startswith("bounds =") else PROVIDER + line
    with pytest.raises(SettingsError) as caught:
        load_settings(ENOUGH, written(tmp_path, text))
    assert [fault.partition(" ")[0].rstrip(":") for fault in caught.value.faults] == [field]


async def test_a_path_that_is_allowed_later_is_served_from_then_on() -> None:
    bench = Bench()
    bench.post({}, "/v1/fine_tuning/jobs")
    assert error_of(await bench.answered())["code"] == "unknown_path"
    allowed = Unmetered(
        path="/v1/fine_tuning/*", method="POST", flat_price="0.05", provider="openai"
    )
    bench.proxy.apply(msgspec.structs.replace(bench.settings, unmetered=(allowed,)))
    bench.post({}, "/v1/fine_tuning/jobs?x=1")
    call = await bench.provider.request()
    assert call.targets == ["/v1/fine_tuning/jobs?x=1"]
    call.send_json(b"{}")
    answer = await bench.answered(2)
    assert answer.headers["x-bursar-cost"] == "0.05"
    assert (await bench.settled()).cost_nanos == 50_000_000


WEB_SEARCH = {**CHAT, "web_search_options": {}}
DOLLAR = CallBound(endpoint="chat", most="1")


async def test_a_bound_lets_through_what_nothing_else_bounds_and_no_more() -> None:
    bench = Bench(bounds=(DOLLAR,))
    bench.post(WEB_SEARCH)
    (await bench.provider.request()).send_json(chat_answer())
    assert (await bench.answered()).status == 200
    assert [call.ceiling_nanos for call in bench.desk.calls] == [10**9]
    # What the search bills is not in the usage: all of it, until there is evidence.
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", 10**9)
    bench.post({**CHAT, "model": "openai/unpriced"})
    assert error_of(await bench.answered(2))["code"] == "model_unpriced"
    bench.post(CHAT)
    await bench.provider.request(2)
    assert bench.desk.calls[-1].ceiling_nanos < 10**9


async def test_a_bound_refuses_nothing_where_no_budget_applies() -> None:
    bench = Bench(FakeDesk(None), bounds=(DOLLAR,))
    bench.post({**CHAT, "model": "openai/unpriced"})
    (await bench.provider.request()).send_json(chat_answer(model="unpriced"))
    assert (await bench.answered()).status == 200
    assert (await bench.settled()).cost_nanos == 0
    unlimited = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    bench.post(unlimited)
    call = await bench.provider.request(2)
    assert b"max" not in call.requests[-1]
