"""What providers may send: passed on in the turn that brought it, or told to be broken."""

import asyncio

import pytest

from bursar_sidecar.exchange import HIGH_WATER_BYTES, Exchange, Take
from bursar_sidecar.http_messages import Headers
from bursar_sidecar.upstream import Broken, Pool
from bursar_sidecar.upstream_connection import MAX_HEAD_BYTES, UpstreamConnection
from tests.fakes.wire import FakeProvider, ProviderCall, delivered

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = OK + b"Content-Length: 2\r\n\r\nok"

BROKEN: dict[str, bytes] = {
    "content-length and chunked": OK
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two content-lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a negative content-length": OK + b"Content-Length: -1\r\n\r\n",
    "a transfer coding that was not asked for": OK
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a transfer coding without an end": OK + b"Transfer-Encoding: identity\r\n\r\nab",
    "chunked in an old answer": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "a bare line feed": OK + b"A: b\nSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
    "a bare carriage return": OK + b"A: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"A: b\x00\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"zz\r\nab\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"2\r\nabcd\r\n0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}

SURPLUS: dict[str, bytes] = {
    "bytes after the declared length": WHOLE + b"and more",
    "a second answer": WHOLE + b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad",
    "a second answer after the last chunk": CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + WHOLE,
    "bytes after an answer that closes": OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nok!!",
}


class Line:
    """A pool before a fake provider, and one call of it."""

    def __init__(self, *, head_only: bool = False) -> None:
        self.provider = FakeProvider()
        self.pool = Pool("http://provider.test/v1", now=lambda: 1.0, dial=self.provider.dial)
        self.head_only = head_only

    async def call(self, number: int = 1) -> tuple[Exchange, ProviderCall]:
        exchange = await self.pool.open()
        exchange.head_only = self.head_only
        exchange.send(b"POST /v1/x HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\n", b"hi")
        return exchange, await self.provider.request(number)


async def body_of(exchange: Exchange) -> bytes:
    pieces: list[bytes] = []

    def take(piece: bytes) -> bool:
        pieces.append(piece)
        return False

    assert not await exchange.pump(take)
    return b"".join(pieces)


@pytest.mark.parametrize("shape", BROKEN)
@pytest.mark.parametrize("piece", [1, 10_000])
async def test_an_answer_with_two_meanings_is_broken(shape: str, piece: int) -> None:
    line = Line()
    exchange, call = await line.call()
    for start in range(0, len(BROKEN[shape]), piece):
        call.send(BROKEN[shape][start : start + piece])
    with pytest.raises(Broken, match="not valid HTTP"):
        await body_of(exchange)
    await line.provider.until(lambda: call.lost)


@pytest.mark.parametrize("shape", SURPLUS)
async def test_what_comes_after_an_answer_is_never_the_next_one(shape: str) -> None:
    line = Line()
    exchange, call = await line.call()
    call.send(SURPLUS[shape])
    assert await body_of(exchange) == b"ok"
    assert exchange.status == 200
    await delivered()
    assert call.lost
    exchange, call = await line.call(2)
    call.send(WHOLE)
    assert await body_of(exchange) == b"ok"
    assert len(line.provider.connections) == 2


async def test_the_head_is_kept_as_it_came() -> None:
    exchange, call = await Line().call()
    call.send(b"HTTP/1.1 203 Fine By Me\r\nX-B: 1\r\nx-b: 2\r\nSet-Cookie: a\r\nset-cookie: b\r\n")
    call.send(b"Content-Length: 0\r\n\r\n")
    assert await exchange.head() == 203
    assert exchange.reason == b"Fine By Me"
    assert exchange.names == [b"X-B", b"x-b", b"Set-Cookie", b"set-cookie", b"Content-Length"]
    assert exchange.headers[0] == (b"x-b", b"1")


