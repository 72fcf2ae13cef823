"""Checks of single settings: each takes what was written and returns the value.

They raise ValueError saying what was expected. Numbers and flags may be text, as they are in
environment variables.
"""

import re
from collections.abc import Callable
from typing import Any


def split_address(address: str) -> tuple[str, int]:
    """`host:port` in parts. Raises ValueError naming what was expected."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("host:port, such as 127.0.0.1:7070")
    return host.removeprefix("[").removesuffix("]"), int(port)


def text(expected: str) -> Callable[[Any], str]:
    """Printable text, not empty; `expected` says of what."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(expected)
        return value

    return check


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A whole number of this range, both ends included."""

    expected = f"a whole number, {low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(expected)
        return value

    return check


def one_of(*allowed: int) -> Callable[[Any], int]:
    """One of these numbers."""

    def check(value: Any) -> int:
        if str(value) not in map(str, allowed) or isinstance(value, bool):
            raise ValueError(" or ".join(map(str, allowed)))
        return int(value)

    return check


def word(*allowed: str) -> Callable[[Any], str]:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return str(value)

    return check


def flag(value: Any) -> bool:
    """True or false, also as the words that are used for them."""
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError("true or false")
    return words[value.lower()]


def listen_address(value: Any) -> str:
    """`host:port`; port 0 is any free one."""

    if not isinstance(value, str):
        raise ValueError("host:port, such as 127.0.0.1:7070")
    split_address(value)
    return value


def control_plane(value: Any) -> str:
    """`host:port` or `unix:/path`."""

    if isinstance(value, str) and value.startswith("unix:") and len(value) > 5:
        return value
    return listen_address(value)
