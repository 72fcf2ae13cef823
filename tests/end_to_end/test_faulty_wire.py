"""The wire that fails on command does what it is told: the tests that use it rely on that."""

import socket
from collections.abc import Iterator

import pytest

from tests.fakes.until import until
from tests.fakes.wire_faults import FaultyWire

TIMEOUT_S = 30.0


class Pair:
    """A wire with a connection through it."""

    def __init__(self, wire: FaultyWire, listener: socket.socket) -> None:
        self.wire = wire
        self.listener = listener
        self.near, self.far = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        near = socket.create_connection(("127.0.0.1", self.wire.port), TIMEOUT_S)
        far, _address = self.listener.accept()
        far.settimeout(TIMEOUT_S)
        return near, far


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        with FaultyWire(listener.getsockname()) as wire:
            pair = Pair(wire, listener)
            yield pair
            pair.near.close()
            pair.far.close()


def nothing_comes(end: socket.socket) -> None:
    end.setblocking(False)
    with pytest.raises(BlockingIOError):
        end.recv(100)
    end.settimeout(TIMEOUT_S)


def test_bytes_pass_both_ways_and_an_end_is_passed_on(pair: Pair) -> None:
    pair.near.sendall(b"up")
    assert pair.far.recv(100) == b"up"
    pair.far.sendall(b"down")
    assert pair.near.recv(100) == b"down"
    pair.far.close()
    assert pair.near.recv(100) == b""


def test_held_bytes_arrive_in_order_when_it_heals(pair: Pair) -> None:
    pair.wire.hold(down=True)
    pair.far.sendall(b"one ")
    pair.near.sendall(b"still heard")
    assert pair.far.recv(100) == b"still heard"
    pair.far.sendall(b"two")
    pair.far.close()
    nothing_comes(pair.near)
    assert pair.wire.open_count == 1, "the far end closed, and the near one can't know"
    pair.wire.heal()
    assert read_all(pair.near) == b"one two"


def test_swallowed_bytes_never_arrive_and_healing_resets(pair: Pair) -> None:
    pair.wire.swallow(up=True)
    pair.near.sendall(b"lost")
    until(lambda: pair.wire.up.lost_bytes == 4, "the bytes are swallowed")
    nothing_comes(pair.far)
    pair.wire.heal()
    with pytest.raises(ConnectionResetError):
        pair.near.recv(100)
    near, far = pair.connect()
    near.sendall(b"again")
    assert far.recv(100) == b"again"
    near.close()
    far.close()


def test_a_cut_is_a_reset_or_an_orderly_end(pair: Pair) -> None:
    pair.wire.cut(reset=False)
    assert pair.near.recv(100) == b""
    near, far = pair.connect()
    pair.wire.cut(reset=True)
    for end in (near, far):
        with pytest.raises(ConnectionResetError):
            end.recv(100)
        end.close()


def test_slow_bytes_arrive_whole(pair: Pair) -> None:
    pair.wire.slow(up_s=0.05, down_s=0.0, bytes_per_s=20_000)
    pair.near.sendall(b"x" * 2_000)
    pair.near.shutdown(socket.SHUT_WR)
    assert read_all(pair.far) == b"x" * 2_000


def test_a_new_aim_is_for_new_connections_and_nobody_there_is_a_reset(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    pair.wire.aim(address)
    pair.near.sendall(b"old")
    assert pair.far.recv(100) == b"old"
    with pytest.raises(ConnectionResetError):
        read_from(pair.wire.port)


def read_from(port: int) -> None:
    """The reset may come while it connects, or after."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as near:
        assert near.recv(100), "an end, and no reset"


def read_all(end: socket.socket) -> bytes:
    received = b""
    while part := end.recv(100_000):
        received += part
    return received
