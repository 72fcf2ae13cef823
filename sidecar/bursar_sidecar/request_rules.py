"""What the head of a request must satisfy beyond what llhttp refuses by itself. Pure.

llhttp refuses what can be read in two ways: both or two content-lengths, numbers that are not
plain digits, folded lines, bare CR or LF, a space before the colon, NUL. What is here are rules of
RFC 9110 and 9112 that need the whole head.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from bursar_sidecar.http_messages import Headers, error_body

SERVED_VERSIONS: Final = ("1.1", "1.0")
MOST_FRAMING_BYTES: Final = 64 * 1024
"""Chunk sizes and extensions that any chunked body may spend."""
FRAMING_BYTES_PER_BYTE: Final = 16
"""And this much for each of its bytes: a chunk of one byte needs five."""


class Fault(Exception):
    """Why a request is refused before it is whole: the status and body of the last answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(code, message)

    @classmethod
    def of_head(cls, most: int) -> "Fault":
        """A head of more bytes than that."""
        return cls(431, "headers_too_large", f"Request line and headers exceed {most} bytes.")

    @classmethod
    def of_body(cls, size: int, most: int) -> "Fault":
        """A body of so many bytes, or more."""
        told = f"The body has {size} bytes or more; at most {most} bytes are accepted."
        return cls(413, "body_too_large", told)


class Head:
    """What the framing fields of a head say, read in one pass; raises Fault."""

    __slots__ = ("chunked", "expects_continue", "length")

    def __init__(self, version: str, target: bytes, headers: Headers) -> None:
        """`headers` with names in lower case; `version` as llhttp has it ("1.1")."""
        self.length = 0
        self.chunked = False
        self.expects_continue = False
        hosts = 0
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                self._note_coding(version, value)
            elif name == b"expect":
                self._note_expectation(version, value)
        if version != "1.1" and version != "1.0":
            raise Fault(
                505,
                "http_version_not_supported",
                f"HTTP/{version} is not served here; expected HTTP/1.1 or HTTP/1.0.",
            )
        if b"#" in target:  # RFC 9112, 3.2: a target has no fragment
            raise Fault(400, "malformed_http", "Not valid HTTP: a fragment in the request target")
        if (b"." in target or b"%" in target) and has_dot_segments(target):
            # What we take for one path might be another one to the provider.
            raise Fault(400, "malformed_http", "Not valid HTTP: '.' or '..' in the request's path")
        if hosts != 1 and (hosts or version == "1.1"):
            # RFC 9112, 3.2: who reads another of two hosts than we do would route another way.
            raise Fault(
                400, "invalid_host", f"The request has {hosts} Host headers; expected exactly one."
            )

    def _note_coding(self, version: str, value: bytes) -> None:
        if version == "1.0":  # RFC 9112, 6.1: such a framing is faulty
            raise Fault(
                400, "malformed_http", "Not valid HTTP: Transfer-Encoding in a request of HTTP/1.0"
            )
        if value.strip().lower() != b"chunked":
            shown = value[:40].decode("latin-1")
            raise Fault(
                501,
                "transfer_coding_not_supported",
                f"Transfer-Encoding is {shown!r}; expected 'chunked'.",
            )
        self.chunked = True

    def _note_expectation(self, version: str, value: bytes) -> None:
        if value.strip().lower() != b"100-continue":
            shown = value[:40].decode("latin-1")
            raise Fault(417, "expectation_failed", f"Expect is {shown!r}; expected '100-continue'.")
        self.expects_continue = version != "1.0"


def origin_form(target: bytes) -> bytes:
    """Path and query of a request target as they came, also of one in absolute form."""
    if target.startswith(b"/"):
        return target
    _, scheme, rest = target.partition(b"://")
    if not scheme:
        return target
    authority = rest.partition(b"/")[0].partition(b"?")[0]
    path = rest[len(authority) :]
    return path if path.startswith(b"/") else b"/" + path


def has_dot_segments(target: bytes) -> bool:
    """Whether a part of the path is `.` or `..`, also written with escapes or backslashes."""
    path = origin_form(target).partition(b"?")[0]
    parts = unquote_to_bytes(path).replace(b"\\", b"/").split(b"/")
    return b"." in parts or b".." in parts


def most_framing(body_bytes: int) -> int:
    """The most bytes of framing that a chunked body of so many bytes may have come in."""
    return MOST_FRAMING_BYTES + FRAMING_BYTES_PER_BYTE * body_bytes
