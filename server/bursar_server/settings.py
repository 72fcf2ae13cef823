"""What an operator sets: BURSAR_* environment, one optional TOML file, and options.

An option wins over the environment, the environment over the file, the file over the default.
Names are the same everywhere: `pool_size` in the file is BURSAR_POOL_SIZE and --pool-size.
"""

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from msgspec import Meta

from bursar.download import DownloadError, check_url, shown_url

PREFIX = "BURSAR_"
MASK = "***"
# An admin key is kept as a plain hash, which is enough only for a long random one. Ours have 46.
LEAST_CHARACTERS_OF_AN_ADMIN_KEY = 24
MOST_BYTES_OF_A_FILE = 1024 * 1024
# Options are seen by everybody who can list processes, so these are not options.
NOT_OPTIONS = frozenset({"admin_key", "lending"})

_UNIX = "unix:"
_PASSWORD_PARAMETERS = {"password", "sslpassword"}


class SettingsError(ValueError):
    """A setting that can't be used; the message names it, its value and what was expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the control plane."""

    database_url: Annotated[
        str, Meta(description="The Postgres that holds everything: postgresql://user@host/name.")
    ]
    grpc_address: Annotated[
        str, Meta(description="Where to serve gRPC: host:port (port 0: any free) or unix:/path.")
    ] = "127.0.0.1:7443"
    http_address: Annotated[
        str, Meta(description="Where to serve /healthz, /readyz and /metrics: host:port.")
    ] = "127.0.0.1:7080"
    admin_key: Annotated[
        str,
        Meta(
            description="The admin key, ba-... Empty: the one made (and printed once) at the "
            "first start."
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(
            description="The certificate (PEM file) of the gRPC address; needed beyond loopback "
            "and unix sockets."
        ),
    ] = ""
    tls_key: Annotated[str, Meta(description="The private key (PEM file) of the certificate.")] = ""
    tls_client_ca: Annotated[
        str,
        Meta(
            description="Authorities (PEM file), of one of which clients must present a "
            "certificate. Empty: they need none."
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Meta(
            description="Serve gRPC in plaintext beyond loopback, for instance behind a proxy "
            "that ends TLS."
        ),
    ] = False
    pool_size: Annotated[
        int,
        Meta(
            ge=4,
            le=500,
            description="Connections to Postgres, 4 to 500. More than twice its cores seldom help.",
        ),
    ] = 16
    drain_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="How long calls may still run after SIGTERM, in milliseconds.",
        ),
    ] = 10_000
    database_wait_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="How long to try to reach Postgres at the start, in milliseconds.",
        ),
    ] = 30_000
    price_sync_url: Annotated[
        str,
        Meta(
            description="The published price list to keep the imported one equal to: http(s)://... "
            "Empty: nothing is ever fetched."
        ),
    ] = ""
    price_sync_interval_s: Annotated[
        int,
        Meta(
            ge=60,
            le=31_536_000,
            description="The time between two looks at it, in seconds, at least 60.",
        ),
    ] = 86_400
    price_sync_max_change: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="A list is refused if one of its rates changes by more than so many "
            "percent, up or down.",
        ),
    ] = 50
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe log lines to write: debug, info, warning or error."),
    ] = "info"
    lending: Annotated[
        dict[str, Any],
        Meta(description="How allowances are lent: the table [lending] of the file."),
    ] = {}

    def masked(self) -> dict[str, object]:
        """The effective settings, as they may be shown."""
        shown = msgspec.structs.asdict(self)
        shown["database_url"] = mask_url(self.database_url)
        shown["admin_key"] = MASK if self.admin_key else ""
        shown["price_sync_url"] = shown_url(self.price_sync_url) if self.price_sync_url else ""
        return shown


class Description(NamedTuple):
    """What help and documents say of a setting."""

    name: str
    default: object
    """None where there is none."""
    text: str


def descriptions() -> list[Description]:
    """Every setting."""
    types = get_type_hints(Settings, include_extras=True)
    return [
        Description(
            field.name,
            None if field.required else field.default,
            next(m.description or "" for m in types[field.name].__metadata__),
        )
        for field in msgspec.structs.fields(Settings)
    ]


