"""How long a file of sound can be at most, from its bytes; nothing is decoded.

Only where the format gives every second a least number of bytes: WAV (its header says how many, and
whoever plays it goes by that header) and MP3 (no frame is below 8 kbit/s, MPEG-2 Audio, ISO/IEC
13818-3). In the others silence may take no room at all, or the length is whatever the file says.
"""

import struct
from typing import Final

LEAST_MP3_BYTES_PER_SECOND: Final = 1_000
"""8 kbit/s, the lowest bit rate of MPEG-2 and 2.5 Layer III."""
MAX_RATE: Final = 768_000
"""Samples a second; a higher one is a fault of the file."""
_PCM: Final = (1, 3, 6, 7, 0xFFFE)
"""WAV formats with a fixed number of bytes for a sample: whole numbers, floats, A-law, mu-law, and
the extensible form of these."""


def duration_bound_s(sound: bytes) -> int | None:
    """Seconds, rounded up; None where the bytes bound nothing."""
    if sound[:4] == b"RIFF" and sound[8:12] == b"WAVE":
        return _wav(sound)
    frames = sound[_tag_size(sound) :][:2]
    if frames[:1] == b"\xff" and frames[1:] in _MP3_SYNC:
        return -(-len(sound) // LEAST_MP3_BYTES_PER_SECOND)
    return None


def _tag_size(sound: bytes) -> int:
    """Bytes of the ID3 tag before the sound; what follows one need not be MP3."""
    if sound[:3] != b"ID3" or len(sound) < 10:
        return 0
    first, second, third, fourth = sound[6:10]
    return 10 + (first << 21) + (second << 14) + (third << 7) + fourth


_MP3_SYNC: Final = tuple(bytes([second]) for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2))


def _wav(sound: bytes) -> int | None:
    if sound[12:16] != b"fmt " or len(sound) < 36:
        return None
    kind, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", sound, 20)
    if kind not in _PCM or not channels or bits not in (8, 16, 24, 32, 64):
        return None
    if not 1 <= rate <= MAX_RATE:
        return None
    if block != channels * bits // 8 or byte_rate != rate * block:
        return None  # which of them a player goes by is its affair
    return -(-len(sound) // int(byte_rate))
