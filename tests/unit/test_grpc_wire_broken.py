"""gRPC over our own frames, as a client meets it that breaks the protocol: RFC 9113."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.grpc_wire import frames
from bursar_sidecar.grpc_wire.rpc import WINDOW_BYTES
from tests.fakes.wire import delivered
from tests.fakes.wire_rpcs import HELLO, Raw, greeted, head, message, opened, said

BROKEN = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
    "too long a frame": (HELLO + b"\xff\xff\xff\0\0\0\0\0\x01", frames.FRAME_SIZE_ERROR),
    "data of no stream": (HELLO + said(1, b"x"), frames.PROTOCOL_ERROR),
    "a reset of no stream": (HELLO + frames.reset(5, 8), frames.PROTOCOL_ERROR),
    "a stream of the server's": (HELLO + opened(2, "Echo"), frames.PROTOCOL_ERROR),
    "a second head": (HELLO + opened(1, "Wait") + opened(1, "Wait"), frames.PROTOCOL_ERROR),
    "data behind the end": (
        HELLO + opened(1, "Wait") + said(1, b"m", ended=True) + said(1, b"m"),
        frames.STREAM_CLOSED,
    ),
    "data behind a reset": (
        HELLO + opened(1, "Wait") + frames.reset(1, frames.CANCEL) + said(1, b"m"),
        frames.STREAM_CLOSED,
    ),
    "a head behind the end": (
        HELLO + opened(1, "Wait", ended=True) + opened(1, "Wait"),
        frames.STREAM_CLOSED,
    ),
    "a head behind a reset": (
        HELLO + opened(1, "Wait") + frames.reset(1, frames.CANCEL) + opened(1, "Wait"),
        frames.STREAM_CLOSED,
    ),
    "a stream behind a later one": (
        HELLO + opened(5, "Wait") + opened(3, "Wait"),
        frames.PROTOCOL_ERROR,
    ),
    "more than the window": (
        HELLO
        + opened(1, "Flood")
        + frames.frame(frames.DATA, 0, 1, message(b"y" * 16_000)) * (WINDOW_BYTES // 16_000 + 1),
        frames.FLOW_CONTROL_ERROR,
    ),
    "pushes to be": (
        HELLO + frames.settings({frames.ENABLE_PUSH: 2}),
        frames.PROTOCOL_ERROR,
    ),
    "settings that overflow a window": (
        HELLO
        + opened(1, "Wait")
        + frames.window_update(1, 2**31 - 1 - frames.FIRST_WINDOW)
        + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.FIRST_WINDOW + 1}),
        frames.FLOW_CONTROL_ERROR,
    ),
    "an acknowledgement that says more": (
        HELLO + frames.frame(frames.SETTINGS, frames.ACK, 0, b"\0" * 6),
        frames.FRAME_SIZE_ERROR,
    ),
    "a priority of nothing": (
        HELLO + frames.frame(frames.PRIORITY, 0, 0, b"\0" * 5),
        frames.PROTOCOL_ERROR,
    ),
    "half a priority": (
        HELLO + frames.frame(frames.PRIORITY, 0, 1, b"\0" * 4),
        frames.FRAME_SIZE_ERROR,
    ),
    "a ping of a stream": (
        HELLO + frames.frame(frames.PING, 0, 1, b"12345678"),
        frames.PROTOCOL_ERROR,
    ),
    "a farewell of a stream": (
        HELLO + frames.frame(frames.GOAWAY, 0, 1, b"\0" * 8),
        frames.PROTOCOL_ERROR,
    ),
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