def load_settings(environment: Mapping[str, str], options: Mapping[str, object]) -> Settings:
    """The settings in force. `options` are those of the command line, None where not given.

    Raises SettingsError. Reads the file that the option `config` or BURSAR_CONFIG names.
    """
    config = options.get("config") or environment.get(f"{PREFIX}CONFIG") or ""
    file = _read_file(str(config)) if config else {}
    types = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        name = field.name
        variable, option = f"{PREFIX}{name.upper()}", f"--{name.replace('_', '-')}"
        if options.get(name) is not None:
            values[name] = _convert(option, name, options[name], types[name], strict=False)
        elif variable in environment and name != "lending":
            values[name] = _convert(
                variable, name, environment[variable], types[name], strict=False
            )
        elif name in file:
            values[name] = _convert(f"{config}: {name}", name, file[name], types[name], strict=True)
        elif field.required:
            raise SettingsError(
                f"{name} is not set: give {variable} (or {option}), such as "
                "postgresql://bursar@127.0.0.1/bursar; "
                "`bursar server` starts an embedded Postgres where there is none"
            )
    settings = Settings(**values)
    _check(settings)
    return settings


def _read_file(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES_OF_A_FILE + 1)
    except OSError as error:
        raise SettingsError(f"config: can't read {path}: {error.strerror}") from error
    if len(text) > MOST_BYTES_OF_A_FILE:
        raise SettingsError(f"config: {path} is larger than {MOST_BYTES_OF_A_FILE} bytes")
    try:
        content = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: {path} is no TOML: {error}") from error
    known = set(Settings.__struct_fields__)
    for name in content:
        if name not in known:
            raise SettingsError(
                f"{path}: {name} is not a setting; there are {', '.join(sorted(known))}"
            )
    return content


def _convert(source: str, name: str, value: object, kind: Any, *, strict: bool) -> object:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        shown = (
            MASK if name in {"admin_key", "database_url", "price_sync_url"} else ascii(value)[:80]
        )
        raise SettingsError(f"{source}: {shown} is not accepted: {error}") from error


def _check(settings: Settings) -> None:
    # Nothing of a malformed URL is shown: who knows where its password stands.
    if not settings.database_url.startswith(("postgresql://", "postgres://")):
        raise SettingsError("database_url: the value is not accepted, expected postgresql://...")
    try:
        mask_url(settings.database_url)
    except ValueError as error:
        raise SettingsError(f"database_url: the value is no URL: {error}") from None
    key = settings.admin_key
    if key and (
        not key.startswith("ba-")
        or len(key) < LEAST_CHARACTERS_OF_AN_ADMIN_KEY
        or not key.isascii()
        or any(character.isspace() for character in key)
    ):
        raise SettingsError(
            "admin_key: the value is not accepted, expected ba- and at least "
            f"{LEAST_CHARACTERS_OF_AN_ADMIN_KEY - 3} random characters without spaces"
        )
    if settings.price_sync_url:
        try:
            check_url(settings.price_sync_url)
        except DownloadError as error:
            raise SettingsError(f"price_sync_url: {error}") from None
    check_address(settings.http_address, "http_address", unix=False)
    check_address(settings.grpc_address, "grpc_address", unix=True)
    if bool(settings.tls_cert) != bool(settings.tls_key):
        lacking = "tls_key" if settings.tls_cert else "tls_cert"
        raise SettingsError(f"{lacking}: a certificate and its private key go together")
    if settings.tls_client_ca and not settings.tls_cert:
        raise SettingsError("tls_client_ca: client certificates need tls_cert and tls_key")
    if not (settings.tls_cert or settings.insecure or is_local(settings.grpc_address)):
        raise SettingsError(
            f"grpc_address: {settings.grpc_address} can be reached from other machines, "
            "so it needs tls_cert and tls_key; or set insecure if something else protects it"
        )


def check_address(address: str, field: str, *, unix: bool) -> None:
    """Raise SettingsError unless `address` is host:port, or unix:/path where that is possible."""
    if unix and address.startswith(_UNIX):
        if not address.removeprefix(_UNIX).startswith("/"):
            raise SettingsError(f"{field}: {address!r} is not accepted, expected unix:/path")
        return
    host, _, port = address.rpartition(":")
    bare = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bare) or not port.isdecimal() or int(port) > 65535:
        other = " or unix:/path" if unix else ""
        raise SettingsError(
            f"{field}: {address!r} is not accepted, expected host:port{other}, "
            "such as 127.0.0.1:7443 or [::1]:0"
        )


def is_local(address: str) -> bool:
    """Whether only this machine can reach it: a loopback address or a unix socket."""
    if address.startswith(_UNIX):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def mask_url(url: str) -> str:
    """A database URL without its passwords."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}:{MASK}{at}{host}" if colon else parts.netloc
    pairs = [
        (key, MASK if key in _PASSWORD_PARAMETERS else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    query = urlencode(pairs, quote_via=quote, safe="/*:,")
    # Not urlunsplit: it drops the slashes of an empty host, which libpq needs.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"
