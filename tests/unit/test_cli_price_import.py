"""`bursar price import` and its neighbours: what is sent, what people and programs read."""

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bursar.v1.price_imports_pb2 import (
    PRICE_CHANGE_KIND_ADDED,
    PRICE_CHANGE_KIND_CHANGED,
    PRICE_IMPORT_OUTCOME_IMPORTED,
    PRICE_IMPORT_OUTCOME_UNCHANGED,
    PRICE_IMPORT_OUTCOME_WOULD_REFUSE,
    PRICE_LIST_FORM_GENAI_PRICES,
    ClearImportedPricesRequest,
    ImportPricesRequest,
    ImportPricesResponse,
    PriceChange,
    PriceImport,
    RateChange,
)
from bursar_cli.__main__ import build_app
from tests.fakes.admin_state import AdminState
from tests.fakes.list_publisher import ListPublisher
from tests.unit.conftest import Bursar

CONTENT = b'{"m": 1}' * 100_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "list.json"
    path.write_bytes(CONTENT)
    return path


def sent(state: AdminState) -> tuple[PriceImport, bytes]:
    first, *rest = [one for one in state.requests if isinstance(one, ImportPricesRequest)]
    assert all(len(one.chunk) <= 256 * 1024 for one in rest)
    return first.wanted, b"".join(one.chunk for one in rest)


def answer(outcome: int) -> ImportPricesResponse:
    doubled = RateChange(rate="input", old="1", new="2", per=1_000_000, change_percent="100.00")
    fee = RateChange(rate="request", new="0.01", per=1)
    return ImportPricesResponse(
        outcome=outcome,  # type: ignore[arg-type]  # an int is what an enum is on the wire
        version="imported-1f0c",
        price_count=3,
        left_out_count=1,
        added_count=1,
        changed_count=1,
        changes=[
            PriceChange(
                kind=PRICE_CHANGE_KIND_CHANGED,
                provider="acme",
                model="large",
                rates=[doubled, fee],
                notes=["mode chat -> responses"],
            ),
            PriceChange(kind=PRICE_CHANGE_KIND_ADDED, provider="acme", model="small"),
        ],
    )


def test_a_file_is_sent_in_parts_with_what_was_asked(
    bursar: Bursar, state: AdminState, file: Path
) -> None:
    state.import_answer = answer(PRICE_IMPORT_OUTCOME_IMPORTED)
    table = bursar(
        *("price", "import", str(file), "--from", "genai-prices", "--platform"),
        *("--max-change", "50%", "--max-removed", "5", "--force"),
    )
    asked, data = sent(state)
    assert data == CONTENT
    assert asked == PriceImport(
        organization="organizations/platform",
        form=PRICE_LIST_FORM_GENAI_PRICES,
        source="list.json",
        max_change_percent="50",
        max_removed_percent="5",
        force=True,
        content_sha256=hashlib.sha256(CONTENT).digest(),
    )
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "acme/large changed input 1 2 +100.00 % mode chat -> responses" in lines
    assert "acme/large changed request 0.01/1 mode chat -> responses" in lines
    assert lines[-2] == "imported: imported-1f0c, 3 prices (1 entries without a price left out)"
    assert lines[-1] == "1 models added, 0 removed, 1 changed"


def test_an_address_is_fetched_here(bursar: Bursar, state: AdminState) -> None:
    state.import_answer = answer(PRICE_IMPORT_OUTCOME_UNCHANGED)
    with ListPublisher(CONTENT) as publisher:
        secret = publisher.url.replace("//", "//me:hidden@")
        bursar("price", "import", secret, "-o", "json")
        asked, data = sent(state)
        assert (asked.source, data) == (publisher.url, CONTENT)
        publisher.status = 404
        bursar("price", "import", publisher.url, code=2)


def test_a_dry_run_that_would_be_refused_says_so_by_its_exit_code(
    bursar: Bursar, state: AdminState, file: Path
) -> None:
    state.import_answer = answer(PRICE_IMPORT_OUTCOME_WOULD_REFUSE)
    state.import_answer.refusals.append("acme/large: input 1 -> 2 (+100.00 %)")
    result = CliRunner().invoke(build_app(), ["price", "import", str(file), "--dry-run"])
    assert result.exit_code == 1
    assert "would be refused: acme/large: input 1 -> 2" in result.stderr
    assert sent(state)[0].dry_run


def test_a_refusal_says_why(bursar: Bursar, state: AdminState, file: Path) -> None:
    state.import_refusal = "acme/large: input 1 -> 2 (+100.00 %); at most 50 % are allowed"
    result = CliRunner().invoke(build_app(), ["price", "import", str(file), "--max-change", "50"])
    assert result.exit_code == 1
    assert "PRICE_CHANGE_REFUSED" in result.stderr
    assert "at most 50 % are allowed" in result.stderr


def test_a_long_list_of_changes_is_cut_for_people_only(
    bursar: Bursar, state: AdminState, file: Path
) -> None:
    found = answer(PRICE_IMPORT_OUTCOME_IMPORTED)
    for _ in range(100):
        found.changes.append(found.changes[1])
    state.import_answer = found
    assert "... and 63 more rows" in bursar("price", "import", str(file))
    assert len(bursar("price", "import", str(file), "-o", "json")["changes"]) == 102
    assert len(bursar("price", "import", str(file), "-o", "csv").splitlines()) == 104


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.json"],
        ["ftp://x.test/list.json"],
        ["empty.json"],
        ["list.json", "--platform", "--org", "acme"],
        ["list.json", "--from", "excel"],
        ["list.json", "--max-change", "much"],
        ["list.json", "--max-removed", "-5"],
    ],
)
def test_what_cannot_be_sent_is_told_at_once(
    bursar: Bursar, state: AdminState, file: Path, arguments: list[str]
) -> None:
    file.with_name("empty.json").write_bytes(b"")
    bursar("price", "import", *arguments, code=2)
    assert not [one for one in state.requests if isinstance(one, ImportPricesRequest)]


def test_a_list_is_taken_back_and_the_sync_is_shown(bursar: Bursar, state: AdminState) -> None:
    assert bursar("price", "unimport", "--platform") == "12 imported prices ended\n"
    assert state.seen(ClearImportedPricesRequest).organization == "organizations/platform"
    shown = bursar("price", "sync")
    assert "refused" in shown
    assert "https://x.test/p.json" in shown
