"""Rates of LiteLLM's map that the provider's own page contradicts. Pure.

A correction names what the map says: once the map says otherwise, it is the map that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

# OpenAI, Pricing (developers.openai.com/api/docs/pricing), "Transcription & Speech Generation",
# audio: $6.00 and $3.00 a million. The map has the rates of text there, and the right ones for
# Azure's models of the same names.
_AUDIO: Final = "input_cost_per_audio_token"
_TRANSCRIBE: Final = (_AUDIO, Decimal("2.5e-06"), Decimal("6e-06"))
_MINI_TRANSCRIBE: Final = (_AUDIO, Decimal("1.25e-06"), Decimal("3e-06"))

# Key of the map -> field, what the map says, what the page says.
CORRECTIONS: Final[Mapping[str, tuple[str, Decimal, Decimal]]] = {
    "gpt-4o-transcribe": _TRANSCRIBE,
    "gpt-4o-transcribe-diarize": _TRANSCRIBE,
    "gpt-4o-mini-transcribe": _MINI_TRANSCRIBE,
    "gpt-4o-mini-transcribe-2025-03-20": _MINI_TRANSCRIBE,
    "gpt-4o-mini-transcribe-2025-12-15": _MINI_TRANSCRIBE,
}


def corrected(key: str, entry: Any) -> Any:
    """The entry as the provider's page has it."""
    known = CORRECTIONS.get(key)
    if known is None or not isinstance(entry, Mapping):
        return entry
    field, wrong, right = known
    said = entry.get(field)
    if isinstance(said, bool) or not isinstance(said, int | float | Decimal):
        return entry
    return {**entry, field: right} if Decimal(str(said)) == wrong else entry
