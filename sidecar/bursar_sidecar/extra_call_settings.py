"""The `[[unmetered]]`, `[[websockets]]` and `[[bounds]]` tables: calls that nothing meters, and
calls whose cost has no bound of its own. Without a line here such calls are refused."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from bursar.money import ceil_to_nanos
from bursar_sidecar.setting_checks import checked_fields, text, whole

MAX_TABLES: Final = 100
"""Of either kind; each is a decision that somebody made by hand."""
MAX_AMOUNT: Final = Decimal(1_000_000)
"""Of one call, in any currency; above it the amount is a mistake."""
_PATTERN: Final = re.compile(r"/[A-Za-z0-9_./*-]{1,200}")
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Unmetered(msgspec.Struct, frozen=True, kw_only=True):
    """Paths that may be called at a flat price, although nobody meters them."""

    path: str
    """As apps call it, `*` for any number of characters: `/v1/fine_tuning/*`."""
    method: str
    flat_price: str
    """What each call costs, an amount of the organization's currency: "0.05"."""
    provider: str
    """The name of the provider that serves it."""

    def allows(self, method: bytes, path: bytes) -> bool:
        """Whether a call is one of these. A path that could lead elsewhere never is."""
        return method.decode("latin-1") == self.method and _is_meant(path, self.path)


class Websocket(msgspec.Struct, frozen=True, kw_only=True):
    """Paths on which an app may open a websocket, although nobody meters what flows in it."""

    path: str
    """As apps call it, `*` for any number of characters: `/v1/realtime`."""
    provider: str
    """The name of the provider that serves it."""
    flat_price: str
    """What each connection that is opened costs, an amount of the organization's currency."""
    price_per_minute: str = "0"
    """What each minute begun costs beside that. It is reserved ahead, a minute at a time: when no
    more can be had the connection is closed before the paid minute is over."""
    longest_s: int = 0
    """A connection is closed after so long, at most `longest_call_s`; 0: after that."""
    model: str = ""
    """The model that runs there, where a connection's address does not name it. A key that may call
    some models only may open a connection only if its model is known."""

    def allows(self, path: bytes) -> bool:
        """Whether a connection is one of these. A path that could lead elsewhere never is."""
        return _is_meant(path, self.path)

    @property
    def flat_nanos(self) -> int:
        """For each connection, rounded up."""
        return ceil_to_nanos(Decimal(self.flat_price))

    @property
    def minute_nanos(self) -> int:
        """For each minute begun, rounded up."""
        return ceil_to_nanos(Decimal(self.price_per_minute))


class CallBound(msgspec.Struct, frozen=True, kw_only=True):
    """The most that calls of an endpoint are taken to cost, where nothing else bounds them."""

    endpoint: str
    """Its name in docs/dialects.md: "batches", "audio/speech"."""
    most: str
    """An amount of the organization's currency; it is reserved, and charged where the answer tells
    no less."""
    models: tuple[str, ...] = ()
    """Globs; empty for every model."""

    @property
    def nanos(self) -> int:
        """The amount, rounded up."""
        return ceil_to_nanos(Decimal(self.most))

    def holds_for(self, endpoint: str, model: str) -> bool:
        """Whether it bounds calls of that endpoint and model."""
        if endpoint != self.endpoint:
            return False
        return not self.models or any(fnmatchcase(model, glob) for glob in self.models)


def _is_meant(path: bytes, glob: str) -> bool:
    if b".." in path or b"%" in path or b"//" in path:
        return False
    return fnmatchcase(path.decode("latin-1"), glob)


def read_unmetered(
    tables: Any, providers: frozenset[str], faults: list[str]
) -> tuple[Unmetered, ...]:
    """The `[[unmetered]]` tables; what is wrong is added to `faults`."""
    found = [
        (where, Unmetered(**values))
        for where, values in read_tables("unmetered", tables, _UNMETERED, (), faults)
    ]
    _check_providers(found, providers, faults)
    return tuple(one for _, one in found)


