"""Estimates for sound and files inside a request: no provider publishes an exact rule.

OpenAI's audio prices come to 10 LLM tokens a second of input, Gemini's documents say 32. The length
of compressed sound is guessed from its size.
"""

import binascii
from collections.abc import Mapping
from typing import Any, Final

from .encodings import model_family_name

_PER_SECOND: Final = 10
_PER_SECOND_GEMINI: Final = 32
_GUESSED_BYTES_A_SECOND: Final = 8_000
"""Sound at 64 kbit/s, at the low end of what is sent as speech: the guess is rather too long."""
_WAV_HEADER: Final = 44
_BYTES_PER_FILE_LLM_TOKEN: Final = 16
"""Of a PDF: much of it is layout, fonts and pictures. A guess."""
_LEAST_OF_A_FILE: Final = 1_500
"""Anthropic's documents: a page of a PDF is 1,500 to 3,000 LLM tokens of text."""


def audio_llm_tokens(sound: Mapping[str, Any], model: str) -> int:
    """The LLM tokens that sound (`data` in base64, `format`) likely costs; at least one second."""
    data = sound.get("data")
    data = data if isinstance(data, str) else ""
    size = len(data) * 3 // 4
    rate = _GUESSED_BYTES_A_SECOND
    try:
        head = binascii.a2b_base64(data[:60])
    except (binascii.Error, ValueError):
        head = b""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and len(head) >= _WAV_HEADER:
        rate = int.from_bytes(head[28:32], "little") or rate
        size = max(0, size - _WAV_HEADER)
    gemini = model_family_name(model).startswith("gemini")
    seconds = max(1, -(-size // rate))
    return seconds * (_PER_SECOND_GEMINI if gemini else _PER_SECOND)


def file_llm_tokens(part: Mapping[str, Any]) -> int:
    """The LLM tokens that a file likely costs, by its size where it is inside the request."""
    size = 0
    for holder in (part, part.get("file"), part.get("source")):
        if isinstance(holder, dict):
            for name in ("file_data", "data"):
                data = holder.get(name)
                if isinstance(data, str):
                    size = max(size, len(data) * 3 // 4)
    return max(_LEAST_OF_A_FILE, size // _BYTES_PER_FILE_LLM_TOKEN)
