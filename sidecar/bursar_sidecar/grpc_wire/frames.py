"""Frames of HTTP/2 (RFC 9113) as bytes: types, flags, settings, errors."""

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first: section 3.4."""
HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16_384
"""SETTINGS_MAX_FRAME_SIZE as it is unless told otherwise, and we tell nothing else."""
LARGEST_FRAME_BYTES: Final = 16_777_215
"""What SETTINGS_MAX_FRAME_SIZE may be at most."""
LARGEST_WINDOW: Final = 2**31 - 1
FIRST_WINDOW: Final = 65_535
"""Of the connection, and of a stream until settings say otherwise."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 6, 7, 8, 9
ENHANCE_YOUR_CALM: Final = 11

_SETTING: Final = struct.Struct(">HI")
_FRAME: Final = struct.Struct(">HBBBI")


class WireError(Exception):
    """The other end broke the protocol; the connection ends with `code`, one of the errors."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame."""
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame says, in its order. Raises WireError (section 6.5)."""
    if len(payload) % _SETTING.size:
        raise WireError(FRAME_SIZE_ERROR, "SETTINGS are not whole")
    found = list(_SETTING.iter_unpack(payload))
    for name, value in found:
        if name == ENABLE_PUSH and value > 1:
            raise WireError(PROTOCOL_ERROR, f"ENABLE_PUSH is {value}, expected 0 or 1")
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise WireError(FLOW_CONTROL_ERROR, f"an initial window of {value} octets")
        if name == MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
            raise WireError(PROTOCOL_ERROR, f"a frame size of {value} octets")
    return found


def number(payload: bytes) -> int:
    """The number that a RST_STREAM or a WINDOW_UPDATE is. Raises WireError."""
    if len(payload) != 4:  # of bytes
        raise WireError(FRAME_SIZE_ERROR, f"a number of {len(payload)} octets")
    return int.from_bytes(payload, "big")


def check_priority(stream: int, payload: bytes) -> None:
    """What a PRIORITY frame says means nothing any more; its form does. Raises WireError."""
    if not stream:
        raise WireError(PROTOCOL_ERROR, "the priority of no stream")
    if len(payload) != 5:  # of bytes
        raise WireError(FRAME_SIZE_ERROR, f"a priority of {len(payload)} octets")


def window_update(stream: int, octets: int) -> bytes:
    """So many more octets may come, on a stream or (0) on the connection."""
    return frame(WINDOW_UPDATE, 0, stream, octets.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """A stream ends here and now."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def going_away(last_stream: int, code: int, why: str = "") -> bytes:
    """No stream after `last_stream` is served."""
    return frame(
        GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode()
    )


def content(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame holds, without padding and priority. Raises WireError."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise WireError(FRAME_SIZE_ERROR, "padding without its length")
        start, end = 1, end - payload[0]
    if flags & PRIORITIZED:
        start += 5
    if start > end:
        raise WireError(PROTOCOL_ERROR, "more padding than frame")
    return payload[start:end]
