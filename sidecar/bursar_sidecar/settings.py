"""The sidecar's settings: `BURSAR_*` environment variables over one optional TOML file.

Everything is checked at start; every fault names the field, the value and what was expected, and
all faults are told at once. Durations carry their unit in the name. Secrets never appear in
`effective`.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

CONFIG_VARIABLE: Final = "BURSAR_CONFIG"
KINDS: Final = ("openai",)
"""Dialects that a provider can speak."""
MAX_PROVIDERS: Final = 200
"""Each holds a pool; no operator has more upstreams than that."""
_PROVIDER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")


class SettingsError(ValueError):
    """Settings that can't be used; the message has one line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Provider(msgspec.Struct, frozen=True):
    """One upstream."""

    name: str
    base_url: str
    """Up to and including the version, as the provider's SDK is given it: `https://host/v1`."""
    kind: str = "openai"
    """The dialect it speaks; also where prices are looked up when none is listed under `name`."""
    api_key: str = ""
    """Secret; "" where none is needed."""
    models: tuple[str, ...] = ()
    """Globs of what it serves; empty serves all, but then bare names come by the price list."""
    service_tier: str = "default"
    """What the provider's account is set to where a request names no tier; `auto` when it may be
    priority, which makes reservations dearer."""
    region: str = ""
    """Where the account's calls are served, for prices that differ by region: "eu"; "" for none."""
    output_limit_field: str = "max_completion_tokens"
    """The field by which an output limit is set where a request has none."""
    ca_file: str = ""
    """PEM file of the authorities to trust instead of the system's; "" for the system's."""
    max_connections: int = 1_000
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every call; for organization headers and the like."""


class Settings(msgspec.Struct, frozen=True):
    """All settings of a sidecar, with their defaults."""

    address: str = "127.0.0.1:7443"
    """The control plane, `host:port` or `unix:/path`."""
    sidecar_key: str = ""
    """Secret: `bs-...`."""
    http_address: str = "127.0.0.1:7070"
    """Where apps call; port 0 is any free one."""
    admin_address: str = "127.0.0.1:7072"
    """`/metrics`, `/healthz`, `/readyz`."""
    data_dir: str = "bursar-sidecar-data"
    """The journal lives here."""
    tls_ca: str = ""
    """PEM file of the authority that signs the control plane's certificate; "" for the system's."""
    insecure: bool = False
    """Talk plaintext to a control plane that is not on loopback."""
    default_max_output: int = 4_096
    """Output limit in LLM tokens for calls that set none, of models whose list states none."""
    exhausted_status: int = 402
    """HTTP status when a budget is exhausted: 402, because SDKs retry a 429."""
    reserve_wait_ms: int = 2_000
    """How long a call waits for money that is about to come home."""
    max_waiters: int = 1_000
    """Calls waiting so; more are refused at once."""
    when_short: str = "clamp"
    """What happens to a call whose worst case does not fit into its budgets, if a shorter answer
    does: "clamp" lowers its output limit, at once if it can never fit, else when it has waited, and
    says so; "wait" leaves every limit as it is, and refuses. Clamping is the default because the
    worst case is many times what calls cost: without it the last part of a budget refuses calls
    that would have fitted into it."""
    cut_streams: str = "count"
    """How the output of a stream whose usage never came is charged, where the model's tokenizer is
    public: "count" counts what was seen, with a margin; "bytes" takes each byte as an LLM token,
    which no sampling can exceed and which is about four times the truth. Counting is the default
    because most streams are cut by people who press stop."""
    longest_call_s: int = 1_800
    """A call is cut after so long; the control plane relies on it when a sidecar falls silent."""
    max_request_bytes: int = 50 * 1024 * 1024
    connect_timeout_s: int = 10
    answer_timeout_s: int = 600
    """To the first byte of an answer."""
    stall_timeout_s: int = 300
    """Between two bytes of an answer."""
    finish_after_hang_up_s: int = 120
    """An app that hangs up on a plain call has paid for it already: its answer is still read for
    so long, to learn the exact cost. 0 cuts at once, and charges the reservation."""
    drain_s: int = 30
    """At shutdown, how long calls in flight may take to end."""
    providers: tuple[Provider, ...] = ()


def load_settings(
    environ: Mapping[str, str] | None = None, config: str | Path | None = None
) -> Settings:
    """Read and check everything. Raises SettingsError telling all faults at once."""
    environ = os.environ if environ is None else environ
    path = str(config or environ.get(CONFIG_VARIABLE, ""))
    faults: list[str] = []
    table = _read_toml(path, faults) if path else {}
    tables = table.pop("providers", {})
    given = {**table, **_from_environment(environ)}
    known = {field.name for field in msgspec.structs.fields(Settings)} - {"providers"}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            faults.append(f"{name}: unknown setting; known are {', '.join(sorted(known))}")
        else:
            check = _CHECKS[name]
            try:
                values[name] = check(value)
            except ValueError as error:
                shown = "***" if name == "sidecar_key" else repr(value)[:80]
                faults.append(f"{name} is {shown}; expected {error}")
    values["providers"] = _providers(tables, environ, faults)
    if faults:
        raise SettingsError(faults)
    return Settings(**values)


def effective(settings: Settings) -> dict[str, Any]:
    """Every setting by name, secrets masked, for people to read."""
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    shown["sidecar_key"] = _masked(settings.sidecar_key)
    shown["providers"] = {
        provider.name: {
            **{k: v for k, v in msgspec.to_builtins(provider).items() if k != "name"},
            "api_key": _masked(provider.api_key),
            # A header may carry a credential of its own.
            "headers": [name for name, _ in provider.headers],
        }
        for provider in settings.providers
    }
    return shown


def split_address(address: str) -> tuple[str, int]:
    """`host:port` in parts. Raises ValueError naming what was expected."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("host:port, such as 127.0.0.1:7070")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _masked(secret: str) -> str:
    return "***" if secret else ""


