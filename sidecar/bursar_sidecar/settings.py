"""The sidecar's settings: `BURSAR_*` environment variables over one optional TOML file.

Everything is checked at start; every fault names the field, the value and what was expected, and
all faults are told at once. Durations carry their unit in the name. Secrets never appear in
`effective`.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from bursar_sidecar.credential_settings import read_credential_file
from bursar_sidecar.envoy_limit_settings import EnvoyLimit, read_limits
from bursar_sidecar.extra_call_settings import (
    CallBound,
    Unmetered,
    Websocket,
    check_longest,
    read_bounds,
    read_unmetered,
    read_websockets,
)
from bursar_sidecar.listener_settings import Listener, read_listeners
from bursar_sidecar.progressive_pairs import Row, read_rows
from bursar_sidecar.provider_settings import Provider, read_providers
from bursar_sidecar.setting_checks import (
    control_plane,
    file_mode,
    flag,
    grpc_listen_address,
    is_local,
    listen_address,
    one_of,
    split_address,
    text,
    whole,
    word,
)
from bursar_sidecar.shortages import WAYS, Shortage, read_shortages

__all__ = [
    "Listener",
    "Provider",
    "Settings",
    "SettingsError",
    "effective",
    "load_settings",
    "split_address",
]

CONFIG_VARIABLE: Final = "BURSAR_CONFIG"
MAX_WORKERS: Final = 64
"""Cores of a large machine; as many as may share a process that counts LLM tokens."""


class SettingsError(ValueError):
    """Settings that can't be used; the message has one line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Settings(msgspec.Struct, frozen=True):
    """All settings of a sidecar, with their defaults."""

    address: str = "127.0.0.1:7443"
    """The control plane, `host:port` or `unix:/path`."""
    sidecar_key: str = ""
    """Secret: `bs-...`."""
    sidecar_key_file: str = ""
    """A file with it instead, read again before each connection to the control plane, so that a
    rotated key needs no restart."""
    http_address: str = "127.0.0.1:7070"
    """Where apps call, `host:port` or `unix:/path`; port 0 is any free one."""
    admin_address: str = "127.0.0.1:7072"
    """`/metrics`, `/healthz`, `/readyz` and `/debug`, `host:port` or `unix:/path`."""
    socket_mode: str = "0600"
    """Permissions of unix sockets, in octal digits: 0660 lets the group of the sidecar in."""
    grpc_address: str = "127.0.0.1:7071"
    """Where apps that call providers themselves reserve and settle: `host:port` or `unix:/path`; ""
    for nowhere. Of several workers the first serves it."""
    grpc_tls_cert: str = ""
    """PEM file of the certificate shown there; with `grpc_tls_key`. "" for plaintext."""
    grpc_tls_key: str = ""
    """PEM file of its private key."""
    grpc_insecure: bool = False
    """Speak plaintext there although it is not on loopback."""
    max_reservations: int = 4_096
    """Reservations that apps hold there at one time; more are refused."""
    envoy_address: str = ""
    """Where an Envoy asks about the calls that it carries: `host:port` or `unix:/path`; "" for
    nowhere. Of several workers the first serves it."""
    envoy_tls_cert: str = ""
    """PEM file of the certificate shown there; with `envoy_tls_key`. "" for plaintext."""
    envoy_tls_key: str = ""
    """PEM file of its private key."""
    envoy_tls_client_ca: str = ""
    """PEM file of the authority that must have signed Envoy's own certificate; "": any client is
    let in. What Envoy says of a call is believed, so that nobody else may speak here."""
    envoy_insecure: bool = False
    """Let anybody speak there, although it is not on loopback: without TLS, or without a
    certificate of Envoy's own."""
    envoy_tier: str = "strict"
    """How calls of Envoy's routes are settled that say nothing of it: "strict" by the answer, which
    goes through the sidecar's processing; "light" by what Envoy logs of it."""
    envoy_hold_s: int = 1_800
    """How long after its admission a call of the light tier may be settled by what Envoy logs; then
    it is charged at what was reserved. At most `longest_call_s`. A call of the strict tier that no
    processing began for within a minute is charged so then."""
    envoy_access_log: str = ""
    """File that Envoy writes its access log to, in the fields of deploy/envoy/light.yaml: calls of
    the light tier are settled by its lines too; "" for none. What the file misses nobody else has:
    Envoy drops what it logs over gRPC while the sidecar is away."""
    envoy_unreserved: str = "refuse"
    """What becomes of a request that Envoy shows to its processing (the strict tier) and that
    nothing is reserved for, because its Check failed or was answered elsewhere: "refuse" with 503,
    or "pass" unmetered."""
    envoy_max_calls: int = 4_096
    """Calls that Envoy carries at one time, or that wait to be settled; more are refused."""
    envoy_limit_unknown: str = "refuse"
    """What Envoy's rate limit filter is answered for a descriptor that no `[[envoy_limits]]` is
    for, or that can't be read: "refuse", over the limit; "error", an error, which Envoy lets pass
    unless its filter has `failure_mode_deny`."""
    workers: int = 1
    """Processes that serve the same addresses, each with its own session, journal and share of
    what is lent. One serves what one core can; more are for sidecars that serve many apps."""
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
    when_short: str = "assemble"
    """What happens to a plain call whose worst case does not fit into its budgets, or would take
    more than a small part of one, if a shorter answer fits: "assemble" runs it as a stream that
    grows, and can be cut, where the table of `progressive` allows that, and gives the app the plain
    answer; else, and for streams that may not grow, it is "clamp", which lowers the output limit,
    at once if it can never fit, else when it has waited, and says so; "wait" leaves every limit as
    it is, waits, and refuses; "refuse" does not wait. Assembling is the default because the worst
    case is many times what calls cost: with it calls are served for as long as the budget pays what
    they really cost."""
    cut_streams: str = "count"
    """How the output of a stream whose usage never came is charged, where the model's tokenizer is
    public: "count" counts what was seen, with a margin; "bytes" takes each byte as an LLM token,
    which no sampling can exceed and which is about four times the truth. Counting is the default
    because most streams are cut by people who press stop."""
    longest_call_s: int = 1_800
    """A call is cut after so long; the control plane relies on it when a sidecar falls silent."""
    max_request_bytes: int = 50 * 1024 * 1024
    """Of a request's body; a larger one is refused."""
    connect_timeout_s: int = 10
    """To a connection with a provider."""
    answer_timeout_s: int = 600
    """To the first byte of an answer."""
    stall_timeout_s: int = 300
    """Between two bytes of an answer."""
    finish_after_hang_up_s: int = 120
    """An app that hangs up on a plain call has paid for it already: its answer is still read for
    so long, to learn the exact cost. 0 cuts at once, and charges the reservation."""
    drain_s: int = 30
    """At shutdown, how long calls in flight may take to end."""
    log_level: str = "info"
    """What is logged: debug, info, warning or error, and what is above."""
    access_log: bool = False
    """A line for each call that ends: charge, key, model, status, cost, durations; never a body."""
    credential_check_s: int = 10
    """How often files with credentials are looked at for a change; SIGHUP does so at once."""
    debug_page: str = "loopback"
    """Who may see `/debug`: "loopback" callers from this machine or through a unix socket,
    "anyone" who reaches `admin_address`, "off" nobody. It shows names and amounts, no secrets."""
    progressive: tuple[Row, ...] = ()
    """Pairs of providers and models that may run progressive, beside those that ship: tables
    `[[progressive]]`."""
    providers: tuple[Provider, ...] = ()
    """The upstreams: tables `[providers.NAME]`."""
    listeners: tuple[Listener, ...] = ()
    """More addresses for apps, each with an identity of its own: tables `[[listeners]]`."""
    unmetered: tuple[Unmetered, ...] = ()
    """Paths that nobody meters and that may be called all the same, each call at a flat price:
    tables `[[unmetered]]`."""
    websockets: tuple[Websocket, ...] = ()
    """Paths on which apps may open websockets, each connection at a flat price and, where that is
    set, a price for each minute: tables `[[websockets]]`."""
    shortages: tuple[Shortage, ...] = ()
    """Another `when_short` for some keys, teams, projects or users: tables `[[shortages]]`."""
    bounds: tuple[CallBound, ...] = ()
    """The most that calls cost which nothing else bounds: tables `[[bounds]]`."""
    envoy_limits: tuple[EnvoyLimit, ...] = ()
    """What hits of Envoy's rate limit filters cost, and who pays: tables `[[envoy_limits]]`."""


