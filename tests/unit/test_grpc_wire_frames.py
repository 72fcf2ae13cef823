"""gRPC over our own frames, as a client meets it that writes any frame it likes."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.grpc_wire import connection as limits
from bursar_sidecar.grpc_wire import frames
from bursar_sidecar.grpc_wire.rpc import MOST_UNSENT_BYTES, WINDOW_BYTES
from tests.fakes.wire import delivered
from tests.fakes.wire_rpcs import (
    HELLO,
    SERVICE,
    Behaviours,
    FakeServer,
    RawClient,
    head,
    literal,
    message,
    opened,
    said,
)

OK = "0"
CANCELLED = "1"
RESOURCE_EXHAUSTED = "8"
UNIMPLEMENTED = "12"
INTERNAL = "13"


class Raw:
    """A client that writes frames, the server, its handlers."""

    def __init__(self) -> None:
        self.behaviours = Behaviours()
        self.server = FakeServer(self.behaviours)
        self.client = RawClient(self.server)


async def greeted(*parts: bytes) -> Raw:
    raw = Raw()
    await raw.client.say(HELLO, *parts)
    return raw


async def test_a_call_in_three_frames_and_its_answer() -> None:
    raw = await greeted(opened(1, "Echo"), said(1, b"hello", ended=True))
    assert raw.client.data(1) == message(b"hello")
    assert raw.client.status(1) == OK
    assert not raw.client.of(frames.RST_STREAM)
    assert raw.server.running == 0
    assert not raw.client.connection.rpcs


async def test_what_comes_byte_by_byte_is_the_same() -> None:
    raw = Raw()
    whole = HELLO + opened(1, "Double") + said(1, b"abc") + said(1, b"", ended=True)
    for byte in whole:
        await raw.client.say(bytes([byte]))
    assert raw.client.data(1) == message(b"abc") * 2 + message(b"") * 2
    assert raw.client.status(1) == OK


async def test_messages_cut_anywhere_across_frames() -> None:
    sent = message(b"first") + message(b"") + message(b"x" * 300)
    cut = [frames.frame(frames.DATA, 0, 1, sent[at : at + 7]) for at in range(0, len(sent), 7)]
    raw = await greeted(opened(1, "Total"), *cut, frames.frame(frames.DATA, frames.END_STREAM, 1))
    assert raw.client.data(1) == message(b"305")


async def test_padding_and_priority_are_taken_off() -> None:
    flags = frames.END_HEADERS | frames.PADDED | frames.PRIORITIZED
    begins = frames.frame(frames.HEADERS, flags, 1, b"\x03" + b"\0" * 5 + head("Echo") + b"\0" * 3)
    flags = frames.PADDED | frames.END_STREAM
    says = frames.frame(frames.DATA, flags, 1, b"\x02" + message(b"m") + b"\0\0")
    raw = await greeted(begins, says)
    assert raw.client.data(1) == message(b"m")


async def test_a_head_in_several_frames() -> None:
    block = head("Echo")
    raw = await greeted(
        frames.frame(frames.HEADERS, 0, 1, block[:10]),
        frames.frame(frames.CONTINUATION, 0, 1, block[10:20]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[20:]),
        said(1, b"m", ended=True),
    )
    assert raw.client.data(1) == message(b"m")


async def test_a_head_that_was_seen_before_is_read_again_where_a_table_is_kept() -> None:
    """A block that refers to a table means another thing after the table has changed."""
    path = f"/{SERVICE}/"
    keep = b"\x44" + bytes((len(path) + 4,)) + path.encode()  # :path, kept in the table
    rest = literal(":method", "POST") + literal("content-type", "application/grpc")
    again = rest + b"\xbe"  # :path, as it was kept last
    flags = frames.END_HEADERS

    def begins(stream: int, block: bytes) -> bytes:
        return frames.frame(frames.HEADERS, flags, stream, block)

    raw = await greeted(
        begins(1, rest + keep + b"Echo"), said(1, b"1", ended=True),
        begins(3, again), said(3, b"3", ended=True),
        begins(5, rest + b"\x44" + bytes((len(path) + 6,)) + path.encode() + b"Double"),
        said(5, b"5", ended=True),
        begins(7, again), said(7, b"7", ended=True),
    )  # fmt: skip
    assert raw.client.data(3) == message(b"3")
    assert raw.client.data(7) == message(b"7") * 2


async def test_pings_and_settings_are_acknowledged() -> None:
    raw = await greeted(frames.frame(frames.PING, 0, 0, b"12345678"))
    assert frames.ACK in [f.flags for f in raw.client.of(frames.SETTINGS)]
    assert [(f.flags, f.payload) for f in raw.client.of(frames.PING)] == [(frames.ACK, b"12345678")]


async def test_frames_that_mean_nothing_here_are_passed_over() -> None:
    raw = await greeted(
        frames.frame(frames.PRIORITY, 0, 1, b"\0" * 5),
        frames.frame(0xEE, 0xFF, 9, b"whatever"),
        opened(1, "Echo"),
        said(1, b"m", ended=True),
        frames.frame(frames.DATA, 0, 1, message(b"late")),
        frames.reset(1, frames.CANCEL),
        frames.window_update(1, 5),
        opened(3, "Echo"),
        said(3, b"n", ended=True),
    )
    assert raw.client.data(3) == message(b"n")
    assert not raw.client.lost


async def test_a_reset_cancels_the_handler_and_nothing_more_is_said() -> None:
    raw = await greeted(opened(1, "Wait"), said(1, b"", ended=True))
    assert raw.server.running == 1
    await raw.client.say(frames.reset(1, frames.CANCEL))
    assert raw.behaviours.stopped == 1
    assert raw.server.running == 0
    assert raw.client.of(frames.HEADERS) == []


async def test_a_reset_before_the_handler_ran_leaves_nothing() -> None:
    raw = await greeted(
        *(opened(n, "Wait") + frames.reset(n, frames.CANCEL) for n in range(1, 999, 2))
    )
    assert raw.server.running == 0
    assert not raw.client.connection.rpcs


async def test_a_lost_connection_cancels_its_handlers() -> None:
    raw = await greeted(opened(1, "Wait"), said(1, b"", ended=True))
    raw.client.transport.abort()
    await delivered()
    assert raw.behaviours.stopped == 1
    assert raw.server.running == 0
    assert not raw.server.connections


async def test_no_more_leaves_than_the_windows_allow() -> None:
    small = frames.settings({frames.INITIAL_WINDOW_SIZE: 10})
    raw = await greeted(small, opened(1, "Echo"), said(1, b"x" * 95, ended=True))
    assert len(raw.client.data(1)) == 10
    assert raw.client.status(1) == ""
    await raw.client.say(frames.window_update(1, 30))
    assert len(raw.client.data(1)) == 40
    await raw.client.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 50}))
    assert len(raw.client.data(1)) == 80
    await raw.client.say(frames.window_update(1, 1_000))
    assert raw.client.data(1) == message(b"x" * 95)
    assert raw.client.status(1) == OK


async def test_the_connection_has_a_window_too() -> None:
    most = frames.FIRST_WINDOW
    wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20})
    raw = await greeted(wide, opened(1, "Flood"), opened(3, "Flood"))
    assert len(raw.client.data(1)) + len(raw.client.data(3)) == most
    await raw.client.say(frames.window_update(0, 100))
    assert len(raw.client.data(1)) + len(raw.client.data(3)) == most + 100


async def test_short_messages_fill_the_connections_window_too() -> None:
    raw = await greeted(opened(1, "Count"), said(1, b"600", ended=True))
    assert len(raw.client.data(1)) == frames.FIRST_WINDOW
    await raw.client.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
    assert len(raw.client.data(1)) == frames.FIRST_WINDOW
    await raw.client.say(frames.window_update(0, 1 << 20))
    assert len(raw.client.data(1)) == sum(range(600)) + 600 * 5
    assert raw.client.status(1) == OK


async def test_a_handler_that_ends_first_resets_the_stream() -> None:
    raw = await greeted(opened(1, "First"), said(1, b"m"))
    assert raw.client.data(1) == message(b"m")
    assert raw.client.status(1) == OK
    assert [f.payload[-1] for f in raw.client.of(frames.RST_STREAM, 1)] == [frames.NO_ERROR]


async def test_a_handler_that_is_cancelled_from_within_ends_its_rpc() -> None:
    raw = await greeted(opened(1, "Cancelled"), said(1, b"", ended=True))
    assert raw.client.status(1) == CANCELLED
    assert raw.server.running == 0


async def test_a_handler_waits_for_who_takes_nothing() -> None:
    raw = await greeted(opened(1, "Flood"))
    assert raw.behaviours.written * 100_000 <= MOST_UNSENT_BYTES + 100_000
    await raw.client.say(frames.window_update(0, 1 << 20), frames.window_update(1, 1 << 20))
    assert len(raw.client.data(1)) == frames.FIRST_WINDOW + (1 << 20)
    assert raw.behaviours.written > 1 << 20 // 100_000


async def test_what_comes_is_given_back_as_it_is_read() -> None:
    part = frames.frame(frames.DATA, 0, 1, message(b"y" * 16_000))
    raw = await greeted(opened(1, "Total"), part * 200)
    given = sum(frames.number(f.payload) for f in raw.client.of(frames.WINDOW_UPDATE, 1))
    assert given >= len(part) * 200 - WINDOW_BYTES - 200 * frames.HEAD_BYTES


async def test_what_nobody_reads_is_not_given_back() -> None:
    part = frames.frame(frames.DATA, 0, 1, message(b"y" * 16_000))
    raw = await greeted(opened(1, "Flood"), part * 70)
    assert raw.client.of(frames.WINDOW_UPDATE, 1) == []


async def test_who_reads_nothing_is_read_no_more() -> None:
    raw = await greeted()
    raw.client.transport.pause_reading()
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    for _ in range(100):
        await raw.client.say(ping * 1_000)
    assert raw.client.transport.get_write_buffer_size() > 0, "pings wait at the server's door"
    raw.client.transport.resume_reading()
    await delivered()
    while len(raw.client.of(frames.PING)) < 100_000:
        await delivered()


@pytest.mark.parametrize(
    ("service", "method", "status"),
    [(SERVICE, "Nothing", UNIMPLEMENTED), ("other.Service", "Echo", UNIMPLEMENTED)],
)
async def test_what_nobody_serves(service: str, method: str, status: str) -> None:
    begins = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, head(method, service))
    raw = await greeted(begins)
    assert raw.client.status(1) == status
    assert [f.payload[-1] for f in raw.client.of(frames.RST_STREAM, 1)] == [frames.NO_ERROR]


async def test_what_is_not_grpc() -> None:
    block = literal(":method", "GET") + literal(":path", f"/{SERVICE}/Echo")
    ended = frames.END_HEADERS | frames.END_STREAM
    raw = await greeted(frames.frame(frames.HEADERS, ended, 1, block))
    assert raw.client.of(frames.HEADERS, 1)[0].flags & frames.END_STREAM
    assert raw.server.running == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (frames.frame(frames.DATA, 1, 1, b"\x01\0\0\0\x01x"), UNIMPLEMENTED),
        (frames.frame(frames.DATA, 0, 1, b"\0\xff\xff\xff\xffx"), RESOURCE_EXHAUSTED),
        (frames.frame(frames.DATA, 1, 1, b"\0\0\0\0\x09x"), INTERNAL),
        (frames.frame(frames.DATA, 1, 1, b""), INTERNAL),
    ],
    ids=["compressed", "too long", "cut off", "no message"],
)
async def test_messages_that_are_none(data: bytes, status: str) -> None:
    raw = await greeted(opened(1, "Echo"), data)
    assert raw.client.status(1) == status
    assert raw.server.running == 0
    await raw.client.say(opened(3, "Echo"), said(3, b"n", ended=True))
    assert raw.client.data(3) == message(b"n")


BROKEN = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
    "too long a frame": (HELLO + b"\xff\xff\xff\0\0\0\0\0\x01", frames.FRAME_SIZE_ERROR),
    "data of no stream": (HELLO + said(1, b"x"), frames.PROTOCOL_ERROR),
    "a reset of no stream": (HELLO + frames.reset(5, 8), frames.PROTOCOL_ERROR),
    "a stream of the server's": (HELLO + opened(2, "Echo"), frames.PROTOCOL_ERROR),
    "a second head": (HELLO + opened(1, "Wait") + opened(1, "Wait"), frames.PROTOCOL_ERROR),
    "half a head": (
        HELLO + frames.frame(frames.HEADERS, 0, 1, b"") + said(1, b""),
        frames.PROTOCOL_ERROR,
    ),
    "going on with nothing": (
        HELLO + frames.frame(frames.CONTINUATION, 4, 1, b""),
        frames.PROTOCOL_ERROR,
    ),
    "an endless head": (
        HELLO
        + frames.frame(frames.HEADERS, 0, 1, b"")
        + frames.frame(frames.CONTINUATION, 0, 1, b"\0" * 16_000) * 5,
        frames.ENHANCE_YOUR_CALM,
    ),
    "a head that is none": (
        HELLO + frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        frames.COMPRESSION_ERROR,
    ),
    "a head that grows": (
        # One entry of 4 kB in the table, and then that entry again and again.
        HELLO
        + frames.frame(
            frames.HEADERS, 4, 1, b"\x40\x01a\x7f\x81\x1e" + b"v" * 4_000 + b"\xbe" * 12_000
        ),
        frames.COMPRESSION_ERROR,
    ),
    "padding alone": (
        HELLO + opened(1, "Echo") + frames.frame(frames.DATA, 8, 1, b"\x09abc"),
        frames.PROTOCOL_ERROR,
    ),
    "a push": (HELLO + frames.frame(frames.PUSH_PROMISE, 4, 1, b""), frames.PROTOCOL_ERROR),
    "a short ping": (HELLO + frames.frame(frames.PING, 0, 0, b"x"), frames.FRAME_SIZE_ERROR),
    "settings of a stream": (
        HELLO + frames.frame(frames.SETTINGS, 0, 1, b""),
        frames.PROTOCOL_ERROR,
    ),
    "settings cut off": (
        HELLO + frames.frame(frames.SETTINGS, 0, 0, b"x"),
        frames.FRAME_SIZE_ERROR,
    ),
    "too wide a window": (
        HELLO + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}),
        frames.FLOW_CONTROL_ERROR,
    ),
    "a window that overflows": (
        HELLO + frames.window_update(0, 2**31 - 1),
        frames.FLOW_CONTROL_ERROR,
    ),
    "a window that grows by nothing": (HELLO + frames.window_update(0, 0), frames.PROTOCOL_ERROR),
    "half a number": (
        HELLO + frames.frame(frames.WINDOW_UPDATE, 0, 0, b"x"),
        frames.FRAME_SIZE_ERROR,
    ),
    "a tiny frame size": (
        HELLO + frames.settings({frames.MAX_FRAME_SIZE: 1}),
        frames.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_who_breaks_the_protocol_is_told_and_cut(broken: str) -> None:
    sent, code = BROKEN[broken]
    raw = Raw()
    await raw.client.say(sent)
    assert raw.client.error() == code
    assert raw.client.lost
    assert raw.server.running == 0


async def test_leaving_lets_what_is_in_flight_end() -> None:
    raw = await greeted(opened(1, "Wait"), said(1, b"m", ended=True))
    raw.client.connection.leave()
    await raw.client.say(opened(3, "Echo"), said(3, b"", ended=True))
    assert raw.client.error() == frames.NO_ERROR
    assert [f.payload[-1] for f in raw.client.of(frames.RST_STREAM, 3)] == [frames.REFUSED_STREAM]
    assert not raw.client.lost
    raw.behaviours.goes_on.set()
    await delivered()
    assert raw.client.data(1) == message(b"m")
    assert raw.client.status(1) == OK
    assert raw.client.lost


async def test_who_answers_no_ping_is_given_up() -> None:
    raw = await greeted()
    raw.client.connection.sweep()
    await delivered()
    (asked,) = raw.client.of(frames.PING)
    await raw.client.say(frames.frame(frames.PING, frames.ACK, 0, asked.payload))
    raw.client.connection.sweep()
    await delivered()
    assert not raw.client.lost
    raw.client.connection.sweep()
    await delivered()
    assert raw.client.lost


async def test_so_many_rpcs_on_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_RPCS_ON_A_CONNECTION", 2)
    raw = await greeted(*(opened(n, "Wait") for n in (1, 3, 5)))
    assert [f.stream for f in raw.client.of(frames.RST_STREAM)] == [5]
    assert raw.server.running == 2


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_no_bytes_raise(parts: list[bytes], greets: bool) -> None:
    """Whatever comes, the connection goes on or ends; nothing is left running."""

    async def run() -> None:
        raw = await greeted(opened(1, "Echo")) if greets else Raw()
        for part in parts:
            await raw.client.say(part)
        raw.client.transport.abort()
        await delivered()
        assert raw.server.running == 0
        assert not raw.server.connections

    asyncio.run(run())


@given(
    st.lists(
        st.builds(
            frames.frame,
            st.integers(0, 10),
            st.integers(0, 255),
            st.integers(0, 6),
            st.binary(max_size=40) | st.just(head("Double")) | st.binary().map(message),
        ),
        max_size=12,
    )
)
def test_no_frames_raise(sent: list[bytes]) -> None:
    """The same with frames that are well formed by themselves."""

    async def run() -> None:
        raw = await greeted(*sent)
        raw.client.transport.abort()
        await delivered()
        assert raw.server.running == 0

    asyncio.run(run())
