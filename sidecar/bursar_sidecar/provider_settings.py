"""The `[providers.NAME]` tables: the upstreams of a sidecar."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bursar_sidecar.credential_settings import CREDENTIAL_FIELDS, read_credential
from bursar_sidecar.dialects.kinds import KINDS, Kind, Server
from bursar_sidecar.setting_checks import checked_fields, flag, text, whole

MAX_PROVIDERS: Final = 200
"""Each holds a pool; no operator has more upstreams than that."""
_PROVIDER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_FRAMING_HEADERS: Final = frozenset(
    {"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"}
)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_API_VERSION: Final = re.compile(r"[0-9A-Za-z.-]{1,40}")
_LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")


class Provider(msgspec.Struct, frozen=True):
    """One upstream."""

    name: str
    base_url: str
    """Up to and including the version, as the provider's SDK is given it: `https://host/v1`."""
    kind: str = "openai"
    """What kind of server it is (see `dialects.kinds`); also where prices are looked up when none
    is listed under `name`."""
    api_key: str = ""
    """Secret; "" where none is needed."""
    api_key_file: str = ""
    """Where it is from, if from a file: it is read again when that changes."""
    models: tuple[str, ...] = ()
    """Globs of what it serves; empty serves all, but then bare names come by the price list."""
    service_tier: str = "default"
    """What the provider's account is set to where a request names no tier; `auto` when it may be
    priority, which makes reservations dearer."""
    region: str = ""
    """Where the account's calls are served, for prices that differ by region: "eu"; "" for none."""
    output_limit_field: str = ""
    """The field by which an output limit is set where a chat request has none; "" for that of its
    kind."""
    include_usage: bool | None = None
    """Whether streams are asked for their usage with `stream_options`; None as its kind does."""
    deployments: tuple[tuple[str, str], ...] = ()
    """Names under which it serves models, each with the price list's name of the model: Azure's
    deployments, aliases of servers of one's own."""
    api_version: str = ""
    """Azure: calls go to the deployments' own paths with this version; "" for `/openai/v1`."""
    ca_file: str = ""
    """PEM file of the authorities to trust instead of the system's; "" for the system's."""
    max_connections: int = 1_000
    """To this provider, of each process; calls beyond them wait for one."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every call; for organization headers and the like."""

    @property
    def spoken(self) -> Kind:
        """What is the same for all servers of its kind."""
        return KINDS[self.kind]

    @property
    def server(self) -> Server:
        """As a dialect sees it."""
        kind = self.spoken
        return Server(
            kind=kind,
            limit_field=self.output_limit_field or kind.limit_field,
            asks_usage=kind.asks_usage if self.include_usage is None else self.include_usage,
            api_version=self.api_version,
        )

    def listed_model(self, model: str) -> str:
        """The price list's name of a model that it serves."""
        for name, listed in self.deployments:
            if name == model:
                return listed
        return model


def read_providers(
    tables: Any, environ: Mapping[str, str], faults: list[str]
) -> tuple[Provider, ...]:
    """The providers of a TOML file, with their credentials; what is wrong is added to `faults`."""
    if not isinstance(tables, dict):
        faults.append("providers: expected tables, such as [providers.openai]")
        return ()
    if len(tables) > MAX_PROVIDERS:
        faults.append(f"providers has {len(tables)} entries; at most {MAX_PROVIDERS}")
        return ()
    found = [_provider(name, table, environ, faults) for name, table in tables.items()]
    return tuple(provider for provider in found if provider is not None)


def _provider(
    name: str, table: Any, environ: Mapping[str, str], faults: list[str]
) -> Provider | None:
    where = f"providers.{name}"
    if not _PROVIDER_NAME.fullmatch(name):
        faults.append(f"{where}: expected a name of a-z, 0-9, '_', '.', '-', at most 63 long")
        return None
    if not isinstance(table, dict):
        faults.append(f"{where}: expected a table")
        return None
    before = len(faults)
    credential, path = read_credential(where, table, environ, faults)
    values: dict[str, Any] = {"name": name, "api_key": credential, "api_key_file": path}
    values |= checked_fields(
        where,
        table,
        _PROVIDER_CHECKS,
        faults,
        read_apart=CREDENTIAL_FIELDS,
        secret=("headers",),
    )
    if "base_url" not in table:
        usual = KINDS[values.get("kind", "openai")].base_url
        if not usual or "kind" not in values:
            faults.append(f"{where}.base_url is missing; expected a URL such as https://host/v1")
        values["base_url"] = usual
    elif "base_url" in values and "kind" in values:
        # Documents give it with the path of one API or the other, which the dialect writes itself.
        for ending in KINDS[values["kind"]].paths_begin:
            values["base_url"] = values["base_url"].removesuffix(ending)
    return None if len(faults) > before else Provider(**values)


def _base_url(value: Any) -> str:
    expected = "a URL such as https://host/v1, without user, query or fragment"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(expected)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(expected)
    if parts.username or parts.query or parts.fragment or " " in value:
        raise ValueError(expected)
    return value.rstrip("/")


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(" or ".join(KINDS))
    return str(value)


def _globs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ValueError('a list of globs, such as ["gpt-4o*"]')
    return tuple(value)


def _limit_field(value: Any) -> str:
    if value not in _LIMIT_FIELDS:
        raise ValueError(" or ".join(_LIMIT_FIELDS))
    return str(value)


def _deployments(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(
        isinstance(model, str) and model and name and name.isprintable() and "/" not in name
        for name, model in value.items()
    ):
        raise ValueError('a table of deployments\' names and models, such as { chat = "gpt-4o" }')
    return tuple(value.items())


def _api_version(value: Any) -> str:
    if not isinstance(value, str) or not _API_VERSION.fullmatch(value):
        raise ValueError("a version of Azure's API, such as 2024-10-21")
    return value


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(
        _HEADER_NAME.fullmatch(k) and isinstance(v, str) and v.isascii() and v.isprintable()
        for k, v in value.items()
    ):
        raise ValueError("a table of header names and printable ASCII values")
    for name in value:
        if name.lower() in _FRAMING_HEADERS:
            raise ValueError(f"headers other than {name}, which each connection has of its own")
    return tuple((name.lower(), words) for name, words in value.items())


_PROVIDER_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "kind": _kind,
    "base_url": _base_url,
    "models": _globs,
    "service_tier": text("a service tier, such as default or auto"),
    "region": text("a region as price lists name it, such as eu"),
    "output_limit_field": _limit_field,
    "include_usage": flag,
    "deployments": _deployments,
    "api_version": _api_version,
    "ca_file": text("a PEM file"),
    "max_connections": whole(1, 100_000),
    "headers": _headers,
}
