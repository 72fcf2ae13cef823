"""Every query that a store asks for is in its file, and every query of a file is asked for."""

import re
from pathlib import Path

import pytest

import bursar_server
from bursar_server.database.queries import Queries, QueryFileError

SERVER = Path(bursar_server.__file__).parent
USE = re.compile(r"\b(q|QUERIES)\.([a-z][a-z0-9_]*)")
LOADED = re.compile(r"^(?:q|QUERIES)\b.*= Queries\.load\(([^)]*)\)", re.MULTILINE)


def loading_modules() -> list[Path]:
    return [path for path in SERVER.rglob("*.py") if LOADED.search(path.read_text("utf-8"))]


@pytest.mark.parametrize("module", loading_modules(), ids=lambda path: str(path.name))
def test_a_store_and_its_file_agree(module: Path) -> None:
    text = module.read_text("utf-8")
    (arguments,) = LOADED.findall(text)
    names = re.findall(r'"([^"]+)"', arguments)
    package = module.parent.relative_to(SERVER.parent).as_posix().replace("/", ".")
    if names and not names[0].endswith(".sql"):
        package = names.pop(0)
    queries = Queries.load(package, *names)
    used = {name for _, name in USE.findall(text)} - {"names"}
    assert used <= queries.names, "not in the file"
    assert queries.names <= used, "used by nobody"


def test_sections_are_read_by_name() -> None:
    text = "-- of all\n\n-- name: one\n-- why\nSELECT 1;\n\n-- name: two\nSELECT\n  2\n"
    queries = Queries("x.sql", text)
    assert queries.one == "-- why\nSELECT 1"
    assert queries.two == "SELECT\n  2"
    assert queries.names == {"one", "two"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("SELECT 1;", "x.sql:1: a statement before"),
        ("-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;", "x.sql:3: a second query 'a'"),
        ("-- name: a\n\n-- name: b\nSELECT 1;", "the query 'a' is empty"),
    ],
)
def test_a_wrong_file_is_refused_when_it_is_loaded(text: str, fault: str) -> None:
    with pytest.raises(QueryFileError, match=re.escape(fault)):
        Queries("x.sql", text)


def test_a_missing_query_is_named() -> None:
    queries = Queries("x.sql", "-- name: one\nSELECT 1;")
    with pytest.raises(QueryFileError, match=r"x\.sql has no query 'other'"):
        _ = queries.other
    with pytest.raises(QueryFileError, match="can't be read"):
        Queries.load("bursar_server.database", "missing.sql")
    with pytest.raises(QueryFileError, match="belong to a package"):
        Queries.load(None)
