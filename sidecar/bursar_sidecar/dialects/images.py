"""Images inside a request: their size from the first bytes of the file, and the detail asked for.

The picture itself is never decoded, and of a large one only the start is read.
"""

from typing import Final

import msgspec

from bursar.llm_tokens import MAX_HEADER_BYTES, data_url_image_size

MAX_IMAGES: Final = 4_000
"""Images of one request whose size is looked at; providers take at most some 3,600."""
_USUALLY_READ_BYTES: Final = 4_608
_READ_BYTES: Final = MAX_HEADER_BYTES * 4 // 3 + 512
"""Of an image's address: the header in base64, and what stands before it; of some JPEGs all."""


class ImagePart(msgspec.Struct, frozen=True):
    """What the cost of an image depends on."""

    size: tuple[int, int] | None
    """Width and height in pixels; None where the request does not tell."""
    detail: str = "auto"


class _Address(msgspec.Struct):
    url: msgspec.Raw = msgspec.Raw(b"")
    detail: str | None = None


_address = msgspec.json.Decoder(_Address)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def read_image(raw: msgspec.Raw) -> ImagePart:
    """The image that the value of `image_url` names: an object, or just the address."""
    detail = None
    if bytes(memoryview(raw)[:1]) == b"{":
        try:
            address = _address.decode(raw)
        except _UNREADABLE:
            return ImagePart(None)
        raw, detail = address.url, address.detail
    for most in (_USUALLY_READ_BYTES, _READ_BYTES):
        url = bytes(memoryview(raw)[:most]).replace(b"\\/", b"/").strip(b'"')
        # Any other escape has no place in base64: such an image has the size of the largest.
        size = None if b"\\" in url else data_url_image_size(url.decode("latin-1"))
        if size is not None or len(memoryview(raw)) <= most:
            break
    return ImagePart(size, detail or "auto")
