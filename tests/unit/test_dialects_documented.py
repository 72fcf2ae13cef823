"""docs/dialects.md is true: its tables are whole, its settings load, and its example runs."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from bursar_sidecar import provider_settings
from bursar_sidecar.dialects import registry
from bursar_sidecar.dialects.kinds import KINDS, Kind
from bursar_sidecar.settings import load_settings
from tests.fakes.sidecar_bench import Bench

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", TEXT)


def test_every_endpoint_is_in_a_table() -> None:
    for path, found in registry._EXACT.items():
        if path.startswith(b"/openai/"):
            continue
        for one in found:
            told = f"`{one.endpoint.name}`" in TEXT or path.decode() in TEXT
            assert told, f"{path.decode()} is not told of"


def test_every_kind_is_told_as_it_is() -> None:
    rows = {
        cells[0].strip("`"): cells[1:]
        for line in TEXT.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0].strip("`") in KINDS
        and len(cells) == 6
    }
    for name, kind in KINDS.items():
        if "openai" not in kind.dialects:
            continue
        address, prices, limit, usage, readers = rows[name]
        assert address == (f"`{kind.base_url}`" if kind.base_url else "yours"), name
        assert prices == f"`{kind.listed}`"
        assert limit == f"`{kind.limit_field}`"
        assert usage.startswith("when asked" if kind.asks_usage else "always"), name
        assert bool(readers) == bool(kind.readers)


def test_the_settings_shown_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "in-house"
    secret.write_text("sk-in-house")
    azure, compatible, extra = (
        text.replace("/run/secrets/in-house", str(secret)) for text in blocks("toml")
    )
    openai = '[providers.openai]\nkind = "openai"\napi_key_env = "OPENAI_API_KEY"\n'
    config = tmp_path / "sidecar.toml"
    config.write_text(azure + compatible + openai + extra)
    keys = dict.fromkeys(re.findall(r'api_key_env = "(\w+)"', config.read_text()), "sk-x")
    settings = load_settings({"BURSAR_SIDECAR_KEY": "bs-x", **keys}, config)
    by_name = {provider.name: provider for provider in settings.providers}
    assert by_name["groq"].base_url == "https://api.groq.com/openai/v1"
    assert by_name["azure"].listed_model("chat-prod") == "gpt-4o"
    assert by_name["in-house"].server.asks_usage is False
    assert by_name["in-house"].server.limit_field == "max_completion_tokens"
    assert len(settings.unmetered) == 1
    assert len(settings.bounds) == 2


@pytest.fixture
def cohere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as it stands, registered as step 2 and 3 say."""
    (source,) = blocks("python")
    module: Any = ModuleType("cohere")
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    modules = (*registry._MODULES, module)
    monkeypatch.setattr(registry, "_MODULES", modules)
    monkeypatch.setattr(registry, "_EXACT", registry.table_of(modules))
    kinds = {**KINDS, "cohere": Kind("cohere", frozenset({"cohere"}))}
    monkeypatch.setattr(provider_settings, "KINDS", kinds)


UPSTREAM = {"name": "cohere", "kind": "cohere", "base_url": "http://provider.test"}
ASKED = {"model": "command-r-08-2024", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"billed_units": {"input_tokens": 10, "output_tokens": 20}}
COST_NANOS = 13_500  # 10 at 0.15 and 20 at 0.60 USD a million


@pytest.mark.usefixtures("cohere")
async def test_the_example_serves_a_plain_call() -> None:
    bench = Bench(upstream=UPSTREAM)
    bench.post({**ASKED, "model": "cohere/command-r-08-2024"}, "/v2/chat")
    call = await bench.provider.request()
    assert call.targets == ["/v2/chat"]
    assert json.loads(call.requests[0]) == ASKED
    call.send_json(json.dumps({"id": "c-1", "usage": USAGE}).encode())
    assert (await bench.answered()).headers["x-bursar-cost"] == "0.0000135"
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (COST_NANOS, True)


@pytest.mark.usefixtures("cohere")
async def test_the_example_serves_a_stream() -> None:
    bench = Bench(upstream=UPSTREAM)
    bench.post({**ASKED, "stream": True}, "/v2/chat")
    call = await bench.provider.request()
    call.start_stream()
    text = msgspec.json.encode({"type": "content-delta", "delta": {"message": "four"}})
    end = msgspec.json.encode({"type": "message-end", "delta": {"usage": USAGE}})
    events = [b"event: content-delta\ndata: %b\n\n" % text, b"event: end\ndata: %b\n\n" % end]
    for chunk in [*events, b""]:
        call.send_chunk(chunk)
    answer = await bench.answered()
    told = answer.body.index(b": bursar ")
    assert answer.body.startswith(events[0])
    assert told == len(events[0])
    assert answer.body.endswith(events[1])
    assert (await bench.settled()).cost_nanos == COST_NANOS


@pytest.mark.usefixtures("cohere")
async def test_the_example_refuses_in_its_own_shape() -> None:
    bench = Bench(upstream=UPSTREAM)
    bench.post({"model": "command-r-08-2024", "max_tokens": "many"}, "/v2/chat")
    answer = await bench.answered()
    assert answer.status == 400
    assert json.loads(answer.body)["message"].startswith("max_tokens is")
