"""What `bursar up` keeps from one run to the next, and what it refuses to go on with."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar_cli.up.data_directory import DataDirectory, DataDirectoryError, PortWish
from bursar_cli.up.private_files import DirectoryInUseError
from tests.fakes.until import DEADLINE_S


def test_secrets_are_made_once_and_only_we_can_read_them(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    first = directory.secrets()
    directory.release()
    again = DataDirectory(tmp_path / "data")
    assert again.secrets() == first
    assert first.admin_key.startswith("ba-")
    assert stat.S_IMODE((tmp_path / "data" / "secrets.json").stat().st_mode) == 0o600
    again.release()


def test_a_port_is_what_was_asked_else_last_times_else_the_usual(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        usual = server.getsockname()[1]
    first = directory.ports({"a": PortWish(None, usual), "b": PortWish(0, usual), "c": PortWish(0)})
    assert first["a"] == usual
    assert len(set(first.values())) == 3
    assert directory.ports({"b": PortWish(None, usual), "c": PortWish(0)}) == {
        "b": first["b"],
        "c": first["c"],
    }
    assert directory.ports({"b": PortWish(usual)}) == {"b": usual}
    directory.release()


def test_a_taken_port_is_replaced_unless_it_was_asked_for(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert directory.ports({"a": PortWish(None, taken)})["a"] != taken
        with pytest.raises(DataDirectoryError, match=f"port {taken}.*asked for a"):
            directory.ports({"a": PortWish(taken)})
    directory.release()


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("secrets.json", "{", DataDirectory.secrets),
        ("secrets.json", '{"admin_key": 7}', DataDirectory.secrets),
        ("secrets.json", '{"colour": "red"}', DataDirectory.secrets),
        ("ports.json", '{"a": "seven"}', lambda directory: directory.ports({})),
        ("pids.json", "[]", DataDirectory.see_off_leftovers),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, name: str, content: str, read: Callable[[DataDirectory], object]
) -> None:
    (tmp_path / name).write_text(content)
    directory = DataDirectory(tmp_path)
    with pytest.raises(DataDirectoryError, match=name):
        read(directory)
    directory.release()


def test_the_directory_is_held_by_one(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(DirectoryInUseError, match=f"process {os.getpid()}"):
        DataDirectory(tmp_path)
    directory.release()
    DataDirectory(tmp_path).release()


def test_a_leftover_is_ended_and_a_stranger_with_its_id_is_not(tmp_path: Path) -> None:
    pause = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(pause) as leftover, subprocess.Popen(pause) as stranger:
        directory = DataDirectory(tmp_path)
        directory.keep_pids({"server": leftover.pid, "provider": stranger.pid})
        # As if the second had ended and another process had got its id since.
        kept = json.loads((tmp_path / "pids.json").read_text())
        kept["provider"][1] = "1"
        (tmp_path / "pids.json").write_text(json.dumps(kept))
        directory.see_off_leftovers()
        assert leftover.wait(DEADLINE_S) == -signal.SIGTERM
        assert stranger.poll() is None
        stranger.kill()
        directory.release()
