"""Who may import whom. The contracts themselves stand in pyproject.toml, [tool.importlinter]."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.house import tree

# What would make a decision depend on more than its arguments.
IMPURE_MODULES = {
    "asyncio",
    "asyncpg",
    "grpc",
    "http",
    "httptools",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "socket",
    "sqlalchemy",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvloop",
}
CLOCK_CALLS = re.compile(r"(^|\.)(now|utcnow|today|time|time_ns|monotonic|monotonic_ns)$")

# A statement of SQL, not a sentence that happens to start with one of its words.
SQL_STATEMENT = re.compile(
    r"\b(SELECT\s.+?\sFROM|INSERT\s+INTO|UPDATE\s+\S+\s+(AS\s+\w+\s+)?SET|DELETE\s+FROM"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA|SEQUENCE|ROLE|FUNCTION|TRIGGER)"
    r"|TRUNCATE\s+\w+|LOCK\s+TABLE)\b",
    re.DOTALL,
)
# Where SQL is at home: the pool, the schema and the migrations; each domain's store.
SQL_HOMES = ("server/bursar_server/database/",)
SQL_EXCEPTIONS: dict[str, str] = {}


def test_import_contracts_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [linter, "--no-cache"], cwd=tree.ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"import-linter:\n{result.stdout}\n{result.stderr}"


def pure_files() -> list[str]:
    return [
        name
        for name in tree.package_files()
        if name.endswith("/rules.py") or name.startswith("sidecar/bursar_sidecar/dialects/")
    ]


def test_rules_depend_on_their_arguments_alone() -> None:
    faults = [
        f"{name}:{line}: imports {module}"
        for name in pure_files()
        for module, line in tree.imported_modules(name)
        if module.partition(".")[0] in IMPURE_MODULES and module.partition(".")[2] == ""
    ]
    faults += [
        f"{name}:{call.lineno}: asks the clock with {tree.dotted(call.func)}()"
        for name in pure_files()
        for call in tree.nodes(name, ast.Call)
        if CLOCK_CALLS.search(tree.dotted(call.func))
    ]
    tree.expect_none(faults, "Rules and dialects are pure: no I/O, and time is an argument.")


def test_sql_stands_in_stores_and_query_files_only() -> None:
    faults = []
    excused = []
    for name in tree.package_files():
        # The command line's `up` operates Postgres itself; it has no tables.
        if tree.package_of(name) == "bursar_cli" or name.startswith(SQL_HOMES):
            continue
        if name.endswith("/store.py"):
            continue
        for node in tree.nodes(name, ast.Constant):
            if isinstance(node.value, str) and SQL_STATEMENT.search(node.value):
                if name in SQL_EXCEPTIONS:
                    excused.append(name)
                else:
                    faults.append(f"{name}:{node.lineno}: {' '.join(node.value.split())[:60]}")
    tree.expect_none(faults, "SQL belongs in a domain's queries.sql (or its store.py).")
    tree.expect_exceptions_used(SQL_EXCEPTIONS, excused)


def test_query_files_stand_beside_the_store_that_reads_them() -> None:
    faults = [
        name
        for name in tree.ours("/queries.sql", under="server/")
        if not (tree.ROOT / name).with_name("store.py").exists()
    ]
    tree.expect_none(faults, "A queries.sql needs its store.py beside it:")


def test_transactions_open_in_services_and_the_writer_only() -> None:
    allowed = re.compile(r"/(service|\w+_service|writer)\.py$|bursar_server/(database/|app\.py)")
    faults = [
        f"{name}:{call.lineno}: {tree.dotted(call.func)}()"
        for name in tree.package_files()
        if tree.package_of(name) == "bursar_server" and not allowed.search(name)
        for call in tree.nodes(name, ast.Call)
        if tree.dotted(call.func).endswith(".transaction")
    ]
    tree.expect_none(faults, "Transactions open in service.py and in the shard's writer only.")


def test_unit_tests_do_no_input_or_output() -> None:
    forbidden = {"socket", "subprocess", "asyncpg", "sqlalchemy", "aiohttp", "openai", "http"}
    faults = [
        f"{name}:{line}: imports {module}"
        for name in tree.ours(".py", under="tests/unit/")
        for module, line in tree.imported_modules(name)
        if module in forbidden
    ]
    tree.expect_none(faults, "tests/unit does no I/O; such a test belongs in another directory.")
