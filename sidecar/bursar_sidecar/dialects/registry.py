"""Whose a path is: all dialects, and every path that is served.

Exact paths are looked up in one table; only what is not there is asked of the dialects, for paths
that name something (a model, an id). Adding a dialect is a line here.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from bursar_sidecar.dialects import anthropic, gemini, openai
from bursar_sidecar.dialects.dialect import Asked, Dialect, Endpoint, Found

_MODULES: Final = (openai, anthropic, gemini)
"""Each has a DIALECT, the endpoints of its EXACT paths, and `naming` for paths with a name in them.
Of several that serve a path the first one does, unless the request is claimed by a later one."""

DIALECTS: Final[tuple[Dialect, ...]] = tuple(module.DIALECT for module in _MODULES)
DEFAULT_DIALECT: Final[Dialect] = openai.DIALECT
"""Tells of errors where nobody knows in what dialect the app speaks."""


class DialectModule(Protocol):
    """What the registry takes of a dialect."""

    @property
    def EXACT(self) -> Mapping[bytes, Endpoint]:  # a constant of a module
        """The endpoints of its paths."""
        ...

    def naming(self, path: bytes) -> Found | None:
        """The endpoint of a path that names something."""
        ...


def table_of(modules: Iterable[DialectModule]) -> Mapping[bytes, tuple[Found, ...]]:
    """Every exact path, with the endpoints that serve it."""
    table: dict[bytes, tuple[Found, ...]] = {}
    for module in modules:
        for path, endpoint in module.EXACT.items():
            table[path] = (*table.get(path, ()), Found(endpoint, ""))
    return table


_EXACT: Final = table_of(_MODULES)


def find(asked: Asked) -> Found | None:
    """The endpoint that serves a path; None where no dialect knows it."""
    found = _EXACT.get(asked.path)
    if found is None:
        named = (module.naming(asked.path) for module in _MODULES)
        found = tuple(one for one in named if one is not None)
        if not found or _claimed_by_another(asked, found):
            return None
    if len(found) > 1:
        for one in found:
            if one.endpoint.dialect.claims(asked):
                return one
    return found[0]


def speaking(asked: Asked) -> Dialect:
    """The dialect of a request to a path that nobody serves."""
    return next((dialect for dialect in DIALECTS if dialect.claims(asked)), DEFAULT_DIALECT)


def _claimed_by_another(asked: Asked, found: tuple[Found, ...]) -> bool:
    """Whether a request to what a provider keeps says that it is of a dialect which does not serve
    that here."""
    if not found[0].endpoint.keeps:
        return False
    serving = {one.endpoint.dialect.name for one in found}
    return any(dialect.claims(asked) for dialect in DIALECTS if dialect.name not in serving)


def served() -> str:
    """The paths that are served, for people; Azure's, which are the same again, left out."""
    return ", ".join(path.decode() for path in _EXACT if not path.startswith(b"/openai/"))
