"""How large an image is, from the first bytes of its file: PNG, JPEG, GIF, WebP.

Pure, and bounded: reads at most MAX_HEADER_BYTES and decodes no pixels. What is none of these, or
damaged, has no size; the caller then takes the most an image can cost.
"""

import binascii
from typing import Final

MAX_HEADER_BYTES: Final = 262_144
"""A JPEG carries its size behind thumbnails and colour profiles, of 64 kB each."""

_USUAL_HEADER_BYTES: Final = 3_072
_MAX_STEPS: Final = 1_024
"""Segments of a file looked at; a picture has a few dozen before its size."""
_MAX_INTRODUCTION: Final = 256
"""Characters before the data of a `data:` URL."""


def data_url_image_size(url: str) -> tuple[int, int] | None:
    """Width and height in pixels of a `data:...;base64,` URL; None where it tells none."""
    if url[:5].lower() != "data:":
        return None
    comma = url.find(",", 0, _MAX_INTRODUCTION)
    if comma < 0 or not url[:comma].lower().endswith(";base64"):
        return None
    # All but some JPEGs tell their size at once.
    for most in (_USUAL_HEADER_BYTES, MAX_HEADER_BYTES):
        first = url[comma + 1 : comma + 1 + most * 4 // 3]
        try:
            # Cut where a group of four ends; a file shorter than that ends as it does.
            size = image_size(binascii.a2b_base64(first[: len(first) // 4 * 4]))
        except (binascii.Error, ValueError):
            return None
        if size is not None:
            return size
    return None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the start of an image file; None where it tells none."""
    data = data[:MAX_HEADER_BYTES]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        size = _png(data)
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg(data)
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        size = _gif(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = _webp(data)
    else:
        size = None
    return size if size is not None and size[0] > 0 and size[1] > 0 else None


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_MAX_STEPS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # stands alone
            at += 2
            continue
        if marker in (0xD9, 0xDA):  # the end, or the pixels, before any size
            return None
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8 or at + 9 > len(data):
                return None
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            return int.from_bytes(data[at + 7 : at + 9], "big"), height
        at += 2 + max(length, 2)
    return None


def _gif(data: bytes) -> tuple[int, int] | None:
    if len(data) < 13:
        return None
    width = int.from_bytes(data[6:8], "little")
    height = int.from_bytes(data[8:10], "little")
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    inside = False  # an extension, whose blocks each tell their length; an empty one ends it
    for _ in range(_MAX_STEPS):
        if at + 9 > len(data):
            return None
        if inside:
            inside = data[at] != 0
            at += 1 + data[at]
        elif data[at] == 0x21:
            inside = True
            at += 2
        elif data[at] == 0x2C:
            # The first picture may reach beyond the screen it is drawn on.
            left, top, wide, high = (
                int.from_bytes(data[at + 1 + 2 * i : at + 3 + 2 * i], "little") for i in range(4)
            )
            return max(width, left + wide), max(height, top + high)
        else:
            return None
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if len(data) < 30:
        return None
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return (
            int.from_bytes(data[26:28], "little") & 0x3FFF,
            int.from_bytes(data[28:30], "little") & 0x3FFF,
        )
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None
