"""The sidecar's HTTP server, spoken to over connections in memory."""

import asyncio
import json

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer, Limits, Request, Responder
from tests.fakes.wire import FakeApp, delivered, join


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def echo(request: Request, respond: Responder) -> None:
    respond.send(200, [(b"x-path", request.path)], request.body)


def connect(server: HttpServer) -> FakeApp:
    app = FakeApp()
    join(app, Connection(server))
    return app


async def test_a_request_is_answered_and_the_connection_kept() -> None:
    app = connect(HttpServer(echo))
    app.post("/one?a=b", b"first")
    first = await app.answer(1)
    app.post("/two", b"second")
    second = await app.answer(2)
    assert (first.status, first.body, first.headers["x-path"]) == (200, b"first", "/one")
    assert second.body == b"second"
    assert not app.ended


async def test_pipelined_requests_are_answered_in_order() -> None:
    order: list[bytes] = []

    async def handle(request: Request, respond: Responder) -> None:
        order.append(request.body)
        await echo(request, respond)

    app = connect(HttpServer(handle))
    one = b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n%d"
    app.send(b"".join(one % (n, n) for n in range(5)))
    await app.answer(5)
    assert [answer.body for answer in app.answers] == [b"0", b"1", b"2", b"3", b"4"]
    assert order == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_chunked_request_body_is_read_whole() -> None:
    app = connect(HttpServer(echo))
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for piece in (b"3\r\nabc\r\n", b"2\r", b"\nde\r\n0\r\n\r\n"):
        app.send(piece)
    assert (await app.answer()).body == b"abcde"


async def test_a_request_may_come_byte_by_byte() -> None:
    app = connect(HttpServer(echo))
    for byte in b"POST /p HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok":
        app.send(bytes([byte]))
    assert (await app.answer()).body == b"ok"


async def test_continue_is_said_before_the_body_is_sent() -> None:
    app = connect(HttpServer(echo))
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    await app.until(lambda: app.interim == [100])
    app.send(b"ok")
    assert (await app.answer()).body == b"ok"


async def test_a_body_too_large_is_refused_from_its_declared_length() -> None:
    app = connect(HttpServer(echo, Limits(max_body_bytes=10)))
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n")
    answer = await app.until_ended()
    assert answer.status == 413
    assert json.loads(answer.body)["error"]["code"] == "body_too_large"
    assert app.interim == []


async def test_a_chunked_body_too_large_is_refused_as_it_grows() -> None:
    app = connect(HttpServer(echo, Limits(max_body_bytes=10)))
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    app.send(b"8\r\n12345678\r\n8\r\n12345678\r\n")
    assert (await app.until_ended()).status == 413


async def test_a_header_that_never_ends_is_refused() -> None:
    app = connect(HttpServer(echo, Limits(max_head_bytes=1_000)))
    app.send(b"GET / HTTP/1.1\r\nx-long: ")
    for _ in range(20):
        app.send(b"a" * 100)
    answer = await app.until_ended()
    assert answer.status == 431
    assert json.loads(answer.body)["error"]["code"] == "headers_too_large"


async def test_too_many_headers_are_refused() -> None:
    app = connect(HttpServer(echo, Limits(max_headers=5)))
    app.send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6 + b"\r\n")
    assert (await app.until_ended()).status == 431


async def test_what_is_not_http_gets_a_json_400() -> None:
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        app = connect(HttpServer(echo))
        app.send(nonsense)
        answer = await app.until_ended()
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["code"] == "malformed_http"


async def test_a_request_framed_in_two_ways_is_refused() -> None:
    app = connect(HttpServer(echo))
    app.send(
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\n"
    )
    assert (await app.until_ended()).status == 400


