"""Where frames begin and end, however they are cut into pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.websocket_frames import MAX_REASON_BYTES, Frames, close_frame
from tests.fakes.websockets_raw import frame

LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 65_535, 65_536, 70_001]))
DATA = st.tuples(st.sampled_from([0, 1, 2, 3]), LENGTHS, st.booleans())
CONTROL = st.tuples(st.sampled_from([9, 10]), st.integers(0, 125), st.just(True))


@given(
    frames=st.lists(st.one_of(DATA, CONTROL), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 200_000), max_size=8),
    masked=st.booleans(),
)
def test_frames_are_followed_through_any_pieces(
    frames: list[tuple[int, int, bool]], cuts: list[int], masked: bool
) -> None:
    whole, ends = b"", {0}
    for opcode, size, final in frames:
        whole += frame(bytes(size), masked=masked, opcode=opcode, final=final)
        ends.add(len(whole))
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    followed = Frames(masked=masked)
    for start, end in itertools.pairwise(at):
        finishing = Frames(masked=masked)
        finishing.feed(whole[:start])
        rest = finishing.finish(whole[start:])
        assert start + rest == min(one for one in ends if one >= start)
        assert finishing.at_boundary
        followed.feed(whole[start:end])
        assert followed.at_boundary == (end in ends)
    assert (followed.count, followed.closing, followed.is_lost) == (len(frames), False, False)


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_no_error(data: bytes, masked: bool) -> None:
    frames = Frames(masked=masked)
    for at in range(len(data)):
        frames.feed(data[at : at + 1])
    again = Frames(masked=masked)
    again.feed(data)
    assert (frames.at_boundary, frames.count, frames.is_lost, frames.closing) == (
        again.at_boundary,
        again.count,
        again.is_lost,
        again.closing,
    )


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        (frame(b"hi", masked=False), True),
        (frame(b"hi", masked=True), False),
        (b"\x89\x7e\x00\x80", False),
        (frame(b"", masked=False, opcode=8, final=False), False),
        (b"\x82\x7f" + b"\xff" * 8, False),
    ],
)
def test_what_is_no_frame_is_seen(data: bytes, masked: bool) -> None:
    frames = Frames(masked=masked)
    frames.feed(data)
    assert frames.is_lost
    assert not frames.at_boundary
    frames.feed(close_frame(1000, "", masked=masked))
    assert not frames.closing


@given(st.integers(1000, 4999), st.text(max_size=300), st.booleans())
def test_a_close_frame_is_one(code: int, reason: str, masked: bool) -> None:
    written = close_frame(code, reason, masked=masked)
    frames = Frames(masked=masked)
    frames.feed(written)
    assert (frames.count, frames.closing, frames.at_boundary) == (1, True, True)
    payload = written[2:]
    if masked:
        key, payload = payload[:4], payload[4:]
        payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    assert int.from_bytes(payload[:2], "big") == code
    assert len(payload) <= 2 + MAX_REASON_BYTES
    assert reason.startswith(payload[2:].decode())
