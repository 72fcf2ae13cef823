"""Where a secret comes from: a variable of the environment, or a file that may rotate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bursar_sidecar.setting_checks import secret

MAX_CREDENTIAL_BYTES: Final = 16 * 1024
"""Above it a file holds no credential."""
CREDENTIAL_FIELDS: Final = ("api_key_env", "api_key_file")
"""Of a table that holds a credential; `read_credential` reads them."""


def read_credential_file(path: str | Path) -> str:
    """The secret in a file, without blanks around it. Raises ValueError or OSError.

    No message repeats anything of what the file holds.
    """
    with Path(path).open("rb") as file:
        raw = file.read(MAX_CREDENTIAL_BYTES + 1)
    if len(raw) > MAX_CREDENTIAL_BYTES:
        raise ValueError(f"it holds more than {MAX_CREDENTIAL_BYTES} bytes")
    try:
        written = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not written.strip():
        raise ValueError("it is empty")
    try:
        return secret(written)
    except ValueError as error:
        raise ValueError(f"expected {error}") from None


def read_credential(
    where: str, table: Mapping[str, Any], environ: Mapping[str, str], faults: list[str]
) -> tuple[str, str]:
    """(the secret, the file it is from) as `api_key_env` or `api_key_file` say; "" without them.

    What is wrong is added to `faults`.
    """
    variable, path = table.get("api_key_env"), table.get("api_key_file")
    if variable is not None and path is not None:
        faults.append(f"{where}: give api_key_env or api_key_file, not both")
    elif variable is not None:
        found = environ.get(variable, "") if isinstance(variable, str) else ""
        if not found:
            faults.append(f"{where}.api_key_env is {variable!r}; expected a set variable's name")
            return "", ""
        try:
            return secret(found), ""
        except ValueError as error:
            faults.append(f"{where}: the credential in {variable} is not usable; expected {error}")
    elif path is not None:
        if not isinstance(path, str) or not path:
            faults.append(f"{where}.api_key_file is {path!r}; expected a readable text file")
            return "", ""
        try:
            return read_credential_file(path), path
        except OSError as error:
            faults.append(
                f"{where}.api_key_file is {path!r}; expected a readable text file: {error.strerror}"
            )
        except ValueError as error:
            faults.append(
                f"{where}.api_key_file is {path!r}; expected a file with a secret: {error}"
            )
    return "", ""
