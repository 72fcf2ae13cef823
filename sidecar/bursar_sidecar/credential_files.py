"""Credentials in files that rotate: read again when the file changes, kept when it can't be read.

A file counts as changed when another one stands in its place or the same one was written, so that a
secret which Kubernetes swaps by a symbolic link is seen. What can't be read leaves the last
credential in force and is told, once for each change, in the log and in the metrics. No credential
is ever logged.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from bursar_sidecar.credential_settings import read_credential_file

log = structlog.get_logger("bursar.credentials")

LEAST_PAUSE_S: Final = 0.05
"""Between two looks, whatever the interval."""

Stamp = tuple[int, int, int, int]
Use = Callable[[str], None]


class CredentialFile:
    """A file that holds the credential of somebody: a provider's, or a listener's."""

    def __init__(self, owner: str, path: str, secret: str, use: Use) -> None:
        """`secret` is what was read from it last, `use` is told of another one. `owner` names it
        for people."""
        self.owner = owner
        self.path = path
        self.fault = ""
        """Why it could not be read; "" when the credential in force is the file's."""
        self._secret = secret
        self._use = use
        self._stamp: Stamp | None = None
        """None: not looked at yet; the secret may be older than the file."""

    def look(self) -> bool:
        """Read it if it changed; whether there is another credential now."""
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return False
            secret = read_credential_file(self.path)
        except (OSError, ValueError) as error:
            self._keep(error)
            return False
        self._stamp = stamp
        if self.fault:
            self.fault = ""
            log.info("credential_readable_again", owner=self.owner, path=self.path)
        if secret == self._secret:
            return False
        self._secret = secret
        self._use(secret)
        log.info("credential_rotated", owner=self.owner, path=self.path)
        return True

    def _keep(self, error: OSError | ValueError) -> None:
        fault = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
        self._stamp = None
        if fault != self.fault:
            self.fault = fault
            log.error(
                "credential_unreadable",
                owner=self.owner,
                path=self.path,
                fault=fault,
                effect="the last one is used on",
            )


class CredentialFiles:
    """All files that are watched."""

    def __init__(self, now: Callable[[], float], every_s: float) -> None:
        """`now` in seconds, on a clock that never goes back."""
        self._now = now
        self.every_s = every_s
        self._looked_at: float | None = None
        self._files: list[CredentialFile] = []
        self.rotated_count = 0

    def watch(self, files: Iterable[CredentialFile]) -> None:
        """Watch these, and no others; their credentials were read just now."""
        self._files = list(files)

    def look(self, *, at_once: bool = False) -> None:
        """Read what has changed, if it is time to look, or `at_once`."""
        now = self._now()
        if not at_once and self._looked_at is not None and now - self._looked_at < self.every_s:
            return
        self._looked_at = now
        self.rotated_count += sum(file.look() for file in self._files)

    @property
    def faults(self) -> dict[str, str]:
        """Why files can't be read, by owner."""
        return {file.owner: file.fault for file in self._files if file.fault}

    def described(self) -> list[dict[str, str]]:
        """The files, for people; nothing of what is in them."""
        return [
            {"owner": file.owner, "path": file.path, "fault": file.fault} for file in self._files
        ]

    @property
    def owners(self) -> list[str]:
        """Whose credentials are from files."""
        return [file.owner for file in self._files]

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(max(LEAST_PAUSE_S, self.every_s))


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
