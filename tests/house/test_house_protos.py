"""The protos: linted, compatible with the last baseline, generated, and documented."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import tree

BASELINE = "proto/bursar.binpb"


@pytest.fixture(scope="module", autouse=True)
def _cache_of_buf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """buf keeps a cache; the home of whoever runs the tests may be missing or read-only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUF_CACHE_DIR", str(tmp_path_factory.mktemp("buf")))
        yield


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, check=False)


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(Path(sys.executable).with_name("buf"), *arguments)


def test_protos_keep_the_lint_rules() -> None:
    result = buf("lint")
    assert result.returncode == 0, f"buf lint:\n{result.stdout}{result.stderr}"


def test_protos_break_no_one_who_uses_the_baseline() -> None:
    result = buf("breaking", "--against", BASELINE)
    assert result.returncode == 0, (
        f"buf breaking against {BASELINE}:\n{result.stdout}{result.stderr}"
        "A change that breaks needs a new package version; before the first release, "
        "`make proto-baseline` and a line in CHANGELOG.md."
    )


def test_a_breaking_change_is_noticed(tmp_path: Path) -> None:
    """The check has teeth: a field taken away is refused."""
    source = tree.ROOT / "proto" / "bursar" / "v1"
    changed = tmp_path / "proto" / "bursar" / "v1"
    changed.mkdir(parents=True)
    for path in source.glob("*.proto"):
        changed.joinpath(path.name).write_text(path.read_text())
    money = changed / "money.proto"
    fields = re.sub(r"(?m)^  \w+ \w+ = \d+;$", "", money.read_text(), count=1)
    assert fields != money.read_text()
    money.write_text(fields)
    (tmp_path / "buf.yaml").write_text((tree.ROOT / "buf.yaml").read_text())
    result = buf("breaking", str(tmp_path), "--against", BASELINE)
    assert result.returncode != 0
    assert "money.proto" in result.stdout


def test_generated_code_is_what_the_protos_make() -> None:
    result = run(sys.executable, "proto/generate.py", "--check")
    assert result.returncode == 0, f"proto/generate.py --check:\n{result.stderr}"


def test_each_proto_says_what_it_is_about_and_each_service_what_an_outage_means() -> None:
    faults = []
    for name in tree.ours(".proto"):
        source = tree.text(name)
        if not source.startswith("// "):
            faults.append(f"{name}: starts without a comment that says what it is about")
        comments = " ".join(re.findall(r"//(.*)", source)).lower()
        if "\nservice " in source and not re.search(r"outage|unavailable|unreachable", comments):
            faults.append(f"{name}: does not say what its service does in an outage")
    tree.expect_none(faults, "A proto is the contract's documentation:")


@pytest.mark.parametrize("module", ["", "_grpc"])
def test_generated_modules_import_by_their_package_path(module: str) -> None:
    names = [Path(name).stem for name in tree.ours(".proto")]
    lines = "\n".join(f"from bursar.v1 import {name}_pb2{module}" for name in names)
    result = run(sys.executable, "-c", lines)
    assert result.returncode == 0, result.stderr
