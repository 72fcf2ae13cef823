"""A sidecar for several apps: unix sockets, an identity for each, and logs that tell no secret."""

import http.client
import json
import os
import signal
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.provider_bill import MODEL
from tests.fakes.site import PROVIDER_KEY, Sidecar, Site, site
from tests.fakes.until import until

SAID = "a question nobody may read"


class Unix(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class Several:
    """One sidecar on unix sockets alone, with two listeners."""

    def __init__(self, place: Site) -> None:
        self.place = place
        self.sidecar: Sidecar = place.sidecars["one"]
        self.directory = place.directory / "run"
        self.directory.mkdir()
        self.names: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        for app in ("reports", "search", "rotated"):
            self.names[app], self.secrets[app] = place.make_key()
        self.key_file = self.directory / "reports.key"
        self.key_file.write_text(self.secrets["reports"])
        (self.directory / "search.key").write_text(self.secrets["search"])
        self.provider_key = self.directory / "provider.key"
        self.provider_key.write_text(PROVIDER_KEY)
        (place.directory / "sidecar.toml").write_text(
            f"""
access_log = true
log_level = "debug"
credential_check_s = 3600
socket_mode = "0660"

[[listeners]]
address = "unix:{self.directory}/reports.sock"
api_key_file = "{self.key_file}"
app = "nightly-reports"

[[listeners]]
address = "unix:{self.directory}/search.sock"
api_key_file = "{self.directory}/search.key"
own_keys = "forbid"
socket_mode = "0600"

[providers.openai]
base_url = "{place.provider_url}/v1"
api_key_file = "{self.provider_key}"
"""
        )
        self.sidecar.tell(
            BURSAR_SIDECAR_HTTP_ADDRESS=f"unix:{self.directory}/main.sock",
            BURSAR_SIDECAR_ADMIN_ADDRESS=f"unix:{self.directory}/admin.sock",
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """An admin endpoint."""
        connection = Unix(self.directory / "admin.sock")
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def call(self, door: str, key: str = "") -> tuple[int, str]:
        """One call: its status, and the charge id or the reason."""
        connection = Unix(self.directory / f"{door}.sock")
        body = {"model": MODEL, "messages": [{"role": "user", "content": SAID}], "max_tokens": 9}
        headers = {"content-type": "application/json", "x-simulate-call-id": str(uuid.uuid4())}
        if key:
            headers["authorization"] = f"Bearer {key}"
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200:
            return 200, answer.headers["x-bursar-charge-id"]
        return answer.status, json.loads(content)["error"]["code"]

    def spender_of(self, door: str, key: str = "") -> str:
        """The key that a call was charged to."""
        status, charge_id = self.call(door, key)
        assert status == 200, charge_id
        wanted = f'"charge_id": "{charge_id}"'

        def look() -> str | None:  # the line is written once the answer is out
            lines = self.sidecar.whole_log().splitlines(keepends=True)
            return next((each for each in lines if wanted in each and each.endswith("\n")), None)

        line = json.loads(until(look, "the call is logged"))
        assert line["event"] == "call"
        return str(line["key"])


@pytest.fixture(scope="module")
def several() -> Iterator[Several]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("one",)) as place,
    ):
        made = Several(place)
        place.start_sidecars()
        yield made


def test_an_app_without_a_key_is_whom_its_socket_says(several: Several) -> None:
    names, secrets = several.names, several.secrets
    assert several.spender_of("reports") == names["reports"]
    assert several.spender_of("search") == names["search"]
    assert several.spender_of("reports", "sk-placeholder") == names["reports"]
    assert several.spender_of("reports", secrets["search"]) == names["search"]
    assert several.spender_of("search", secrets["reports"]) == names["search"]
    assert several.spender_of("main", secrets["reports"]) == names["reports"]
    assert several.call("main") == (401, "key_missing")


def test_sockets_have_their_permissions(several: Several) -> None:
    def mode(name: str) -> int:
        return stat.S_IMODE(os.stat(several.directory / name).st_mode)

    assert mode("main.sock") == mode("admin.sock") == mode("reports.sock") == 0o660
    assert mode("search.sock") == 0o600


def test_the_admin_endpoints_are_on_a_unix_socket_too(several: Several) -> None:
    assert several.get("/healthz")[0] == 200
    until(lambda: several.get("/readyz")[0] == 200, "it is ready")
    status, page = several.get("/debug")
    assert (status, b"allowances" in page) == (200, True)


def test_a_key_in_a_file_rotates(several: Several) -> None:
    several.key_file.write_text(several.secrets["rotated"])
    several.sidecar.send(signal.SIGHUP)
    until(lambda: several.sidecar.has_logged("credential_rotated"), "it is read")
    assert several.spender_of("reports") == several.names["rotated"]
    several.key_file.write_text("")
    several.sidecar.send(signal.SIGHUP)
    # As a setting the file has a fault, and so has the whole of the settings: nothing changes.
    until(lambda: several.sidecar.has_logged("credential_unreadable"), "it is told")
    until(lambda: several.sidecar.has_logged("settings_refused"), "they are refused")
    assert several.spender_of("reports") == several.names["rotated"]
    assert b'credential_file_faulty{owner="listeners[0]"} 1.0' in several.get("/metrics")[1]
    several.key_file.write_text(several.secrets["reports"])
    several.sidecar.send(signal.SIGHUP)
    until(lambda: several.sidecar.has_logged("credential_readable_again"), "it is read again")


def test_a_killed_sidecar_leaves_sockets_that_the_next_one_replaces(several: Several) -> None:
    several.sidecar.kill()
    assert (several.directory / "main.sock").exists()
    several.place.start_sidecars()
    assert several.spender_of("reports") == several.names["reports"]
    assert several.sidecar.stop() == 0
    assert not list(several.directory.glob("*.sock"))
    several.place.start_sidecars()


def test_workers_share_unix_sockets(several: Several) -> None:
    several.sidecar.stop()
    several.sidecar.tell(BURSAR_WORKERS="2")
    several.place.start_sidecars()
    assert several.spender_of("search") == several.names["search"]
    assert several.call("main", several.secrets["reports"])[0] == 200
    until(lambda: several.get("/readyz")[0] == 200, "both are ready")
    assert several.sidecar.stop() == 0
    assert not list(several.directory.glob("*.sock"))
    several.sidecar.tell(BURSAR_WORKERS="1")
    several.place.start_sidecars()


def test_no_log_and_no_page_tells_a_secret_or_what_was_said(several: Several) -> None:
    several.call("main", "bk-guessed")
    several.call("main", several.secrets["reports"])
    shown = several.sidecar.whole_log() + several.get("/debug.json")[1].decode()
    shown += several.get("/metrics")[1].decode()
    assert '"event": "call"' in shown
    assert "credential_rotated" in shown
    for secret in (SAID, PROVIDER_KEY, "bk-guessed", "bs-", *several.secrets.values()):
        assert secret not in shown