async def test_trailers_are_kept() -> None:
    exchange, call = await Line().call()
    call.send(CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n")
    assert await body_of(exchange) == b"ok"
    assert exchange.trailers == [(b"X-Sum", b"1"), (b"x-sum", b"2")]


async def test_trailers_without_end_are_broken() -> None:
    exchange, call = await Line().call()
    call.send(CHUNKED + b"0\r\n")
    for _ in range(MAX_HEAD_BYTES // 10_000 + 2):
        call.send(b"X-T: " + b"t" * 9_993 + b"\r\n")
    with pytest.raises(Broken, match="framing"):
        await body_of(exchange)


async def test_interim_answers_are_told_but_not_100() -> None:
    exchange, call = await Line().call()
    told: list[tuple[int, Headers, bytes]] = []
    exchange.on_interim = lambda *interim: told.append(interim)
    call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    call.send(WHOLE)
    assert await body_of(exchange) == b"ok"
    assert told == [(103, [(b"Link", b"</a>")], b"Early Hints")]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_that_has_no_body_leaves_its_connection_usable(status: bytes) -> None:
    line = Line()
    for number in (1, 2):
        exchange, call = await line.call(number)
        call.send(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
        assert await body_of(exchange) == b""
    assert len(line.provider.connections) == 1


async def test_the_answer_to_a_head_has_no_body_whatever_it_says() -> None:
    line = Line(head_only=True)
    for number, framing in enumerate((b"Content-Length: 9", b"Transfer-Encoding: chunked"), 1):
        exchange, call = await line.call(number)
        call.send(OK + framing + b"\r\n\r\n")
        assert await body_of(exchange) == b""
        assert exchange.status == 200
    assert len(line.provider.connections) == 1


async def test_a_body_after_the_answer_to_a_head_ends_the_connection() -> None:
    line = Line(head_only=True)
    exchange, call = await line.call()
    call.send(OK + b"Content-Length: 2\r\n\r\nok")
    assert await body_of(exchange) == b""
    await delivered()
    assert call.lost


class Turn:
    """An exchange whose connection is fed by hand: nothing but the feeding makes it move."""

    def __init__(self) -> None:
        self.pool = Pool("http://provider.test/v1", now=lambda: 1.0)
        self.connection = UpstreamConnection(self.pool)
        self.transport = _Transport()
        self.connection.connection_made(self.transport)
        self.exchange = Exchange(self.pool, self.connection)
        self.connection.exchange = self.exchange
        self.taken: list[bytes] = []
        self.begun = 0
        self.stop_after = -1

    def begin(self) -> Take:
        self.begun += 1
        return self.take

    def take(self, piece: bytes) -> bool:
        self.taken.append(piece)
        return len(self.taken) == self.stop_after

    async def pumping(self) -> "asyncio.Task[bool]":
        task = asyncio.ensure_future(self.exchange.pump(begin=self.begin))
        await delivered()
        return task


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        pass


async def test_each_piece_is_handed_on_before_control_returns_to_the_loop() -> None:
    turn = Turn()
    pumping = await turn.pumping()
    turn.connection.data_received(CHUNKED + b"3\r\none\r\n2\r\nto\r\n")
    # Nothing was awaited since: head and pieces went on within the call, each piece by itself.
    assert (turn.begun, turn.taken) == (1, [b"one", b"to"])
    turn.connection.data_received(b"3\r\nth")
    assert turn.taken[2:] == [b"th"]
    turn.connection.data_received(b"r\r\n0\r\n\r\n")
    assert turn.taken[3:] == [b"r"]
    assert not await pumping


async def test_who_has_to_wait_gets_nothing_more_until_it_asks_and_the_provider_waits() -> None:
    turn = Turn()
    turn.stop_after = 1
    pumping = await turn.pumping()
    turn.connection.data_received(CHUNKED + b"3\r\none\r\n2\r\nto\r\n")
    assert turn.taken == [b"one"]
    assert await pumping
    piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    fed = 0
    while turn.transport.reading:
        turn.connection.data_received(piece)
        fed += 0x8000
    # What is held is bounded by the high water mark and one read.
    assert fed <= HIGH_WATER_BYTES + 0x8000
    turn.stop_after = -1
    pumping = await turn.pumping()
    assert turn.transport.reading
    assert turn.taken[1] == b"to"
    assert sum(map(len, turn.taken[2:])) == fed
    turn.connection.data_received(b"0\r\n\r\n")
    assert not await pumping


async def test_a_taker_that_fails_fails_whoever_waits() -> None:
    turn = Turn()

    def fail(piece: bytes) -> bool:
        raise ValueError("not mine")

    pumping = asyncio.ensure_future(turn.exchange.pump(fail))
    await delivered()
    turn.connection.data_received(CHUNKED + b"3\r\none\r\n")
    with pytest.raises(ValueError, match="not mine"):
        await pumping


async def test_nothing_is_handed_on_once_the_exchange_is_closed() -> None:
    turn = Turn()

    def close(piece: bytes) -> bool:
        turn.taken.append(piece)
        turn.exchange.close()
        return True

    pumping = asyncio.ensure_future(turn.exchange.pump(close))
    await delivered()
    turn.connection.data_received(CHUNKED + b"3\r\none\r\n2\r\nto\r\n")
    assert await pumping
    assert turn.taken == [b"one"]
    assert turn.exchange._buffer == []
