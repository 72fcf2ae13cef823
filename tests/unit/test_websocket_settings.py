"""The settings that allow websockets."""

from pathlib import Path

import msgspec
import pytest

from bursar_sidecar.settings import SettingsError, load_settings
from tests.fakes.websockets_raw import DOLLAR, LINE, TunnelBench, offer
from tests.fakes.wire import delivered

PROVIDER = '[providers.openai]\nbase_url = "https://api.openai.com/v1"\n'
WEBSOCKET = """
[[websockets]]
path = "/v1/realtime"
provider = "openai"
flat_price = "0.10"
price_per_minute = "0.30"
longest_s = 600
model = "gpt-realtime"
"""
ENOUGH = {"BURSAR_SIDECAR_KEY": "bs-x"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sidecar.toml"
    path.write_text(text)
    return path


def test_a_line_is_read(tmp_path: Path) -> None:
    (line,) = load_settings(ENOUGH, written(tmp_path, PROVIDER + WEBSOCKET)).websockets
    assert line.allows(b"/v1/realtime")
    assert not line.allows(b"/v1/realtime/../files")
    assert (line.flat_nanos, line.minute_nanos) == (DOLLAR // 10, 3 * DOLLAR // 10)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (WEBSOCKET.replace('"0.10"', "0.10"), "flat_price"),
        (WEBSOCKET.replace('flat_price = "0.10"', ""), "flat_price"),
        (WEBSOCKET.replace('"0.30"', '"-1"'), "price_per_minute"),
        (WEBSOCKET.replace("600", "0"), "longest_s"),
        (WEBSOCKET.replace("600", "1801"), "longest_s"),
        (WEBSOCKET.replace("/v1/realtime", "realtime"), "path"),
        (WEBSOCKET.replace('provider = "openai"', 'provider = "other"'), "provider"),
        (WEBSOCKET.replace('"gpt-realtime"', '""'), "model"),
        (WEBSOCKET + 'method = "GET"', "method"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, line: str, field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(ENOUGH, written(tmp_path, PROVIDER + line))
    (fault,) = caught.value.faults
    assert fault.partition(" ")[0].rstrip(":") == f"websockets[0].{field}"


async def test_a_path_that_is_allowed_later_is_served_from_then_on() -> None:
    bench = TunnelBench()
    settings = bench.proxy.settings
    bench.proxy.apply(msgspec.structs.replace(settings, websockets=()))
    bench.app.send(offer())
    await delivered()
    assert bench.app.received.startswith(b"HTTP/1.1 404 ")
    bench.app = bench.connect()
    bench.proxy.apply(msgspec.structs.replace(settings, websockets=(LINE,)))
    provider = await bench.opened()
    # One that is open goes on as it began.
    bench.proxy.apply(msgspec.structs.replace(settings, websockets=(), providers=()))
    provider.send(b"\x81\x02hi")
    assert await bench.at_app() == b"\x81\x02hi"


async def test_the_model_of_the_setting_stands_in_where_the_address_names_none() -> None:
    line = msgspec.structs.replace(LINE, model="gpt-realtime-mini")
    bench = TunnelBench(line)
    await bench.opened(offer("/v1/realtime"))
    assert bench.desk.calls[0].model == "gpt-realtime-mini"
