"""Websockets through a sidecar's own process, over TLS and not; what the ledger says of each."""

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.fakes.programs import Program, module
from tests.fakes.stack import Stack, running
from tests.fakes.until import until

TLS = Path(__file__).parent.parent / "data" / "tls"
CENT = 10_000_000


def echo(session: ServerConnection) -> None:
    for message in session:
        session.send(message)


class Line:
    """A sidecar before the simulated provider, and one over TLS that repeats what it hears."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "server.pem", TLS / "server.key.pem")
        self.stack = stack
        self.secure: Server = serve(echo, "127.0.0.1", 0, ssl=context, max_size=None)
        self._thread = threading.Thread(target=self.secure.serve_forever)
        settings = directory / "sidecar.toml"
        settings.write_text(self._settings(directory))
        enrolled = stack.cli("sidecar", "create", "tunnels", "-o", "json")
        self.sidecar = Program(
            "tunnel-sidecar",
            directory,
            module("bursar_sidecar"),
            {
                "BURSAR_ADDRESS": stack.ready["grpc"],
                "BURSAR_SIDECAR_KEY": json.loads(enrolled.stdout)["key"],
                "BURSAR_SIDECAR_HTTP_ADDRESS": "127.0.0.1:0",
                "BURSAR_SIDECAR_ADMIN_ADDRESS": "127.0.0.1:0",
                "BURSAR_SIDECAR_GRPC_ADDRESS": "",
                "BURSAR_DATA_DIR": str(directory / "journal"),
                "BURSAR_CONFIG": str(settings),
                "BURSAR_DRAIN_S": "6",
                "PROVIDER_KEY": "sk-simulated",
            },
        )

    def _settings(self, directory: Path) -> str:
        port = self.secure.socket.getsockname()[1]
        return (
            'grpc_address = ""\n'
            f'[providers.openai]\nbase_url = "{self.stack.ready["provider"]}/v1"\n'
            'api_key_env = "PROVIDER_KEY"\n'
            f'[providers.secure]\nkind = "compatible"\nbase_url = "https://localhost:{port}/v1"\n'
            f'ca_file = "{TLS / "authority.pem"}"\n'
            f'[providers.untrusted]\nkind = "compatible"\nbase_url = "https://localhost:{port}/v1"\n'
            '[[websockets]]\npath = "/v1/realtime"\nprovider = "openai"\n'
            'flat_price = "0.10"\nprice_per_minute = "0.30"\n'
            '[[websockets]]\npath = "/v1/echo"\nprovider = "secure"\nflat_price = "0.02"\n'
            '[[websockets]]\npath = "/v1/nobody"\nprovider = "untrusted"\nflat_price = "0.02"\n'
        )

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        self.sidecar.start()

    def stop(self) -> None:
        """No more."""
        self.secure.shutdown()
        self._thread.join()

    def open(self, path: str, key: str) -> ClientConnection:
        """A websocket of an app."""
        address = str(self.sidecar.said["http"])
        opened: ClientConnection = connect(
            f"ws://{address}{path}",
            additional_headers={"Authorization": f"Bearer {key}"},
            max_size=None,
        )
        return opened

    def key(self, limit: str) -> tuple[str, str]:
        """A key's name and secret."""
        made = self.stack.cli(
            "key", "create", "--max-budget", limit, "--window", "1d", "-o", "json"
        )
        told = json.loads(made.stdout)
        return told["name"], told["key"]

    def charged(self, name: str, calls: int) -> list[dict[str, Any]]:
        """The entries of a key, once there are so many."""

        def look() -> list[dict[str, Any]] | None:
            listed = self.stack.cli("ledger", "list", "--key", name.split("/")[1], "-o", "json")
            found: list[dict[str, Any]] = json.loads(listed.stdout)
            return found if len(found) >= calls else None

        found = until(look, f"{calls} calls of {name} are in the ledger")
        assert len(found) == calls
        return found


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    directory = tmp_path_factory.mktemp("tunnels")
    with running(directory) as stack:
        line = Line(stack, directory)
        line.start()
        try:
            yield line
            assert line.sidecar.stop() == 0, line.sidecar.log()
        finally:
            line.stop()


def test_what_is_said_passes_over_tls(line: Line) -> None:
    name, key = line.key("1.00")
    with line.open("/v1/echo?model=any", key) as session:
        for message in ("hello", b"\x00" * 3_000_000, "x" * 200_000):
            session.send(message)
            assert session.recv() == message
    (entry,) = line.charged(name, 1)
    assert cost_of(entry) == 2 * CENT


def test_a_provider_whose_certificate_is_not_trusted_hears_nothing(line: Line) -> None:
    _name, key = line.key("1.00")
    with pytest.raises(InvalidStatus) as caught:
        line.open("/v1/nobody?model=any", key)
    assert caught.value.response.status_code == 502
    assert b"provider_unreachable" in caught.value.response.body


def test_a_budget_pays_for_as_many_as_it_pays_for(line: Line) -> None:
    name, key = line.key("0.90")
    for _ in range(2):
        with line.open("/v1/realtime?model=gpt-realtime", key) as session:
            assert "session.created" in str(session.recv())
    with pytest.raises(InvalidStatus) as caught:
        line.open("/v1/realtime?model=gpt-realtime", key)
    assert caught.value.response.status_code == 402
    assert [cost_of(entry) for entry in line.charged(name, 2)] == [40 * CENT, 40 * CENT]


def test_what_was_open_at_a_crash_is_charged_as_reserved(line: Line) -> None:
    name, key = line.key("1.00")
    with line.open("/v1/realtime?model=gpt-realtime", key) as session:
        session.recv()
        line.sidecar.kill()
        with pytest.raises(ConnectionClosed):
            session.recv()
    line.sidecar.start()
    (entry,) = line.charged(name, 1)
    assert cost_of(entry) == 40 * CENT
    assert line.stack.cli("ledger", "verify").returncode == 0


def test_at_its_end_the_sidecar_says_farewell_and_settles(line: Line) -> None:
    name, key = line.key("1.00")
    with line.open("/v1/realtime?model=gpt-realtime", key) as session:
        session.recv()
        assert line.sidecar.is_running
        stopping = threading.Thread(target=line.sidecar.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed) as caught:
            session.recv()
        stopping.join()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    (entry,) = line.charged(name, 1)
    assert cost_of(entry) == 40 * CENT
    line.sidecar.start()


def cost_of(entry: dict[str, Any]) -> int:
    """Nanos."""
    return int(entry["amount"]["nanos"])
