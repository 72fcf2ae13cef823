"""Heads of requests that repeat: an app's library writes the same one for call after call, but for
its content-length.

One that llhttp has read before, byte for byte, is not read again: what follows from it is the same.
Only whole requests that came in one piece are dealt with here; all else goes to llhttp. Pure.
"""

from typing import Final

from bursar_sidecar.http_messages import Request

MAX_HEAD_BYTES: Final = 4_096
"""A larger head is not kept: each connection holds one."""
MAX_MISSES: Final = 4
"""An app whose heads differ so often in a row goes on doing so (it traces each call, say): its
heads are not kept any more."""
_MAX_DIGITS: Final = 9
_LENGTH: Final = b"\r\ncontent-length:"


class RepeatedHead:
    """A head around its content-length, and the first request that it began."""

    __slots__ = ("_after", "_at", "_before", "_digits", "_first", "_headers", "_known", "_names")

    def __init__(
        self, before: bytes, digits: bytes, after: bytes, request: Request, at: int
    ) -> None:
        self._before = before
        self._digits = digits
        self._after = after
        # As they came: a listener may give this one request others. And without its body, which is
        # not to live as long as the connection.
        self._headers, self._names, self._known = request.headers, request.names, request.known
        self._first = request.again(request.headers, request.names, b"")
        self._at = at
        """Which of the headers the content-length is."""

    def request(self, data: bytes, most: int) -> Request | None:
        """The request that `data` is, if it is one with this head and a body of at most `most`
        bytes, and nothing else; None leaves it to the parser."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        size = int(digits)
        begin = end + len(self._after)
        if size > most or len(data) != begin + size:
            return None
        headers = self._headers
        if digits != self._digits:
            headers = headers.copy()
            headers[self._at] = (b"content-length", digits)
        again = self._first.again(headers, self._names, data[begin:])
        again.known = self._known
        return again


def repeated_head(data: bytes, request: Request) -> RepeatedHead | None:
    """The head of `request`, which llhttp read from `data`; None where it does not tell by itself
    how the request is framed."""
    size = data.find(b"\r\n\r\n") + 4
    if not 4 < size <= MAX_HEAD_BYTES or size + len(request.body) != len(data):
        return None
    if request.http_1_0 or not request.keep_alive or not data.startswith(request.method + b" "):
        return None
    lengths = [at for at, (name, _) in enumerate(request.headers) if name == b"content-length"]
    if len(lengths) != 1 or any(name in _FRAMED_OTHERWISE for name, _ in request.headers):
        return None
    head = data[:size]
    start = head.lower().find(_LENGTH) + len(_LENGTH)
    end = head.find(b"\r", start)
    value = head[start:end]
    digits = value.strip(b" \t")
    if start < len(_LENGTH) or not digits.isdigit() or int(digits) != len(request.body):
        return None
    if not value.endswith(digits):  # spaces behind it would have to be looked for each time
        return None
    start = end - len(digits)
    return RepeatedHead(head[:start], digits, head[end:], request, lengths[0])


_FRAMED_OTHERWISE: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer"})
