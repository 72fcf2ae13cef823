"""The beginning of a picture, from which its size is told."""

import base64
import struct


def png_base64(width: int, height: int) -> str:
    """The first bytes of a PNG of that size, as requests carry it."""
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head + b"\x08\x02" + bytes(600)).decode()