TABLES: Final = frozenset(
    {
        "providers",
        "progressive",
        "listeners",
        "unmetered",
        "websockets",
        "shortages",
        "bounds",
        "envoy_limits",
    }
)
"""Settings that are tables of the file; no variable holds one."""
SECRETS: Final = frozenset({"sidecar_key"})


def load_settings(
    environ: Mapping[str, str] | None = None, config: str | Path | None = None
) -> Settings:
    """Read and check everything. Raises SettingsError telling all faults at once."""
    environ = os.environ if environ is None else environ
    path = str(config or environ.get(CONFIG_VARIABLE, ""))
    faults: list[str] = []
    table = _read_toml(path, faults) if path else {}
    tables = table.pop("providers", {})
    listeners = table.pop("listeners", [])
    rows = table.pop("progressive", [])
    unmetered, bounds = table.pop("unmetered", []), table.pop("bounds", [])
    websockets, shortages = table.pop("websockets", []), table.pop("shortages", [])
    limits = table.pop("envoy_limits", [])
    given = {**table, **_from_environment(environ)}
    known = {field.name for field in msgspec.structs.fields(Settings)} - TABLES
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            faults.append(f"{name}: unknown setting; known are {', '.join(sorted(known))}")
        else:
            check = _CHECKS[name]
            try:
                values[name] = check(value)
            except ValueError as error:
                shown = "***" if name in SECRETS else repr(value)[:80]
                faults.append(f"{name} is {shown}; expected {error}")
    values["providers"] = read_providers(tables, environ, faults)
    values["progressive"] = read_rows(rows, faults)
    values["listeners"] = read_listeners(listeners, environ, faults)
    named = frozenset(provider.name for provider in values["providers"])
    values["unmetered"] = read_unmetered(unmetered, named, faults)
    values["websockets"] = read_websockets(websockets, named, faults)
    values["shortages"] = read_shortages(shortages, faults)
    values["bounds"] = read_bounds(bounds, faults)
    values["envoy_limits"] = read_limits(limits, environ, faults)
    _read_sidecar_key(values, faults)
    if not faults:
        settings = Settings(**values)
        _check_addresses(settings, faults)
        check_longest(settings.websockets, settings.longest_call_s, faults)
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
    shown["listeners"] = [
        {**msgspec.to_builtins(listener), "api_key": _masked(listener.api_key)}
        for listener in settings.listeners
    ]
    shown["envoy_limits"] = [
        {**msgspec.to_builtins(limit), "api_key": _masked(limit.api_key)}
        for limit in settings.envoy_limits
    ]
    return shown


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
        value = environ.get(f"BURSAR_SIDECAR_{name}")
        if not value and field.name != "grpc_address":
            value = environ.get(f"BURSAR_{name}")
        if value and field.name not in TABLES:
            found[field.name] = value
    return found


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    # The control plane has an HTTP address too, and both may be told in one environment.
    part = "SIDECAR_" if name in ("http_address", "admin_address", "grpc_address") else ""
    return f"BURSAR_{part}{name.upper()}"


