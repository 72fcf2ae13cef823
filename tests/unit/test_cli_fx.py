"""`bursar fx` against a fake control plane."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from bursar.v1 import exchange_rates_pb2 as pb
from bursar_cli import fx
from bursar_cli.__main__ import build_app
from tests.fakes.admin_state import AdminState
from tests.unit.conftest import Bursar

DATA = Path(__file__).parents[1] / "data" / "exchange_rates"


def fails(*arguments: str, code: int = 2) -> str:
    result = CliRunner().invoke(build_app(), list(arguments))
    assert result.exit_code == code, result.output
    return result.stderr


def test_a_rate_is_everybodys_unless_an_organization_is_named(
    bursar: Bursar, state: AdminState
) -> None:
    made = bursar("fx", "set", "usd", "EUR", "0.92", "-o", "json")
    assert made["organization"] == "organizations/platform"
    bursar("fx", "set", "USD", "EUR", "0.91", "--from", "2027-01-01", "--org", "acme")
    first, second = state.requests
    assert (first.exchange_rate.base_currency, first.exchange_rate.rate) == ("USD", "0.92")
    assert not first.exchange_rate.HasField("effective_time")
    assert first.request_id
    assert second.organization == "organizations/acme"
    begins = second.exchange_rate.effective_time.ToDatetime(UTC)
    assert begins == datetime(2027, 1, 1, tzinfo=UTC)
    listed = bursar("fx", "list", "--at", "2027-02-01")
    assert "0.91" in listed
    assert "2027-01-01T00:00:00Z" in listed
    assert state.requests[-1].time.ToDatetime(UTC) == datetime(2027, 2, 1, tzinfo=UTC)
    assert "(ended)" in bursar("fx", "end", "USD", "EUR", "--org", "acme")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "USD", "EUR", "0,92"), "RATE"),
        (("set", "USD", "EUR", "0"), "RATE"),
        (("set", "DOLLAR", "EUR", "1"), "BASE"),
        (("set", "USD", "EUR", "1", "--from", "soon"), "--from"),
        (("list", "--currency", "euro"), "--currency"),
        (("list", "--history", "--at", "2026-01-01"), "--at"),
        (("import", "missing.xml"), "No such file"),
    ],
)
def test_what_is_typed_wrongly_sends_nothing(
    bursar: Bursar, state: AdminState, arguments: tuple[str, ...], said: str
) -> None:
    assert said in fails("fx", *arguments)
    assert state.requests == []


def test_a_file_is_shown_before_it_is_recorded(bursar: Bursar, state: AdminState) -> None:
    file = str(DATA / "eurofxref-daily.xml")
    shown = bursar("fx", "import", file, "--dry-run")
    assert "2026-03-13T15:00:00Z" in shown
    assert "1/0.8" in shown
    assert "-13.26 %" in shown  # 1.0842 after 1.25
    (asked,) = state.requests
    assert asked.dry_run
    assert asked.source == "eurofxref-daily.xml"
    done = bursar("fx", "import", file, "-o", "json")
    assert done["changedCount"] == 4
    again = bursar("fx", "import", file)
    assert again.startswith("nothing changes")


def test_only_days_since_a_date_are_taken_in_requests_of_bounded_size(
    bursar: Bursar, state: AdminState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fx, "MOST_OF_A_REQUEST", 4)
    done = bursar(
        "fx", "import", str(DATA / "eurofxref-hist.csv"), "--since", "2026-01-01", "-o", "json"
    )
    assert done["changedCount"] == 7
    first, second = state.requests
    assert isinstance(first, pb.ImportExchangeRatesRequest)
    assert [len(each.exchange_rates) for each in (first, second)] == [4, 3]
    assert first.request_id != second.request_id
    assert "no rate" in fails(
        "fx", "import", str(DATA / "eurofxref-hist.csv"), "--since", "2026-04-01"
    )


def test_of_a_bad_file_nothing_is_sent(bursar: Bursar, state: AdminState, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    shutil.copy(DATA / "eurofxref-hist.csv", file)
    file.write_text(file.read_text().replace("1.0666", "1,0666"))
    assert "line 4 has 8 columns" in fails("fx", "import", str(file))
    assert state.requests == []


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data = (DATA / self.path.partition("?")[0].rpartition("/")[2]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: standard error is what the command writes."""


@pytest.fixture
def site() -> Iterator[str]:
    """An address with the files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_address_is_fetched_where_one_is_given(
    bursar: Bursar, state: AdminState, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    done = bursar("fx", "import", f"{site}/stats/eurofxref.csv?key=secret", "-o", "json")
    assert done["changedCount"] == 4
    assert state.requests[0].source == "eurofxref.csv"
