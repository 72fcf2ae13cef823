"""Credentials from files that rotate."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bursar_sidecar.credential_files import CredentialFile, CredentialFiles


class Watched:
    """One file, who uses its credential, and a clock."""

    def __init__(self, path: Path, secret: str) -> None:
        self.used: list[str] = []
        self.seconds = 100.0
        self.files = CredentialFiles(lambda: self.seconds, every_s=10)
        file = CredentialFile("providers.openai", str(path), secret, self.used.append)
        self.files.watch([file])

    def after(self, seconds: float) -> list[str]:
        """What is used after so long."""
        self.seconds += seconds
        self.files.look()
        return self.used


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    return path


def replace(path: Path, text: str) -> None:
    """Another file in its place, as careful programs write."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.rename(path)


def test_a_file_that_did_not_change_rotates_nothing(path: Path) -> None:
    watched = Watched(path, "sk-1")
    assert watched.after(0) == []
    assert watched.after(10) == []
    assert watched.files.rotated_count == 0


def test_a_rotated_file_is_used_at_the_next_look_and_not_before(path: Path) -> None:
    watched = Watched(path, "sk-1")
    watched.after(0)
    replace(path, "sk-2\n")
    assert watched.after(9) == []
    assert watched.after(1) == ["sk-2"]
    assert watched.after(10) == ["sk-2"]
    assert watched.files.rotated_count == 1


def test_a_look_at_once_does_not_wait(path: Path) -> None:
    watched = Watched(path, "sk-1")
    watched.after(0)
    replace(path, "sk-2")
    watched.files.look(at_once=True)
    assert watched.used == ["sk-2"]


def test_what_was_rotated_before_the_first_look_is_seen(path: Path) -> None:
    # A worker is started with what its supervisor read some time ago.
    replace(path, "sk-2")
    assert Watched(path, "sk-1").after(0) == ["sk-2"]


def test_a_secret_that_kubernetes_swaps_is_seen(tmp_path: Path) -> None:
    # The file is a link into a directory that is itself a link, and that one is swapped.
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "key").write_text(f"sk-{number}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    os.utime(tmp_path / "..2" / "key", ns=(5, 5))
    os.utime(tmp_path / "..1" / "key", ns=(5, 5))
    watched = Watched(tmp_path / "key", "sk-1")
    assert watched.after(0) == []
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert watched.after(10) == ["sk-2"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"  \n", "it is empty"),
        (b"\xff\xfe", "it is not text"),
        (b"sk-\x07bell", "expected characters that an HTTP header may carry"),
        (b"x" * 20_000, "it holds more than 16384 bytes"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_without_a_credential_keeps_the_last_one(
    path: Path, content: bytes | None, fault: str
) -> None:
    watched = Watched(path, "sk-1")
    watched.after(0)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with capture_logs() as logs:
        assert watched.after(10) == []
        assert watched.after(10) == []
    assert [(line["event"], line["fault"]) for line in logs] == [("credential_unreadable", fault)]
    assert watched.files.faults == {"providers.openai": fault}
    path.write_text("sk-3")
    with capture_logs() as logs:
        assert watched.after(10) == ["sk-3"]
    assert watched.files.faults == {}
    assert [line["event"] for line in logs] == ["credential_readable_again", "credential_rotated"]


def test_no_line_of_the_log_holds_a_credential(path: Path) -> None:
    watched = Watched(path, "sk-1")
    with capture_logs() as logs:
        for content in ("sk-2", "", "sk-3\x07", "sk-4"):
            replace(path, content)
            watched.after(10)
    assert len(logs) >= 4
    assert "sk-" not in str(logs)
    assert "sk-" not in str(watched.files.described())
