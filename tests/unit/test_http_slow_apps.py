"""Apps that take their time: each kind of dawdling has its limit, by an injected clock."""

import asyncio

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer, Limits, Request, Responder
from tests.fakes.wire import FakeApp, delivered, join

LIMITS = Limits(keep_alive_s=75, request_stall_s=30, request_total_s=300, write_stall_s=120)
HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"


class Slow:
    """An app, a server with a clock of its own, and a handler that waits until it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.go = asyncio.Event()
        self.go.set()
        self.server = HttpServer(self.handle, LIMITS, now=lambda: self.now)
        self.app = FakeApp()
        join(self.app, Connection(self.server))

    async def handle(self, request: Request, respond: Responder) -> None:
        await self.go.wait()
        respond.send(200, [], request.body)

    async def passes(self, seconds: float) -> None:
        """Time passes, after which the limits are enforced once."""
        await delivered()
        self.now += seconds
        self.server.sweep(self.now)
        await delivered()

    async def drips(self, data: bytes, every_s: float, most: int) -> int:
        """One byte at a time until refused; how many were sent."""
        for sent, byte in enumerate(data[:most]):
            if self.app.answers or self.app.ended:
                return sent
            self.app.send(bytes([byte]))
            await self.passes(every_s)
        return most

    def refused(self) -> list[int]:
        return [answer.status for answer in self.app.answers]


async def test_a_head_byte_by_byte_ends_with_the_total() -> None:
    slow = Slow()
    sent = await slow.drips(HEAD + b"X: " + b"x" * 1_000, 20, 100)
    assert slow.refused() == [408]
    assert sent <= LIMITS.request_total_s / 20 + 2


async def test_a_body_byte_by_byte_ends_with_the_total() -> None:
    slow = Slow()
    slow.app.send(HEAD + b"\r\n")
    sent = await slow.drips(b"x" * 1_000, 20, 100)
    assert slow.refused() == [408]
    assert sent <= LIMITS.request_total_s / 20 + 2


async def test_a_request_that_stops_coming_ends_sooner() -> None:
    slow = Slow()
    slow.app.send(HEAD)
    await slow.passes(29)
    assert slow.refused() == []
    await slow.passes(2)
    assert slow.refused() == [408]


async def test_a_connection_that_says_nothing_is_closed() -> None:
    slow = Slow()
    await slow.passes(74)
    assert not slow.app.ended
    await slow.passes(2)
    assert slow.app.ended
    assert slow.refused() == []


async def test_empty_lines_do_not_keep_a_connection_open() -> None:
    slow = Slow()
    for _ in range(4):
        slow.app.send(b"\r\n")
        await slow.passes(20)
    assert slow.app.ended


async def test_a_request_sent_ahead_is_not_late_because_the_one_before_took_long() -> None:
    slow = Slow()
    slow.go.clear()
    slow.app.send(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + HEAD)
    await slow.passes(1_000)
    assert slow.refused() == []
    slow.go.set()
    await slow.app.answer(1)
    await slow.passes(20)
    slow.app.send(b"\r\n" + b"x" * 1_000)
    assert (await slow.app.answer(2)).body == b"x" * 1_000


async def test_an_app_that_takes_nothing_of_its_answer_has_hung_up() -> None:
    slow = Slow()
    slow.app.stop_reading()
    slow.app.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    await slow.passes(119)
    assert len(slow.server._connections) == 1
    await slow.passes(2)
    assert not slow.server._connections


async def test_an_app_that_reads_no_answer_gets_no_more_of_them() -> None:
    slow = Slow()
    slow.app.stop_reading()
    ran: list[bytes] = []

    async def handle(request: Request, respond: Responder) -> None:
        ran.append(request.path)
        respond.send(200, [], b"x" * 100_000)

    slow.server.handle = handle
    for number in range(20):
        slow.app.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        await delivered()
    # As many as fit into what may lie unsent, and the one that reached it.
    assert len(ran) == 3
    slow.app.read_on()
    await slow.app.answer(20)
    assert ran == [b"/%d" % number for number in range(20)]
    slow.app.send(b"GET /more HTTP/1.1\r\nHost: x\r\n\r\n")
    await slow.app.answer(21)
