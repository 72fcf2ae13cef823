"""Checks of single settings: each takes what was written and returns the value.

They raise ValueError saying what was expected. Numbers and flags may be text, as they are in
environment variables.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

UNIX: Final = "unix:"
MAX_SOCKET_PATH: Final = 100
"""Bytes of a socket's path. Linux takes 107, and the socket is made under another name first."""


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
    """`host:port`, where port 0 is any free one, or `unix:/path`."""
    expected = "host:port, such as 127.0.0.1:7070, or unix:/path"
    if not isinstance(value, str):
        raise ValueError(expected)
    if value.startswith(UNIX):
        return unix_address(value)
    try:
        split_address(value)
    except ValueError:
        raise ValueError(expected) from None
    return value


def unix_address(value: str) -> str:
    """`unix:/path`, absolute, no longer than the system takes. Raises ValueError."""
    path = value.removeprefix(UNIX)
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError("unix: and the absolute path of a socket, such as unix:/run/bursar.sock")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"a path of a socket of at most {MAX_SOCKET_PATH} bytes")
    return value


def file_mode(value: Any) -> str:
    """The permissions of a socket in octal digits, as text: "0660"."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('permissions in octal digits, as text, such as "0660"')
    return value


def secret(value: str) -> str:
    """A secret that an HTTP header can carry, without blanks around it. Raises ValueError."""
    found = value.strip()
    if not found:
        raise ValueError("a secret, not an empty text")
    if not (found.isascii() and found.isprintable()):
        raise ValueError("characters that an HTTP header may carry")
    return found


def grpc_listen_address(value: Any) -> str:
    """As `listen_address`; "" or "none" for nowhere."""

    return "" if value in ("", "none") else listen_address(value)


def is_local(address: str) -> bool:
    """Whether what is said to this address stays on the machine."""
    if address.startswith(UNIX):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def control_plane(value: Any) -> str:
    """`host:port` or `unix:/path`."""

    if isinstance(value, str) and value.startswith(UNIX) and len(value) > len(UNIX):
        return value
    expected = "host:port, such as 127.0.0.1:7443, or unix:/path"
    if not isinstance(value, str):
        raise ValueError(expected)
    try:
        split_address(value)
    except ValueError:
        raise ValueError(expected) from None
    return value


def checked_fields(
    where: str,
    table: Mapping[str, Any],
    checks: Mapping[str, Callable[[Any], Any]],
    faults: list[str],
    *,
    read_apart: Collection[str] = (),
    secret: Collection[str] = (),
) -> dict[str, Any]:
    """The values of a TOML table's fields, each by its check; what is wrong is added to `faults`.

    Fields that are `read_apart` are known, and somebody else's to read; what a `secret` one says is
    in no fault.
    """
    values: dict[str, Any] = {}
    for field, value in table.items():
        if field in read_apart:
            continue
        check = checks.get(field)
        if check is None:
            known = ", ".join(sorted((*checks, *read_apart)))
            faults.append(f"{where}.{field}: unknown setting; known are {known}")
            continue
        try:
            values[field] = check(value)
        except ValueError as error:
            shown = "***" if field in secret else repr(value)[:80]
            faults.append(f"{where}.{field} is {shown}; expected {error}")
    return values
