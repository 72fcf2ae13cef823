"""Sockets to listen on."""

import os
import socket
import stat
from pathlib import Path

import pytest

from bursar_sidecar.listening import AddressTaken, bound, inode_of, removed, shown


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s.sock"


def test_a_unix_socket_has_its_permissions(address: str, tmp_path: Path) -> None:
    with bound(address, mode="0660") as made:
        status = os.stat(tmp_path / "s.sock")
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert shown(made, address) == address
    assert [path.name for path in tmp_path.iterdir()] == ["s.sock"]  # no draft is left


def test_what_a_dead_process_left_is_replaced(address: str, tmp_path: Path) -> None:
    bound(address).close()
    with bound(address), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s.sock"))


def test_a_socket_that_somebody_serves_is_left_alone(address: str, tmp_path: Path) -> None:
    with bound(address) as first:
        with pytest.raises(AddressTaken):
            bound(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s.sock"))
            first.accept()[0].close()


def test_what_is_no_socket_is_never_removed(address: str, tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("precious")
    with pytest.raises(AddressTaken):
        bound(address)
    assert (tmp_path / "s.sock").read_text() == "precious"


def test_only_the_own_socket_is_taken_away(address: str, tmp_path: Path) -> None:
    with bound(address):
        inode = inode_of(address)
    with bound(address):  # a new process has taken its place
        assert not removed(address, inode)
        assert (tmp_path / "s.sock").exists()
        assert removed(address, inode_of(address))
        assert not (tmp_path / "s.sock").exists()


def test_tcp_tells_its_real_port() -> None:
    with bound("127.0.0.1:0") as made:
        assert shown(made, "127.0.0.1:0") == f"127.0.0.1:{made.getsockname()[1]}"


def test_a_port_is_shared_only_by_those_who_say_so() -> None:
    with bound("127.0.0.1:0", share=True) as first:
        real = shown(first, "")
        first.listen()
        with bound(real, share=True) as second:
            second.listen()
            with pytest.raises(OSError, match="in use"):
                bound(real)
