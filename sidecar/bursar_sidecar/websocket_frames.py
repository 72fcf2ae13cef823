"""Where the frames of a websocket begin and end, and the one frame that the sidecar writes itself.

Pure. What flows in a tunnel is not read. Of each frame the header is looked at (RFC 6455, 5.2), so
that a close frame of ours is never put into the middle of another, and it is noticed when a peer
says that it closes. A peer that sends what is no frame loses nothing by it but that.
"""

import secrets
from typing import Final

GOING_AWAY: Final = 1001
"""RFC 6455, 7.4.1: the endpoint goes away. Apps may connect again at once."""
NOT_ALLOWED: Final = 1008
"""A policy is violated. Apps should not connect again."""
FAILED: Final = 1011
"""The endpoint failed."""
LATER: Final = 1013
"""Try again later (registered with IANA)."""

MAX_REASON_BYTES: Final = 123
"""What a control frame holds beside the code (RFC 6455, 5.5)."""
_CLOSE: Final = 0x8
_FINAL: Final = 0x80
_MASKED: Final = 0x80
_LONGEST_CONTROL: Final = 125
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_LONGEST: Final = (1 << 63) - 1


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """A close frame; what a client sends is masked (RFC 6455, 5.3)."""
    told = reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    payload = code.to_bytes(2, "big") + told
    head = bytes((_FINAL | _CLOSE, len(payload) | (_MASKED if masked else 0)))
    if not masked:
        return head + payload
    key = secrets.token_bytes(4)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


class Frames:
    """Follows the frames of one direction."""

    __slots__ = ("_head", "_is_close", "_left", "_masked", "closing", "count", "is_lost")

    def __init__(self, *, masked: bool) -> None:
        """`masked`: what flows comes from a client."""
        self._masked = _MASKED if masked else 0
        self._head = b""
        self._left = 0
        self._is_close = False
        self.count = 0
        """Whole frames so far."""
        self.closing = False
        """A close frame has passed: no more frames are to come from this side."""
        self.is_lost = False
        """What flows is not made of frames."""

    @property
    def at_boundary(self) -> bool:
        """Whether what comes next begins a frame."""
        return not (self._left or self._head or self.is_lost)

    def feed(self, data: bytes) -> None:
        """More has come."""
        at, size = 0, len(data)
        while at < size and not self.is_lost:
            at = self._step(data, at)

    def finish(self, data: bytes) -> int:
        """More has come: how much of it belongs to the frame that is open, 0 where none is."""
        at, size = 0, len(data)
        while at < size and not self.is_lost and not self.at_boundary:
            at = self._step(data, at)
        return at

    def _step(self, data: bytes, at: int) -> int:
        """Take the rest of a payload, or of a header; where it ends."""
        if self._left:
            taken = min(self._left, len(data) - at)
            self._left -= taken
            if not self._left:
                self._ended()
            return at + taken
        known = len(self._head)
        needed = 2 if known < 2 else self._header_size(self._head)
        taken = min(needed - known, len(data) - at)
        self._head += data[at : at + taken]
        if known + taken >= 2 and known + taken == self._header_size(self._head):
            self._begun()
        return at + taken

    def _header_size(self, head: bytes) -> int:
        length = head[1] & 0x7F
        extended = {_LENGTH_16: 2, _LENGTH_64: 8}.get(length, 0)
        return 2 + extended + (4 if head[1] & _MASKED else 0)

    def _begun(self) -> None:
        head, self._head = self._head, b""
        length = head[1] & 0x7F
        is_control = bool(head[0] & 0x8)
        if length == _LENGTH_16:
            self._left = int.from_bytes(head[2:4], "big")
        elif length == _LENGTH_64:
            self._left = int.from_bytes(head[2:10], "big")
        else:
            self._left = length
        split = is_control and (length > _LONGEST_CONTROL or not head[0] & _FINAL)
        if split or self._left > _LONGEST or head[1] & _MASKED != self._masked:
            self.is_lost = True
            return
        self._is_close = head[0] & 0xF == _CLOSE
        if not self._left:
            self._ended()

    def _ended(self) -> None:
        self.count += 1
        self.closing = self.closing or self._is_close
