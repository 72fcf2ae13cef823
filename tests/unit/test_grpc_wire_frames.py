"""gRPC over our own frames, as a client meets it that writes any frame it likes."""

import pytest

from bursar_sidecar.grpc_wire import connection as limits
from bursar_sidecar.grpc_wire import frames
from bursar_sidecar.grpc_wire.rpc import MOST_UNSENT_BYTES, WINDOW_BYTES
from tests.fakes.wire import delivered
from tests.fakes.wire_rpcs import (
    HELLO,
    SERVICE,
    Raw,
    greeted,
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
    first = literal(":method", "POST") + literal(":scheme", "http")
    rest = literal("content-type", "application/grpc")
    again = first + b"\xbe" + rest  # :path, as it was kept last
    flags = frames.END_HEADERS

    def begins(stream: int, block: bytes) -> bytes:
        return frames.frame(frames.HEADERS, flags, stream, block)

    raw = await greeted(
        begins(1, first + keep + b"Echo" + rest), said(1, b"1", ended=True),
        begins(3, again), said(3, b"3", ended=True),
        begins(5, first + b"\x44" + bytes((len(path) + 6,)) + path.encode() + b"Double" + rest),
        said(5, b"5", ended=True),
        begins(7, again), said(7, b"7", ended=True),
    )  # fmt: skip
    assert raw.client.data(3) == message(b"3")
    assert raw.client.data(7) == message(b"7") * 2


async def test_what_was_on_its_way_when_we_ended_a_stream_is_passed_over() -> None:
    raw = await greeted(opened(1, "First"), said(1, b"m"))
    assert raw.client.of(frames.RST_STREAM, 1)
    ended = frames.END_HEADERS | frames.END_STREAM
    await raw.client.say(
        said(1, b"late"), frames.frame(frames.HEADERS, ended, 1, literal("a", "b"))
    )
    await raw.client.say(opened(3, "Echo"), said(3, b"n", ended=True))
    assert raw.client.data(3) == message(b"n")


POST = literal(":method", "POST")
HTTP = literal(":scheme", "http")
PATH = literal(":path", f"/{SERVICE}/Echo")
GRPC = literal("content-type", "application/grpc")


@pytest.mark.parametrize(
    "block",
    [
        POST + HTTP + GRPC,
        POST + PATH + GRPC,
        HTTP + PATH + GRPC,
        POST + HTTP + literal(":path", "") + GRPC,
        POST + POST + HTTP + PATH + GRPC,
        POST + HTTP + GRPC + PATH,
        POST + HTTP + PATH + literal(":status", "200") + GRPC,
        POST + HTTP + PATH + literal(":more", "x") + GRPC,
        POST + HTTP + PATH + GRPC + literal("X-Upper", "x"),
        POST + HTTP + PATH + GRPC + literal("connection", "close"),
        POST + HTTP + PATH + GRPC + literal("te", "gzip"),
    ],
)
async def test_a_malformed_head_ends_its_stream_alone(block: bytes) -> None:
    raw = await greeted(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block))
    assert [f.payload[-1] for f in raw.client.of(frames.RST_STREAM, 1)] == [frames.PROTOCOL_ERROR]
    assert raw.server.running == 0
    await raw.client.say(opened(3, "Echo"), said(3, b"n", ended=True))
    assert raw.client.data(3) == message(b"n")


async def test_a_stream_whose_window_overflows_ends_alone() -> None:
    raw = await greeted(
        opened(1, "Wait"), said(1, b"m", ended=True), frames.window_update(1, 2**31 - 1)
    )
    (reset,) = raw.client.of(frames.RST_STREAM, 1)
    assert reset.payload[-1] == frames.FLOW_CONTROL_ERROR
    assert raw.server.running == 0
    assert not raw.client.lost


async def test_who_begins_and_resets_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_RESETS", 10)
    raw = await greeted()
    for number in range(1, 21, 2):
        await raw.client.say(opened(number, "Wait"), frames.reset(number, frames.CANCEL))
    raw.client.connection.sweep()
    for number in range(21, 41, 2):
        await raw.client.say(opened(number, "Wait"), frames.reset(number, frames.CANCEL))
    assert not raw.client.lost
    await raw.client.say(opened(41, "Wait"), frames.reset(41, frames.CANCEL))
    assert raw.client.error() == frames.ENHANCE_YOUR_CALM
    assert raw.server.running == 0


async def test_large_messages_that_are_not_whole_are_bounded_together() -> None:
    size = 20 << 20  # two fit
    raw = await greeted()
    for number in (1, 3, 5):
        begins = frames.frame(frames.DATA, 0, number, size.to_bytes(5, "big") + b"x")
        await raw.client.say(opened(number, "Total"), begins)
    assert [raw.client.status(number) for number in (1, 3, 5)] == ["", "", RESOURCE_EXHAUSTED]
    await raw.client.say(frames.reset(1, frames.CANCEL))
    for _ in range(size // 16_000):
        part = b"x" * 16_000
        await raw.client.say(frames.frame(frames.DATA, 0, 3, part))
    rest = b"x" * (size - 1 - size // 16_000 * 16_000)
    await raw.client.say(frames.frame(frames.DATA, frames.END_STREAM, 3, rest))
    assert raw.client.data(3) == message(str(size).encode())
    assert raw.server.room.claim(2 * size), "nothing of them is kept"


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
    raw = await greeted(opened(1, "Total"))
    for _ in range(5):
        await raw.client.say(part * 40)
    given = sum(frames.number(f.payload) for f in raw.client.of(frames.WINDOW_UPDATE, 1))
    assert given >= len(part) * 200 - WINDOW_BYTES - 200 * frames.HEAD_BYTES


async def test_what_nobody_reads_is_not_given_back() -> None:
    part = frames.frame(frames.DATA, 0, 1, message(b"y" * 16_000))
    raw = await greeted(opened(1, "Flood"), part * 60)
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
    block = literal(":method", "GET") + literal(":scheme", "http")
    block += literal(":path", f"/{SERVICE}/Echo")
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