def _read_sidecar_key(values: dict[str, Any], faults: list[str]) -> None:
    path = values.get("sidecar_key_file", "")
    if not path:
        return
    if values.get("sidecar_key"):
        faults.append("sidecar_key and sidecar_key_file: give one of them, not both")
        return
    try:
        values["sidecar_key"] = read_sidecar_key(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        faults.append(f"sidecar_key_file is {path!r}; expected a readable file with bs-...: {why}")


def read_sidecar_key(path: str) -> str:
    """The credential in a file. Raises OSError or ValueError."""
    return _sidecar_key(read_credential_file(path))


def _check_addresses(settings: Settings, faults: list[str]) -> None:
    """No two listen on one address."""
    free_ports = [settings.http_address, *(one.address for one in settings.listeners)]
    if settings.workers > 1 and any(
        a.endswith(":0") and free_ports.count(a) > 1 for a in free_ports
    ):
        faults.append("listeners: with several workers, give each a port of its own, not 0")
    places = {"http_address": settings.http_address, "admin_address": settings.admin_address}
    if settings.grpc_address:
        places["grpc_address"] = settings.grpc_address
    if settings.envoy_address:
        places["envoy_address"] = settings.envoy_address
    places |= {f"listeners[{i}].address": one.address for i, one in enumerate(settings.listeners)}
    taken: dict[str, str] = {}
    for where, address in places.items():
        if address.endswith(":0"):
            continue
        if address in taken:
            faults.append(f"{where} is {address!r}; expected another than {taken[address]}")
        taken[address] = where
    _check_transport(settings, faults)
    _check_envoy_transport(settings, faults)


def _check_envoy_transport(settings: Settings, faults: list[str]) -> None:
    address, is_secured = settings.envoy_address, bool(settings.envoy_tls_cert)
    if is_secured != bool(settings.envoy_tls_key):
        faults.append("envoy_tls_cert, envoy_tls_key: expected both or none")
    if settings.envoy_access_log and not address:
        faults.append("envoy_access_log: expected envoy_address with it")
    if settings.envoy_tls_client_ca and not is_secured:
        faults.append("envoy_tls_client_ca: expected envoy_tls_cert and envoy_tls_key with it")
    is_closed = is_secured and settings.envoy_tls_client_ca
    if address and not is_local(address) and not is_closed and not settings.envoy_insecure:
        faults.append(
            f"envoy_address is {address!r}, which is not on loopback; expected envoy_tls_cert, "
            "envoy_tls_key and envoy_tls_client_ca with it, or envoy_insecure = true"
        )


def _check_transport(settings: Settings, faults: list[str]) -> None:
    address, is_secured = settings.grpc_address, bool(settings.grpc_tls_cert)
    if is_secured != bool(settings.grpc_tls_key):
        faults.append("grpc_tls_cert, grpc_tls_key: expected both or none")
    if address and not is_local(address) and not is_secured and not settings.grpc_insecure:
        faults.append(
            f"grpc_address is {address!r}, which is not on loopback; expected grpc_tls_cert and "
            "grpc_tls_key with it, or grpc_insecure = true"
        )


def _sidecar_key(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("bs-") or not value.isprintable():
        raise ValueError("the key that `bursar sidecar create` printed, bs-...")
    return value


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "address": control_plane,
    "sidecar_key": _sidecar_key,
    "sidecar_key_file": text("a file with bs-..."),
    "http_address": listen_address,
    "admin_address": listen_address,
    "socket_mode": file_mode,
    "grpc_address": grpc_listen_address,
    "grpc_tls_cert": text("a PEM file"),
    "grpc_tls_key": text("a PEM file"),
    "grpc_insecure": flag,
    "max_reservations": whole(1, 10_000),
    "envoy_address": grpc_listen_address,
    "envoy_tls_cert": text("a PEM file"),
    "envoy_tls_key": text("a PEM file"),
    "envoy_tls_client_ca": text("a PEM file"),
    "envoy_insecure": flag,
    "envoy_tier": word("strict", "light"),
    "envoy_unreserved": word("refuse", "pass"),
    "envoy_hold_s": whole(1, 86_400),
    "envoy_access_log": text("a file"),
    "envoy_max_calls": whole(1, 10_000),
    "envoy_limit_unknown": word("refuse", "error"),
    "workers": whole(1, MAX_WORKERS),
    "data_dir": text("a directory"),
    "tls_ca": text("a PEM file"),
    "insecure": flag,
    "default_max_output": whole(1, 10_000_000),
    "exhausted_status": one_of(402, 429),
    "reserve_wait_ms": whole(0, 60_000),
    "max_waiters": whole(0, 100_000),
    "when_short": word(*WAYS),
    "cut_streams": word("count", "bytes"),
    "longest_call_s": whole(1, 86_400),
    "max_request_bytes": whole(1_024, 1 << 30),
    "connect_timeout_s": whole(1, 600),
    "answer_timeout_s": whole(1, 86_400),
    "stall_timeout_s": whole(1, 86_400),
    "finish_after_hang_up_s": whole(0, 86_400),
    "drain_s": whole(0, 86_400),
    "log_level": word("debug", "info", "warning", "error"),
    "access_log": flag,
    "credential_check_s": whole(1, 86_400),
    "debug_page": word("loopback", "anyone", "off"),
}