def read_websockets(
    tables: Any, providers: frozenset[str], faults: list[str]
) -> tuple[Websocket, ...]:
    """The `[[websockets]]` tables; what is wrong is added to `faults`."""
    optional = ("price_per_minute", "longest_s", "model")
    found = [
        (where, Websocket(**values))
        for where, values in read_tables("websockets", tables, _WEBSOCKETS, optional, faults)
    ]
    _check_providers(found, providers, faults)
    return tuple(one for _, one in found)


def check_longest(
    websockets: tuple[Websocket, ...], longest_call_s: int, faults: list[str]
) -> None:
    """None of them may last longer than any call may: the control plane relies on it."""
    for number, one in enumerate(websockets):
        if one.longest_s > longest_call_s:
            faults.append(
                f"websockets[{number}].longest_s is {one.longest_s}; expected at most "
                f"longest_call_s, which is {longest_call_s}"
            )


def _check_providers(
    found: Sequence[tuple[str, Unmetered | Websocket]],
    providers: frozenset[str],
    faults: list[str],
) -> None:
    for where, one in found:
        if one.provider not in providers:
            known = ", ".join(sorted(providers)) or "none"
            faults.append(f"{where}.provider is {one.provider!r}; configured are: {known}")


def read_bounds(tables: Any, faults: list[str]) -> tuple[CallBound, ...]:
    """The `[[bounds]]` tables; what is wrong is added to `faults`."""
    found = read_tables("bounds", tables, _BOUNDS, ("models",), faults)
    return tuple(CallBound(**values) for _, values in found)


def read_tables(
    name: str,
    tables: Any,
    checks: Mapping[str, Callable[[Any], Any]],
    optional: tuple[str, ...],
    faults: list[str],
) -> list[tuple[str, dict[str, Any]]]:
    """(where, values) of each table `[[name]]` without a fault; `checks` are its fields."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        faults.append(f"{name}: expected tables, such as [[{name}]]")
        return []
    if len(tables) > MAX_TABLES:
        faults.append(f"{name} has {len(tables)} entries; at most {MAX_TABLES}")
        return []
    found = []
    for number, table in enumerate(tables):
        where, before = f"{name}[{number}]", len(faults)
        values = checked_fields(where, table, checks, faults)
        missing = [field for field in checks if field not in table and field not in optional]
        faults += [f"{where}.{field} is missing" for field in missing]
        if len(faults) == before:
            found.append((where, values))
    return found


def _path(value: Any) -> str:
    if not isinstance(value, str) or not _PATTERN.fullmatch(value) or ".." in value:
        raise ValueError("a path with * for what may vary, such as /v1/fine_tuning/*")
    return value


def _method(value: Any) -> str:
    if value not in _METHODS:
        raise ValueError(" or ".join(_METHODS))
    return str(value)


def _amount(value: Any) -> str:
    expected = 'an amount of the organization\'s currency as text, such as "0.05"'
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,9})?", value):
        raise ValueError(expected)
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(expected) from None
    if amount > MAX_AMOUNT:
        raise ValueError(f"{expected}, at most {MAX_AMOUNT}")
    return value


def _model(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not value.isprintable():
        raise ValueError("a model's name as the provider knows it, such as gpt-realtime")
    return value


def globs(value: Any) -> tuple[str, ...]:
    """A list of them. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ValueError('a list of globs, such as ["gpt-4o-mini-tts"]')
    return tuple(value)


_UNMETERED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "path": _path,
    "method": _method,
    "flat_price": _amount,
    "provider": text("a configured provider's name"),
}
_WEBSOCKETS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "path": _path,
    "provider": text("a configured provider's name"),
    "flat_price": _amount,
    "price_per_minute": _amount,
    "longest_s": whole(1, 86_400),
    "model": _model,
}
_BOUNDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "endpoint": text("an endpoint's name, such as batches"),
    "models": globs,
    "most": _amount,
}
