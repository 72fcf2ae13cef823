"""Requests that two readers could read in two ways are refused, and never run; odd ones that have
one meaning are served."""

import json

import pytest

from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer, Limits, Request, Responder
from tests.fakes.wire import FakeApp, delivered, join

POST = b"POST /p HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "content-length and chunked": (
        400,
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked and content-length": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    "two content-lengths that differ": (
        400,
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    "two content-lengths that agree": (
        400,
        POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    ),
    "a list of content-lengths": (400, POST + b"Content-Length: 2, 2\r\n\r\nab"),
    "a positive content-length": (400, POST + b"Content-Length: +2\r\n\r\nab"),
    "a negative content-length": (400, POST + b"Content-Length: -2\r\n\r\nab"),
    "a hexadecimal content-length": (400, POST + b"Content-Length: 0x2\r\n\r\nab"),
    "a content-length with an underscore": (400, POST + b"Content-Length: 1_0\r\n\r\nab"),
    "an empty content-length": (400, POST + b"Content-Length: \r\n\r\n"),
    "a content-length of 23 digits": (
        400,
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    ),
    "xchunked": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "identity": (501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunked, then identity": (
        400,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    "gzip, then chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two lines": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a vertical tab before chunked": (
        400,
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked in an old request": (
        400,
        b"POST /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a folded line": (400, POST + b"A: b\r\n c\r\n\r\n"),
    "a line that begins with a space": (400, b"POST /p HTTP/1.1\r\n Host: x\r\n\r\n"),
    "a space before the colon": (400, POST + b"Content-Length : 2\r\n\r\nab"),
    "a name without a colon": (400, POST + b"Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n"),
    "no name": (400, POST + b": b\r\n\r\n"),
    "a bracket in a name": (400, POST + b"A(: b\r\n\r\n"),
    "a bare line feed after a value": (400, POST + b"A: b\nC: d\r\n\r\n"),
    "a bare carriage return in a value": (400, POST + b"A: b\rC: d\r\n\r\n"),
    "bare line feeds alone": (400, b"POST /p HTTP/1.1\nHost: x\n\n"),
    "NUL in a value": (400, POST + b"A: b\x00c\r\n\r\n"),
    "NUL in a name": (400, POST + b"A\x00: b\r\n\r\n"),
    "NUL in the target": (400, b"POST /p\x00 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a byte beyond ASCII in the target": (400, b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a space in the target": (400, b"POST /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a fragment in the target": (400, b"POST /p#f HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way up in the path": (400, b"POST /p/../q HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way up at the end": (400, b"POST /p/.. HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way up in escapes": (400, b"POST /p/%2E%2e%2Fq HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way up with backslashes": (400, b"POST /p/x%5c..%5Cq HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way nowhere": (400, b"POST /p/./q HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a way up in the absolute form": (400, b"POST http://h/../q HTTP/1.1\r\nHost: h\r\n\r\n"),
    "no host": (400, b"POST /p HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    "two hosts": (400, POST + b"Host: y\r\n\r\n"),
    "two hosts in an old request": (400, b"POST /p HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
    "HTTP/2.0": (505, b"POST /p HTTP/2.0\r\nHost: x\r\n\r\n"),
    "HTTP/0.9": (505, b"POST /p HTTP/0.9\r\nHost: x\r\n\r\n"),
    "no version at all": (505, b"POST /p\r\n\r\n"),
    "HTTP/1.2": (400, b"POST /p HTTP/1.2\r\nHost: x\r\n\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a method in lower case": (400, b"post /p HTTP/1.1\r\nHost: x\r\n\r\n"),
    "an expectation that is not met": (417, POST + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n"),
    "a chunk size with 0x": (400, CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n"),
    "a chunk size with a sign": (400, CHUNKED + b"+2\r\nab\r\n0\r\n\r\n"),
    "a chunk size after a space": (400, CHUNKED + b" 2\r\nab\r\n0\r\n\r\n"),
    "a chunk size before a space": (400, CHUNKED + b"2 \r\nab\r\n0\r\n\r\n"),
    "a chunk size of 17 digits": (400, CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nab\r\n0\r\n\r\n"),
    "a chunk size that ends with a line feed": (400, CHUNKED + b"2\nab\r\n0\r\n\r\n"),
    "a chunk extension with a line feed": (400, CHUNKED + b"2;a\nb\r\nab\r\n0\r\n\r\n"),
    "a chunk longer than its size": (400, CHUNKED + b"2\r\nabc\r\n0\r\n\r\n"),
    "a chunk without its end": (400, CHUNKED + b"2\r\nab0\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
}

SERVED: dict[str, tuple[bytes, bytes]] = {
    "CHUNKED in capitals": (
        POST + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"/p ab",
    ),
    "chunk extensions and a trailer": (
        CHUNKED + b'1;a=b;c="d"\r\na\r\n1\r\nb\r\n0;x\r\nT: v\r\n\r\n',
        b"/p ab",
    ),
    "a chunk size with leading zeros": (CHUNKED + b"0000002\r\nab\r\n0\r\n\r\n", b"/p ab"),
    "the absolute form": (
        b"POST http://h/p?q=%41 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab",
        b"/p?q=%41 ab",
    ),
    "the absolute form without a path": (
        b"POST http://h?q HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"/?q ",
    ),
    "the absolute form of a host alone": (
        b"POST http://h HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"/ ",
    ),
    "dots that lead nowhere": (
        b"POST /p.q/gpt-4.1/...?a=/../b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"/p.q/gpt-4.1/...?a=/../b ",
    ),
    "an address in the query": (
        b"POST /p?to=http://h/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"/p?to=http://h/x ",
    ),
    "an empty query": (b"POST /p? HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"/p? "),
    "empty lines before": (b"\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nab", b"/p ab"),
    "an empty host": (b"POST /p HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n", b"/p "),
    "bytes beyond ASCII in a value": (POST + b"A: \xff\xfe\r\nContent-Length: 0\r\n\r\n", b"/p "),
    "no host in an old request": (b"POST /p HTTP/1.0\r\nContent-Length: 2\r\n\r\nab", b"/p ab"),
    "an expectation of an old client": (
        b"POST /p HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        b"/p ab",
    ),
}

Ran = list[tuple[bytes, list[bytes], bytes]]


def connect(ran: Ran, limits: Limits | None = None) -> tuple[FakeApp, HttpServer]:
    async def echo(request: Request, respond: Responder) -> None:
        ran.append((request.target, request.names, request.body))
        respond.send(200, [], request.target + b" " + request.body)

    app, server = FakeApp(), HttpServer(echo, limits)
    join(app, Connection(server))
    return app, server


@pytest.mark.parametrize("shape", REFUSED)
async def test_a_request_with_two_meanings_is_refused(shape: str) -> None:
    status, request = REFUSED[shape]
    ran: Ran = []
    app, server = connect(ran)
    app.send(request + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await app.until_ended()
    assert answer.status == status, answer.body
    assert json.loads(answer.body)["error"]["message"]
    assert ran == []
    assert server.held_bytes == 0


@pytest.mark.parametrize("shape", REFUSED)
async def test_it_is_refused_too_when_it_comes_byte_by_byte(shape: str) -> None:
    status, request = REFUSED[shape]
    ran: Ran = []
    app, _ = connect(ran)
    for byte in request:
        app.send(bytes([byte]))
    assert (await app.until_ended()).status == status
    assert ran == []


@pytest.mark.parametrize("shape", REFUSED)
async def test_it_is_refused_too_after_requests_that_began_alike(shape: str) -> None:
    status, request = REFUSED[shape]
    ran: Ran = []
    app, server = connect(ran)
    for number in range(1, 4):
        app.send(POST + b"Content-Length: 2\r\n\r\nok")
        await app.answer(number)
    app.send(request)
    assert (await app.until_ended()).status == status
    assert len(ran) == 3
    assert server.held_bytes == 0


@pytest.mark.parametrize("shape", SERVED)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_an_odd_request_with_one_meaning_is_served(shape: str, piece: int) -> None:
    request, expected = SERVED[shape]
    ran: Ran = []
    app, server = connect(ran)
    for start in range(0, len(request), piece):
        app.send(request[start : start + piece])
    answer = await app.answer()
    assert (answer.status, answer.body) == (200, expected)
    assert len(ran) == 1
    assert server.held_bytes == 0


async def test_names_of_headers_are_kept_as_they_came() -> None:
    ran: Ran = []
    app, _ = connect(ran)
    app.send(POST + b"X-MiXed: 1\r\nx-mixed: 2\r\nX-MIXED: 3\r\nContent-Length: 0\r\n\r\n")
    await app.answer()
    assert ran[0][1] == [b"Host", b"X-MiXed", b"x-mixed", b"X-MIXED", b"Content-Length"]


async def test_chunks_that_are_mostly_framing_are_refused() -> None:
    ran: Ran = []
    app, _ = connect(ran)
    app.send(CHUNKED)
    for _ in range(30):
        app.send(b"1;" + b"e" * 10_000 + b"\r\nx\r\n")
    answer = await app.until_ended()
    assert json.loads(answer.body)["error"]["code"] == "framing_too_large"


async def test_a_body_in_chunks_of_one_byte_is_served() -> None:
    ran: Ran = []
    app, server = connect(ran)
    app.send(CHUNKED)
    for _ in range(40):
        app.send(b"1\r\nx\r\n" * 1_000)
    app.send(b"0\r\n\r\n")
    await app.answer()
    assert ran[0][2] == b"x" * 40_000
    assert server.held_bytes == 0


async def test_many_requests_sent_ahead_in_one_read_are_not_one_long_head() -> None:
    ran: Ran = []
    app, _ = connect(ran, Limits(max_head_bytes=2_000))
    whole = POST + b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000
    app.send(whole + POST + b"Content-Le")
    app.send(b"ngth: 2\r\n\r\nab")
    await app.answer(2)
    assert [len(body) for _, _, body in ran] == [5_000, 2]


async def test_bodies_of_all_connections_together_are_bounded() -> None:
    ran: Ran = []
    one, server = connect(ran, Limits(max_held_bytes=1_000))
    other = FakeApp()
    join(other, Connection(server))
    one.send(POST + b"Content-Length: 800\r\n\r\n" + b"x" * 600)
    other.send(POST + b"Content-Length: 800\r\n\r\n" + b"x" * 600)
    answer = await other.until_ended()
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "overloaded")
    assert server.held_bytes == 600
    one.send(b"x" * 200)
    assert (await one.answer()).status == 200
    await delivered()
    assert server.held_bytes == 0


async def test_what_a_lost_connection_held_is_given_back() -> None:
    ran: Ran = []
    app, server = connect(ran)
    app.send(POST + b"Content-Length: 2\r\n\r\nab" + POST + b"Content-Length: 800\r\n\r\nxyz")
    await app.answer()
    await delivered()
    assert server.held_bytes == 3
    app.hang_up()
    await delivered()
    assert server.held_bytes == 0
