"""A head that was read before is not read again, and nobody can tell: what a connection serves is
what connections of their own would have served."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_sidecar import repeated_heads
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer, Request, Responder
from tests.fakes.wire import FakeApp, delivered, join

Served = tuple[object, ...]

HEADS = (
    b"POST /p?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nAccept: */*\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nTE: trailers\r\ncontent-length:%b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nContent-Length: %b \r\nHost: x\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nX-Note: content-length: 3\r\nCONTENT-LENGTH: %b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nX-Content-Length: 9\r\nContent-Length: %b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %b\r\n\r\n",
    b"POST /p HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: %b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nTransfer-Encoding: chunked\r\n\r\n",
)
BODIES = st.sampled_from(
    (b"", b"a", b"ab", b"x" * 300, b"\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
)
LENGTHS = st.sampled_from((b"%d", b"%d", b"%d", b"0%d", b"+%d", b"%d, %d", b"-%d", b"%d "))


@st.composite
def messages(draw: st.DrawFn, usual: bytes) -> bytes:
    """One request, well formed or not; its length right or not. Its head is mostly `usual`."""
    body = draw(BODIES)
    written = draw(LENGTHS).replace(
        b"%d", b"%d" % (len(body) + draw(st.sampled_from((0, 0, 0, 1))))
    )
    return draw(st.sampled_from((usual, usual, usual, *HEADS))).replace(b"%b", written) + body


def seen(request: Request) -> Served:
    return (
        request.method, request.target, request.path, request.query, request.headers,
        request.names, request.body, request.keep_alive, request.http_1_0, request.wants_trailers,
    )  # fmt: skip


async def served(pieces: list[bytes], *, repeats: bool) -> tuple[list[Served], bytes]:
    """What a connection runs, and all that it answers, with and without what is tested here."""
    found: list[Served] = []

    async def handle(request: Request, respond: Responder) -> None:
        found.append(seen(request))
        respond.send(200, [(b"x-body", b"%d" % len(request.body))], b"")

    app, connection = FakeApp(), Connection(HttpServer(handle))
    if not repeats:
        connection._misses = repeated_heads.MAX_MISSES
    join(app, connection)
    for piece in pieces:
        app.send(piece)
        await delivered()
    return found, bytes(app.received)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(HEADS), st.data())
def test_nobody_can_tell(usual: bytes, data: st.DataObject) -> None:
    first = usual.replace(b"%b", b"2") + b"ab"
    pieces = [first, *data.draw(st.lists(messages(usual), max_size=6)), first]
    if data.draw(st.booleans()):  # in other pieces than they were sent in
        whole = b"".join(pieces)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    with asyncio.Runner() as runner:
        parsed = runner.run(served(pieces, repeats=False))
        repeated = runner.run(served(pieces, repeats=True))
    assert repeated == parsed


def posted(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (
        extra, len(body), body,
    )  # fmt: skip


async def test_bodies_of_all_lengths_need_the_parser_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fed: list[bytes] = []
    feed = Connection._feed

    def noted(connection: Connection, data: bytes) -> None:
        fed.append(data)
        feed(connection, data)

    monkeypatch.setattr(Connection, "_feed", noted)
    bodies = [b"one", b"another one", b"", b"x" * 70_000]
    found, _ = await served([posted(body) for body in bodies], repeats=True)
    assert [request[6] for request in found] == bodies
    assert [request[4] for request in found] == [
        [(b"host", b"x"), (b"content-length", b"%d" % len(body))] for body in bodies
    ]
    assert fed == [posted(b"one")]


async def test_an_app_whose_heads_always_differ_is_left_alone() -> None:
    async def handle(request: Request, respond: Responder) -> None:
        respond.send(200, [], b"")

    app, connection = FakeApp(), Connection(HttpServer(handle))
    join(app, connection)
    for number in range(9):
        app.send(posted(b"a", b"Trace: %d\r\n" % number))
        await delivered()
    kept = connection._repeated
    app.send(posted(b"a", b"Trace: 10\r\n"))
    await delivered()
    assert connection._repeated is kept


async def test_a_long_head_is_not_kept() -> None:
    async def handle(request: Request, respond: Responder) -> None:
        respond.send(200, [], b"")

    app, connection = FakeApp(), Connection(HttpServer(handle))
    join(app, connection)
    app.send(posted(b"a", b"Long: %b\r\n" % (b"x" * repeated_heads.MAX_HEAD_BYTES)))
    await delivered()
    assert connection._repeated is None


async def test_no_body_is_kept_with_a_head() -> None:
    async def handle(request: Request, respond: Responder) -> None:
        respond.send(200, [], b"")

    app, connection = FakeApp(), Connection(HttpServer(handle))
    join(app, connection)
    app.send(posted(b"x" * 70_000))
    await delivered()
    assert connection._repeated is not None
    assert not connection._repeated._first.body
    assert connection._read_whole is None
