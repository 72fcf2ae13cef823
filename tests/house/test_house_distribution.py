"""The wheel holds the four packages whole, data files included, and nothing else."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house import tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=tree.ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = directory.glob("*.whl")
    return built


def package_files() -> set[str]:
    """Every file of the packages as it stands in the wheel: "bursar/money.py"."""
    found = set()
    for package, root in tree.PACKAGE_ROOTS.items():
        prefix = f"{root.relative_to(tree.ROOT).as_posix()}/"
        found |= {
            f"{package}/{name.removeprefix(prefix)}"
            for name in tree.files()
            if name.startswith(prefix)
        }
    return found


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree.expect_none(sorted(package_files() - packed), "The wheel lacks these:")
    tree.files.cache_clear()  # A file may have been added since they were first listed.
    tree.expect_none(sorted(packed - package_files()), "The wheel holds what is no source file:")


def test_the_wheel_says_its_licence_and_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
        licences = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    extras = set(re.findall(r"(?m)^Provides-Extra: (\S+)$", text))
    assert {"server", "sidecar", "all"} <= extras
    assert "License-Expression: Apache-2.0" in text
    assert licences