async def test_malformed_bytes_behind_a_request_are_refused_after_its_answer() -> None:
    app = connect(HttpServer(echo))
    app.send(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\naNONSENSE \x00\r\n\r\n")
    await app.until_ended()
    assert [answer.status for answer in app.answers] == [200, 400]


async def test_head_gets_the_headers_alone() -> None:
    app = connect(HttpServer(echo))
    app.send(b"HEAD /x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
    await app.until(lambda: app.received.endswith(b"\r\n\r\n"))
    assert b"content-length: 3\r\n" in app.received


async def test_an_offer_to_upgrade_is_ignored_and_the_body_still_read() -> None:
    app = connect(HttpServer(echo))
    app.send(
        b"POST /up HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\ncontent-length: 5\r\n\r\nhel"
    )
    app.send(b"lo")
    answer = await app.until_ended()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["connection"] == "close"


async def test_connect_is_refused() -> None:
    app = connect(HttpServer(echo))
    app.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await app.until_ended()).status == 405


async def test_an_old_client_gets_its_connection_closed() -> None:
    app = connect(HttpServer(echo))
    app.send(b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nok")
    answer = await app.until_ended()
    assert answer.body == b"ok"
    assert answer.headers["connection"] == "close"


async def test_an_old_client_gets_a_stream_without_chunks() -> None:
    async def stream(request: Request, respond: Responder) -> None:
        respond.start(200, [])
        respond.write(b"one ")
        respond.write(b"two")
        respond.finish()

    app = connect(HttpServer(stream))
    app.send(b"GET / HTTP/1.0\r\n\r\n")
    await app.until_ended()
    assert app.received.endswith(b"\r\n\r\none two")


async def test_a_stream_that_is_cut_is_seen_to_be_cut() -> None:
    async def broken(request: Request, respond: Responder) -> None:
        respond.start(200, [])
        respond.write(b"half")
        respond.cut()

    app = connect(HttpServer(broken))
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await app.until_ended()
    assert app.body_so_far == b"half"
    assert not answer.complete


async def test_a_hang_up_is_told_to_the_handler_at_once() -> None:
    told: list[bool] = []

    async def wait(request: Request, respond: Responder) -> None:
        gone = asyncio.Event()
        respond.on_hang_up(gone.set)
        await gone.wait()
        told.append(respond.gone)

    app = connect(HttpServer(wait))
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    app.hang_up()
    await delivered()
    assert told == [True]


async def test_a_slow_reader_makes_the_writer_wait() -> None:
    progress: list[str] = []

    async def flood(request: Request, respond: Responder) -> None:
        respond.start(200, [])
        respond.write(b"x" * 300_000)
        progress.append("paused" if respond.paused else "free")
        await respond.drain()
        progress.append("drained")
        respond.finish()

    app = connect(HttpServer(flood))
    app.stop_reading()
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await app.until(lambda: True)
    app.read_on()
    answer = await app.answer()
    assert len(answer.body) == 300_000
    assert progress == ["paused", "drained"]


async def test_a_handler_that_fails_leaves_no_stack_trace() -> None:
    async def fail(request: Request, respond: Responder) -> None:
        raise RuntimeError("the secret reason")

    app = connect(HttpServer(fail))
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await app.answer()
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert json.loads(answer.body)["error"]["code"] == "internal_error"


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    clock = Clock()
    server = HttpServer(echo, Limits(keep_alive_s=75), clock)
    app = connect(server)
    clock.now += 74
    server.sweep(clock.now)
    app.post("/", b"still here")
    await app.answer()
    clock.now += 76
    server.sweep(clock.now)
    await app.until(lambda: app.ended)


async def test_a_request_that_stalls_is_answered_408() -> None:
    clock = Clock()
    server = HttpServer(echo, Limits(request_stall_s=30), clock)
    app = connect(server)
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
    app.send(b" of it")
    await delivered()
    clock.now += 31
    server.sweep(clock.now)
    assert (await app.until_ended()).status == 408


async def test_a_request_that_trickles_for_ever_is_answered_408() -> None:
    clock = Clock()
    server = HttpServer(echo, Limits(request_stall_s=30, request_total_s=100), clock)
    app = connect(server)
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
    for _ in range(6):
        await delivered()
        clock.now += 20
        app.send(b"x")
    await delivered()
    server.sweep(clock.now)
    assert (await app.until_ended()).status == 408


async def test_a_refused_peer_that_does_not_close_is_cut_after_the_linger() -> None:
    clock = Clock()
    server = HttpServer(echo, Limits(max_body_bytes=1, linger_s=2), clock)
    app = connect(server)
    app.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
    assert (await app.until_ended()).status == 413
    assert not app.lost
    app.send(b"x" * 50)
    clock.now += 3
    server.sweep(clock.now)
    await app.until(lambda: app.lost)


async def test_an_app_that_takes_no_bytes_is_cut() -> None:
    clock = Clock()

    async def flood(request: Request, respond: Responder) -> None:
        respond.start(200, [])
        while not respond.gone:
            respond.write(b"x" * 100_000)
            await respond.drain()

    server = HttpServer(flood, Limits(write_stall_s=120), clock)
    app = connect(server)
    app.stop_reading()
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await delivered()
    clock.now += 121
    server.sweep(clock.now)
    await app.until(lambda: app.lost)


async def test_one_connection_too_many_is_told_so() -> None:
    server = HttpServer(echo, Limits(max_connections=1))
    connect(server)
    second = connect(server)
    answer = await second.until_ended()
    assert answer.status == 503
    assert json.loads(answer.body)["error"]["code"] == "overloaded"


async def test_draining_lets_the_request_in_flight_end_and_takes_no_more() -> None:

    go_on = asyncio.Event()
    entered = asyncio.Event()

    async def wait(request: Request, respond: Responder) -> None:
        entered.set()
        await go_on.wait()
        respond.send(200, [], b"done")

    server = HttpServer(wait)
    busy, idle = connect(server), connect(server)
    busy.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await entered.wait()
    drain = asyncio.ensure_future(server.drain(60))
    await idle.until(lambda: idle.ended)
    go_on.set()
    answer = await busy.until_ended()
    assert (answer.body, answer.headers["connection"]) == (b"done", "close")
    await drain


async def test_draining_cuts_what_does_not_end_in_time() -> None:

    entered = asyncio.Event()
    ended: list[str] = []

    async def wait(request: Request, respond: Responder) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    server = HttpServer(wait)
    app = connect(server)
    app.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await entered.wait()
    await server.drain(0)
    assert ended == ["cancelled"]
    await app.until(lambda: app.lost)
