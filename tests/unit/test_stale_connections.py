"""A connection of the pool that the provider closes in the moment it is used: sent again where it
is proven that nothing of the call was taken, and only there."""

import struct
from typing import cast

import pytest

from bursar_sidecar.upstream import Pool
from bursar_sidecar.upstream_connection import UpstreamConnection
from tests.fakes.raw_wire import RawBench, RawEnd
from tests.fakes.recorded_shapes import ANSWER, asked, plain, request
from tests.fakes.wire import MemoryTransport, delivered


class Kernel:
    """A socket, as far as what it says of acknowledged bytes."""

    def __init__(self) -> None:
        self.acked = 5_000
        self.most = 1_000
        """Bytes it tells at most; an older kernel tells less."""

    def fileno(self) -> int:
        return 0

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return (bytes(120) + struct.pack("=Q", self.acked))[: min(size, self.most)]


class Stale:
    """A bench that has made one call, whose connection lies in the pool."""

    def __init__(self, bench: RawBench, provider: RawEnd) -> None:
        self.bench = bench
        self.provider = provider
        self.kernel = Kernel()
        assert provider.transport is not None
        assert provider.transport.peer is not None
        ours: MemoryTransport = provider.transport.peer
        ours.get_extra_info = self._extra_info  # type: ignore[method-assign]  # has no socket
        upstream = cast(UpstreamConnection, ours.protocol)
        self.pool = cast(Pool, upstream._pool)

    def _extra_info(self, name: str, default: object = None) -> object:
        return self.kernel if name == "socket" else default

    async def races(self, *, acked: int = 0, answered: bytes = b"", reset: bool = False) -> None:
        """The next call is written, and the connection closes before its answer."""
        self.bench.app.pieces.clear()
        self.bench.app.send(request(asked()))
        await self.provider.until(lambda: self.provider.received.count(b"POST ") == 2)
        self.kernel.acked += acked
        if answered:
            self.provider.send(answered)
        assert self.provider.transport is not None
        if reset:
            self.provider.transport.abort()
        else:
            self.provider.transport.close()
        await delivered()

    async def refused(self) -> bool:
        """Whether the app was told that the provider broke off, and nothing was sent again."""
        await self.bench.app.until(lambda: bool(self.bench.app.pieces))
        broke = self.bench.app.received.startswith(b"HTTP/1.1 502 ")
        return broke and len(self.bench.provider.ends) == 1


async def stale(*, rested: bool = True) -> Stale:
    bench = RawBench()
    bench.app.send(request(asked()))
    provider = await bench.provider_end()
    await provider.until(lambda: bool(provider.pieces))
    provider.send(plain(ANSWER)[0])
    await bench.app.until(lambda: bench.app.received.endswith(ANSWER))
    found = Stale(bench, provider)
    if rested:
        found.pool.sweep(found.pool.now())
    return found


async def test_a_call_that_was_never_taken_is_sent_again_and_settled_once() -> None:
    line = await stale()
    await line.races()
    assert len(line.bench.provider.ends) == 2
    second = line.bench.provider.ends[1]
    await second.until(lambda: second.received.endswith(asked()))
    second.send(plain(ANSWER)[0])
    await line.bench.app.until(lambda: line.bench.app.received.endswith(ANSWER))
    outcomes = line.bench.desk.outcomes
    assert [(outcome.kind, outcome.usage.is_exact) for outcome in outcomes] == [("final", True)] * 2


async def test_a_call_of_which_a_byte_was_acknowledged_is_not() -> None:
    line = await stale()
    await line.races(acked=1)
    assert await line.refused()
    assert line.bench.desk.outcomes[1].kind == "unknown"


async def test_nor_one_that_a_byte_of_an_answer_came_for() -> None:
    line = await stale()
    await line.races(answered=b"H")
    assert await line.refused()


async def test_nor_one_that_ended_with_a_reset() -> None:
    line = await stale()
    await line.races(reset=True)
    assert await line.refused()


async def test_nor_one_on_a_connection_that_had_not_rested() -> None:
    line = await stale(rested=False)
    await line.races()
    assert await line.refused()


async def test_the_second_time_it_is_told() -> None:
    line = await stale()
    await line.races()
    second = line.bench.provider.ends[1]
    assert second.transport is not None
    second.transport.close()
    await line.bench.app.until(lambda: bool(line.bench.app.pieces))
    assert line.bench.app.received.startswith(b"HTTP/1.1 502 ")
    assert len(line.bench.provider.ends) == 2


async def test_an_app_that_hung_up_meanwhile_is_not_charged() -> None:
    line = await stale()
    line.bench.app.send(request(asked(stream=True)))
    await line.provider.until(lambda: line.provider.received.count(b"POST ") == 2)
    assert line.bench.app.transport is not None
    assert line.provider.transport is not None
    line.provider.transport.close()
    line.bench.app.transport.close()
    await delivered()
    assert line.bench.desk.outcomes[1].kind in ("released", "aborted")
    assert len(line.bench.desk.outcomes) == 2


@pytest.mark.parametrize("size", [0, 100, 127])
async def test_a_kernel_that_does_not_tell_proves_nothing(size: int) -> None:
    line = await stale(rested=False)
    line.kernel.most = size
    line.pool.sweep(line.pool.now())
    await line.races()
    assert await line.refused()
