"""Where the control plane is and who calls it: options, then environment, then a local `bursar up`.

What `bursar up` keeps in its data directory is used only for this machine: its admin key is never
sent to an address elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bursar.client import DEFAULT_ADDRESS, BursarClient
from bursar_cli.typed import UsageFault

DEFAULT_DATA_DIR: Final = ".bursar"
# Written by `bursar up`: where everything is, and the secrets it made.
READY_FILE: Final = "ready.json"
SECRETS_FILE: Final = "secrets.json"
# A root certificate is a few kilobytes, a bundle of all public ones a quarter of a megabyte.
MAX_CERTIFICATE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a control plane."""

    address: str
    admin_key: str
    tls_ca: bytes | None = None
    insecure: bool = False

    def connect(self) -> BursarClient:
        """A client; nothing is sent yet. Raises AddressError."""
        return BursarClient(
            self.address, self.admin_key, tls_ca=self.tls_ca, insecure=self.insecure
        )


def find_endpoint(
    address: str, admin_key: str, tls_ca: Path | None, insecure: bool, environ: Mapping[str, str]
) -> Endpoint:
    """The endpoint that options ("" and None: not given), environment or data directory name."""
    certificate = None
    if tls_ca is not None:
        try:
            certificate = tls_ca.read_bytes()[: MAX_CERTIFICATE_BYTES + 1]
        except OSError as error:
            raise UsageFault("--tls-ca", f"{tls_ca}: {error.strerror}") from None
        if len(certificate) > MAX_CERTIFICATE_BYTES:
            raise UsageFault("--tls-ca", f"{tls_ca}: more than {MAX_CERTIFICATE_BYTES} bytes")
        if b"-----BEGIN CERTIFICATE-----" not in certificate:
            raise UsageFault("--tls-ca", f"{tls_ca}: no certificate in it; expected a PEM file")
    address = address or environ.get("BURSAR_ADDRESS", "")
    admin_key = admin_key or environ.get("BURSAR_ADMIN_KEY", "")
    if not (address and admin_key):
        directory = Path(environ.get("BURSAR_DATA_DIR") or DEFAULT_DATA_DIR)
        ready = _read_object(directory / READY_FILE)
        local = _text(ready, "grpc") or DEFAULT_ADDRESS
        if address in {"", local, DEFAULT_ADDRESS}:
            address = address or local
            secrets = _read_object(directory / SECRETS_FILE)
            admin_key = admin_key or _text(secrets, "admin_key") or _text(ready, "admin_key")
    return Endpoint(address, admin_key, certificate, insecure)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none that we may read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        # Not there, not ours, or half of something: then there is no local `bursar up` to use,
        # and the control plane's own answer will say what is missing.
        return {}
    return content if isinstance(content, dict) else {}


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name, "")
    return value if isinstance(value, str) else ""
