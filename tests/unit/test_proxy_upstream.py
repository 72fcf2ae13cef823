"""The way to a provider: what is known of a call that failed, bounds, time limits, reuse."""

import asyncio
from collections.abc import Callable

import pytest

from bursar_sidecar.exchange import HIGH_WATER_BYTES, Exchange
from bursar_sidecar.upstream import Broken, NeverSent, Pool, PoolLimits
from bursar_sidecar.upstream_connection import MAX_HEAD_BYTES
from tests.fakes.wire import FakeProvider, ProviderCall, delivered

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\nhi"


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A pool before a fake provider."""

    def __init__(self, **limits: float) -> None:
        self.clock = Clock()
        self.provider = FakeProvider()
        known = {name: type(getattr(PoolLimits(), name))(value) for name, value in limits.items()}
        self.pool = Pool(
            "http://provider.test:8080/v1",
            PoolLimits(**known),
            now=self.clock,
            dial=self.provider.dial,
        )
        self.sent = 0

    async def call(self) -> tuple[Exchange, ProviderCall]:
        exchange = await self.pool.open()
        exchange.send(REQUEST)
        self.sent += 1
        return exchange, await self.provider.request(self.sent)

    async def whole_call(self, headers: str = "") -> bytes:
        exchange, call = await self.call()
        call.send_json(b"{}", headers=headers)
        assert await exchange.head() == 200
        return await read_all(exchange)

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.pool.sweep(self.clock.now)


async def read_all(exchange: Exchange) -> bytes:
    body = b""
    while chunk := await exchange.read():
        body += chunk
    return body


async def answer_of(exchange: Exchange) -> bytes:
    await exchange.head()
    return await read_all(exchange)


async def broken_by(line: Line, act: Callable[[ProviderCall], None]) -> Broken:
    exchange, call = await line.call()
    act(call)
    with pytest.raises(Broken) as caught:
        await answer_of(exchange)
    assert exchange.sent
    return caught.value


async def test_an_answer_comes_chunk_by_chunk() -> None:
    exchange, call = await Line().call()
    call.start_stream("x-a: b\r\n")
    assert await exchange.head() == 200
    assert (b"x-a", b"b") in exchange.headers
    call.send_chunk(b"one")
    assert await exchange.read() == b"one"
    call.send_chunk(b"two")
    call.send_chunk(b"")
    assert await exchange.read() == b"two"
    assert await exchange.read() == b""


async def test_connections_are_used_again_the_last_returned_first() -> None:
    line = Line()
    for _ in range(3):
        assert await line.whole_call() == b"{}"
    assert len(line.provider.connections) == 1


async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    line = Line()
    exchange, call = await line.call()
    call.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    call.close()
    assert await exchange.head() == 200
    assert await read_all(exchange) == b"all of it"
    await line.whole_call()
    assert len(line.provider.connections) == 2


async def test_interim_answers_are_skipped() -> None:
    exchange, call = await Line().call()
    call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    call.send_json(b"{}")
    assert await exchange.head() == 200
    assert await read_all(exchange) == b"{}"


async def test_no_connection_means_never_sent() -> None:
    line = Line()
    line.provider.refuses = True
    with pytest.raises(NeverSent, match=r"cannot connect to provider\.test:8080"):
        await line.pool.open()


async def test_a_connection_that_is_gone_before_the_write_means_never_sent() -> None:
    line = Line()
    exchange = await line.pool.open()
    line.provider.connections[0].reset()
    await delivered()
    with pytest.raises(NeverSent):
        exchange.send(REQUEST)
    assert not exchange.sent


async def test_a_pooled_connection_that_the_provider_closed_is_not_used() -> None:
    line = Line()
    await line.whole_call()
    line.provider.connections[0].close()
    await delivered()
    await line.whole_call()
    assert len(line.provider.connections) == 2


async def test_a_break_after_the_write_is_unknown_and_not_retried() -> None:
    line = Line()
    broken = await broken_by(line, ProviderCall.reset)
    assert not broken.timed_out
    assert len(line.provider.connections) == 1


async def test_an_answer_shorter_than_declared_is_broken() -> None:
    def half(call: ProviderCall) -> None:
        call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        call.close()

    await broken_by(Line(), half)


async def test_nonsense_is_broken() -> None:
    await broken_by(Line(), lambda call: call.send(b"hello\r\n\r\n"))


async def test_a_head_without_end_is_broken() -> None:
    def flood(call: ProviderCall) -> None:
        call.send(b"HTTP/1.1 200 OK\r\nx: ")
        for _ in range(MAX_HEAD_BYTES // 10_000 + 2):
            call.send(b"a" * 10_000)

    await broken_by(Line(), flood)


async def test_an_upgrade_is_broken() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    await broken_by(Line(), lambda call: call.send(switch))


async def test_no_answer_in_time_is_broken_as_timed_out() -> None:
    line = Line(head_s=10)
    exchange, call = await line.call()
    line.passes(11)
    with pytest.raises(Broken) as caught:
        await exchange.head()
    assert caught.value.timed_out
    await line.provider.until(lambda: call.lost)


async def test_a_stream_that_stalls_is_broken_and_one_that_flows_is_not() -> None:
    line = Line(head_s=10, stall_s=5)
    exchange, call = await line.call()
    call.start_stream()
    await exchange.head()
    for _ in range(4):
        call.send_chunk(b"x")
        assert await exchange.read() == b"x"
        line.passes(4)
    line.passes(2)
    with pytest.raises(Broken) as caught:
        await exchange.read()
    assert caught.value.timed_out


async def test_a_call_is_cut_when_it_takes_longer_than_any_may() -> None:
    line = Line(longest_call_s=30, stall_s=20)
    exchange, call = await line.call()
    call.start_stream()
    await exchange.head()
    for _ in range(3):
        call.send_chunk(b"x")
        await delivered()
        line.passes(11)
    assert await exchange.read() == b"xxx"
    with pytest.raises(Broken, match="too long"):
        await exchange.read()


async def test_nobody_waiting_shortens_the_deadline() -> None:
    line = Line()
    exchange, call = await line.call()
    exchange.shorten(5)
    line.passes(6)
    await line.provider.until(lambda: call.lost)


async def test_a_slow_reader_makes_the_provider_wait() -> None:
    line = Line(stall_s=5)
    exchange, call = await line.call()
    call.start_stream()
    await exchange.head()
    for _ in range(8):
        call.send_chunk(b"x" * (HIGH_WATER_BYTES // 4))
    await delivered()
    assert call.transport is not None
    assert call.transport.get_write_buffer_size() > 0
    line.passes(60)  # it is we who are slow: no stall of the provider's
    call.send_chunk(b"")
    assert len(await read_all(exchange)) == 2 * HIGH_WATER_BYTES


async def test_aborting_wakes_the_reader_and_closes_the_connection() -> None:
    line = Line()
    exchange, call = await line.call()
    reading = asyncio.ensure_future(exchange.head())
    await delivered()
    exchange.abort("the app hung up")
    with pytest.raises(Broken, match="the app hung up"):
        await reading
    await line.provider.until(lambda: call.lost)


async def test_an_idle_connection_past_its_time_is_not_used() -> None:
    line = Line(keep_alive_s=50)
    await line.whole_call()
    line.clock.now += 51
    await line.whole_call()
    assert len(line.provider.connections) == 2


async def test_the_providers_own_keep_alive_time_is_kept() -> None:
    line = Line(keep_alive_s=50)
    await line.whole_call("keep-alive: timeout=5, max=100\r\n")
    line.clock.now += 4.5
    await line.whole_call()
    assert len(line.provider.connections) == 2


async def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    line = Line()
    exchange = await line.pool.open()
    call = line.provider.connections[0]
    assert call.transport is not None
    call.transport.pause_reading()
    exchange.send(REQUEST)
    call.send_json(b"{}", status=413)
    assert await exchange.head() == 413
    assert await read_all(exchange) == b"{}"
    await delivered()
    assert len(line.pool._idle) == 0


async def test_calls_past_the_bound_wait_for_a_connection_in_turn() -> None:
    line = Line(max_connections=1)
    first, call = await line.call()
    waiting = asyncio.ensure_future(line.pool.open())
    await delivered()
    assert not waiting.done()
    call.send_json(b"{}")
    await first.head()
    second = await waiting
    second.send(REQUEST)
    assert len(line.provider.connections) == 1


async def test_a_connection_that_breaks_makes_room_for_the_next() -> None:
    line = Line(max_connections=1)
    first, call = await line.call()
    waiting = asyncio.ensure_future(line.pool.open())
    await delivered()
    call.reset()
    with pytest.raises(Broken):
        await first.head()
    await waiting
    assert len(line.provider.connections) == 2


async def test_waiting_for_a_connection_ends_in_never_sent() -> None:
    line = Line(max_connections=1, connect_s=0)
    line.pool.limits = PoolLimits(max_connections=1, connect_s=10)
    await line.call()
    line.pool.limits = PoolLimits(max_connections=1, connect_s=0)
    with pytest.raises(NeverSent) as caught:
        await line.pool.open()
    assert caught.value.timed_out


async def test_who_gives_up_waiting_takes_no_connection_from_the_next() -> None:
    line = Line(max_connections=1)
    first, call = await line.call()
    gave_up = asyncio.ensure_future(line.pool.open())
    patient = asyncio.ensure_future(line.pool.open())
    await delivered()
    call.send_json(b"{}")
    await first.head()
    gave_up.cancel()
    await delivered()
    assert gave_up.cancelled() or gave_up.done()
    if not gave_up.cancelled():
        gave_up.result().close()
    assert isinstance(await patient, Exchange)


async def test_closing_the_pool_breaks_what_is_in_flight() -> None:
    line = Line()
    exchange, _ = await line.call()
    line.pool.close()
    with pytest.raises(Broken):
        await exchange.head()
