"""The repository as the house tests see it: its files, their text and their syntax trees."""

import ast
import functools
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

Node = TypeVar("Node", bound=ast.AST)
Function = ast.FunctionDef | ast.AsyncFunctionDef

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_ROOTS = {
    "bursar": ROOT / "clients" / "python" / "bursar",
    "bursar_cli": ROOT / "clients" / "cli" / "bursar_cli",
    "bursar_server": ROOT / "server" / "bursar_server",
    "bursar_sidecar": ROOT / "sidecar" / "bursar_sidecar",
}
GENERATED = "clients/python/bursar/v1/"
# Directories that hold no source of ours; needed only where git is not there to say so.
NOT_OURS = {"node_modules", "__pycache__", "build", "dist"}


@functools.cache
def files() -> tuple[str, ...]:
    """Every file that is or would be committed, relative to the root, sorted."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an archive of the sources, without git
        listing = list(_walk(ROOT))
    return tuple(sorted(name for name in listing if name and (ROOT / name).is_file()))


def _walk(directory: Path) -> Iterator[str]:
    for path in directory.iterdir():
        if path.name.startswith(".") and path.name != ".ci":
            continue
        if path.is_dir() and path.name not in NOT_OURS:
            yield from _walk(path)
        elif path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(ROOT).as_posix()


def ours(*suffixes: str, under: str | tuple[str, ...] = "") -> list[str]:
    """Files with one of the suffixes under one of the directories, generated code left out."""
    return [
        name
        for name in files()
        if name.endswith(suffixes) and name.startswith(under) and not is_generated(name)
    ]


def is_generated(name: str) -> bool:
    return name.startswith(GENERATED) and not name.endswith("__init__.py")


def package_files() -> list[str]:
    """The Python files of the four packages, generated code left out."""
    roots = tuple(f"{root.relative_to(ROOT).as_posix()}/" for root in PACKAGE_ROOTS.values())
    return ours(".py", under=roots)


def package_of(name: str) -> str:
    """The package a file of `package_files` belongs to: "bursar_server"."""
    for package, root in PACKAGE_ROOTS.items():
        if name.startswith(f"{root.relative_to(ROOT).as_posix()}/"):
            return package
    raise ValueError(f"{name} belongs to no package")


@functools.cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def syntax(name: str) -> ast.Module:
    return ast.parse(text(name), filename=name)


def nodes(name: str, *kinds: type[Node]) -> Iterator[Node]:
    """Every syntax node of the given kinds in a Python file."""
    for node in ast.walk(syntax(name)):
        if isinstance(node, kinds):
            yield node


def functions(name: str) -> Iterator[Function]:
    """Every function of a Python file, methods and inner ones included."""
    yield from nodes(name, ast.FunctionDef)
    yield from nodes(name, ast.AsyncFunctionDef)


def dotted(node: ast.expr) -> str:
    """Gives "asyncio.sleep" for the expression `asyncio.sleep`; empty for what is no plain path."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def imported_modules(name: str) -> Iterator[tuple[str, int]]:
    """Each module a file imports, in full, with the line; `from a import b` gives a and a.b."""
    for plain in nodes(name, ast.Import):
        for alias in plain.names:
            yield alias.name, plain.lineno
    for node in nodes(name, ast.ImportFrom):
        if node.module and not node.level:
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def expect_none(faults: Iterable[str], rule: str) -> None:
    """Fail with the rule and every fault on a line of its own, if there is any."""
    found = list(faults)
    if found:
        lines = "\n".join(f"  {fault}" for fault in found)
        pytest.fail(f"{rule}\n{lines}\n({len(found)} in all)", pytrace=False)


def expect_exceptions_used(exceptions: Mapping[str, str], used: Iterable[str]) -> None:
    """An exception from a rule carries a reason and goes when nothing needs it any more."""
    stale = sorted(exceptions.keys() - set(used))
    expect_none(stale, "These exceptions are no longer needed; take them off the list:")
    unexplained = sorted(name for name, reason in exceptions.items() if not reason.strip())
    expect_none(unexplained, "These exceptions lack their reason:")
