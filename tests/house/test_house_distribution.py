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


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for package, root in tree.PACKAGE_ROOTS.items():
        prefix = f"{root.relative_to(tree.ROOT).as_posix()}/"
        wanted |= {
            f"{package}/{name.removeprefix(prefix)}"
            for name in tree.files()
            if name.startswith(prefix)
        }
    tree.expect_none(sorted(wanted - packed), "The wheel lacks these:")
    tree.expect_none(sorted(packed - wanted), "The wheel holds what is no file of the packages:")


def test_the_wheel_says_its_licence_and_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
        licences = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    extras = set(re.findall(r"(?m)^Provides-Extra: (\S+)$", text))
    assert {"server", "sidecar", "all"} <= extras
    assert "License-Expression: Apache-2.0" in text
    assert licences
