"""Where an event stands in the list. Pure."""

from typing import Final

_LARGEST: Final = 2**63 - 1


def format_place(event_id: int) -> str:
    """The place of an event as a page token keeps it."""
    return str(event_id)


def parse_place(text: str) -> int | None:
    """The inverse of `format_place`; None for what it never wrote."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(_LARGEST)):
        return None
    event_id = int(text)
    return event_id if event_id <= _LARGEST else None
