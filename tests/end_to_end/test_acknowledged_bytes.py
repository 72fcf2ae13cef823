"""What the kernel says of acknowledged bytes, on a real connection: the proof that a call was never
taken rests on it."""

import asyncio

import pytest

from bursar_sidecar.exchange import Broken
from bursar_sidecar.upstream import Pool

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Answers the first request of a connection, reads the second one and closes."""

    def __init__(self) -> None:
        self.read = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        writer.write(OK)
        await reader.readexactly(len(REQUEST))
        self.read += 1
        writer.close()


async def test_a_call_that_was_read_is_never_taken_for_one_that_was_not() -> None:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{port}/v1")
    first = await pool.open()
    first.send(REQUEST)
    assert await first.read() == b"ok"
    assert await first.read() == b""
    (connection,) = pool._all
    pool.sweep(pool.now())
    before = connection.acknowledged()
    assert before >= len(REQUEST)
    second = await pool.open()
    second.send(REQUEST)
    with pytest.raises(Broken) as caught:
        await second.head()
    assert peer.read == 1
    assert not caught.value.untaken
    pool.close()
    server.close()
