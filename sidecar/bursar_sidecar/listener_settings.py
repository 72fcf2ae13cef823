"""The `[[listeners]]` tables: more addresses for apps, each with an identity of its own."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bursar_sidecar.credential_settings import CREDENTIAL_FIELDS, read_credential
from bursar_sidecar.setting_checks import checked_fields, file_mode, listen_address, text, word

MAX_LISTENERS: Final = 100
"""Apps beside one sidecar; each listener holds a socket."""
MAX_APP: Final = 128


class Listener(msgspec.Struct, frozen=True):
    """An address where apps call, and who they are when they do not say it themselves."""

    address: str
    """`host:port` or `unix:/path`."""
    api_key: str = ""
    """Secret: the Bursar key of a call that brings none; "" leaves such a call refused."""
    api_key_file: str = ""
    """Where the key is from, if from a file: it is read again when that changes."""
    app: str = ""
    """The app's name in reports instead of its user agent; "" leaves the user agent."""
    own_keys: str = "allow"
    """`allow`: a Bursar key that a call brings counts before the listener's; `forbid`: the
    listener's key always counts."""
    socket_mode: str = ""
    """Permissions of a unix socket, in octal digits; "" for the sidecar's `socket_mode`."""


def read_listeners(
    tables: Any, environ: Mapping[str, str], faults: list[str]
) -> tuple[Listener, ...]:
    """The listeners of a TOML file, with their keys; what is wrong is added to `faults`."""
    if not isinstance(tables, list):
        faults.append("listeners: expected tables, such as [[listeners]]")
        return ()
    if len(tables) > MAX_LISTENERS:
        faults.append(f"listeners has {len(tables)} entries; at most {MAX_LISTENERS}")
        return ()
    found = [_listener(f"listeners[{i}]", table, environ, faults) for i, table in enumerate(tables)]
    return tuple(listener for listener in found if listener is not None)


def _listener(
    where: str, table: Any, environ: Mapping[str, str], faults: list[str]
) -> Listener | None:
    if not isinstance(table, dict):
        faults.append(f"{where}: expected a table")
        return None
    before = len(faults)
    api_key, path = read_credential(where, table, environ, faults)
    values: dict[str, Any] = {"api_key": api_key, "api_key_file": path}
    values |= checked_fields(where, table, _CHECKS, faults, read_apart=CREDENTIAL_FIELDS)
    if "address" not in table:
        faults.append(f"{where}.address is missing; expected host:port or unix:/path")
    if values.get("own_keys") == "forbid" and not api_key and len(faults) == before:
        faults.append(f"{where}: own_keys is 'forbid', so that it needs a key of its own")
    if api_key and not api_key.startswith("bk-"):
        faults.append(f"{where}: the key in it is none of Bursar's; expected bk-...")
    return None if len(faults) > before else Listener(**values)


def _app(value: Any) -> str:
    name = text("a name of an app")(value)
    if len(name) > MAX_APP or not name.isascii():
        raise ValueError(f"a name of an app, at most {MAX_APP} ASCII characters")
    return name


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "address": listen_address,
    "app": _app,
    "own_keys": word("allow", "forbid"),
    "socket_mode": file_mode,
}
