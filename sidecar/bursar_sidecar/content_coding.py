"""Compressed bodies: read along on a bounded copy, while the bytes themselves go on as they came.

Owns: gzip and deflate (RFC 9110, 8.4.1; RFC 1950 to 1952), which the standard library reads. What
else a peer may have used (br, zstd, several codings) cannot be read here: apps are refused it, and
providers are not offered it. Pure.
"""

import zlib
from functools import lru_cache
from typing import Final

from bursar_sidecar.http_messages import Headers

READABLE: Final = frozenset({"gzip", "deflate"})
"""Codings that can be read along."""
MAX_PIECE_BYTES: Final = 16 * 1024 * 1024
"""The most that one piece of a compressed stream may grow to: a read of 256 KiB holds some hundreds
of events, which are not a thousand times as large."""
_ALIASES: Final = {"x-gzip": "gzip", "identity": "", "": ""}
_GZIP_WINDOW: Final = 31
_ZLIB_WINDOW: Final = 15
_RAW_WINDOW: Final = -15


class Undecodable(Exception):
    """A body that is not what its content-encoding says, or larger than may be held."""


def coding_of(headers: Headers) -> str:
    """The coding that the content-encoding of a message names, "" for none; several as they stand.

    Names of `headers` are in lower case.
    """
    found = ""
    for name, value in headers:
        if name == b"content-encoding":
            text = value.decode("latin-1").strip().lower()
            text = _ALIASES.get(text, text)
            found = f"{found}, {text}" if found and text else found or text
    return found


@lru_cache(maxsize=256)
def narrowed(accepted: bytes) -> bytes:
    """An accept-encoding without what cannot be read along; b"identity" where nothing is left."""
    kept: list[bytes] = []
    parts = accepted.split(b",")
    for part in parts:
        coding = part.partition(b";")[0].strip().lower().decode("latin-1")
        if _ALIASES.get(coding, coding) in READABLE or coding == "identity":
            kept.append(part.strip())
    if len(kept) == len(parts):
        return accepted
    return b", ".join(kept) or b"identity"


class Decoder:
    """Decompresses one body piece by piece.

    `most` bounds the whole of what comes out, `most_a_piece` what one piece may grow to; `strict`
    refuses what readers are known to read differently: more than one gzip member, bytes after the
    end, and deflate without its header.
    """

    __slots__ = ("_coding", "_ended", "_left", "_most_a_piece", "_object", "_start", "_strict")

    def __init__(
        self, coding: str, most: int, *, most_a_piece: int | None = None, strict: bool = False
    ) -> None:
        self._coding = coding
        self._left = most
        self._most_a_piece = most if most_a_piece is None else most_a_piece
        self._strict = strict
        self._start = b""
        self._ended = False
        self._object = zlib.decompressobj(_GZIP_WINDOW) if coding == "gzip" else None

    def feed(self, data: bytes) -> bytes:
        """The next piece, decompressed. Raises Undecodable."""
        if self._object is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return b""
            self._start = b""
            self._object = zlib.decompressobj(self._window(data))
        out: list[bytes] = []
        may = min(self._left, self._most_a_piece)
        while data:
            if self._ended:
                self._restart()
            try:
                piece = self._object.decompress(data, may + 1)
            except zlib.error as error:
                raise Undecodable(f"not valid {self._coding}: {error}") from None
            may -= len(piece)
            self._left -= len(piece)
            if may < 0:
                raise Undecodable(f"larger than may be read ({self._coding})")
            out.append(piece)
            self._ended = self._object.eof
            data = self._object.unused_data if self._ended else self._object.unconsumed_tail
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> None:
        """All of the body was fed. Raises Undecodable when it is not whole."""
        if not self._ended:
            raise Undecodable(f"the {self._coding} ends before its end")

    def _window(self, start: bytes) -> int:
        if start[0] & 0x0F == 8 and (start[0] << 8 | start[1]) % 31 == 0:
            return _ZLIB_WINDOW
        if self._strict:
            raise Undecodable("not valid deflate: no zlib header")
        return _RAW_WINDOW  # what some servers send by that name

    def _restart(self) -> None:
        if self._strict or self._coding != "gzip":
            raise Undecodable(f"bytes after the end of the {self._coding}")
        self._object = zlib.decompressobj(_GZIP_WINDOW)
        self._ended = False


def decoded(body: bytes, coding: str, most: int, *, strict: bool = False) -> bytes:
    """A whole body, decompressed; at most `most` bytes. Raises Undecodable."""
    decoder = Decoder(coding, most, strict=strict)
    plain = decoder.feed(body)
    decoder.end()
    return plain
