"""The head of an rpc's request, and the heads and trailers of its answer.

We ask the other end to keep no table of headers (SETTINGS_HEADER_TABLE_SIZE 0), so the same head is
the same bytes each time, and is looked up instead of read: an Envoy sends the same few. Who keeps
one all the same, as some clients do for a while, is read with it: it is no larger than by default.
"""

from base64 import b64decode, b64encode
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from hpack import Decoder
from hpack.exceptions import HPACKError

from bursar_sidecar.grpc_wire.frames import COMPRESSION_ERROR, PROTOCOL_ERROR, WireError

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""By name; those whose name ends in `-bin` are bytes."""

MAX_HEAD_BYTES: Final = 65_536
"""Of a head, encoded and decoded each: far more than any gRPC client sends."""
_ASKS: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
MOST_KNOWN_HEADS: Final = 256
KNOWN_HEAD_BYTES: Final = 1_024
"""Longer heads are not kept."""
CONTENT_TYPE: Final = b"application/grpc"
BINARY: Final = b"-bin"
PLAIN: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
LARGEST_PREFIX: Final = 0x7F


class Head(NamedTuple):
    """What a client asks for."""

    method: bytes
    path: str
    """`/package.Service/Method`."""
    content_type: bytes
    encoding: bytes
    """What its messages may be compressed with: "identity" or absent for not at all."""
    metadata: Metadata
    """Every header whose name does not begin with a colon."""


class MalformedError(Exception):
    """A head that can be read and that no client may send: its stream ends (RFC 9113, 8.1.1)."""


class Heads:
    """Of one connection: its decoder has a state."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEAD_BYTES)
        self._known: dict[bytes, Head] = {}

    def skip(self, block: bytes) -> None:
        """Read a head that means nothing here, because what follows is encoded by it. Raises
        WireError."""
        try:
            self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise WireError(COMPRESSION_ERROR, str(error)) from error

    def read(self, block: bytes) -> Head:
        """A head from its encoded form. Raises WireError and MalformedError."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            pairs = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise WireError(COMPRESSION_ERROR, str(error)) from error
        head = _head(pairs)
        if self._decoder.header_table_size == 0 and len(block) <= KNOWN_HEAD_BYTES:
            # With no table the bytes alone say it all.
            if len(self._known) >= MOST_KNOWN_HEADS:
                self._known.clear()
            self._known[block] = head
        return head


def _head(pairs: list[tuple[bytes, bytes]]) -> Head:
    _check(pairs)
    found = dict(pairs)
    return Head(
        method=found.get(b":method", b""),
        path=found.get(b":path", b"").decode("latin-1"),
        content_type=found.get(b"content-type", b""),
        encoding=found.get(b"grpc-encoding", b"identity"),
        metadata=tuple(_datum(name, value) for name, value in pairs if name[:1] != b":"),
    )


def _check(pairs: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113, 8.2 and 8.3.1. Raises MalformedError."""
    asked: dict[bytes, bytes] = {}
    regular = False
    for name, value in pairs:
        if name[:1] != b":":
            regular = True
            if name != name.lower() or name in _OF_CONNECTIONS:
                raise MalformedError(f"the header {name[:40]!r}")
            if name == b"te" and value != b"trailers":
                raise MalformedError(f"te is {value[:40]!r}, expected trailers")
        elif regular or name in asked or name not in _ASKS:
            raise MalformedError(f"{name[:40]!r} twice, unknown, or behind other headers")
        else:
            asked[name] = value
    for name in (b":method", b":scheme", b":path"):
        if not asked.get(name):
            raise MalformedError(f"no {name.decode()}")


def _datum(name: bytes, value: bytes) -> tuple[str, str | bytes]:
    if not name.endswith(BINARY):
        return name.decode("latin-1"), value.decode("latin-1")
    try:
        return name.decode("latin-1"), b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except ValueError as error:
        raise WireError(PROTOCOL_ERROR, f"{name!r} is not base64") from error


def trailers(
    code: int, details: str = "", metadata: Metadata = (), *, alone: bool = False
) -> bytes:
    """How an rpc ended. `alone`: there was no answer before, so its head is in them."""
    if not (code or details or metadata or alone):
        return OK
    block = ANSWER if alone else b""
    block += _literal(b"grpc-status", str(code).encode())
    if details:
        # Percent-encoded but for printable ASCII: gRPC over HTTP/2, "Status-Message".
        block += _literal(b"grpc-message", quote(details, safe=PLAIN).encode())
    for name, value in metadata:
        plain = value.encode() if isinstance(value, str) else b64encode(value).rstrip(b"=")
        block += _literal(name.encode(), plain)
    return block


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that says itself: not compressed, not put into a table (RFC 7541, 6.2.2)."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(octets: int) -> bytes:
    """A number behind a prefix of seven bits (RFC 7541, 5.1)."""
    if octets < LARGEST_PREFIX:
        return bytes((octets,))
    written, rest = bytearray((LARGEST_PREFIX,)), octets - LARGEST_PREFIX
    while rest >= 0x80:  # seven bits a byte, the eighth says that more follow
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    written.append(rest)
    return bytes(written)


STATUS_200: Final = b"\x88"
"""Entry 8 of HPACK's static table: `:status: 200`."""
ANSWER: Final = STATUS_200 + _literal(b"content-type", CONTENT_TYPE)
"""The head of every answer that has messages."""
OK: Final = _literal(b"grpc-status", b"0")
"""The trailers of an rpc that went well."""
UNSUPPORTED: Final = _literal(b":status", b"415")
"""To who does not speak gRPC."""