def _read_toml(path: str, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(f"config {path!r} cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"config {path!r} is not valid TOML: {error}")
    return {}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    # Other parts share the prefix, so that variables which name no setting of ours are theirs.
    # Where a name means something to the control plane too, BURSAR_SIDECAR_... is ours alone.
    found = {}
    for field in msgspec.structs.fields(Settings):
        name = field.name.upper()
        value = environ.get(f"BURSAR_SIDECAR_{name}") or environ.get(f"BURSAR_{name}")
        if value and field.name != "providers":
            found[field.name] = value
    return found


def _variable(name: str) -> str:
    # The control plane has an HTTP address too, and both may be told in one environment.
    part = "SIDECAR_" if name in ("http_address", "admin_address") else ""
    return f"BURSAR_{part}{name.upper()}"


def _text(expected: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(expected)
        return value

    return check


def _whole(low: int, high: int) -> Callable[[Any], int]:
    expected = f"a whole number, {low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(expected)
        return value

    return check


def _one_of(*allowed: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if str(value) not in map(str, allowed) or isinstance(value, bool):
            raise ValueError(" or ".join(map(str, allowed)))
        return int(value)

    return check


def _word(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return str(value)

    return check


def _flag(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError("true or false")
    return words[value.lower()]


def _listen_address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("host:port, such as 127.0.0.1:7070")
    split_address(value)
    return value


def _control_plane(value: Any) -> str:
    if isinstance(value, str) and value.startswith("unix:") and len(value) > 5:
        return value
    return _listen_address(value)


def _sidecar_key(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("bs-") or not value.isprintable():
        raise ValueError("the key that `bursar sidecar create` printed, bs-...")
    return value


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "address": _control_plane,
    "sidecar_key": _sidecar_key,
    "http_address": _listen_address,
    "admin_address": _listen_address,
    "data_dir": _text("a directory"),
    "tls_ca": _text("a PEM file"),
    "insecure": _flag,
    "default_max_output": _whole(1, 10_000_000),
    "exhausted_status": _one_of(402, 429),
    "reserve_wait_ms": _whole(0, 60_000),
    "max_waiters": _whole(0, 100_000),
    "when_short": _word("clamp", "wait"),
    "cut_streams": _word("count", "bytes"),
    "longest_call_s": _whole(1, 86_400),
    "max_request_bytes": _whole(1_024, 1 << 30),
    "connect_timeout_s": _whole(1, 600),
    "answer_timeout_s": _whole(1, 86_400),
    "stall_timeout_s": _whole(1, 86_400),
    "finish_after_hang_up_s": _whole(0, 86_400),
    "drain_s": _whole(0, 86_400),
}


def _providers(tables: Any, environ: Mapping[str, str], faults: list[str]) -> tuple[Provider, ...]:
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
    credential = _credential(where, table, environ, faults)
    values: dict[str, Any] = {"name": name, "api_key": credential}
    for field, value in table.items():
        if field in ("api_key_env", "api_key_file"):
            continue
        check = _PROVIDER_CHECKS.get(field)
        if check is None:
            known = sorted((*_PROVIDER_CHECKS, "api_key_env", "api_key_file"))
            faults.append(f"{where}.{field}: unknown setting; known are {', '.join(known)}")
            continue
        try:
            values[field] = check(value)
        except ValueError as error:
            shown = "***" if field == "headers" else repr(value)[:80]
            faults.append(f"{where}.{field} is {shown}; expected {error}")
    if "base_url" not in table:
        faults.append(f"{where}.base_url is missing; expected a URL such as https://host/v1")
    return None if len(faults) > before else Provider(**values)


def _credential(
    where: str, table: dict[str, Any], environ: Mapping[str, str], faults: list[str]
) -> str:
    variable, path = table.get("api_key_env"), table.get("api_key_file")
    if variable is not None and path is not None:
        faults.append(f"{where}: give api_key_env or api_key_file, not both")
        return ""
    secret = ""
    if variable is not None:
        secret = environ.get(variable, "") if isinstance(variable, str) else ""
        if not secret:
            faults.append(f"{where}.api_key_env is {variable!r}; expected a set variable's name")
    elif path is not None:
        try:
            secret = Path(str(path)).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            faults.append(f"{where}.api_key_file is {path!r}; expected a readable text file")
    if secret and not (secret.isascii() and secret.isprintable()):
        faults.append(f"{where}: the credential has characters that no HTTP header may carry")
        return ""
    return secret


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


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(
        _HEADER_NAME.fullmatch(k) and isinstance(v, str) and v.isascii() and v.isprintable()
        for k, v in value.items()
    ):
        raise ValueError("a table of header names and printable ASCII values")
    return tuple((name.lower(), text) for name, text in value.items())


_PROVIDER_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "kind": _kind,
    "base_url": _base_url,
    "models": _globs,
    "service_tier": _text("a service tier, such as default or auto"),
    "region": _text("a region as price lists name it, such as eu"),
    "output_limit_field": _limit_field,
    "ca_file": _text("a PEM file"),
    "max_connections": _whole(1, 100_000),
    "headers": _headers,
}
