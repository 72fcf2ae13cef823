"""What Envoy's configuration says of a route: `context_extensions` of its ext_authz filter.

Pure. Whoever configures Envoy writes them, no app can. One that is not understood is refused,
because what it was meant to limit would not be limited.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.dialect import Dialect
from bursar_sidecar.dialects.facts import DialectError, check_tags
from bursar_sidecar.dialects.registry import DIALECTS
from bursar_sidecar.envoy.held_calls import Tier

PREFIX: Final = "bursar."
"""Of the extensions that are ours; others are somebody else's."""
ANY_PROVIDER: Final = "*"
MAX_KNOWN: Final = 256
"""Routes whose settings are remembered; a configuration has some tens."""


class RouteSettings(msgspec.Struct, frozen=True):
    """Of one route."""

    dialect: Dialect | None = None
    """The only one that is served there; None for all."""
    provider: str = ""
    """The name, in the sidecar's settings, of the provider that the route leads to: calls are
    priced as that one's. "*": Envoy routes by what we answer. "" is allowed where the sidecar has
    one provider."""
    tags: tuple[str, ...] = ()
    """Added to every call's."""
    tier: Tier = "strict"
    prefix: str = ""
    """What paths begin with before the dialect's own, and Envoy takes off."""
    rewrites_host: bool = False
    """The upstream's host is set to the provider's."""
    rewrites_path: bool = False
    """The upstream's path is set to what the provider serves the call at."""
    passes: bool = False
    """Paths that no dialect knows go on, for any valid key, and cost nothing."""


class RouteReader:
    """Reads them, and remembers."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, str], ...], RouteSettings] = {}

    def read(self, extensions: Mapping[str, str], default_tier: str) -> RouteSettings:
        """Raises Refusal envoy_misconfigured, naming the field, its value, and what was
        expected."""
        key = (("", default_tier), *sorted(extensions.items()))
        known = self._known.get(key)
        if known is None:
            known = _read(extensions, default_tier)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = known
        return known


def _read(extensions: Mapping[str, str], default_tier: str) -> RouteSettings:
    values: dict[str, Any] = {"tier": default_tier}
    for name, value in extensions.items():
        if not name.startswith(PREFIX):
            continue
        check = _CHECKS.get(name.removeprefix(PREFIX))
        if check is None:
            known = ", ".join(PREFIX + each for each in _CHECKS)
            raise _fault(f"{name} is no setting of a route; known are {known}.")
        try:
            values.update(check(value))
        except ValueError as error:
            raise _fault(f"{name} is {value!r:.80}; expected {error}.") from None
    return RouteSettings(**values)


def _fault(message: str) -> Refusal:
    return Refusal("envoy_misconfigured", f"Envoy's context_extensions: {message}")


def _dialect(value: str) -> dict[str, Any]:
    for dialect in DIALECTS:
        if dialect.name == value:
            return {"dialect": dialect}
    raise ValueError(" or ".join(dialect.name for dialect in DIALECTS))


def _provider(value: str) -> dict[str, Any]:
    if not value or not value.isprintable():
        raise ValueError("a provider's name in the sidecar's settings, or *")
    return {"provider": value}


def _tags(value: str) -> dict[str, Any]:
    try:
        tags = check_tags([tag.strip() for tag in value.split(",")], "bursar.tags")
    except DialectError as error:
        raise ValueError(f"tags such as team:search,env:prod: {error.message}") from None
    return {"tags": tags}


def _tier(value: str) -> dict[str, Any]:
    if value not in ("strict", "light"):
        raise ValueError("strict or light")
    return {"tier": cast(Tier, value)}


def _prefix(value: str) -> dict[str, Any]:
    if not value.startswith("/") or value.endswith("/") or not value.isprintable():
        raise ValueError("what paths begin with, such as /llm: a slash first and none at the end")
    return {"prefix": value}


def _rewrite(value: str) -> dict[str, Any]:
    parts = {part.strip() for part in value.split(",")}
    if not parts <= {"host", "path"}:
        raise ValueError("host, path, or host,path")
    return {"rewrites_host": "host" in parts, "rewrites_path": "path" in parts}


def _pass(value: str) -> dict[str, Any]:
    if value not in ("true", "false"):
        raise ValueError("true or false")
    return {"passes": value == "true"}


_CHECKS: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "dialect": _dialect,
    "provider": _provider,
    "tags": _tags,
    "tier": _tier,
    "prefix": _prefix,
    "rewrite": _rewrite,
    "pass": _pass,
}
